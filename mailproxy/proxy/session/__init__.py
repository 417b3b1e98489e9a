"""One session: a task from accepting to its line in the log.

Modules, in reading order:
    session: The phases in order, and the end.
    context: What the sessions of a frontend share.
    client_setup: PROXY header, ClientHello and TLS handshake.
    negotiation: The greeting and the dialogue before STARTTLS, on binds that upgrade their sessions.
    routing: Which backend.
    dispatch: Attempts to connect, retries, redispatch.
    opening: The dialogue with a server before the session is joined.
    refusal: The last words to a client whose session ends here.
    slot_lease: A slot at a server, or a position in the queue for one.
    gate: The commands of a client before its login, where the server may take its word for the proxy's.
    wait: What interrupts a wait before the tunnel opens, and how the session ends then.
    lines: What the log says beside the session's line.
    ids: The ids of sessions.
    registry: The sessions that live, for an operator.
    errors: The exception with which a phase ends the session.
"""
