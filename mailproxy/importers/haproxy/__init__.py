"""The importer of HAProxy's configuration.

Modules, in the order in which a file becomes a draft:
    lexer: Lines as words, with quotes, escapes, variables and comments.
    conditions: Conditions between lines (``.if``).
    reader: Files as sections.
    proxies: A section with what it inherits.
    directives, globals: The tables of directives, and what reads each line.
    settings: What the global section says about every proxy.
    convert: The order of everything, and what follows from several sections.
    frontends, binds, rules, acl: Frontends with their routes and limits per client.
    backends, servers, checks: Backends with their servers and health checks.
    tls, addresses, values: What binds and servers share.
    log, stats: Log targets and the status page.
"""
