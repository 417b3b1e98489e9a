"""The client's role towards a server, before a session is joined to it. Pure state machines.

Modules, in reading order:
    identity: The client's address, in the words of XCLIENT and of IMAP's ID.
    opening: The state machine that all protocols share.
    imap, pop3, smtp, sieve: Commands and answers of each protocol.
    registry: The opening of each protocol.
"""
