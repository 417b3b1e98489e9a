"""Version 2: binary, with extensions (PROXY 2.2)."""

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
BLOCK_MAX = 0xFFFF  # bytes behind those: the length has two
V2_MAX = (
    16 * 1024
)  # bytes that are read of a header: four times what a certificate takes, and HAProxy's own buffer

_VERSION = 0x20
_FAMILY_MAX, _TRANSPORT_MAX = 3, 2  # AF_UNIX, DGRAM (PROXY 2.2, 14th byte)
_UNIX_BYTES = 108
_FIXED = struct.Struct("!12sBBH")


class Command(IntEnum):
    """LOCAL: the sender's own connection, such as a health check; the real addresses count."""

    LOCAL = 0x0
    PROXY = 0x1


class Protocol(IntEnum):
    """Address family and transport as they stand in the 14th byte; the combinations that have addresses, and none."""

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

    ``protocol`` is a ``Protocol``, or another number where it does not count. Addresses are host and port, for Unix
    sockets the 108 bytes of each. ``block`` is all that follows the length where it is to be ignored: with LOCAL, and
    where family or transport are unspecified. Everywhere else there are addresses and extensions.
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
        """The client's address and the one that it connected to, of TCP; None where it tells of none."""
        if self.protocol not in (Protocol.TCP4, Protocol.TCP6):
            return None
        if isinstance(self.source, tuple) and isinstance(self.destination, tuple):
            return self.source, self.destination
        return None


def parse_v2(data: bytes) -> tuple[HeaderV2, int] | NeedMore:
    """Read the header at the beginning of ``data``; bytes behind it are not looked at. Raises HeaderError."""
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
        raise HeaderTooLongError(f"{total} bytes, {V2_MAX} are read")
    # What is wrong so far is wrong whatever follows; only now is it worth waiting for.
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
        raise FamilyError(f"0x{protocol:02x} is no family and transport")
    if protocol in _BLOCKS and length < _BLOCKS[Protocol(protocol)].size:
        size = _BLOCKS[Protocol(protocol)].size
        raise AddressError(
            f"{length} bytes, {size} are needed for the addresses of {Protocol(protocol).name}"
        )


def _read_addresses(fields: tuple[bytes | int, ...]) -> tuple[Address | bytes, Address | bytes]:
    if len(fields) == 2:
        source, destination = fields
        assert isinstance(source, bytes)  # noqa: S101 - as the struct says
        assert isinstance(destination, bytes)  # noqa: S101
        return source, destination
    source_host, destination_host, source_port, destination_port = fields
    return (_host(source_host), int(source_port)), (_host(destination_host), int(destination_port))


def _host(packed: bytes | int) -> str:
    assert isinstance(packed, bytes)  # noqa: S101 - as the struct says
    return str(IPv4Address(packed)) if len(packed) == 4 else format_ipv6(IPv6Address(packed))


def _verify(header: bytes, tlvs: tuple[Tlv, ...]) -> None:
    said = [tlv.value for tlv in tlvs if tlv.type == Type.CRC32C]
    if len(said) > 1:
        raise TlvError(f"{len(said)} checksums")
    made = _checksum(header, tlvs)
    if said[0] != made:
        raise ChecksumError(f"the header says {said[0].hex()}, its checksum is {made.hex()}")


def _checksum(header: bytes, tlvs: tuple[Tlv, ...]) -> bytes:
    """Of the whole header, with the checksum's own bytes as zeroes (PROXY 2.2.3)."""
    behind = 0
    for tlv in reversed(tlvs):
        behind += len(tlv.value)
        if tlv.type == Type.CRC32C:
            break
        behind += 3
    start = len(header) - behind
    zeroed = header[:start] + bytes(CHECKSUM_BYTES) + header[start + CHECKSUM_BYTES :]
    return crc32c(zeroed).to_bytes(CHECKSUM_BYTES, "big")


def format_v2(header: HeaderV2) -> bytes:
    """Write the header. Raises HeaderError for what cannot be written: foreign addresses, too many bytes."""
    block = header.block
    if header.command == Command.PROXY and header.protocol in _BLOCKS:
        block = _write_addresses(Protocol(header.protocol), header) + format_tlvs(header.tlvs)
    if len(block) > BLOCK_MAX:
        raise HeaderTooLongError(f"{len(block)} bytes behind the length, {BLOCK_MAX} can be written")
    if not 0 <= header.protocol <= 0xFF:
        raise FamilyError(f"{header.protocol} is no byte, as family and transport are")
    if header.command == Command.PROXY:
        _check_protocol(header.protocol, len(block))
    return _FIXED.pack(SIGNATURE, _VERSION | header.command, header.protocol, len(block)) + block


def _write_addresses(protocol: Protocol, header: HeaderV2) -> bytes:
    block, source, destination = _BLOCKS[protocol], header.source, header.destination
    if isinstance(source, bytes) and isinstance(destination, bytes) and protocol >= Protocol.UNIX_STREAM:
        if not len(source) == len(destination) == _UNIX_BYTES:  # pack would cut or fill them
            raise AddressError(f"addresses of {len(source)} and {len(destination)} bytes, not {_UNIX_BYTES}")
        return block.pack(source, destination)
    if isinstance(source, tuple) and isinstance(destination, tuple) and protocol < Protocol.UNIX_STREAM:
        pack = IPv4Address if protocol < Protocol.TCP6 else IPv6Address
        try:
            return block.pack(pack(source[0]).packed, pack(destination[0]).packed, source[1], destination[1])
        except (ValueError, struct.error) as error:
            raise AddressError(
                f"{source} and {destination} are no addresses of {protocol.name}: {error}"
            ) from None
    raise AddressError(f"{protocol.name} without addresses of its family")


def format_tcp(source: Address, destination: Address, tlvs: bytes = b"") -> bytes:
    """Write the header of a client of TCP; ``tlvs`` are written extensions. Raises AddressError.

    The same as ``format_v2`` by a shorter way: every session takes it.
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
        raise AddressError(f"{source} and {destination} are no addresses of TCP: {error}") from None


@lru_cache(maxsize=4096)  # one is this machine's, and clients come back
def _packed(host: str) -> bytes:
    return (IPv6Address(host) if ":" in host else IPv4Address(host)).packed


_TCP = {
    4: (int(Protocol.TCP4), _BLOCKS[Protocol.TCP4]),
    16: (int(Protocol.TCP6), _BLOCKS[Protocol.TCP6]),
}


def with_checksum(header: HeaderV2) -> HeaderV2:
    """The header with a CRC32C of itself, which stands first among the extensions as HAProxy has it.

    A header without extensions (LOCAL, unspecified family or transport) has no place for one, and stays as it is.
    """
    if header.command == Command.LOCAL or header.protocol not in _BLOCKS:
        return header
    tlvs = (Tlv(Type.CRC32C, bytes(CHECKSUM_BYTES)), *(t for t in header.tlvs if t.type != Type.CRC32C))
    made = _checksum(format_v2(evolve(header, tlvs=tlvs)), tlvs)
    return evolve(header, tlvs=(Tlv(Type.CRC32C, made), *tlvs[1:]))
