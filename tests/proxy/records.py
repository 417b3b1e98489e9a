"""Records of TLS 1.3 made by hand, for a client that says what no library would (RFC 8446 sections 4.6.3, 5.2, 7.1)."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path
from typing import Self

from attrs import define
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

_HANDSHAKE, _APPLICATION_DATA = 22, 23
_HASHES: dict[str, HashAlgorithm] = {"TLS_AES_128_GCM_SHA256": SHA256(), "TLS_AES_256_GCM_SHA384": SHA384()}

KEY_UPDATE_HALF = b"\x18\x00\x00\x01"  # the header of a KeyUpdate, which announces one byte more
KEY_UPDATE_REST = b"\x00"  # update_not_requested
KEY_UPDATE_REQUESTED = b"\x18\x00\x00\x01\x01"


@define
class Writer:
    """Writes a client's records in place of its library, which has sent none since the handshake."""

    secret: bytes
    cipher: str
    number: int = 0

    @classmethod
    def of(cls, tls: ssl.SSLObject, keys: Path) -> Self:
        """The writer of a finished handshake; ``keys`` is the context's ``keylog_filename``."""
        assert tls.version() == "TLSv1.3"
        cipher = tls.cipher()
        assert cipher is not None
        lines = [line.split() for line in keys.read_text().splitlines()]
        (secret,) = [words[2] for words in lines if words[0] == "CLIENT_TRAFFIC_SECRET_0"]
        return cls(bytes.fromhex(secret), cipher[0])

    def handshake(self, message: bytes) -> bytes:
        """A record with a message of the handshake protocol, or a part of one."""
        return self._record(message, _HANDSHAKE)

    def data(self, data: bytes) -> bytes:
        """A record with application data."""
        return self._record(data, _APPLICATION_DATA)

    def update_key(self) -> None:
        """What comes behind a whole KeyUpdate is written with the next key."""
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


def keys_of(context: ssl.SSLContext, file: Path) -> ssl.SSLContext:
    """Make a client's context keep its keys in this file, and speak TLS 1.3 only."""
    context.keylog_filename = str(file)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
