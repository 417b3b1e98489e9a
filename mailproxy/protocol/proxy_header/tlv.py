"""The extensions of a version 2 header: type, length, value (PROXY 2.2.x), those inside the SSL extension too."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum, IntFlag

from attrs import field, frozen

from mailproxy.protocol.proxy_header.errors import TlvError

VALUE_MAX = 0xFFFF  # bytes; a length has two
UNIQUE_ID_MAX = 128  # bytes (PROXY 2.2.5)
AUTHORITY_MAX = (
    255  # bytes; a host name has no more (RFC 1035 section 2.3.4), and HAProxy refuses it from there on
)
CHECKSUM_BYTES = 4

_HEAD = struct.Struct("!BH")
_SSL = struct.Struct("!BL")  # the endianness of verify is unstated; HAProxy writes network order


class Type(IntEnum):
    """The registered types. From 0xE0 they are for anybody's own use, for experiments, and reserved."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    SSL_GROUP = 0x26
    SSL_SIG_SCHEME = 0x27
    SSL_CLIENT_CERT = 0x28
    NETNS = 0x30


class Client(IntFlag):
    """What the SSL extension says of the client (PROXY 2.2.6)."""

    SSL = 0x01
    CERT_CONN = 0x02
    CERT_SESS = 0x04


@frozen
class Tlv:
    """One extension. ``type`` is a number, since there are unregistered ones."""

    type: int
    value: bytes = field(repr=lambda value: f"{len(value)} bytes")


@frozen(kw_only=True)
class Ssl:
    """The value of the SSL extension. ``verify`` is 0 where the client's certificate was verified; HAProxy sends 0 where there is none, too."""

    client: Client
    verify: int
    extensions: tuple[Tlv, ...] = ()

    def value_of(self, kind: Type) -> bytes | None:
        """The value of the first extension inside that has this type."""
        return next((tlv.value for tlv in self.extensions if tlv.type == kind), None)


def parse_tlvs(data: bytes) -> tuple[Tlv, ...]:
    """Read extensions that fill ``data`` to its end. Raises TlvError."""
    tlvs = []
    place, end = 0, len(data)
    while place < end:
        if end - place < _HEAD.size:
            raise TlvError(f"{end - place} bytes are left, and an extension has at least {_HEAD.size}")
        kind, length = _HEAD.unpack_from(data, place)
        place += _HEAD.size
        if length > end - place:
            raise TlvError(f"the extension 0x{kind:02x} has {length} bytes, and {end - place} are left")
        _check(kind, length)
        tlvs.append(Tlv(kind, data[place : place + length]))
        place += length
    return tuple(tlvs)


def _check(kind: int, length: int) -> None:
    if kind == Type.CRC32C and length != CHECKSUM_BYTES:
        raise TlvError(f"a checksum of {length} bytes")
    if kind == Type.UNIQUE_ID and length > UNIQUE_ID_MAX:
        raise TlvError(f"a unique id of {length} bytes, {UNIQUE_ID_MAX} are allowed")
    if kind == Type.AUTHORITY and length > AUTHORITY_MAX:
        raise TlvError(f"an authority of {length} bytes, {AUTHORITY_MAX} are allowed")


def format_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """Write extensions. Raises TlvError for a value that no receiver would take."""
    data = bytearray()
    for tlv in tlvs:
        length = len(tlv.value)
        if length > VALUE_MAX:
            raise TlvError(f"the extension 0x{tlv.type:02x} has {length} bytes, {VALUE_MAX} can be written")
        if not 0 <= tlv.type <= 0xFF:
            raise TlvError(f"{tlv.type} is no byte, as the type of an extension is")
        _check(tlv.type, length)
        data += _HEAD.pack(tlv.type, length) + tlv.value
    return bytes(data)


def parse_ssl(value: bytes) -> Ssl:
    """Read the value of an SSL extension. Raises TlvError."""
    if len(value) < _SSL.size:
        raise TlvError(f"the SSL extension has {len(value)} bytes, {_SSL.size} at least are needed")
    client, verify = _SSL.unpack_from(value)
    return Ssl(client=Client(client), verify=verify, extensions=parse_tlvs(value[_SSL.size :]))


def format_ssl(ssl: Ssl) -> Tlv:
    """Write an SSL extension. Raises TlvError for what cannot be written."""
    try:
        numbers = _SSL.pack(ssl.client, ssl.verify)
    except struct.error as error:
        raise TlvError(f"client {ssl.client:d} and verify {ssl.verify}: {error}") from None
    return Tlv(Type.SSL, numbers + format_tlvs(ssl.extensions))
