"""The registered ports of mail protocols, and whether TLS is spoken there from the first byte."""

from __future__ import annotations

from collections.abc import Mapping

# In clear text from the first byte, at least until STARTTLS.
CLEAR_PORTS: Mapping[int, str] = {143: "imap", 110: "pop3", 587: "submission", 25: "smtp", 4190: "sieve"}
# TLS from the first byte (RFC 8314).
TLS_PORTS: Mapping[int, str] = {993: "imap", 995: "pop3", 465: "submission"}

_SAME_PROTOCOL = {"smtp", "submission"}  # one protocol at three ports


def protocol_of(port: int | None) -> str | None:
    """Return the protocol that a port is registered for; None for other ports."""
    return None if port is None else CLEAR_PORTS.get(port) or TLS_PORTS.get(port)


def is_fitting(protocol: str, port: int | None) -> bool:
    """Whether a port may be used for a protocol: it is not registered for another one."""
    registered = protocol_of(port)
    return registered in (None, protocol) or {registered, protocol} <= _SAME_PROTOCOL


def tls_port(protocol: str) -> int | None:
    """Return the port of a protocol for TLS from the first byte; None if it has none."""
    return next((port for port, spoken in TLS_PORTS.items() if spoken == protocol), None)


def clear_port(protocol: str) -> int:
    """Return the port of a protocol in clear text."""
    return next(port for port, spoken in CLEAR_PORTS.items() if spoken == protocol)
