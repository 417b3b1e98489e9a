"""One session: a task from accepting to its line in the log.

Modules, in reading order:
    session: the phases in order, and the end.
    client_setup: PROXY header, ClientHello and TLS handshake.
    routing: which backend.
    dispatch: a slot at a server, attempts, retries.
    errors: how a phase ends a session.
"""
