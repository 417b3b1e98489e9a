"""PROXY protocol version 2, the binary header: commands, families, addresses, lengths."""

from __future__ import annotations

import pytest

from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header import (
    HEADER_MAX,
    AddressError,
    Command,
    CommandError,
    FamilyError,
    HeaderError,
    HeaderTooLongError,
    HeaderV2,
    InvalidHeaderError,
    NotAHeaderError,
    Protocol,
    Tlv,
    TlvError,
    VersionError,
    format_header,
    format_v2,
    parse,
    parse_v2,
)
from tests.support.protocol.proxy_headers import (
    BINARY,
    BINARY_SSL,
    CHECK,
    FULL,
    KINDS,
    SIGNATURE,
    binary,
    read,
    read_v2,
)

SIZES = {
    Protocol.TCP4: 12,
    Protocol.UDP4: 12,
    Protocol.TCP6: 36,
    Protocol.UDP6: 36,
    Protocol.UNIX_STREAM: 216,
    Protocol.UNIX_DGRAM: 216,
}
UNSPECIFIED = [0x00, 0x01, 0x02, 0x10, 0x20, 0x30]
INET6_BLOCK = bytes.fromhex("20010db8000000000000000000000001 00000000000000000000ffffc0000201 ffff 008f")


# Reading


def test_headers_of_haproxy_are_read() -> None:
    assert read(CHECK) == HeaderV2(command=Command.LOCAL)
    assert read(BINARY) == HeaderV2(
        command=Command.PROXY,
        protocol=Protocol.TCP4,
        source=("127.0.0.1", 52140),
        destination=("127.0.0.1", 22002),
    )
    assert (len(BINARY_SSL), len(FULL)) == (46, 163)
    assert read(BINARY_SSL).endpoints == (("127.0.0.1", 35408), ("127.0.0.1", 22003))
    assert read(FULL).endpoints == (("127.0.0.1", 36172), ("127.0.0.1", 22004))
    assert {read(data).version for data in (CHECK, BINARY, BINARY_SSL, FULL)} == {2}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_each_kind_is_written_back_to_same_bytes(data: bytes) -> None:
    assert format_header(read(data)) == data


@pytest.mark.parametrize("protocol", [Protocol.TCP4, Protocol.UDP4])
def test_ipv4_addresses_are_read(protocol: Protocol) -> None:
    header = read(binary(bytes.fromhex("c0000201 ffffffff 0000 ffff"), protocol=protocol))
    assert header == HeaderV2(
        command=Command.PROXY,
        protocol=protocol,
        source=("192.0.2.1", 0),
        destination=("255.255.255.255", 65535),
    )
    # A client of UDP is no client of a stream.
    expected = (("192.0.2.1", 0), ("255.255.255.255", 65535)) if protocol == Protocol.TCP4 else None
    assert header.endpoints == expected


@pytest.mark.parametrize("protocol", [Protocol.TCP6, Protocol.UDP6])
def test_ipv6_addresses_are_read_in_canonical_form(protocol: Protocol) -> None:
    header = read_v2(
        binary(bytes.fromhex("20010db8" + "00" * 11 + "ab" + "00" * 16 + "ffff008f"), protocol=protocol)
    )
    assert header.protocol == protocol
    assert (header.source, header.destination) == (("2001:db8::ab", 65535), ("::", 143))


def test_ipv4_mapped_address_stays_ipv6() -> None:
    data = binary(INET6_BLOCK, protocol=Protocol.TCP6)
    endpoints = read(data).endpoints
    assert endpoints is not None
    assert endpoints[1][0] == "::ffff:192.0.2.1"
    assert format_header(read(data)) == data


@pytest.mark.parametrize("protocol", [Protocol.UNIX_STREAM, Protocol.UNIX_DGRAM])
def test_unix_addresses_are_not_endpoints(protocol: Protocol) -> None:
    source, destination = b"/run/a".ljust(108, b"\0"), b"\0abstract".ljust(108, b"\xff")
    header = read(binary(source + destination, protocol=protocol))
    assert header == HeaderV2(
        command=Command.PROXY, protocol=protocol, source=source, destination=destination
    )
    assert header.endpoints is None


@pytest.mark.parametrize("block", [b"", b"x", bytes(12), b"\x11" * 300], ids=len)
@pytest.mark.parametrize("protocol", UNSPECIFIED, ids=hex)
def test_block_of_unspecified_family_is_ignored_and_kept(protocol: int, block: bytes) -> None:
    header = read(binary(block, protocol=protocol))
    assert header == HeaderV2(command=Command.PROXY, protocol=protocol, block=block)
    assert header.endpoints is None


@pytest.mark.parametrize(
    "block", [b"", b"x", BINARY[16:], FULL[16:], b"\x03\0\x04nope", b"\xff" * 500], ids=["", "x", "TCP4", "all", "TLV", "long"]
)  # fmt: skip
@pytest.mark.parametrize("protocol", [*Protocol, 0x01, 0x13, 0x44, 0xFF], ids=hex)
def test_local_command_ignores_and_keeps_the_block(protocol: int, block: bytes) -> None:
    header = read(binary(block, first=0x20, protocol=protocol))
    assert header == HeaderV2(command=Command.LOCAL, protocol=protocol, block=block)
    assert header.endpoints is None


@pytest.mark.parametrize("extra", [b"\0", b"\r\n", b"\x04\0\0", b"EHLO client.example\r\n", FULL], ids=repr)
@pytest.mark.parametrize(
    "data", [CHECK, BINARY, FULL, KINDS["UNSPEC"]], ids=["LOCAL", "TCP4", "all", "UNSPEC"]
)
def test_bytes_after_header_are_ignored(data: bytes, extra: bytes) -> None:
    assert parse(data + extra) == parse(data) == (read(data), len(data))


# Refusing


@pytest.mark.parametrize("index", range(len(SIGNATURE)))
def test_damaged_signature_is_refused(index: int) -> None:
    damaged = bytearray(BINARY)
    damaged[index] ^= 0x20
    for length in (index + 1, len(SIGNATURE), 16, len(BINARY)):
        with pytest.raises(NotAHeaderError):
            parse(bytes(damaged[: max(index + 1, length)]))


def test_version_1_line_is_refused_by_parse_v2() -> None:
    for data in (b"P", b"PROXY UNKNOWN\r\n"):
        with pytest.raises(NotAHeaderError):
            parse_v2(data)


@pytest.mark.parametrize(
    ("first", "error"),
    [(version << 4 | command, VersionError) for version in range(16) if version != 2 for command in (0, 1, 2)]
    + [(0x20 | command, CommandError) for command in range(2, 16)],
)
def test_other_version_or_command_is_refused(first: int, error: type[HeaderError]) -> None:
    with pytest.raises(error):
        parse(binary(bytes(12), first=first))


WRONG_FAMILIES = [byte for byte in range(256) if byte >> 4 > 3 or byte & 0x0F > 2]


def test_unknown_family_or_transport_is_refused() -> None:
    assert len(WRONG_FAMILIES) == 256 - len(SIZES) - len(UNSPECIFIED)
    for protocol in WRONG_FAMILIES:
        with pytest.raises(FamilyError, match=f"0x{protocol:02x}"):
            parse(binary(bytes(216), protocol=protocol))


@pytest.mark.parametrize("protocol", SIZES)
def test_too_short_block_is_refused_from_its_length(protocol: Protocol) -> None:
    size = SIZES[protocol]
    for length in (0, 1, size - 1):
        with pytest.raises(AddressError, match=f"{length} bytes, {size} are needed"):
            parse(binary(protocol=protocol, length=length))
    assert parse(binary(protocol=protocol, length=size)) == NeedMore(16 + size)
    assert read(binary(bytes(size), protocol=protocol)).version == 2


@pytest.mark.parametrize("protocol", SIZES)
def test_bytes_after_addresses_are_extensions(protocol: Protocol) -> None:
    header = read_v2(binary(bytes(SIZES[protocol]) + b"\xe0\0\x02hi", protocol=protocol))
    assert header.tlvs == (Tlv(0xE0, b"hi"),)
    with pytest.raises(TlvError):
        parse(binary(bytes(SIZES[protocol]) + b"x", protocol=protocol))


@pytest.mark.parametrize("first", [0x20, 0x21], ids=["LOCAL", "PROXY"])
def test_too_long_header_is_refused_at_once(first: int) -> None:
    fixed = binary(first=first, length=HEADER_MAX - 16)
    assert parse(fixed) == NeedMore(HEADER_MAX)
    padding = b"\x04" + (HEADER_MAX - 16 - 12 - 3).to_bytes(2, "big")
    longest = fixed + (bytes(12) + padding).ljust(HEADER_MAX - 16, b"\0")
    assert format_header(read(longest)) == longest
    for length in (HEADER_MAX - 15, 0xFFFF):
        with pytest.raises(HeaderTooLongError):
            parse(binary(first=first, length=length))


@pytest.mark.parametrize(
    ("received", "total"), [(1, 16), (12, 16), (15, 16), (16, 28), (17, 28), (27, 28)]
)  # fmt: skip
def test_incomplete_header_needs_more(received: int, total: int) -> None:
    assert parse(BINARY[:received]) == NeedMore(total)


def test_empty_input_needs_one_byte() -> None:
    assert parse(b"") == NeedMore(1)


# Writing


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (HeaderV2(command=Command.PROXY, protocol=Protocol.TCP4), AddressError),
        (HeaderV2(command=Command.PROXY, protocol=Protocol.UNIX_STREAM), AddressError),
        (HeaderV2(command=Command.PROXY, protocol=0x13), FamilyError),
        (HeaderV2(command=Command.PROXY, protocol=0x40), FamilyError),
        (HeaderV2(command=Command.PROXY, protocol=0x100), FamilyError),
        (HeaderV2(command=Command.LOCAL, protocol=0x100), FamilyError),
        (HeaderV2(command=Command.LOCAL, protocol=-1), FamilyError),
        (HeaderV2(command=Command.LOCAL, block=bytes(0x10000)), HeaderTooLongError),
    ],
)
def test_invalid_header_is_not_written(header: HeaderV2, error: type[InvalidHeaderError]) -> None:
    with pytest.raises(error):
        format_v2(header)


@pytest.mark.parametrize(
    ("protocol", "host", "port"),
    [
        *((Protocol.TCP4, host, 1) for host in ("::1", "192.0.2.256", "localhost", "")),
        *((Protocol.TCP6, host, 1) for host in ("192.0.2.1", "1::2::3", "localhost", "")),
        *((protocol, host, port) for protocol, host in ((Protocol.UDP4, "192.0.2.1"), (Protocol.UDP6, "::1"))
          for port in (-1, 65536)),
        (Protocol.UNIX_STREAM, "::1", 1),
    ],
)  # fmt: skip
def test_addresses_of_another_family_are_not_written(protocol: Protocol, host: str, port: int) -> None:
    header = HeaderV2(command=Command.PROXY, protocol=protocol, source=(host, port), destination=(host, port))
    with pytest.raises(AddressError):
        format_v2(header)


@pytest.mark.parametrize(
    ("protocol", "length"), [(Protocol.UNIX_STREAM, 107), (Protocol.UNIX_DGRAM, 109), (Protocol.TCP4, 4)]
)
def test_unix_addresses_of_other_length_are_not_written(protocol: Protocol, length: int) -> None:
    header = HeaderV2(command=Command.PROXY, protocol=protocol, source=bytes(length), destination=bytes(108))
    with pytest.raises(AddressError):
        format_v2(header)


def test_any_form_of_ipv6_address_is_written() -> None:
    forms = ("2001:DB8::1", "2001:0db8:0:0:0:0:0:1", "2001:db8::0.0.0.1")
    written = {
        format_v2(HeaderV2(command=Command.PROXY, protocol=Protocol.TCP6, source=(form, 1), destination=("::", 2)))
        for form in forms
    }  # fmt: skip
    assert len(written) == 1
    assert read(written.pop()).endpoints == (("2001:db8::1", 1), ("::", 2))
