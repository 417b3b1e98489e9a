"""Health checks of servers.

Modules, in reading order:
    checker: The task of each server that runs its check again and again.
    check: One check: its connections, one after another.
    probe_connection: One connection: connect, TLS, dialogue, logout.
    login: Whether clients can log in, from what a check has seen.
"""
