"""Backends: servers with their addresses and states, PROXY headers for them, and the log lines about them.

Modules, in reading order:
    backend: what sessions and health checks use, a pool with all that belongs to it.
    server: one server, and what a connection to it needs.
    factory: makes a backend with its servers and its pool from the configuration.
    header_builder: the PROXY header that a server gets.
    resolver: looks up host names of servers in intervals.
    timers: slow start, expiry of stick entries.
    event_log: the log lines about servers.
    state_messages: HAProxy's sentences in these lines.
    snapshot: what other processes need to know of a server.
"""
