"""HAProxy's runtime dialect, as ``socat``, ``hatop`` and exporters speak it.

Modules, in reading order:
    parser: a line as commands, a command as words.
    commands: the table of all commands. call: what a command is called with.
    server: the sockets, and the conversation with each client.
    show: figures and states, a package.
    certificates, drains, general, reloads, sessions, tables: other answers, and what changes these things.
    set_server, set_frontend: commands that change something of them. durations: how they write time.
"""
