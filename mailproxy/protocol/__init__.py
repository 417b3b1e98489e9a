"""Wire formats: bytes in, values and bytes out. Pure: no event loop, no socket, no clock, no log.

There are two kinds of parsers:

- A preamble (PROXY header, ClientHello) has a function. It takes the bytes so far and returns the value with
  the number of bytes that it occupies, or ``NeedMore``. For bytes that break a rule it raises an error with
  the reason.
- A dialogue (health checks, greeters, openings) has a class: bytes in, bytes to send out, states in a table.

Modules, in reading order:
    preamble: ``NeedMore``.
    client_hello: Server name and ALPN of a TLS client.
    proxy_header: The PROXY protocol, versions 1 and 2 (a package).
    lines: Lines of a server's answers, with literals.
    capabilities: What a server lists that it can do.
    checks: The dialogues of health checks (a package).
    greeter: The server's role before TLS (a package).
    opening: The client's role towards a server, before a session is joined to it (a package).
    gate: What a client may send before its login, where a server trusts the proxy (a package).
    boundary: Where a server's responses end.
    last_words: What a client is sent when the proxy ends its session.
"""

from mailproxy.protocol.preamble import NeedMore

__all__ = ["NeedMore"]
