"""Hand-over to another program version: `mailproxy run --replace`. The packets are in `mailproxy.net.passing`.

Modules:
    predecessor: The running instance, as its successor reaches it.
    giver: The running instance's own part.
    single_giver: That of a single process.
"""
