"""The ClientHello: server name (SNI) and application protocols (ALPN) of a TLS client, read without a handshake.

The format is RFC 8446 section 4.1.2, the same as in RFC 5246 section 7.4.1.2. Server names are RFC 6066
section 3, application protocols RFC 7301 section 3.1.

- A ClientHello may be split into several TLS records at any byte. Post-quantum key shares make it longer than
  a TCP segment.
- Unknown values, such as those of GREASE (RFC 8701), are skipped.
- With Encrypted ClientHello (RFC 9849) the name is that of the outer ClientHello, which needs no key to read.
"""

from __future__ import annotations

import functools
import struct

from attrs import field, frozen

from mailproxy.errors import ClientHandshakeError
from mailproxy.protocol.preamble import NeedMore

# Bytes on the wire, record headers included. With post-quantum key shares it has about 2,000. One that fills
# a record has 16,389. One with a long ticket and many key shares may continue in a second record. Clients
# need no more.
HELLO_MAX = 20 * 1024

_HANDSHAKE = 22  # the type of the record (RFC 8446 section 5.1)
_CLIENT_HELLO = 1  # the type of the message (section 4)
_MAJOR_VERSION = 3  # of all TLS versions
_RECORD_HEAD_BYTES = 5
_RECORD_MAX = 2**14  # bytes of a plain record (section 5.1)
_MESSAGE_HEAD_BYTES = 4
_FIXED_BYTES = 2 + 32  # legacy_version, random
_SESSION_ID_MAX = 32
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D  # types of extensions; RFC 9849 for the last
_EXTENSIONS_READ = {_SERVER_NAME, _ALPN, _ECH}
_EXTENSION_HEAD = struct.Struct(">HH").unpack_from  # type, length
# A record's head and that of the message in it: type, version (2 bytes), length; type, length (1 and 2
# bytes).
_RECORD_AND_MESSAGE_HEADS = struct.Struct(">BBBHBBH").unpack_from
# A list of server names and the head of its only name: length of the list; type, length.
_NAME_LIST_HEADS = struct.Struct(">HBH").unpack_from
_HOST_NAME = 0
_HOST_NAME_MAX = 255  # bytes (RFC 1035 section 2.3.4)


class ClientHelloError(ClientHandshakeError):
    """The bytes are no ClientHello, or a malformed one."""


class NotTlsError(ClientHelloError):
    """The client does not speak TLS."""


@frozen(kw_only=True)
class ClientHello:
    """What a ClientHello asks for.

    Attributes:
        server_name: The server name in lower case, without the dot of the root zone; None if there is none.
        authority: The server name exactly as sent.
        alpn: Application protocols, in the client's order.
        has_ech: Whether it has the Encrypted ClientHello extension.
    """

    server_name: str | None = None
    authority: str | None = field(default=None, eq=False)
    alpn: tuple[bytes, ...] = ()
    has_ech: bool = False


def parse_client_hello(data: bytes) -> tuple[ClientHello, int] | NeedMore:
    """Parse the ClientHello at the beginning of ``data``; bytes after it are ignored.

    Each call parses from the start. So call again only once ``total`` bytes have arrived: a client can force
    about fifty calls in that way, instead of one for each byte.

    Returns:
        The ClientHello and the bytes that its records occupy. If it is incomplete, ``NeedMore`` with at most
        HELLO_MAX.

    Raises:
        ClientHelloError: It is malformed or longer than HELLO_MAX.
        NotTlsError: The client does not speak TLS.
    """
    return _parse_plain(data) or parse_in_records(data)


def _parse_plain(data: bytes) -> tuple[ClientHello, int] | None:
    """Parse a ClientHello that is complete in one record and valid, as nearly all are; None for any other.

    It takes a third of the steps of ``parse_in_records``, which handles every form and names faults. That
    saves a tenth of all Python code of a TLS session.
    """
    try:
        kind, major, _, size, message_kind, high, length = _RECORD_AND_MESSAGE_HEADS(data)
        end = _RECORD_HEAD_BYTES + size
        if (
            kind != _HANDSHAKE
            or major != _MAJOR_VERSION
            or message_kind != _CLIENT_HELLO
            or high
            or length + _MESSAGE_HEAD_BYTES != size
            or size > _RECORD_MAX
        ):
            return None
        offset = _RECORD_HEAD_BYTES + _MESSAGE_HEAD_BYTES + _FIXED_BYTES
        session_id = data[offset]
        offset += 1 + session_id
        ciphers = data[offset] << 8 | data[offset + 1]
        offset += 2 + ciphers
        compression = data[offset]
        offset += 1 + compression
        extensions = data[offset] << 8 | data[offset + 1]
        offset += 2
        if (
            session_id > _SESSION_ID_MAX
            or ciphers < 2
            or ciphers & 1
            or not compression
            or offset + extensions != end
        ):
            return None
        bodies: dict[int, bytes] = {}
        while offset < end:
            kind, length = _EXTENSION_HEAD(data, offset)
            offset += 4 + length
            if kind in _EXTENSIONS_READ:
                if kind in bodies:
                    return None
                bodies[kind] = data[offset - length : offset]
        if offset != end or end > len(data):
            return None
        authority = server_name = None
        if _SERVER_NAME in bodies:
            names = bodies[_SERVER_NAME]
            listed, kind, length = _NAME_LIST_HEADS(names)
            if kind != _HOST_NAME or length + 5 != len(names) or listed + 2 != len(names):
                return None
            authority, server_name = _host_name(names[5:])
        alpn = _protocols(bodies[_ALPN]) if _ALPN in bodies else ()
    except (IndexError, struct.error, ClientHelloError):
        return None
    hello = ClientHello(
        server_name=server_name,
        authority=authority,
        alpn=alpn,
        has_ech=_ECH in bodies,
    )
    return hello, end


def parse_in_records(data: bytes) -> tuple[ClientHello, int] | NeedMore:
    """Parse a ClientHello that is split into records in any way; otherwise like ``parse_client_hello``."""
    message, length, offset, carried = b"", 0, 0, 0
    while True:
        if (
            len(data) < offset + _RECORD_HEAD_BYTES
            or data[offset] != _HANDSHAKE
            or data[offset + 1] != _MAJOR_VERSION
        ):
            _check_begin(data, offset)
            return NeedMore(offset + _RECORD_HEAD_BYTES + max(length - carried, 0))
        size = data[offset + 3] << 8 | data[offset + 4]
        if not 0 < size <= _RECORD_MAX:
            raise ClientHelloError(f"a record of {size} bytes")
        start, offset = offset + _RECORD_HEAD_BYTES, offset + _RECORD_HEAD_BYTES + size
        message += data[start:offset]
        carried += size
        if not length:
            length = _message_length(message)
        # The rest needs at least one more record head and its own bytes, however it is split. Asking for that
        # much keeps the number of calls small, even with one byte in each record.
        least = offset if length <= carried else offset + _RECORD_HEAD_BYTES + length - carried
        if least > HELLO_MAX:
            raise ClientHelloError(f"the hello is longer than {HELLO_MAX} bytes")
        if len(data) < offset:
            return NeedMore(least)
        if 0 < length <= carried:
            return _parse_message(message[:length]), offset


def _check_begin(data: bytes, offset: int) -> None:
    """Raise an error for the first byte that cannot be in a record's head; return if all that there are can be."""
    head = data[offset : offset + 2]
    if head[:1] != bytes([_HANDSHAKE])[: len(head)]:
        if offset:
            raise ClientHelloError(f"the hello is interrupted by a record of type {head[0]}")
        raise NotTlsError("the client does not speak TLS")
    if head[1:] not in (b"", bytes([_MAJOR_VERSION])):
        raise NotTlsError(f"a record of version {head[1]}.x, TLS has 3.x")


def _message_length(message: bytes) -> int:
    """Return the length of the message with its head; 0 while the head is incomplete."""
    if message and message[0] != _CLIENT_HELLO:
        raise ClientHelloError(f"the first message is of type {message[0]}, no ClientHello")
    if len(message) < _MESSAGE_HEAD_BYTES:
        return 0
    length = int.from_bytes(message[1:4], "big")
    if length < _FIXED_BYTES:
        raise ClientHelloError(f"a hello of {length} bytes")
    return _MESSAGE_HEAD_BYTES + length


def _parse_message(message: bytes) -> ClientHello:
    """Parse a complete message. Raises ClientHelloError if a length exceeds the structure around it."""
    end = len(message)
    offset = _MESSAGE_HEAD_BYTES + _FIXED_BYTES
    offset = _vector_end(message, offset, 1, end, "session id", most=_SESSION_ID_MAX)
    offset = _vector_end(message, offset, 2, end, "cipher suites", least=2, unit=2)
    offset = _vector_end(message, offset, 1, end, "compression methods", least=1)
    if offset == end:
        return ClientHello()  # the oldest hellos have no extensions
    extensions_end = _vector_end(message, offset, 2, end, "extensions")
    if extensions_end != end:
        raise ClientHelloError(f"{end - extensions_end} bytes behind the extensions")
    offset += 2
    authority = server_name = None
    alpn: tuple[bytes, ...] = ()
    seen = 0  # one bit for each extension that is read: none may come twice (RFC 8446 section 4.2)
    while offset < end:
        if end - offset < 4:
            raise ClientHelloError(f"{end - offset} bytes are left, and an extension has at least 4")
        kind, length = _EXTENSION_HEAD(message, offset)
        start = offset + 4
        offset = start + length
        if offset > end:
            raise ClientHelloError(f"extension {kind} exceeds the hello")
        if kind not in _EXTENSIONS_READ:
            continue
        if kind == _SERVER_NAME:
            seen = _once(seen, 1, "server name")
            authority, server_name = _server_name(message[start:offset])
        elif kind == _ALPN:
            seen = _once(seen, 2, "ALPN")
            alpn = _protocols(message[start:offset])
        else:
            seen = _once(seen, 4, "ECH")
    return ClientHello(
        server_name=server_name,
        authority=authority,
        alpn=alpn,
        has_ech=bool(seen & 4),
    )


def _vector_end(
    message: bytes,
    offset: int,
    size: int,
    end: int,
    label: str,
    *,
    least: int = 0,
    most: int = 0xFFFF,
    unit: int = 1,
) -> int:
    """Return the offset after a vector whose length field has ``size`` bytes.

    Raises ClientHelloError unless its length is from ``least`` to ``most``, a multiple of ``unit``, and
    within ``end``.
    """
    start = offset + size
    length = int.from_bytes(message[offset:start], "big")
    if start + length > end or not least <= length <= most or length % unit:
        raise ClientHelloError(f"{label} of {length} bytes")
    return start + length


def _once(seen: int, bit: int, label: str) -> int:
    if seen & bit:
        raise ClientHelloError(f"{label} comes twice")
    return seen | bit


def _server_name(data: bytes) -> tuple[str, str] | tuple[None, None]:
    """Return the host name of the list, as ``_host_name`` does.

    RFC 6066 allows one name of each type, and host names are the only type.
    """
    offset = 2
    if (
        len(data) < offset
        or len(data) != offset + int.from_bytes(data[:offset], "big")
        or len(data) == offset
    ):
        raise ClientHelloError(f"a list of server names of {len(data)} bytes")
    name: tuple[str, str] | tuple[None, None] = (None, None)
    while offset < len(data):
        kind, start = data[offset], offset + 3
        offset = start + int.from_bytes(data[offset + 1 : start], "big")
        if offset > len(data):
            raise ClientHelloError("a server name exceeds its list")
        if kind != _HOST_NAME:
            continue
        if name[0] is not None:
            raise ClientHelloError("two host names")
        name = _host_name(data[start:offset])
    return name


@functools.lru_cache(maxsize=256)  # sessions with the same name share one string
def _host_name(data: bytes) -> tuple[str, str]:
    """Return a name exactly as sent, and as ``ClientHello.server_name``."""
    name = data.rstrip(b".")
    if not name or len(data) > _HOST_NAME_MAX:
        raise ClientHelloError(f"a host name of {len(data)} bytes")
    if not (name.isascii() and name.decode("ascii").isprintable()):
        raise ClientHelloError("a host name that is not printable ASCII")
    authority = data.decode("ascii")
    return authority, authority.lower().rstrip(".")


def _protocols(data: bytes) -> tuple[bytes, ...]:
    if len(data) < 2 or len(data) != 2 + int.from_bytes(data[:2], "big") or len(data) == 2:
        raise ClientHelloError(f"a list of application protocols of {len(data)} bytes")
    protocols, offset = [], 2
    while offset < len(data):
        start = offset + 1
        offset = start + data[offset]
        if offset > len(data) or offset == start:
            raise ClientHelloError("an application protocol is empty or exceeds its list")
        protocols.append(data[start:offset])
    return tuple(protocols)
