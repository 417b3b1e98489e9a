"""The answers to ``show stat``, ``show info`` and ``show servers``.

Modules, in reading order:
    stat, stat_fields: ``show stat``.
    info, servers: the others.
    numbering: the numbers of proxies and servers in them.
    formats: typed and JSON output.
"""
