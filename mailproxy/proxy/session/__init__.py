"""One session: a task from accepting to its line in the log.

Modules, in reading order:
    session: The phases in order, and the end.
    client_setup: PROXY header, ClientHello and TLS handshake.
    routing: Which backend.
    dispatch: Attempts to connect, retries, redispatch.
    slot_lease: A slot at a server, or a position in the queue for one.
    wait: What interrupts a wait before the tunnel opens, and how the session ends then.
    registry: The sessions that live, for an operator.
    errors: The exception with which a phase ends the session.
"""
