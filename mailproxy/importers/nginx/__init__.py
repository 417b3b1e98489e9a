"""The importer of nginx's stream and mail modules.

Modules, in the order in which a file becomes a draft:
    reader: Files as a tree of directives.
    scope: The directives that hold in a block.
    directives: The table of directives.
    convert: The process, and the order of everything.
    stream, mail: Server blocks as frontends.
    listen, maps, tls: Their binds, routes and TLS.
    backends: Upstreams as backends.
"""
