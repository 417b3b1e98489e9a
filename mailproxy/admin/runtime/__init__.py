"""HAProxy's runtime dialect, as ``socat``, ``hatop`` and exporters speak it.

Modules, in reading order:
    parser: a line as commands, a command as words.
    commands: the table of all commands. call: what a command is called with.
    server: the sockets. conversation: one client's.
    show_stat, stat_fields: ``show stat``; formats has its typed and JSON output.
    show_info, show_servers, show_tables: the other answers to ``show``.
    set_server, set_frontend, set_tables: commands that change something.
"""
