"""The server's role before TLS: greet, answer what a client may ask, and upgrade. Pure state machines.

Modules, in reading order:
    commands: Lines of a client, with literals, in bounded memory.
    greeter: The state machine that all protocols share.
    imap, pop3, smtp, sieve: Verbs and answers of each protocol.
    announcement: What is announced before TLS, from what a server lists.
    registry: The greeter of each protocol.
"""
