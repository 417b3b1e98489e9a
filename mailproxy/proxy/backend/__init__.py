"""Backends: servers with their addresses and states, PROXY headers for them, and the log lines about them.

Modules, in reading order:
    backend: a pool with its servers, timers and log lines.
    server: one server with what sessions and checks need.
    resolver: looks host names up again.
    header_builder: the PROXY header that a server gets.
    state_messages: HAProxy's sentences about servers.
    snapshot: what other processes need to know of a server.
"""
