"""PROXY headers for real programs, by name: valid ones, each kind of invalid one, and other protocols."""

from __future__ import annotations

import struct

from mailproxy.protocol.proxy_header import (
    Command,
    HeaderV2,
    Protocol,
    Tlv,
    Type,
    format_v2,
)
from mailproxy.protocol.proxy_header.crc32c import crc32c
from tests.support.protocol.proxy_headers import BINARY_SSL, FULL, LINE, SIGNATURE, binary

IPV4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 1001, 143)
IPV6 = bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02") + struct.pack(
    "!HH", 1002, 993
)
MAPPED = bytes.fromhex("00" * 10 + "ffff c0000201" + "00" * 10 + "ffff c6336402") + struct.pack(
    "!HH", 1003, 143
)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
TCP4 = b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 143\r\n"
TCP6 = b"PROXY TCP6 2001:db8::1 2001:db8::2 1002 993\r\n"
COMMAND = b"a1 NOOP\r\n"


def tlv(kind: int, value: bytes = b"", length: int | None = None) -> bytes:
    """Return one extension. Another `length` makes it invalid."""
    return struct.pack("!BH", kind, len(value) if length is None else length) + value


def tcp4(extensions: bytes = b"") -> bytes:
    return binary(IPV4 + extensions)


def ssl(client: int = 1, verify: int = 0, inside: bytes = b"") -> bytes:
    return tlv(Type.SSL, struct.pack("!BL", client, verify) + inside)


def local(protocol: int = 0, block: bytes = b"") -> bytes:
    return binary(block, first=0x20, protocol=protocol)


def checked(*extensions: Tlv, protocol: Protocol = Protocol.TCP4, index: int = 0) -> bytes:
    """Return a header with a valid checksum, at this index among the extensions."""
    addresses = {
        Protocol.TCP4: (("192.0.2.1", 1001), ("198.51.100.2", 143)),
        Protocol.TCP6: (("2001:db8::1", 1002), ("2001:db8::2", 993)),
    }
    source, destination = addresses[protocol]
    tlvs = (*extensions[:index], Tlv(Type.CRC32C, bytes(4)), *extensions[index:])
    zeroed = format_v2(
        HeaderV2(command=Command.PROXY, protocol=protocol, source=source, destination=destination, tlvs=tlvs)
    )
    before, zeroes, rest = zeroed.partition(tlv(Type.CRC32C, bytes(4)))
    return before + zeroes[:3] + crc32c(zeroed).to_bytes(4, "big") + rest


def flipped(header: bytes, index: int) -> bytes:
    """Return the header with one flipped bit."""
    damaged = bytearray(header)
    damaged[index] ^= 1
    return bytes(damaged)


LINES = {
    "line TCP4": TCP4,
    "line TCP4 of HAProxy's own": LINE,
    "line TCP4 and a command": TCP4 + COMMAND,
    "line TCP4, longest": b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    "line TCP4, shortest": b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
    "line TCP4, loopback": b"PROXY TCP4 127.0.0.1 127.0.0.1 1001 143\r\n",
    "line TCP6": TCP6,
    "line TCP6 and a command": TCP6 + COMMAND,
    "line TCP6, longest": b"PROXY TCP6 "
    + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2)
    + b" 65535 65535\r\n",
    "line TCP6, shortest": b"PROXY TCP6 :: :: 0 0\r\n",
    "line TCP6, capitals": b"PROXY TCP6 2001:DB8::ABCD 2001:DB8::2 1002 993\r\n",
    "line TCP6, all digits": b"PROXY TCP6 2001:0db8:0000:0000:0000:0000:0000:0001 2001:db8::2 1002 993\r\n",
    "line TCP6, no double colon": b"PROXY TCP6 2001:db8:0:0:0:0:0:1 2001:db8::2 1002 993\r\n",
    "line TCP6, double colon at the end": b"PROXY TCP6 2001:db8:: 2001:db8::2 1002 993\r\n",
    "line TCP6, mapped": b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 1003 143\r\n",
    "line TCP6, mapped in hex": b"PROXY TCP6 ::ffff:c000:201 ::ffff:c633:6402 1003 143\r\n",
    "line TCP6, mapped and not": b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1003 143\r\n",
    "line TCP6, loopback": b"PROXY TCP6 ::1 ::1 1002 993\r\n",
    "line UNKNOWN": b"PROXY UNKNOWN\r\n",
    "line UNKNOWN and a command": b"PROXY UNKNOWN\r\n" + COMMAND,
    "line UNKNOWN with a blank": b"PROXY UNKNOWN \r\n",
    "line UNKNOWN with addresses": b"PROXY UNKNOWN 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line UNKNOWN with anything": b"PROXY UNKNOWN \x00\xff anything at all\r\n",
    "line UNKNOWN, longest": b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
    "line UNKNOWN, too long": b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    "line UNKNOWN, a letter too many": b"PROXY UNKNOWNS\r\n",
    "line UNKNOWN, small": b"PROXY unknown\r\n",
    "line UNKNOWN with LF alone": b"PROXY UNKNOWN\n",
    "line UNKNOWN with CR alone": b"PROXY UNKNOWN\rCOMMAND",
    "line UNKNOWN with CR inside": b"PROXY UNKNOWN a\rb\r\n",
    "line UNKNOWN with LF inside": b"PROXY UNKNOWN a\nb\r\n",
    "line with port 025": b"PROXY TCP4 192.0.2.1 198.51.100.2 025 143\r\n",
    "line with destination port 0143": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 0143\r\n",
    "line with port 00": b"PROXY TCP4 192.0.2.1 198.51.100.2 00 143\r\n",
    "line with port 65536": b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 143\r\n",
    "line with destination port 65536": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 65536\r\n",
    "line with port 66537": b"PROXY TCP4 192.0.2.1 198.51.100.2 66537 143\r\n",
    "line with port 99999999999": b"PROXY TCP4 192.0.2.1 198.51.100.2 99999999999 143\r\n",
    "line with port 4294968297": b"PROXY TCP4 192.0.2.1 198.51.100.2 4294968297 143\r\n",
    "line with port -1": b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 143\r\n",
    "line with port +25": b"PROXY TCP4 192.0.2.1 198.51.100.2 +25 143\r\n",
    "line with port 0x19": b"PROXY TCP4 192.0.2.1 198.51.100.2 0x19 143\r\n",
    "line with port 1_1": b"PROXY TCP4 192.0.2.1 198.51.100.2 1_1 143\r\n",
    "line with port of letters": b"PROXY TCP4 192.0.2.1 198.51.100.2 imap 143\r\n",
    "line with no port": b"PROXY TCP4 192.0.2.1 198.51.100.2  143\r\n",
    "line TCP6 with port 025": b"PROXY TCP6 2001:db8::1 2001:db8::2 025 993\r\n",
    "line TCP6 with port 65536": b"PROXY TCP6 2001:db8::1 2001:db8::2 65536 993\r\n",
    "line TCP6 with port -1": b"PROXY TCP6 2001:db8::1 2001:db8::2 -1 993\r\n",
    "line with host 192.0.2.256": b"PROXY TCP4 192.0.2.256 198.51.100.2 1001 143\r\n",
    "line with host 192.0.2.01": b"PROXY TCP4 192.0.2.01 198.51.100.2 1001 143\r\n",
    "line with host 192.000.2.1": b"PROXY TCP4 192.000.2.1 198.51.100.2 1001 143\r\n",
    "line with destination 198.051.100.2": b"PROXY TCP4 192.0.2.1 198.051.100.2 1001 143\r\n",
    "line with host of three numbers": b"PROXY TCP4 192.0.2 198.51.100.2 1001 143\r\n",
    "line with host of five numbers": b"PROXY TCP4 192.0.2.1.1 198.51.100.2 1001 143\r\n",
    "line with host of one number": b"PROXY TCP4 3221225985 198.51.100.2 1001 143\r\n",
    "line with host 192..2.1": b"PROXY TCP4 192..2.1 198.51.100.2 1001 143\r\n",
    "line with a name for host": b"PROXY TCP4 localhost 198.51.100.2 1001 143\r\n",
    "line with hex in host": b"PROXY TCP4 0xc0.0.2.1 198.51.100.2 1001 143\r\n",
    "line with minus in host": b"PROXY TCP4 192.0.2.-1 198.51.100.2 1001 143\r\n",
    "line with destination 198.51.100.256": b"PROXY TCP4 192.0.2.1 198.51.100.256 1001 143\r\n",
    "line TCP4 with IPv6 hosts": b"PROXY TCP4 2001:db8::1 2001:db8::2 1002 993\r\n",
    "line TCP6 with IPv4 hosts": b"PROXY TCP6 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line TCP6 with hosts of both": b"PROXY TCP6 2001:db8::1 198.51.100.2 1002 993\r\n",
    "line TCP6 with two double colons": b"PROXY TCP6 2001::db8::1 2001:db8::2 1002 993\r\n",
    "line TCP6 with nine groups": b"PROXY TCP6 1:2:3:4:5:6:7:8:9 2001:db8::2 1002 993\r\n",
    "line TCP6 with seven groups": b"PROXY TCP6 1:2:3:4:5:6:7 2001:db8::2 1002 993\r\n",
    "line TCP6 with five digits": b"PROXY TCP6 2001:0db80::1 2001:db8::2 1002 993\r\n",
    "line TCP6 with a letter g": b"PROXY TCP6 2001:dbg::1 2001:db8::2 1002 993\r\n",
    "line TCP6 with three colons": b"PROXY TCP6 2001:db8:::1 2001:db8::2 1002 993\r\n",
    "line TCP6 with a zone": b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1002 993\r\n",
    "line TCP6 with brackets": b"PROXY TCP6 [2001:db8::1] [2001:db8::2] 1002 993\r\n",
    "line TCP6 with one colon at the end": b"PROXY TCP6 2001:db8::1: 2001:db8::2 1002 993\r\n",
    "line TCP6, double colon for nothing": b"PROXY TCP6 1:2:3:4::5:6:7:8 2001:db8::2 1002 993\r\n",
    "line TCP6, double colon for one group": b"PROXY TCP6 1:2:3::5:6:7:8 2001:db8::2 1002 993\r\n",
    "line TCP4 with small letters": b"PROXY tcp4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line TCP": b"PROXY TCP 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line TCP5": b"PROXY TCP5 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line UDP4": b"PROXY UDP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line UNIX": b"PROXY UNIX /run/client /run/server\r\n",
    "line without protocol": b"PROXY 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line of one word": b"PROXY\r\n",
    "line of one word and a blank": b"PROXY \r\n",
    "line with nothing behind TCP4": b"PROXY TCP4\r\n",
    "line with one host": b"PROXY TCP4 192.0.2.1\r\n",
    "line with hosts alone": b"PROXY TCP4 192.0.2.1 198.51.100.2\r\n",
    "line with one port": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001\r\n",
    "line with three ports": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 143 993\r\n",
    "line with two blanks": b"PROXY TCP4  192.0.2.1 198.51.100.2 1001 143\r\n",
    "line with two blanks first": b"PROXY  TCP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line with two blanks last": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001  143\r\n",
    "line with a blank at its end": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 143 \r\n",
    "line with a blank at its beginning": b" PROXY TCP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line with a tab": b"PROXY TCP4\t192.0.2.1 198.51.100.2 1001 143\r\n",
    "line with a zero byte": b"PROXY TCP4 192.0.2.1\0 198.51.100.2 1001 143\r\n",
    "line with bytes over 127": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 \xb1\xb4\xb3\r\n",
    "line with LF alone": TCP4.replace(b"\r", b""),
    "line with LF alone and a command": TCP4.replace(b"\r", b"") + COMMAND,
    "line with CR alone": TCP4.replace(b"\n", b""),
    "line with CR alone and a command": TCP4.replace(b"\n", b"") + COMMAND,
    "line with LF and CR": TCP4.replace(b"\r\n", b"\n\r"),
    "line with two CR": TCP4.replace(b"\r\n", b"\r\r\n"),
    "line with small PROXY": b"proxy TCP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "line, too long": b"PROXY TCP4 192.0.2.1 198.51.100.2 1001 143" + b" " * 80 + b"\r\n",
    "line twice": TCP4 + TCP4,
    "line and a binary one": TCP4 + tcp4(),
}

BINARIES = {
    "TCP4": tcp4(),
    "TCP4 and a command": tcp4() + COMMAND,
    "TCP4, zeroes": binary(bytes(12)),
    "TCP4, ones": binary(b"\xff" * 12),
    "TCP4 and SSL of HAProxy's own": BINARY_SSL,
    "TCP4 and all of HAProxy's own": FULL,
    "TCP6": binary(IPV6, protocol=0x21),
    "TCP6 and a command": binary(IPV6, protocol=0x21) + COMMAND,
    "TCP6, zeroes": binary(bytes(36), protocol=0x21),
    "TCP6, ones": binary(b"\xff" * 36, protocol=0x21),
    "TCP6, mapped": binary(MAPPED, protocol=0x21),
    "TCP4 twice": tcp4() + tcp4(),
    "TCP4 and a line": tcp4() + TCP4,
    # Families and transports
    "UNSPEC": binary(protocol=0x00),
    "UNSPEC with a block": binary(b"\xaa" * 20, protocol=0x00),
    "UNSPEC stream": binary(IPV4, protocol=0x01),
    "UNSPEC datagram": binary(IPV4, protocol=0x02),
    "INET unspecified": binary(IPV4, protocol=0x10),
    "INET6 unspecified": binary(IPV6, protocol=0x20),
    "UNIX unspecified": binary(UNIX, protocol=0x30),
    "UDP4": binary(IPV4, protocol=0x12),
    "UDP6": binary(IPV6, protocol=0x22),
    "UNIX stream": binary(UNIX, protocol=0x31),
    "UNIX datagram": binary(UNIX, protocol=0x32),
    "UDP4, too short": binary(IPV4[:11], protocol=0x12),
    "UNIX stream, too short": binary(UNIX[:215], protocol=0x31),
    "transport 3": binary(IPV4, protocol=0x13),
    "transport 15": binary(IPV4, protocol=0x1F),
    "INET6 and transport 3": binary(IPV6, protocol=0x23),
    "family 4": binary(IPV4, protocol=0x41),
    "family 15": binary(IPV4, protocol=0xF1),
    "family and transport 15": binary(IPV4, protocol=0xFF),
    # Versions and commands
    "version 0": binary(IPV4, first=0x01),
    "version 1": binary(IPV4, first=0x11),
    "version 3": binary(IPV4, first=0x31),
    "version 10": binary(IPV4, first=0xA1),
    "version 15": binary(IPV4, first=0xF1),
    "version 1 and LOCAL": binary(first=0x10),
    "command 2": binary(IPV4, first=0x22),
    "command 15": binary(IPV4, first=0x2F),
    # LOCAL
    "LOCAL": local(),
    "LOCAL and a command": local() + COMMAND,
    "LOCAL with TCP4 and addresses": local(0x11, IPV4),
    "LOCAL with TCP6 and addresses": local(0x21, IPV6),
    "LOCAL with TCP4 and nothing": local(0x11),
    "LOCAL with UNSPEC and a block": local(0x00, b"\xaa" * 20),
    "LOCAL with UNIX and addresses": local(0x31, UNIX),
    "LOCAL with UDP4 and addresses": local(0x12, IPV4),
    "LOCAL with family and transport 15": local(0xFF),
    "LOCAL with addresses and extensions": local(0x11, IPV4 + tlv(Type.NOOP, b"x")),
    "LOCAL with extensions alone": local(0x00, tlv(Type.UNIQUE_ID, b"1234")),
    "LOCAL with half an extension": local(0x11, IPV4 + b"\x04\x00"),
    "LOCAL with a wrong checksum": local(0x11, IPV4 + tlv(Type.CRC32C, b"\xde\xad\xbe\xef")),
    "LOCAL with a long block": local(0x00, b"\xaa" * 5000),
    # Lengths
    "TCP4 with 0 bytes": binary(protocol=0x11),
    "TCP4 with 11 bytes": binary(IPV4[:11]),
    "TCP4 with 13 bytes": binary(IPV4 + b"\x04"),
    "TCP4 with 14 bytes": binary(IPV4 + b"\x04\x00"),
    "TCP6 with 0 bytes": binary(protocol=0x21),
    "TCP6 with 12 bytes": binary(IPV4, protocol=0x21),
    "TCP6 with 35 bytes": binary(IPV6[:35], protocol=0x21),
    "TCP4 with a length of 1 and more behind it": binary(IPV4, length=1),
    "TCP4 with 536 bytes in all": tcp4(tlv(Type.NOOP, bytes(505))),
    "TCP4 with 537 bytes in all": tcp4(tlv(Type.NOOP, bytes(506))),
    "TCP4 with 1055 bytes in all": tcp4(tlv(Type.NOOP, bytes(1024))),
    "TCP4 with 4096 bytes in all": tcp4(
        tlv(0xE0, bytes(1021)) + tlv(0xE1, bytes(1021)) * 2 + tlv(0xE2, bytes(993))
    ),
    "TCP4 with 16384 bytes in all": tcp4(
        b"".join([tlv(Type.NOOP, bytes(997))] * 16) + tlv(Type.NOOP, bytes(353))
    ),
    "TCP4 with 16385 bytes in all": tcp4(
        b"".join([tlv(Type.NOOP, bytes(997))] * 16) + tlv(Type.NOOP, bytes(354))
    ),
    "TCP4 with a length of 65535 and all of it": tcp4(
        b"".join([tlv(Type.NOOP, bytes(997))] * 65) + tlv(Type.NOOP, bytes(520))
    ),
    # Extensions
    "empty ALPN": tcp4(tlv(Type.ALPN)),
    "ALPN imap": tcp4(tlv(Type.ALPN, b"imap")),
    "ALPN of 255 bytes": tcp4(tlv(Type.ALPN, b"a" * 255)),
    "ALPN of 256 bytes": tcp4(tlv(Type.ALPN, b"a" * 256)),
    "authority": tcp4(tlv(Type.AUTHORITY, b"imap.example.com")),
    "empty authority": tcp4(tlv(Type.AUTHORITY)),
    "authority of 255 bytes": tcp4(tlv(Type.AUTHORITY, b"a" * 255)),
    "authority of 256 bytes": tcp4(tlv(Type.AUTHORITY, b"a" * 256)),
    "authority that is no UTF-8": tcp4(tlv(Type.AUTHORITY, b"\xff\xfe")),
    "authority in Greek": tcp4(tlv(Type.AUTHORITY, "παράδειγμα.example".encode())),
    "authority with a zero byte": tcp4(tlv(Type.AUTHORITY, b"a\0b")),
    "authority twice": tcp4(tlv(Type.AUTHORITY, b"a.example") + tlv(Type.AUTHORITY, b"b.example")),
    "unique id": tcp4(tlv(Type.UNIQUE_ID, b"1234")),
    "empty unique id": tcp4(tlv(Type.UNIQUE_ID)),
    "unique id of 128 bytes": tcp4(tlv(Type.UNIQUE_ID, b"\xff" * 128)),
    "unique id of 129 bytes": tcp4(tlv(Type.UNIQUE_ID, b"\xff" * 129)),
    "unique id twice": tcp4(tlv(Type.UNIQUE_ID, b"1") + tlv(Type.UNIQUE_ID, b"2")),
    "empty NOOP": tcp4(tlv(Type.NOOP)),
    "NOOP of 1024 bytes": tcp4(tlv(Type.NOOP, bytes(1024))),
    "NOOP of 1025 bytes": tcp4(tlv(Type.NOOP, bytes(1025))),
    "NOOP of 4000 bytes": tcp4(tlv(Type.NOOP, bytes(4000))),
    "three NOOP": tcp4(tlv(Type.NOOP) * 3),
    "hundred NOOP": tcp4(tlv(Type.NOOP, b"abc") * 100),
    "SSL without more": tcp4(ssl()),
    "SSL with version": tcp4(ssl(inside=tlv(Type.SSL_VERSION, b"TLSv1.3"))),
    "SSL of no TLS": tcp4(ssl(client=0)),
    "SSL, not verified": tcp4(ssl(client=7, verify=1)),
    "SSL with all bits": tcp4(ssl(client=255, verify=0xFFFFFFFF)),
    "empty SSL": tcp4(tlv(Type.SSL)),
    "SSL of 4 bytes": tcp4(tlv(Type.SSL, bytes(4))),
    "SSL with half an extension": tcp4(ssl(inside=b"\x21\x00")),
    "SSL with an extension over its end": tcp4(ssl(inside=tlv(Type.SSL_VERSION, b"TLS", length=99))),
    "SSL with a certificate": tcp4(ssl(inside=tlv(Type.SSL_CLIENT_CERT, bytes(900)))),
    "SSL of 1024 bytes": tcp4(ssl(inside=tlv(Type.SSL_CLIENT_CERT, bytes(1016)))),
    "SSL of 2000 bytes": tcp4(ssl(inside=tlv(Type.SSL_CLIENT_CERT, bytes(1992)))),
    "SSL twice": tcp4(ssl() + ssl(client=0)),
    "SSL version outside of SSL": tcp4(tlv(Type.SSL_VERSION, b"TLSv1.3")),
    "namespace": tcp4(tlv(Type.NETNS, b"blue")),
    "empty namespace": tcp4(tlv(Type.NETNS)),
    "type 0x00": tcp4(tlv(0x00, b"x")),
    "type 0x06": tcp4(tlv(0x06, b"x")),
    "type 0x26": tcp4(tlv(Type.SSL_GROUP, b"x25519")),
    "type 0x31": tcp4(tlv(0x31, b"x")),
    "type 0xE0, anybody's": tcp4(tlv(0xE0, b"x")),
    "type 0xEA, Amazon's": tcp4(tlv(0xEA, b"\x01vpce-08d2bf15fac5001c9")),
    "type 0xEE, Azure's": tcp4(tlv(0xEE, b"\x01\x12\x34\x56\x78")),
    "type 0xF0, experimental": tcp4(tlv(0xF0, b"x")),
    "type 0xFF, reserved": tcp4(tlv(0xFF, b"x")),
    "one extension of each type": tcp4(b"".join(tlv(kind) for kind in range(256) if kind != Type.CRC32C)),
    "one extension of each type, TCP6": binary(
        IPV6 + b"".join(tlv(kind) for kind in range(256) if kind != Type.CRC32C), protocol=0x21
    ),
    "an extension over the end": tcp4(tlv(Type.NOOP, b"x", length=2)),
    "an extension far over the end": tcp4(tlv(Type.ALPN, b"imap", length=0xFFFF)),
    "an authority over the end": tcp4(tlv(Type.AUTHORITY, b"a.example", length=10)),
    "an extension over the end, TCP6": binary(IPV6 + tlv(Type.NOOP, b"x", length=2), protocol=0x21),
    "half an extension behind a whole one": tcp4(tlv(Type.NOOP) + b"\x04"),
    # Checksums
    "checksum": checked(),
    "checksum, TCP6": checked(protocol=Protocol.TCP6),
    "checksum before others": checked(Tlv(Type.ALPN, b"imap"), Tlv(Type.NOOP, b"abc")),
    "checksum behind others": checked(Tlv(Type.ALPN, b"imap"), Tlv(Type.NOOP, b"abc"), index=2),
    "checksum between others, TCP6": checked(
        Tlv(Type.ALPN, b"imap"), Tlv(Type.NOOP, b"abc"), index=1, protocol=Protocol.TCP6
    ),
    "checksum and a command": checked() + COMMAND,
    "checksum, wrong by a bit": flipped(checked(), -1),
    "checksum, an address wrong by a bit": flipped(checked(), 16),
    "checksum, a port wrong by a bit": flipped(checked(), 25),
    "checksum, an extension wrong by a bit": flipped(checked(Tlv(Type.ALPN, b"imap")), -1),
    "checksum of zeroes": tcp4(tlv(Type.CRC32C, bytes(4))),
    "checksum in the other order": tcp4(tlv(Type.CRC32C, checked()[-1:-5:-1])),
    "checksum, empty": tcp4(tlv(Type.CRC32C)),
    "checksum of 3 bytes": tcp4(tlv(Type.CRC32C, bytes(3))),
    "checksum of 5 bytes": tcp4(tlv(Type.CRC32C, bytes(5))),
    "checksum twice": checked(Tlv(Type.CRC32C, b"\x01\x02\x03\x04"), index=1),
    "checksum over the end": tcp4(tlv(Type.CRC32C, bytes(3), length=4)),
}

OTHER_PROTOCOLS = {
    "ClientHello's beginning": bytes.fromhex("16030100c4010000c00303") + bytes(range(100)),
    "a TLS record of 5 bytes": bytes.fromhex("1603010000"),
    "a TLS alert": bytes.fromhex("15030300020228"),
    "SSL 2's ClientHello": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0"),
    "EHLO": b"EHLO mail.example.com\r\n",
    "HELO, short": b"HELO x\r\n",
    "IMAP LOGIN": b"a1 LOGIN alice secret\r\n",
    "IMAP CAPABILITY": b"a1 CAPABILITY\r\n",
    "IMAP NOOP": b"a NOOP\r\n",
    "POP3 USER": b"USER alice@example.com\r\n",
    "POP3 QUIT": b"QUIT\r\n",
    "LHLO": b"LHLO relay.example.com\r\n",
    "ManageSieve CAPABILITY": b"CAPABILITY\r\nNOOP\r\n",
    "HTTP GET": b"GET / HTTP/1.1\r\nHost: mail.example.com\r\n\r\n",
    "HTTP POST": b"POST /autodiscover/autodiscover.xml HTTP/1.1\r\n\r\n",
    "HTTP PROPFIND": b"PROPFIND / HTTP/1.1\r\nHost: mail.example.com\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "XCLIENT": b"XCLIENT ADDR=192.0.2.1 PORT=1001\r\n",
    "one zero": b"\0",
    "16 zeroes": bytes(16),
    "100 bytes over 127": b"\xff" * 100,
    "4 empty lines": b"\r\n" * 4,
    "30 empty lines": b"\r\n" * 30,
    "20000 bytes": b"x" * 20_000,
    "PROXY without a blank": b"PROXYTCP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "PROXY with a tab": b"PROXY\tTCP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "PROXIES": b"PROXIES TCP4 192.0.2.1 198.51.100.2 1001 143\r\n",
    "a signature with its first byte wrong": flipped(tcp4(), 0),
    "a signature with its second byte wrong": flipped(tcp4(), 1),
    "a signature with its zero wrong": flipped(tcp4(), 4),
    "a signature with its last byte wrong": flipped(tcp4(), 11),
    "an empty line before a line": b"\r\n" + TCP4,
    "an empty line before a binary one": b"\r\n" + tcp4(),
    "a zero before a binary one": b"\0" + tcp4(),
}

# The client sends no more, and waits.
INCOMPLETE = {
    "the letter P": b"P",
    "PROX": b"PROX",
    "PROXY and a blank": b"PROXY ",
    "a line without its end": TCP4[:-2],
    "a line without its LF": TCP4[:-1],
    "the signature": SIGNATURE,
    "a binary header without its last byte": tcp4()[:-1],
    "a LOCAL header without its block": local(0x11, IPV4)[:16],
    "a length of 65535 and 12 bytes": binary(IPV4, length=0xFFFF),
}

# The client half-closes after these bytes.
LEAVING = {
    "nothing, left": b"",
    "one letter, left": b"P",
    "PROXY, left": b"PROXY",
    "half a line, left": TCP4[:20],
    "a line without its end, left": TCP4[:-2],
    "a line without its LF, left": TCP4[:-1],
    "half a signature, left": SIGNATURE[:6],
    "the signature, left": SIGNATURE,
    "the fixed part, left": tcp4()[:16],
    "half of the addresses, left": tcp4()[:22],
    "a binary header without its last byte, left": tcp4()[:-1],
    "a binary header without its extensions, left": checked(Tlv(Type.ALPN, b"imap"))[:28],
    "a LOCAL header without its block, left": local(0x11, IPV4)[:16],
    "a line, left": TCP4,
    "a binary header, left": tcp4(),
    "a LOCAL header, left": local(),
    "EHLO, left": b"EHLO mail.example.com\r\n",
    "QUIT, left": b"QUIT\r\n",
}

STAYING = {**LINES, **BINARIES, **OTHER_PROTOCOLS, **INCOMPLETE}
