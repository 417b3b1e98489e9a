"""CRC32C (Castagnoli), the checksum of PROXY 2.2.3, after RFC 3720 appendix B.4.

It is reflected, and inverted at the start and the end.

zlib has another polynomial, and libraries for this one need a compiler. A header has a few hundred bytes.
"""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits in reverse


def _row(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
    return value


_TABLE = tuple(map(_row, range(256)))


def crc32c(data: bytes) -> int:
    """Return the checksum, a number of 32 bits; that of ``123456789`` is 0xE3069283."""
    table, crc = _TABLE, 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF
