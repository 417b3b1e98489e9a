"""Addresses in the configuration: parsed, compared and formatted, never resolved."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from attrs import frozen

_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?\Z"
)
# An IPv4 address in its canonical form. The ipaddress module takes 8 µs to read it, and this pattern 1 µs.
_IPV4 = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!\Z)|\Z)){4}")
_BLANK = re.compile(r"\s")
_PORT_ALONE = re.compile(r":?[0-9]+")
_PORT = re.compile(r"[0-9]{1,5}")
_BRACKETED = re.compile(r"\[([^\]]*)\](?::([^:]*))?")
_DESCRIPTOR_NAME = re.compile(r"(?!-?[0-9]+\Z)[!-9;-~]{1,255}")  # FileDescriptorName= of systemd.socket(5)
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # IFNAMSIZ is 16 with the terminating zero
UNIX_PATH_MAX = 107  # bytes; sun_path holds 108 with the terminating zero (unix(7))
_PORT_MAX = 65535


@frozen
class TcpAddress:
    """A host and a TCP port.

    Attributes:
        host: An IP address without brackets, a host name, or ``*`` for every IPv4 address.
        port: The port, None if the address has none.
    """

    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address or ``*``, and not a name to resolve."""
        return self.host == "*" or _is_ip(self.host)

    @property
    def is_loopback(self) -> bool:
        """Whether the host is an IP address that only this machine reaches."""
        return is_loopback_address(self.host)


def is_loopback_address(host: str) -> bool:
    """Whether this is an IP address that only this machine reaches."""
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


@frozen
class UnixAddress:
    """The path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@frozen
class DescriptorAddress:
    """A listening socket that the process inherited.

    Attributes:
        fd: The number of the descriptor, or the name that a service manager gave it.
    """

    fd: int | str

    def __str__(self) -> str:
        return f"fd:{self.fd}"


BindAddress = TcpAddress | UnixAddress | DescriptorAddress
ServerAddress = TcpAddress | UnixAddress


def parse_bind(text: str) -> BindAddress:
    """Parse ``*:143``, ``[::]:993``, ``127.0.0.1:993``, ``unix:/run/x.sock``, ``fd:3`` or ``fd:imaps``.

    Raises:
        ValueError: With the fact.
    """
    if text.startswith("fd:"):
        return _parse_descriptor(text.removeprefix("fd:"))
    if text.startswith("unix:"):
        return _parse_unix(text)
    if _PORT_ALONE.fullmatch(text):
        raise ValueError(f'has no host: "*:{text.lstrip(":")}" is every IPv4 address')
    address = _parse_tcp(text)
    if address.port is None:
        raise ValueError(f"has no port{_bracket_advice(text, address)}")
    if not address.is_literal:
        raise ValueError(
            "is not an IP address: a bind takes one, or * for every IPv4 address, [::] for both families"
        )
    return address


def parse_server(text: str) -> ServerAddress:
    """Parse ``10.0.0.1:993``, ``10.0.0.2``, ``[::1]:993``, ``imap.internal:993`` or ``unix:/run/x.sock``.

    Raises:
        ValueError: With the fact.
    """
    if text.startswith("unix:"):
        return _parse_unix(text)
    address = _parse_tcp(text, lowest_port=1)
    if address.host == "*":
        raise ValueError("a server needs a host name or an IP address")
    return address


def _bracket_advice(text: str, address: TcpAddress) -> str:
    """Return how to write an IPv6 address with a port, or ``""`` if this is none."""
    if ":" not in address.host or text.startswith("["):
        return ""
    host, _, port = text.rpartition(":")
    is_port = _is_ip(host) and port.isdecimal()
    return f": IPv6 addresses stand in brackets, {f'[{host}]:{port}' if is_port else f'[{address.host}]:143'}"


def join_host_port(host: str, port: int) -> str:
    """Format an IP address and port: ``10.0.0.1:993``, ``[::1]:993``."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Networks:
    """A set of networks, with ``in`` for addresses."""

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        groups: dict[int, dict[int, set[int]]] = {4: {}, 6: {}}
        for network in map(_unmap_network, networks):
            shift = network.max_prefixlen - network.prefixlen
            groups[network.version].setdefault(shift, set()).add(int(network.network_address) >> shift)
        # By version: the networks of each prefix length. So lists of thousands cost no more than short ones.
        self._groups = {version: tuple(shifts.items()) for version, shifts in groups.items()}
        self._is_empty = not any(self._groups.values())

    def __contains__(self, host: str) -> bool:
        """Whether an IP address is in one of them. IPv4-mapped addresses count as IPv4, zones are ignored."""
        if self._is_empty:
            return False
        address = ip_address(unmap_ipv4(host.partition("%")[0]))
        number = int(address)
        return any(number >> shift in networks for shift, networks in self._groups[address.version])

    def __bool__(self) -> bool:
        return not self._is_empty


def _unmap_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return a network of IPv4-mapped addresses as the IPv4 network, others unchanged."""
    if isinstance(network, IPv4Network) or network.prefixlen < 96:
        return network
    mapped = network.network_address.ipv4_mapped
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))


def unmap_ipv4(host: str) -> str:
    """Return an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) as IPv4, others unchanged."""
    if not host.startswith("::ffff:"):
        return host
    mapped = IPv6Address(host).ipv4_mapped
    return host if mapped is None else str(mapped)


def map_to_ipv6(host: str) -> str:
    """Return an IPv4 address as IPv4-mapped IPv6 address, others unchanged."""
    return host if ":" in host else f"::ffff:{host}"


def format_ipv6(address: IPv6Address) -> str:
    """Format an IPv6 address as the kernel and HAProxy do: mapped ones end with IPv4.

    ``str()`` does that from Python 3.13 on.
    """
    return str(address) if address.ipv4_mapped is None else f"::ffff:{address.ipv4_mapped}"


def _parse_descriptor(text: str) -> DescriptorAddress:
    if _PORT.fullmatch(text):
        return DescriptorAddress(int(text))
    if not _DESCRIPTOR_NAME.fullmatch(text):
        raise ValueError("fd: takes the number of an inherited descriptor, or its FileDescriptorName")
    return DescriptorAddress(text)


def _parse_unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path or "\0" in path:
        raise ValueError("unix: takes a path")
    if len(path.encode()) > UNIX_PATH_MAX:
        raise ValueError(f"the path is longer than {UNIX_PATH_MAX} bytes")
    return UnixAddress(path)


def _parse_tcp(text: str, lowest_port: int = 0) -> TcpAddress:
    if text.startswith("/"):
        raise ValueError("is a path: write unix: before it")
    if "://" in text:
        raise ValueError("is a URL")
    if _BLANK.search(text):
        raise ValueError("has blanks in it")
    if bracketed := _BRACKETED.fullmatch(text):
        inside, port = bracketed.groups()
        host = _canonical_ip(inside)
        if ":" not in host:
            raise ValueError("has no IPv6 address between its brackets")
    elif text.count(":") > 1:
        host, port = _canonical_ip(text), None
        if not host:
            raise ValueError("is neither HOST:PORT nor [IPv6]:PORT")
    else:
        host, colon, port = text.partition(":")
        port = port if colon else None
        if host != "*" and not _is_ip(host) and not _is_host_name(host):
            raise ValueError("has no valid host")
    return TcpAddress(host, None if port is None else _parse_port(port, lowest_port))


def _parse_port(text: str, lowest: int) -> int:
    if not _PORT.fullmatch(text) or not lowest <= int(text) <= _PORT_MAX:
        raise ValueError(f"port {text!r} is not a number from {lowest} to {_PORT_MAX}")
    return int(text)


def _is_ip(text: str) -> bool:
    return bool(_canonical_ip(text))


def _canonical_ip(text: str) -> str:
    """Return an IP address in its canonical form, which is compared and logged; ``""`` for anything else."""
    if _IPV4.fullmatch(text):
        return text
    try:
        ip = ip_address(text)
    except ValueError:
        return ""
    zone = ip.scope_id if isinstance(ip, IPv6Address) else None
    return str(ip) if zone is None or _INTERFACE.fullmatch(zone) else ""


def _is_host_name(text: str) -> bool:
    # Digits and dots that are no IP address are a mistake, not a name (RFC 1123 section 2.1).
    return bool(_HOST_NAME.match(text)) and not re.fullmatch(r"[0-9.]+", text)
