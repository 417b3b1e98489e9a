"""Version 2 of the PROXY header: binary, with extensions (PROXY 2.2)."""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from attrs import evolve, field, frozen

from mailproxy.address import format_ipv6
from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header.crc32c import crc32c
from mailproxy.protocol.proxy_header.errors import (
    AddressError,
    ChecksumError,
    CommandError,
    FamilyError,
    HeaderTooLongError,
    NotAHeaderError,
    TlvError,
    VersionError,
)
from mailproxy.protocol.proxy_header.tlv import CHECKSUM_BYTES, Tlv, Type, format_tlvs, parse_tlvs
from mailproxy.protocol.proxy_header.v1 import Address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIXED_BYTES = 16  # signature, version and command, family and transport, length
BLOCK_MAX = 0xFFFF  # bytes after those: the length field has two
# Bytes of a header that is received: as large as HAProxy's buffer, and four times what a client certificate
# needs.
V2_MAX = 16 * 1024

_VERSION = 0x20
_FAMILY_MAX, _TRANSPORT_MAX = 3, 2  # AF_UNIX, DGRAM (PROXY 2.2, 14th byte)
_UNIX_BYTES = 108
_FIXED = struct.Struct("!12sBBH")


class Command(IntEnum):
    """The command. LOCAL is the sender's own connection, such as a health check: the real addresses count."""

    LOCAL = 0x0
    PROXY = 0x1


class Protocol(IntEnum):
    """Address family and transport, the 14th byte: the combinations with addresses, and UNSPEC without."""

    UNSPEC = 0x00
    TCP4 = 0x11
    UDP4 = 0x12
    TCP6 = 0x21
    UDP6 = 0x22
    UNIX_STREAM = 0x31
    UNIX_DGRAM = 0x32


_BLOCKS = {
    Protocol.TCP4: struct.Struct("!4s4sHH"),
    Protocol.UDP4: struct.Struct("!4s4sHH"),
    Protocol.TCP6: struct.Struct("!16s16sHH"),
    Protocol.UDP6: struct.Struct("!16s16sHH"),
    Protocol.UNIX_STREAM: struct.Struct(f"!{_UNIX_BYTES}s{_UNIX_BYTES}s"),
    Protocol.UNIX_DGRAM: struct.Struct(f"!{_UNIX_BYTES}s{_UNIX_BYTES}s"),
}


@frozen(kw_only=True)
class HeaderV2:
    """A header of version 2.

    It has addresses and extensions, or a block that is to be ignored: with LOCAL, or if family or transport
    are unspecified.

    Attributes:
        command: LOCAL or PROXY.
        protocol: A ``Protocol``, or another number if it is to be ignored.
        source: The client's host and port, for a Unix socket the 108 bytes of its path.
        destination: The address that the client connected to, in the same form.
        tlvs: The extensions.
        block: All bytes after the length field, if they are to be ignored.
    """

    command: Command
    protocol: int = Protocol.UNSPEC
    source: Address | bytes | None = None
    destination: Address | bytes | None = None
    tlvs: tuple[Tlv, ...] = ()
    block: bytes = field(default=b"", repr=False)

    version = 2

    @property
    def endpoints(self) -> tuple[Address, Address] | None:
        """Source and destination of a TCP client; None for any other header."""
        if self.protocol not in (Protocol.TCP4, Protocol.TCP6):
            return None
        if isinstance(self.source, tuple) and isinstance(self.destination, tuple):
            return self.source, self.destination
        return None


def parse_v2(data: bytes) -> tuple[HeaderV2, int] | NeedMore:
    """Parse the header at the beginning of ``data``; bytes after it are ignored.

    Returns:
        The header and its length in bytes, or ``NeedMore`` if it is incomplete.

    Raises:
        NotAHeaderError: The signature is missing (or ``VersionError``: the version is not 2).
        CommandError: The command is neither LOCAL nor PROXY.
        HeaderTooLongError: The header has more than V2_MAX bytes.
        FamilyError: The specification does not know the family or the transport.
        AddressError: The block is too short for the addresses.
        TlvError: An extension is invalid.
        ChecksumError: The CRC32C is wrong.
    """
    if len(data) < FIXED_BYTES:
        if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
            raise NotAHeaderError("it does not begin with the signature of version 2")
        return NeedMore(FIXED_BYTES)
    signature, version_and_command, protocol, length = _FIXED.unpack_from(data)
    if signature != SIGNATURE:
        raise NotAHeaderError("it does not begin with the signature of version 2")
    if version_and_command & 0xF0 != _VERSION:
        raise VersionError(f"version {version_and_command >> 4}, not 2")
    command = version_and_command & 0x0F
    if command > Command.PROXY:
        raise CommandError(f"command {command} is neither LOCAL nor PROXY")
    total = FIXED_BYTES + length
    if total > V2_MAX:
        raise HeaderTooLongError(f"{total} bytes, of which at most {V2_MAX} are read")
    # The checks up to here need no further bytes, so a bad header is rejected without a wait for the rest.
    if command == Command.PROXY:
        _check_protocol(protocol, length)
    if len(data) < total:
        return NeedMore(total)
    block = bytes(data[FIXED_BYTES:total])
    if command == Command.LOCAL or protocol not in _BLOCKS:
        return HeaderV2(command=Command(command), protocol=protocol, block=block), total
    addresses = _BLOCKS[Protocol(protocol)]
    tlvs = parse_tlvs(block[addresses.size :])
    if any(tlv.type == Type.CRC32C for tlv in tlvs):
        _verify(bytes(data[:total]), tlvs)
    source, destination = _read_addresses(addresses.unpack_from(block))
    return HeaderV2(
        command=Command.PROXY, protocol=Protocol(protocol), source=source, destination=destination, tlvs=tlvs
    ), total  # fmt: skip


def _check_protocol(protocol: int, length: int) -> None:
    if protocol >> 4 > _FAMILY_MAX or protocol & 0x0F > _TRANSPORT_MAX:
        raise FamilyError(f"0x{protocol:02x} is not a family and transport")
    if protocol in _BLOCKS and length < _BLOCKS[Protocol(protocol)].size:
        size = _BLOCKS[Protocol(protocol)].size
        raise AddressError(
            f"{length} bytes, {size} are needed for the addresses of {Protocol(protocol).name}"
        )


def _read_addresses(fields: tuple[bytes | int, ...]) -> tuple[Address | bytes, Address | bytes]:
    if len(fields) == 2:
        source, destination = fields
        assert isinstance(source, bytes)  # noqa: S101 - the struct says so
        assert isinstance(destination, bytes)  # noqa: S101
        return source, destination
    source_host, destination_host, source_port, destination_port = fields
    return (_host(source_host), int(source_port)), (_host(destination_host), int(destination_port))


def _host(packed: bytes | int) -> str:
    assert isinstance(packed, bytes)  # noqa: S101 - the struct says so
    return str(IPv4Address(packed)) if len(packed) == 4 else format_ipv6(IPv6Address(packed))


def _verify(header: bytes, tlvs: tuple[Tlv, ...]) -> None:
    sent = [tlv.value for tlv in tlvs if tlv.type == Type.CRC32C]
    if len(sent) > 1:
        raise TlvError(f"{len(sent)} checksums")
    computed = _checksum(header, tlvs)
    if sent[0] != computed:
        raise ChecksumError(f"the header says {sent[0].hex()}, its checksum is {computed.hex()}")


def _checksum(header: bytes, tlvs: tuple[Tlv, ...]) -> bytes:
    """Return the checksum of the whole header, computed with zeroes for the checksum's own bytes (PROXY 2.2.3)."""
    from_end = 0
    for tlv in reversed(tlvs):
        from_end += len(tlv.value)
        if tlv.type == Type.CRC32C:
            break
        from_end += 3
    start = len(header) - from_end
    zeroed = header[:start] + bytes(CHECKSUM_BYTES) + header[start + CHECKSUM_BYTES :]
    return crc32c(zeroed).to_bytes(CHECKSUM_BYTES, "big")


def format_v2(header: HeaderV2) -> bytes:
    """Format the header.

    Raises:
        HeaderTooLongError: There are more than BLOCK_MAX bytes after the length field.
        FamilyError: The protocol is not a byte, or unknown to the specification.
        AddressError: The addresses are invalid or not of the protocol's family.
        TlvError: An extension is invalid.
    """
    block = header.block
    if header.command == Command.PROXY and header.protocol in _BLOCKS:
        block = _write_addresses(Protocol(header.protocol), header) + format_tlvs(header.tlvs)
    if len(block) > BLOCK_MAX:
        raise HeaderTooLongError(f"{len(block)} bytes follow the length, at most {BLOCK_MAX} can be written")
    if not 0 <= header.protocol <= 0xFF:
        raise FamilyError(f"{header.protocol} is not a byte, as family and transport are")
    if header.command == Command.PROXY:
        _check_protocol(header.protocol, len(block))
    return _FIXED.pack(SIGNATURE, _VERSION | header.command, header.protocol, len(block)) + block


def _write_addresses(protocol: Protocol, header: HeaderV2) -> bytes:
    block, source, destination = _BLOCKS[protocol], header.source, header.destination
    if isinstance(source, bytes) and isinstance(destination, bytes) and protocol >= Protocol.UNIX_STREAM:
        if not len(source) == len(destination) == _UNIX_BYTES:  # pack would truncate or pad them
            raise AddressError(f"addresses of {len(source)} and {len(destination)} bytes, not {_UNIX_BYTES}")
        return block.pack(source, destination)
    if isinstance(source, tuple) and isinstance(destination, tuple) and protocol < Protocol.UNIX_STREAM:
        pack = IPv4Address if protocol < Protocol.TCP6 else IPv6Address
        try:
            return block.pack(pack(source[0]).packed, pack(destination[0]).packed, source[1], destination[1])
        except (ValueError, struct.error) as error:
            raise AddressError(
                f"{source} and {destination} are not addresses of {protocol.name}: {error}"
            ) from None
    raise AddressError(f"{protocol.name} without addresses of its family")


def format_tcp(source: Address, destination: Address, tlvs: bytes = b"") -> bytes:
    """Format the header of a TCP client, faster than ``format_v2``, because each session has one.

    Args:
        source: The client's host and port.
        destination: The host and port that it connected to.
        tlvs: Formatted extensions.

    Raises:
        AddressError: An address is invalid, the two are of different families, or ``tlvs`` is too long.
    """
    (source_host, source_port), (destination_host, destination_port) = source, destination
    try:
        source_ip, destination_ip = _packed(source_host), _packed(destination_host)
        if len(source_ip) != len(destination_ip):
            raise AddressError(f"{source_host} and {destination_host} are of two families")
        protocol, block = _TCP[len(source_ip)]
        return (
            _FIXED.pack(SIGNATURE, _VERSION | 1, protocol, block.size + len(tlvs))
            + block.pack(source_ip, destination_ip, source_port, destination_port)
            + tlvs
        )
    except (ValueError, struct.error) as error:
        raise AddressError(f"{source} and {destination} are not addresses of TCP: {error}") from None


@lru_cache(maxsize=4096)  # one address of each header is this machine's, and clients reconnect
def _packed(host: str) -> bytes:
    return (IPv6Address(host) if ":" in host else IPv4Address(host)).packed


_TCP = {
    4: (int(Protocol.TCP4), _BLOCKS[Protocol.TCP4]),
    16: (int(Protocol.TCP6), _BLOCKS[Protocol.TCP6]),
}


def with_checksum(header: HeaderV2) -> HeaderV2:
    """Return the header with its CRC32C as the first extension, where HAProxy has it.

    A header that has no extensions (LOCAL, unspecified family or transport) is returned unchanged.
    """
    if header.command == Command.LOCAL or header.protocol not in _BLOCKS:
        return header
    tlvs = (Tlv(Type.CRC32C, bytes(CHECKSUM_BYTES)), *(t for t in header.tlvs if t.type != Type.CRC32C))
    checksum = _checksum(format_v2(evolve(header, tlvs=tlvs)), tlvs)
    return evolve(header, tlvs=(Tlv(Type.CRC32C, checksum), *tlvs[1:]))
