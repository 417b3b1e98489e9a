"""TLS records made by hand, for a peer that sends what no library would.

RFC 8446 sections 4.6.3, 5.2, 7.1. RFC 5246 sections 5, 6.3. RFC 5288.
"""

from __future__ import annotations

import ctypes
import hmac
import ssl
import struct
from pathlib import Path
from typing import Self

from attrs import define
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from mailproxy.net.tls.openssl import ssl_pointer

_HANDSHAKE, _APPLICATION_DATA = 22, 23
_HASHES: dict[str, HashAlgorithm] = {"TLS_AES_128_GCM_SHA256": SHA256(), "TLS_AES_256_GCM_SHA384": SHA384()}

KEY_UPDATE_HALF = b"\x18\x00\x00\x01"  # the header of a KeyUpdate, which announces one more byte
KEY_UPDATE_REST = b"\x00"  # update_not_requested
KEY_UPDATE_REQUESTED = b"\x18\x00\x00\x01\x01"


@define
class RecordWriter:
    """Writes a client's records in place of its library, which has sent none since the handshake."""

    secret: bytes
    cipher: str
    number: int = 0

    @classmethod
    def of(cls, tls: ssl.SSLObject, keys: Path) -> Self:
        """Return the writer for a finished handshake. ``keys`` is the context's ``keylog_filename``."""
        assert tls.version() == "TLSv1.3"
        cipher = tls.cipher()
        assert cipher is not None
        lines = [line.split() for line in keys.read_text().splitlines()]
        (secret,) = [words[2] for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0"]
        return cls(bytes.fromhex(secret), cipher[0])

    def handshake(self, message: bytes) -> bytes:
        """Return a record with a handshake message, or with a part of one."""
        return self._record(message, _HANDSHAKE)

    def data(self, data: bytes) -> bytes:
        """Return a record with application data."""
        return self._record(data, _APPLICATION_DATA)

    def update_key(self) -> None:
        """Write later records with the next key, as after a complete KeyUpdate."""
        self.secret = self._expand(b"traffic upd", _HASHES[self.cipher].digest_size)
        self.number = 0

    def _record(self, content: bytes, kind: int) -> bytes:
        key = self._expand(b"key", 16 if "AES_128" in self.cipher else 32)
        iv, counter = self._expand(b"iv", 12), self.number.to_bytes(12, "big")
        nonce = bytes(left ^ right for left, right in zip(iv, counter, strict=True))
        self.number += 1
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + struct.pack(">H", len(inner) + 16)
        return head + AESGCM(key).encrypt(nonce, inner, head)

    def _expand(self, label: bytes, length: int) -> bytes:
        label = b"tls13 " + label
        info = struct.pack(">H", length) + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(_HASHES[self.cipher], length, info).derive(self.secret)


@define
class Tls12RecordWriter:
    """The same for TLS 1.2 with AES-GCM, of a client or a server.

    One record has been sent with these keys before, the Finished message.
    """

    key: bytes
    salt: bytes
    number: int = 1

    @classmethod
    def of(cls, tls: ssl.SSLObject, keys: Path, *, is_server: bool) -> Self:
        cipher = tls.cipher()
        assert tls.version() == "TLSv1.2"
        assert cipher is not None
        (words,) = [
            line.split() for line in keys.read_text().splitlines() if line.startswith("CLIENT_RANDOM")
        ]
        client_random, master = (bytes.fromhex(word) for word in words[1:])
        size, hash_name = (32, "sha384") if "AES256" in cipher[0] else (16, "sha256")
        seed = b"key expansion" + _server_random(tls) + client_random
        block = _expand_tls12(master, seed, 2 * size + 8, hash_name)
        index = int(is_server)
        return cls(block[index * size :][:size], block[2 * size + 4 * index :][:4])

    def handshake(self, message: bytes) -> bytes:
        """Return a record with a handshake message."""
        explicit = struct.pack(">Q", self.number)
        additional = explicit + struct.pack(">BHH", _HANDSHAKE, 0x0303, len(message))
        self.number += 1
        content = explicit + AESGCM(self.key).encrypt(self.salt + explicit, message, additional)
        return struct.pack(">BHH", _HANDSHAKE, 0x0303, len(content)) + content


def _expand_tls12(secret: bytes, seed: bytes, size: int, hash_name: str) -> bytes:
    block, step = b"", seed
    while len(block) < size:
        step = hmac.digest(secret, step, hash_name)
        block += hmac.digest(secret, step + seed, hash_name)
    return block


def _server_random(tls: ssl.SSLObject) -> bytes:
    """Return the server random, which the module ``ssl`` does not expose."""
    import _ssl

    random = ctypes.create_string_buffer(32)
    get = ctypes.CDLL(_ssl.__file__).SSL_get_server_random
    get.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
    get(ssl_pointer(tls._sslobj), random, 32)  # type: ignore[attr-defined]
    return random.raw


def log_keys(context: ssl.SSLContext, file: Path) -> ssl.SSLContext:
    """Make a client's context write its keys to this file and speak only TLS 1.3."""
    context.keylog_filename = str(file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
