"""Version 1 of the PROXY header: one line of text (PROXY 2.1)."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from attrs import field, frozen

from mailproxy.address import format_ipv6
from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header.errors import AddressError, LineError, NotAHeaderError

V1_MAX = 107  # bytes with CRLF: "the worst case" of PROXY 2.1; longer lines are invalid

_BEGIN = b"PROXY "
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")  # leading zeroes are not permitted
_PORT_MAX = 65535

Address = tuple[str, int]


@frozen(kw_only=True)
class HeaderV1:
    """A header of version 1.

    Attributes:
        protocol: The protocol's word.
        source: The client's host, as it is written in the line (IPv6 addresses have several forms), and its
            port. None for ``UNKNOWN``.
        destination: The host and port that the client connected to; None for ``UNKNOWN``.
        rest: What follows the word ``UNKNOWN``, to be ignored.
    """

    protocol: Literal["TCP4", "TCP6", "UNKNOWN"]
    source: Address | None = None
    destination: Address | None = None
    rest: bytes = field(default=b"", repr=False)

    version = 1

    @property
    def endpoints(self) -> tuple[Address, Address] | None:
        """Source and destination, hosts in the usual form; None if the real addresses of the connection count."""
        if self.source is None or self.destination is None:
            return None
        return _canonical(self.source), _canonical(self.destination)


def _canonical(address: Address) -> Address:
    host, port = address
    return (format_ipv6(IPv6Address(host)), port) if ":" in host else address


def parse_v1(data: bytes) -> tuple[HeaderV1, int] | NeedMore:
    """Parse the line at the beginning of ``data``; bytes after it are ignored.

    Returns:
        The header and the length of the line with its CRLF, or ``NeedMore`` if it is incomplete.

    Raises:
        NotAHeaderError: The data does not begin with ``PROXY`` and a blank.
        LineError: The line is malformed, or has more than V1_MAX bytes.
        AddressError: An address or a port is invalid.
    """
    begin = data[: len(_BEGIN)]
    if not _BEGIN.startswith(begin):
        raise NotAHeaderError("it does not begin with PROXY and a blank")
    end = data.find(b"\r\n", 0, V1_MAX)
    if end == -1:
        if len(data) >= V1_MAX:
            raise LineError(f"the line is longer than {V1_MAX} bytes")
        if b"\n" in data or b"\r" in data[:-1]:
            raise LineError("the line ends with CR or LF alone")
        return NeedMore(len(data) + 1)
    line = data[len(_BEGIN) : end]
    if b"\n" in line or b"\r" in line:
        raise LineError("the line ends with CR or LF alone")
    return _parse_line(line), end + 2


def _parse_line(line: bytes) -> HeaderV1:
    if line.startswith(b"UNKNOWN"):
        rest = line.removeprefix(b"UNKNOWN")
        if rest and not rest.startswith(b" "):
            raise LineError("the protocol is none of TCP4, TCP6 and UNKNOWN")
        return HeaderV1(protocol="UNKNOWN", rest=rest)
    words = line.split(b" ")
    if words[0] not in (b"TCP4", b"TCP6"):
        raise LineError("the protocol is none of TCP4, TCP6 and UNKNOWN")
    if len(words) != 5:
        raise LineError(f"{len(words) - 1} words follow the protocol, not two addresses and two ports")
    protocol, *hosts, source_port, destination_port = words
    read = _ipv4 if protocol == b"TCP4" else _ipv6
    source, destination = map(read, hosts)
    return HeaderV1(
        protocol="TCP4" if protocol == b"TCP4" else "TCP6",
        source=(source, _port(source_port)),
        destination=(destination, _port(destination_port)),
    )


def _ipv4(text: bytes) -> str:
    try:
        return str(IPv4Address(text.decode("ascii")))
    except ValueError:  # UnicodeDecodeError too
        raise AddressError(f"{text!r} is not an IPv4 address") from None


def _ipv6(text: bytes) -> str:
    try:
        host = text.decode("ascii")
        if IPv6Address(host).scope_id is None:
            return host
    except ValueError:
        pass
    raise AddressError(f"{text!r} is not an IPv6 address")


def _port(text: bytes) -> int:
    if not _PORT.fullmatch(text) or int(text) > _PORT_MAX:
        raise AddressError(f"{text!r} is not a port from 0 to {_PORT_MAX} without leading zeros")
    return int(text)


def format_v1(header: HeaderV1) -> bytes:
    """Format the line.

    Raises:
        HeaderError: ``parse_v1`` would not read the same header from it, for example because of an address of
            another family.
    """
    if header.protocol == "UNKNOWN":
        line = b"PROXY UNKNOWN" + header.rest + b"\r\n"
    elif header.source is None or header.destination is None:
        raise AddressError(f"{header.protocol} without addresses")
    else:
        (source, source_port), (destination, destination_port) = header.source, header.destination
        words = f"PROXY {header.protocol} {source} {destination} {source_port} {destination_port}\r\n"
        line = words.encode("ascii", "replace")
    # Parsing finds a length or addresses that are invalid, and makes sure that receivers read what is meant.
    if parse_v1(line) != (header, len(line)):
        raise LineError("the line would be read as another header")
    return line
