"""ClientHellos built by hand, with anything that a browser or an attacker could send (RFC 8446 section 4.1.2).

These functions write correct lengths. A test that needs a wrong length joins the bytes itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

HANDSHAKE, ALERT, CHANGE_CIPHER_SPEC, APPLICATION_DATA = 22, 21, 20, 23
SERVER_NAME, GROUPS, ALPN, PADDING, VERSIONS, KEY_SHARE, ECH = 0, 10, 16, 21, 43, 51, 0xFE0D
GREASE = (0x0A0A, 0x1A1A, 0xEAEA, 0xFAFA)  # four of the sixteen of RFC 8701
X25519MLKEM768 = 0x11EC

VERSION_AND_RANDOM = b"\3\3" + bytes(range(32))


def vector(data: bytes, size: int) -> bytes:
    """Return the data after its length of `size` bytes."""
    return len(data).to_bytes(size, "big") + data


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)


def record(data: bytes, kind: int = HANDSHAKE) -> bytes:
    return bytes([kind, 3, 1]) + vector(data, 2)


def message(body: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(body, 3)


def extension(kind: int, data: bytes = b"") -> bytes:
    return numbers(kind) + vector(data, 2)


def server_name(*names: bytes, kind: int = 0) -> bytes:
    return extension(SERVER_NAME, vector(b"".join(bytes([kind]) + vector(name, 2) for name in names), 2))


def alpn(*protocols: bytes) -> bytes:
    return extension(ALPN, vector(b"".join(vector(protocol, 1) for protocol in protocols), 2))


def key_share(*shares: tuple[int, int]) -> bytes:
    """Return a key share extension from pairs of group and key size."""
    keys = b"".join(numbers(group) + vector(bytes([group & 255]) * size, 2) for group, size in shares)
    return extension(KEY_SHARE, vector(keys, 2))


def ech() -> bytes:
    """Return the ECH extension of an outer ClientHello: suite, configuration id, key, unreadable inner hello."""
    return extension(ECH, b"\0" + numbers(1, 1) + b"\x2a" + vector(b"k" * 32, 2) + vector(b"i" * 208, 2))


def client_hello(
    *extensions: bytes,
    session_id: bytes = b"",
    cipher_suites: bytes = numbers(0x1301, 0xC02F),
    compression: bytes = b"\0",
) -> bytes:
    """Return the handshake message, without a record around it."""
    head = VERSION_AND_RANDOM + vector(session_id, 1) + vector(cipher_suites, 2) + vector(compression, 1)
    return message(head + vector(b"".join(extensions), 2))


def client_hello_without_extensions() -> bytes:
    return message(VERSION_AND_RANDOM + vector(b"", 1) + vector(numbers(0x002F), 2) + vector(b"\0", 1))


def client_hello_of_size(size: int, *extensions: bytes) -> bytes:
    """Return a message of exactly this size in bytes, filled with padding (RFC 7685)."""
    room = size - len(client_hello(*extensions, extension(PADDING)))
    return client_hello(*extensions, extension(PADDING, bytes(room)))


def browser_client_hello(name: bytes = b"imap.example.org") -> bytes:
    """Return a browser-like ClientHello: GREASE, a post-quantum key share, ECH, longer than a segment."""
    return client_hello(
        extension(GREASE[0]),
        server_name(name),
        extension(GROUPS, vector(numbers(GREASE[1], X25519MLKEM768, 0x001D), 2)),
        alpn(numbers(GREASE[2]), b"imap", b"h2"),
        extension(VERSIONS, vector(numbers(GREASE[3], 0x0304, 0x0303), 1)),
        key_share((GREASE[1], 1), (X25519MLKEM768, 1216), (0x001D, 32)),
        ech(),
        extension(GREASE[3], b"\0"),
        session_id=bytes(range(100, 132)),
        cipher_suites=numbers(GREASE[1], 0x1301, 0x1302, 0xC02B),
    )


def split_into_records(message: bytes, cuts: Iterable[int] = ()) -> bytes:
    """Return the message on the wire, split into records at these offsets."""
    offsets = sorted({0, len(message), *cuts})
    return b"".join(record(message[start:end]) for start, end in pairwise(offsets))


def split_into_records_of(size: int, message: bytes) -> bytes:
    return split_into_records(message, range(0, len(message), size))
