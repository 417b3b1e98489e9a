"""What is announced before TLS: what the server lists, less everything that logs in, and STARTTLS.

A server lists its capabilities to the health check, over a connection that it takes for a trusted one. So the
list may have what is only true inside TLS.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

ANNOUNCED_MAX = 4096
"""Bytes of an announcement. The longest real ones have about 1,000."""

Words = tuple[str, ...]
"""A capability: its name and arguments, as a server lists them."""

# Without a server's list, and for the host that comes up before its servers.
_DEFAULTS: Mapping[str, tuple[Words, ...]] = {
    "imap": (("IMAP4rev1",), ("LITERAL+",), ("ID",)),
    "pop3": (("TOP",), ("UIDL",), ("RESP-CODES",), ("PIPELINING",)),
    "smtp": (("PIPELINING",), ("8BITMIME",), ("ENHANCEDSTATUSCODES",)),
    "submission": (("PIPELINING",), ("8BITMIME",), ("ENHANCEDSTATUSCODES",)),
    "lmtp": (("PIPELINING",), ("8BITMIME",), ("ENHANCEDSTATUSCODES",)),
    "sieve": (("IMPLEMENTATION", "mailproxy"), ("SIEVE", "fileinto"), ("VERSION", "1.0")),
}

# What logs in, and what is the proxy's own affair with the server. REQUIRETLS is announced over TLS only (RFC
# 8689 section 3). COMPRESS would need a login in IMAP, and the STARTTLS here is the proxy's own.
_LOGIN = re.compile(r"(AUTH(=.*)?|SASL|SASL-IR|LOGIN-REFERRALS|USER|APOP|AUTH-RESP-CODE)\Z", re.IGNORECASE)
_NEVER = frozenset({"STARTTLS", "STLS", "LOGINDISABLED", "XCLIENT", "XFORWARD", "REQUIRETLS"})

_UNSAFE = re.compile(r"[^ -~]")


def announced(protocol: str, listed: Iterable[Words], *, offers_login: bool = False) -> tuple[bytes, ...]:
    """Return the lines of an announcement, as the protocol's greeter takes them.

    Args:
        protocol: The protocol by its name in the configuration.
        listed: The capabilities as the server lists them; empty if they are unknown.
        offers_login: Whether a client may log in without TLS.
    """
    chosen = [
        words
        for words in listed
        if words
        and not any(map(_UNSAFE.search, words))
        and words[0].upper() not in _NEVER
        and (offers_login or not _LOGIN.match(words[0]))
    ]
    lines = [_written(protocol, words) for words in (chosen or _DEFAULTS[protocol])]
    lines += [line for line in _own(protocol, offers_login=offers_login) if line not in lines]
    total = sum(map(len, lines)) + 2 * len(lines)
    while total > ANNOUNCED_MAX:
        total -= len(lines.pop(0)) + 2  # the proxy's own lines are the last
    return tuple(lines)


def _own(protocol: str, *, offers_login: bool) -> list[bytes]:
    match protocol:
        case "imap":
            return [b"STARTTLS"] if offers_login else [b"STARTTLS", b"LOGINDISABLED"]
        case "pop3":
            return [b"STLS"]
        case "sieve":
            # RFC 5804 section 1.7: SASL must be listed, and is empty where STARTTLS comes first.
            return [b'"STARTTLS"'] if offers_login else [b'"SASL" ""', b'"STARTTLS"']
        case _:
            return [b"STARTTLS"]


def _written(protocol: str, words: Words) -> bytes:
    if protocol != "sieve":
        return " ".join(words).encode("ascii")
    return b" ".join(b'"' + _escaped(word) + b'"' for word in words)


def _escaped(word: str) -> bytes:
    return word.replace("\\", "\\\\").replace('"', '\\"').encode("ascii")


def parse_announcement(protocol: str, text: str) -> Words:
    """Return the capability that a string of the configuration means.

    ``SIZE 1000`` is a name with arguments. In ManageSieve everything behind the name is one argument.
    """
    if protocol == "sieve":
        name, _, value = text.partition(" ")
        return (name, value) if value else (name,)
    return tuple(text.split())
