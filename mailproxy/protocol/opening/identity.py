"""The client's address for a server that trusts the proxy, in the words of XCLIENT and of IMAP's ID.

XCLIENT is Postfix's extension of SMTP, which Dovecot has in all of its protocols. Dovecot's fields of ID begin
with ``x-``.
"""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen

TTL_MAX = 5
"""Proxies that a session may pass, as in Dovecot (LOGIN_PROXY_TTL). At 0 it goes in circles."""

# Postfix looks the name of the address up unless it gets one, and keeps that of the proxy without this.
_NAME_UNAVAILABLE = "[UNAVAILABLE]"


@frozen(kw_only=True)
class Identity:
    """The facts about a client that a server gets.

    Attributes:
        address: The client's address and port.
        destination: The address and port that it connected to, None if they are unknown.
        session: The session's id.
        ttl: The proxies that the session may still pass.
    """

    address: tuple[str, int]
    destination: tuple[str, int] | None
    session: str
    ttl: int = TTL_MAX


def id_arguments(identity: Identity) -> bytes:
    """Return the list of IMAP's ID command (RFC 2971 section 3.3)."""
    pairs = [
        ("x-session-id", identity.session),
        ("x-originating-ip", identity.address[0]),
        ("x-originating-port", str(identity.address[1])),
    ]
    if identity.destination is not None:
        pairs += [
            ("x-connected-ip", identity.destination[0]),
            ("x-connected-port", str(identity.destination[1])),
        ]
    pairs.append(("x-proxy-ttl", str(identity.ttl)))
    return b"(" + " ".join(f'"{name}" "{value}"' for name, value in pairs).encode("ascii") + b")"


def xclient_arguments(identity: Identity, offered: Collection[str], *, has_prefix: bool) -> bytes:
    """Return the attributes of an XCLIENT command.

    Args:
        identity: What they say.
        offered: The attributes that the server takes.
        has_prefix: Whether IPv6 addresses have the prefix ``IPV6:``. SMTP wants it: Postfix refuses an address
            without it, also as DESTADDR. POP3 and ManageSieve do not know it.
    """
    pairs = [
        ("ADDR", _address(identity.address[0], has_prefix=has_prefix)),
        ("PORT", str(identity.address[1])),
        ("NAME", _NAME_UNAVAILABLE),
        ("SESSION", identity.session),
        ("TTL", str(identity.ttl)),
    ]
    if identity.destination is not None:
        pairs += [
            ("DESTADDR", _address(identity.destination[0], has_prefix=has_prefix)),
            ("DESTPORT", str(identity.destination[1])),
        ]
    return " ".join(f"{name}={value}" for name, value in pairs if name in offered).encode("ascii")


def _address(address: str, *, has_prefix: bool) -> str:
    return f"IPV6:{address}" if has_prefix and ":" in address else address
