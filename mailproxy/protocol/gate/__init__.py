"""What a client may send before it has logged in, where a server trusts the proxy for the client's identity.

Modules, in reading order:
    gate: The state machine that all protocols share.
    imap, line_protocols: Commands and answers of each protocol.
    registry: The gate of each protocol.
"""
