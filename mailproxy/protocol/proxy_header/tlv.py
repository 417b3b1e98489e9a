"""The extensions (TLVs) of a version 2 header and those inside its SSL extension (PROXY 2.2.1 and following)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum, IntFlag

from attrs import field, frozen

from mailproxy.protocol.proxy_header.errors import TlvError

VALUE_MAX = 0xFFFF  # bytes: the length field has two
UNIQUE_ID_MAX = 128  # bytes (PROXY 2.2.5)
# Bytes: a host name has no more (RFC 1035 section 2.3.4), and HAProxy rejects longer ones.
AUTHORITY_MAX = 255
CHECKSUM_BYTES = 4

_HEAD = struct.Struct("!BH")
# The specification leaves the byte order of verify open. HAProxy writes network order.
_SSL = struct.Struct("!BL")


class Type(IntEnum):
    """The registered types. Those from 0xE0 on are for private use, for experiments, or reserved."""

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
    """The flags of the client in the SSL extension (PROXY 2.2.6)."""

    SSL = 0x01
    CERT_CONN = 0x02
    CERT_SESS = 0x04


@frozen
class Tlv:
    """One extension. ``type`` is a plain number, as there are unregistered types."""

    type: int
    value: bytes = field(repr=lambda value: f"{len(value)} bytes")


@frozen(kw_only=True)
class Ssl:
    """The value of the SSL extension.

    Attributes:
        client: Whether the client uses TLS, and whether it sent a certificate on this connection or in its
            TLS session.
        verify: 0 if the client's certificate was verified. HAProxy also sends 0 if there is no certificate.
        extensions: The extensions inside, such as version, cipher and common name.
    """

    client: Client
    verify: int
    extensions: tuple[Tlv, ...] = ()

    def value_of(self, kind: Type) -> bytes | None:
        """Return the value of the first extension inside with this type."""
        return next((tlv.value for tlv in self.extensions if tlv.type == kind), None)


def parse_tlvs(data: bytes) -> tuple[Tlv, ...]:
    """Parse the extensions that fill ``data``.

    Raises:
        TlvError: The last one exceeds ``data``, or a value breaks the limit of its type.
    """
    tlvs = []
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < _HEAD.size:
            raise TlvError(f"{end - offset} bytes are left, and an extension has at least {_HEAD.size}")
        kind, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        if length > end - offset:
            raise TlvError(f"the extension 0x{kind:02x} has {length} bytes, and {end - offset} are left")
        _check(kind, length)
        tlvs.append(Tlv(kind, data[offset : offset + length]))
        offset += length
    return tuple(tlvs)


def _check(kind: int, length: int) -> None:
    if kind == Type.CRC32C and length != CHECKSUM_BYTES:
        raise TlvError(f"a checksum of {length} bytes")
    if kind == Type.UNIQUE_ID and length > UNIQUE_ID_MAX:
        raise TlvError(f"a unique id of {length} bytes, at most {UNIQUE_ID_MAX} are allowed")
    if kind == Type.AUTHORITY and length > AUTHORITY_MAX:
        raise TlvError(f"an authority of {length} bytes, at most {AUTHORITY_MAX} are allowed")


def format_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """Format extensions.

    Raises:
        TlvError: A type or length does not fit its field, or a value breaks the limit of its type.
    """
    data = bytearray()
    for tlv in tlvs:
        length = len(tlv.value)
        if length > VALUE_MAX:
            raise TlvError(f"the extension 0x{tlv.type:02x} has {length} bytes, {VALUE_MAX} can be written")
        if not 0 <= tlv.type <= 0xFF:
            raise TlvError(f"{tlv.type} is not a byte, as the type of an extension is")
        _check(tlv.type, length)
        data += _HEAD.pack(tlv.type, length) + tlv.value
    return bytes(data)


def parse_ssl(value: bytes) -> Ssl:
    """Parse the value of an SSL extension. Raises TlvError if it is too short or an extension inside is invalid."""
    if len(value) < _SSL.size:
        raise TlvError(f"the SSL extension has {len(value)} bytes, {_SSL.size} at least are needed")
    client, verify = _SSL.unpack_from(value)
    return Ssl(client=Client(client), verify=verify, extensions=parse_tlvs(value[_SSL.size :]))


def format_ssl(ssl: Ssl) -> Tlv:
    """Format an SSL extension. Raises TlvError if a number does not fit its field or an extension inside is invalid."""
    try:
        numbers = _SSL.pack(ssl.client, ssl.verify)
    except struct.error as error:
        raise TlvError(f"client {ssl.client:d} and verify {ssl.verify}: {error}") from None
    return Tlv(Type.SSL, numbers + format_tlvs(ssl.extensions))
