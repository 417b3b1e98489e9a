"""The protocol of a frontend or backend, from its ports, else from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mailproxy.config.lint.ports import CLEAR_PORTS, TLS_PORTS, protocol_of

# Ports that are customary for a second listener of the same protocol, behind a proxy or in a container. Ports
# such as 10143 and 20993 are the registered ones plus a multiple of 10000.
_CUSTOMARY = {24: "lmtp", 1025: "smtp", 2525: "smtp", 1143: "imap", 1993: "imap", 1110: "pop3", 1995: "pop3", 1587: "submission",
              1465: "submission", 2000: "sieve", 2993: "imap", 2143: "imap"}  # fmt: skip
_NAMES = (
    ("imap", r"imap"),
    ("pop3", r"pop"),
    ("sieve", r"sieve"),
    ("lmtp", r"lmtp"),
    ("submission", r"submission|smtps|msa"),
    ("smtp", r"smtp|mx|postscreen"),
)


def protocol_of_port(port: int | None) -> str | None:
    """Return the protocol of a registered or customary port; None for other ports."""
    if port is None:
        return None
    return protocol_of(port) or _CUSTOMARY.get(port) or protocol_of(port % 10000 if port > 10000 else None)


def guess_protocol(bound: Iterable[int | None], servers: Iterable[int | None], name: str) -> str:
    """Return the protocol of a frontend: from the ports that are bound, else the servers', else its name."""
    for ports in (bound, servers):
        found = {protocol_of_port(port) for port in ports} - {None}
        if found == {"smtp", "submission"}:
            return "smtp"
        if len(found) == 1:
            return str(found.pop())
        if found:
            return "tcp"
    words = name.lower()
    return next((protocol for protocol, pattern in _NAMES if re.search(pattern, words)), "tcp")


def speaks_clear(port: int | None) -> bool:
    """Whether a server greets in clear text at this registered port."""
    return port in CLEAR_PORTS


def speaks_tls(port: int | None) -> bool:
    """Whether TLS is spoken from the first byte at this registered port."""
    return port in TLS_PORTS
