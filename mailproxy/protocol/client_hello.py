"""What a TLS client says first, read without answering: the name that it asks for and the protocols that it offers.

RFC 8446 section 4.1.2 (RFC 5246 section 7.4.1.2 has the same form); server names RFC 6066 section 3, application
protocols RFC 7301 section 3.1. The hello may be cut into several records anywhere, and its post-quantum key shares
make it longer than a segment. Values that are only there to be skipped (GREASE, RFC 8701) are skipped as all unknown ones
are. With Encrypted ClientHello the name is that of the outer hello: all that can be read without its key.
"""

from __future__ import annotations

import struct

from attrs import field, frozen

from mailproxy.errors import ClientHandshakeError
from mailproxy.protocol.preamble import NeedMore

# Bytes on the wire, record headers included. Post-quantum hellos have about 2,000. A hello that fills a record has 16,389, and
# one with a long ticket and many key shares goes on in a second record. Nothing that a client needs is longer.
HELLO_MAX = 20 * 1024

_HANDSHAKE = 22  # the type of the record (RFC 8446 section 5.1)
_CLIENT_HELLO = 1  # the type of the message (section 4)
_MAJOR_VERSION = 3  # of every TLS there is
_RECORD_HEAD_BYTES = 5
_RECORD_MAX = 2**14  # bytes of a plain record (section 5.1)
_MESSAGE_HEAD_BYTES = 4
_FIXED_BYTES = 2 + 32  # legacy_version, random
_SESSION_ID_MAX = 32
_SERVER_NAME, _ALPN, _ECH = 0, 16, 0xFE0D  # types of extensions; RFC 9849 for the last
_LOOKED_AT = {_SERVER_NAME, _ALPN, _ECH}
_EXTENSION_HEAD = struct.Struct(">HH").unpack_from  # its type and its length
_HEADS = struct.Struct(
    ">BBBHBBH"
).unpack_from  # of a record and the message in it: type, version, length, type, length
_NAME_HEADS = struct.Struct(
    ">HBH"
).unpack_from  # of a list of server names with one in it: length, type, length
_HOST_NAME = 0
_HOST_NAME_MAX = 255  # bytes (RFC 1035 section 2.3.4)


class ClientHelloError(ClientHandshakeError):
    """What came is no ClientHello, or one that breaks the rules of its form."""


class NotTlsError(ClientHelloError):
    """The client does not speak TLS."""


@frozen(kw_only=True)
class ClientHello:
    """``server_name`` is in lower case without the root's dot, None where the client asked for none;
    ``authority`` is it to the letter. ``alpn`` is in the client's order.
    """

    server_name: str | None = None
    authority: str | None = field(default=None, eq=False)
    alpn: tuple[bytes, ...] = ()
    has_ech: bool = False


def parse_client_hello(data: bytes) -> tuple[ClientHello, int] | NeedMore:
    """Read the ClientHello at the beginning of ``data``: it and the bytes that its records take, or what is missing.

    Nothing is consumed and nothing behind it is looked at. Raises ClientHelloError. What is missing never leads over
    HELLO_MAX. Every call reads from the start: ask again only when ``total`` bytes are there, which a client can delay
    some fifty times, and not for each of its bytes.
    """
    return _parse_plain(data) or parse_in_records(data)


def _parse_plain(data: bytes) -> tuple[ClientHello, int] | None:
    """A hello whole in one record and with nothing wrong, as nearly all are, in a third of the steps: a tenth of all that
    Python does for a session with TLS. None leaves it to those who take every form, and say what is wrong.
    """
    try:
        kind, major, _, size, message_kind, high, length = _HEADS(data)
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
        place = _RECORD_HEAD_BYTES + _MESSAGE_HEAD_BYTES + _FIXED_BYTES
        session_id = data[place]
        place += 1 + session_id
        ciphers = data[place] << 8 | data[place + 1]
        place += 2 + ciphers
        compression = data[place]
        place += 1 + compression
        extensions = data[place] << 8 | data[place + 1]
        place += 2
        if (
            session_id > _SESSION_ID_MAX
            or ciphers < 2
            or ciphers & 1
            or not compression
            or place + extensions != end
        ):
            return None
        found: dict[int, bytes] = {}
        while place < end:
            kind, length = _EXTENSION_HEAD(data, place)
            place += 4 + length
            if kind in _LOOKED_AT:
                if kind in found:
                    return None
                found[kind] = data[place - length : place]
        if place != end or end > len(data):
            return None
        authority = None
        if _SERVER_NAME in found:
            names = found[_SERVER_NAME]
            listed, kind, length = _NAME_HEADS(names)
            if kind != _HOST_NAME or length + 5 != len(names) or listed + 2 != len(names):
                return None
            authority = _host_name(names[5:])
        alpn = _protocols(found[_ALPN]) if _ALPN in found else ()
    except (IndexError, struct.error, ClientHelloError):
        return None
    hello = ClientHello(
        server_name=None if authority is None else authority.lower().rstrip("."),
        authority=authority,
        alpn=alpn,
        has_ech=_ECH in found,
    )
    return hello, end


def parse_in_records(data: bytes) -> tuple[ClientHello, int] | NeedMore:
    """As ``parse_client_hello``, however the hello is cut into records."""
    message, length, place, carried = b"", 0, 0, 0
    while True:
        if (
            len(data) < place + _RECORD_HEAD_BYTES
            or data[place] != _HANDSHAKE
            or data[place + 1] != _MAJOR_VERSION
        ):
            _check_begin(data, place)
            return NeedMore(place + _RECORD_HEAD_BYTES + max(length - carried, 0))
        size = data[place + 3] << 8 | data[place + 4]
        if not 0 < size <= _RECORD_MAX:
            raise ClientHelloError(f"a record of {size} bytes")
        start, place = place + _RECORD_HEAD_BYTES, place + _RECORD_HEAD_BYTES + size
        message += data[start:place]
        carried += size
        if not length:
            length = _message_length(message)
        # However the rest is cut, it takes a head and itself: few questions, even for records of a byte each.
        least = place if length <= carried else place + _RECORD_HEAD_BYTES + length - carried
        if least > HELLO_MAX:
            raise ClientHelloError(f"the hello is longer than {HELLO_MAX} bytes")
        if len(data) < place:
            return NeedMore(least)
        if 0 < length <= carried:
            return _parse_message(message[:length]), place


def _check_begin(data: bytes, place: int) -> None:
    """Say what a record's head is instead, from the first byte that cannot be one's."""
    head = data[place : place + 2]
    if head[:1] != bytes([_HANDSHAKE])[: len(head)]:
        if place:
            raise ClientHelloError(f"the hello is interrupted by a record of type {head[0]}")
        raise NotTlsError("the client does not speak TLS")
    if head[1:] not in (b"", bytes([_MAJOR_VERSION])):
        raise NotTlsError(f"a record of version {head[1]}.x, TLS has 3.x")


def _message_length(message: bytes) -> int:
    """Of the whole message, its head included; 0 while that is not there."""
    if message and message[0] != _CLIENT_HELLO:
        raise ClientHelloError(f"the first message is of type {message[0]}, no ClientHello")
    if len(message) < _MESSAGE_HEAD_BYTES:
        return 0
    length = int.from_bytes(message[1:4], "big")
    if length < _FIXED_BYTES:
        raise ClientHelloError(f"a hello of {length} bytes")
    return _MESSAGE_HEAD_BYTES + length


def _parse_message(message: bytes) -> ClientHello:
    """Raises ClientHelloError where a length leads over its surroundings' end."""
    end = len(message)
    place = _MESSAGE_HEAD_BYTES + _FIXED_BYTES
    place = _behind(message, place, 1, end, "session id", most=_SESSION_ID_MAX)
    place = _behind(message, place, 2, end, "cipher suites", least=2, unit=2)
    place = _behind(message, place, 1, end, "compression methods", least=1)
    if place == end:
        return ClientHello()  # the oldest hellos have no extensions
    behind = _behind(message, place, 2, end, "extensions")
    if behind != end:
        raise ClientHelloError(f"{end - behind} bytes behind the extensions")
    place += 2
    name: str | None = None
    alpn: tuple[bytes, ...] = ()
    seen = 0  # of the three that are looked at, none may come twice (RFC 8446 section 4.2)
    while place < end:
        if end - place < 4:
            raise ClientHelloError(f"{end - place} bytes are left, and an extension has at least 4")
        kind, length = _EXTENSION_HEAD(message, place)
        start = place + 4
        place = start + length
        if place > end:
            raise ClientHelloError(f"extension {kind} leads over the hello's end")
        if kind not in _LOOKED_AT:
            continue
        if kind == _SERVER_NAME:
            seen = _once(seen, 1, "server name")
            name = _server_name(message[start:place])
        elif kind == _ALPN:
            seen = _once(seen, 2, "ALPN")
            alpn = _protocols(message[start:place])
        else:
            seen = _once(seen, 4, "ECH")
    return ClientHello(
        server_name=None if name is None else name.lower().rstrip("."),
        authority=name,
        alpn=alpn,
        has_ech=bool(seen & 4),
    )


def _behind(
    message: bytes,
    place: int,
    size: int,
    end: int,
    what: str,
    *,
    least: int = 0,
    most: int = 0xFFFF,
    unit: int = 1,
) -> int:
    """The place behind a vector whose length has ``size`` bytes."""
    start = place + size
    length = int.from_bytes(message[place:start], "big")
    if start + length > end or not least <= length <= most or length % unit:
        raise ClientHelloError(f"{what} of {length} bytes")
    return start + length


def _once(seen: int, bit: int, what: str) -> int:
    if seen & bit:
        raise ClientHelloError(f"{what} comes twice")
    return seen | bit


def _server_name(data: bytes) -> str | None:
    """The one host name of the list (RFC 6066: no more than one of each type; there never was another type)."""
    place = 2
    if len(data) < place or len(data) != place + int.from_bytes(data[:place], "big") or len(data) == place:
        raise ClientHelloError(f"a list of server names of {len(data)} bytes")
    name: str | None = None
    while place < len(data):
        kind, start = data[place], place + 3
        place = start + int.from_bytes(data[place + 1 : start], "big")
        if place > len(data):
            raise ClientHelloError("a server name leads over its list's end")
        if kind != _HOST_NAME:
            continue
        if name is not None:
            raise ClientHelloError("two host names")
        name = _host_name(data[start:place])
    return name


def _host_name(data: bytes) -> str:
    name = data.rstrip(b".")
    if not name or len(data) > _HOST_NAME_MAX:
        raise ClientHelloError(f"a host name of {len(data)} bytes")
    if not (name.isascii() and name.decode("ascii").isprintable()):
        raise ClientHelloError("a host name that is not printable ASCII")
    return data.decode("ascii")


def _protocols(data: bytes) -> tuple[bytes, ...]:
    if len(data) < 2 or len(data) != 2 + int.from_bytes(data[:2], "big") or len(data) == 2:
        raise ClientHelloError(f"a list of application protocols of {len(data)} bytes")
    protocols, place = [], 2
    while place < len(data):
        start = place + 1
        place = start + data[place]
        if place > len(data) or place == start:
            raise ClientHelloError("an application protocol is empty or leads over its list's end")
        protocols.append(data[start:place])
    return tuple(protocols)
