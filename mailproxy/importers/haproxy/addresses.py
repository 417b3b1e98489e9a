"""HAProxy's addresses of binds and servers, as mailproxy writes them."""

from __future__ import annotations

import re
from ipaddress import ip_address

from attrs import frozen

from mailproxy.importers.place import VARIABLE_END, VARIABLE_START

PORTS_MAX = 256  # binds that a range of ports becomes

_PREFIX = re.compile(
    r"(tcp4|tcp6|tcp|ipv4|ipv6|unix|abns|fd|sockpair|udp|udp4|udp6|quic4|quic6|stream\+(?:ipv4|ipv6|unix)|rhttp|ssl)@"
)


class AddressError(ValueError):
    """An address that mailproxy cannot have. The message has the reason."""


@frozen
class Address:
    """A host and a port, or text that has both.

    Attributes:
        text: The address as mailproxy writes it.
        port: Its port; None where there is none or it is not known.
        is_ipv6_any: Whether it is every IPv6 address.
        offset: What is added to the port that the client connected to; None for a port of its own.
    """

    text: str
    port: int | None = None
    is_ipv6_any: bool = False
    offset: int | None = None


def bind_addresses(text: str) -> list[Address]:
    """Return the addresses of a bind: a list with commas, each with a port or a range of ports.

    Raises:
        AddressError: mailproxy has no such bind.
    """
    return [each for part in text.split(",") if part for each in _bind(part)]


def _bind(text: str) -> list[Address]:
    kind, rest = _without_prefix(text)
    if kind == "fd":
        return [Address(f"fd:{rest}")]
    if kind in ("unix", "") and rest.startswith("/"):
        return [Address(f"unix:{rest}")]
    if kind not in ("", "ipv4", "ipv6", "tcp", "tcp4", "tcp6", "stream+ipv4", "stream+ipv6"):
        raise AddressError(f"{kind}@ addresses are not here")
    host, colon, ports = _split(rest)
    if not colon or not ports:
        raise AddressError("has no port, which HAProxy refuses")
    is_v6 = kind in ("ipv6", "tcp6", "stream+ipv6") or ":" in host
    if host in ("", "*", "0.0.0.0", "::"):
        host = "::" if is_v6 or host == "::" else "*"
    elif VARIABLE_START not in host:
        try:
            ip_address(host.partition("%")[0])
        except ValueError:
            raise AddressError("is a host name: a bind takes an IP address") from None
    return [Address(_join(host, port), _number(port), host == "::") for port in _ports(ports)]


def server_address(text: str) -> Address:
    """Return the address of a server.

    Raises:
        AddressError: mailproxy has no such server.
    """
    kind, rest = _without_prefix(text)
    if kind in ("unix", "") and rest.startswith("/"):
        return Address(f"unix:{rest}")
    if kind not in ("", "ipv4", "ipv6", "tcp", "tcp4", "tcp6", "stream+ipv4", "stream+ipv6"):
        raise AddressError(f"{kind}@ addresses are not here")
    host, colon, port = _split(rest)
    if host in ("", "*", "0.0.0.0", "::"):
        raise AddressError("means the address that the client connected to, for which mailproxy has no word")
    if colon and re.fullmatch(r"[+-][0-9]{1,5}", port):
        return Address(_join(host, ""), None, offset=int(port))
    if not colon or not port:
        return Address(_join(host, ""))
    return Address(_join(host, port), _number(port))


def _without_prefix(text: str) -> tuple[str, str]:
    match = _PREFIX.match(text)
    return (match[1], text[match.end() :]) if match else ("", text)


def _split(text: str) -> tuple[str, bool, str]:
    """Return host, whether there is a colon for a port, and port. HAProxy takes the last colon for it."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest.startswith(":"), rest[1:]
    # A variable's default may have colons.
    head, mark, tail = text.rpartition(VARIABLE_END)
    if mark and ":" not in tail:
        return text, False, ""
    host, colon, port = tail.rpartition(":")
    if not colon:
        return text, False, ""
    return head + mark + host, True, port


def _join(host: str, port: str) -> str:
    host = f"[{host}]" if ":" in host and VARIABLE_START not in host else host
    return f"{host}:{port}" if port else host


def _ports(text: str) -> list[str]:
    match = re.fullmatch(r"([0-9]{1,5})-([0-9]{1,5})", text)
    if match is None:
        if not re.fullmatch(r"[0-9]{1,5}", text) and VARIABLE_START not in text:
            raise AddressError(f"has no valid port: {text}")
        return [text]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < PORTS_MAX:
        raise AddressError(f"is a range of more than {PORTS_MAX} ports")
    return [str(port) for port in range(first, last + 1)]


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,5}", text) else None
