"""Administration of the running proxy: the admin socket, in HAProxy's runtime dialect.

Modules, in reading order:
    target: what a proxy can be asked, and what it can change. single_target, control_target: by one process, by several.
    history: what follows from figures over time, such as rates.
    sockets: opens the sockets of ``[[admin.sockets]]``.
    runtime: the dialect: parser, commands, conversations.
    service: runs all of it beside a proxy.
"""
