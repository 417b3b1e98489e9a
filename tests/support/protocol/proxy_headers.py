"""PROXY headers for tests: recorded ones, strategies for all valid ones, and noise."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from hypothesis import strategies as st

from mailproxy.address import format_ipv6
from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header import (
    Command,
    Header,
    HeaderError,
    HeaderV1,
    HeaderV2,
    Protocol,
    Tlv,
    Type,
    format_header,
    parse,
    with_checksum,
)

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")

# As HAProxy 2.6 sends them: send-proxy, check-send-proxy, send-proxy-v2, send-proxy-v2-ssl, and with
# "proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id" and an ALPN.
LINE = b"PROXY TCP4 127.0.0.1 127.0.0.1 54644 22001\r\n"
CHECK = SIGNATURE + bytes.fromhex("20000000")
BINARY = SIGNATURE + bytes.fromhex("2111000c 7f000001 7f000001 cbac 55f2")
BINARY_SSL = SIGNATURE + bytes.fromhex(
    "2111001e 7f000001 7f000001 8a50 55f3 20000f 01 00000000 210007 544c5376312e33"
)
FULL = SIGNATURE + bytes.fromhex(
    "21110093 7f000001 7f000001 8d4c 55f4"
    "030004 166fdc00"
    "010004 696d6170"
    "020010 696d61702e6578616d706c652e636f6d"
    "05000d 37463030303030313a38443443"
    "200053 07 00000000"
    "210007 544c5376312e33"
    "220011 616c696365406578616d706c652e636f6d"
    "250007 52534132303438"
    "24000a 5253412d534841323536"
    "230016 544c535f4145535f3235365f47434d5f534841333834"
)

# One of each kind, by name.
KINDS = {
    "TCP4 line": LINE,
    "TCP6 line": b"PROXY TCP6 2001:DB8::1 ::ffff:192.0.2.1 65535 0\r\n",
    "UNKNOWN line": b"PROXY UNKNOWN\r\n",
    "long UNKNOWN line": b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n",
    "LOCAL": CHECK,
    "LOCAL with a block": SIGNATURE + b"\x20\xff\x00\x05noise",
    "TCP4": BINARY,
    "TCP4 and SSL": BINARY_SSL,
    "TCP4 and all": FULL,
    "UDP4": SIGNATURE + b"\x21\x12\x00\x0c" + bytes(12),
    "TCP6": SIGNATURE + b"\x21\x21\x00\x24" + bytes(range(36)),
    "UDP6": SIGNATURE + b"\x21\x22\x00\x24" + bytes(range(36)),
    "UNIX stream": SIGNATURE + b"\x21\x31\x00\xd8" + bytes(range(216)),
    "UNIX datagram": SIGNATURE + b"\x21\x32\x00\xd8" + bytes(range(216)),
    "UNSPEC": SIGNATURE + b"\x21\x00\x00\x00",
    "UNSPEC with a block": SIGNATURE + b"\x21\x00\x00\x05noise",
}


def binary(
    block: bytes = b"", *, first: int = 0x21, protocol: int = Protocol.TCP4, length: int | None = None
) -> bytes:
    """Return a header of version 2 from its parts, which may be invalid."""
    return SIGNATURE + struct.pack("!BBH", first, protocol, len(block) if length is None else length) + block


def read(data: bytes) -> Header:
    """Return the header that consists of exactly these bytes."""
    answer = parse(data)
    assert not isinstance(answer, NeedMore)
    header, length = answer
    assert length == len(data)
    return header


def read_v2(data: bytes) -> HeaderV2:
    header = read(data)
    assert isinstance(header, HeaderV2)
    return header


Outcome = tuple[Header, int] | NeedMore | type[HeaderError]


def outcome(data: bytes) -> Outcome:
    """Return the answer of the parser, or the type of its `HeaderError`. Other exceptions propagate."""
    try:
        return parse(data)
    except HeaderError as error:
        return type(error)


# Strategies for all headers that can be written

_ports = st.integers(0, 65535)
_hosts4 = st.ip_addresses(v=4).map(str)
_hosts6 = st.ip_addresses(v=6).map(lambda host: format_ipv6(IPv6Address(host)))
_written6 = st.one_of(
    _hosts6,
    _hosts6.map(str.upper),
    st.ip_addresses(v=6).map(lambda host: host.exploded),
    _hosts4.map(lambda host: f"::ffff:{host}"),
)
_rests = st.binary(max_size=91).map(lambda rest: b" " + rest.replace(b"\r", b"").replace(b"\n", b""))

headers_v1 = st.one_of(
    st.builds(
        HeaderV1,
        protocol=st.just("TCP4"),
        source=st.tuples(_hosts4, _ports),
        destination=st.tuples(_hosts4, _ports),
    ),
    st.builds(
        HeaderV1,
        protocol=st.just("TCP6"),
        source=st.tuples(_written6, _ports),
        destination=st.tuples(_written6, _ports),
    ),
    st.builds(HeaderV1, protocol=st.just("UNKNOWN"), rest=st.just(b"") | _rests),
)

tlvs = st.lists(
    st.builds(
        Tlv,
        type=st.sampled_from(Type).filter(lambda kind: kind != Type.CRC32C)
        | st.integers(0, 255).filter(lambda kind: kind != Type.CRC32C),
        value=st.binary(max_size=40),
    ),
    max_size=5,
).map(tuple)


def _with_addresses(
    protocols: tuple[Protocol, ...], addresses: st.SearchStrategy[object]
) -> st.SearchStrategy[HeaderV2]:
    return st.builds(
        HeaderV2,
        command=st.just(Command.PROXY),
        protocol=st.sampled_from(protocols),
        source=addresses,
        destination=addresses,
        tlvs=tlvs,
    )  # fmt: skip


_blocks = st.binary(max_size=40)
_plain_v2 = st.one_of(
    _with_addresses((Protocol.TCP4, Protocol.UDP4), st.tuples(_hosts4, _ports)),
    _with_addresses((Protocol.TCP6, Protocol.UDP6), st.tuples(_hosts6, _ports)),
    _with_addresses((Protocol.UNIX_STREAM, Protocol.UNIX_DGRAM), st.binary(min_size=108, max_size=108)),
    st.builds(HeaderV2, command=st.just(Command.LOCAL), protocol=st.integers(0, 255), block=_blocks),
    st.builds(
        HeaderV2,
        command=st.just(Command.PROXY),
        protocol=st.sampled_from([0x00, 0x01, 0x02, 0x10, 0x20, 0x30]),
        block=_blocks,
    ),
)
headers_v2 = _plain_v2 | _plain_v2.map(with_checksum)
headers: st.SearchStrategy[Header] = st.one_of(headers_v1, headers_v2)

# Noise

_words = st.sampled_from(
    [
        *(
            b"PROXY",
            b"TCP4",
            b"TCP6",
            b"UNKNOWN",
            b"192.0.2.1",
            b"01.2.3.4",
            b"::1",
            b"1::2::3",
            b"fe80::1%1",
        ),
        *(
            b"0",
            b"25",
            b"025",
            b"65535",
            b"65536",
            b"-1",
            b"",
            b"\t",
            b"\r",
            b"\n",
            b"\0",
            b"\xff",
            b"\xd9\xa1",
        ),
    ]
)
_lines = st.tuples(st.lists(_words, max_size=6), st.sampled_from([b"\r\n", b"\n", b"\r", b""])).map(
    lambda parts: b" ".join([b"PROXY", *parts[0]]) + parts[1]
)
_binaries = st.builds(
    binary,
    st.binary(max_size=300),
    first=st.sampled_from([0x20, 0x21, 0x22, 0x11, 0x31]) | st.integers(0, 255),
    protocol=st.sampled_from(Protocol) | st.integers(0, 255),
    length=st.none() | st.integers(0, 60) | st.integers(0, 0xFFFF),
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Return a valid header with one to three ranges removed, doubled or replaced."""
    data = draw(st.sampled_from(list(KINDS.values())) | headers.map(format_header))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 4)))
        data = data[:start] + draw(st.binary(max_size=4) | st.just(data[start:end] * 2)) + data[end:]
    return data


noise = st.one_of(st.binary(max_size=200), _lines, _binaries, _damaged())
