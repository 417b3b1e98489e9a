"""PROXY protocol version 1, the line: reading, refusing and writing."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from mailproxy.address import format_ipv6
from mailproxy.protocol.preamble import NeedMore
from mailproxy.protocol.proxy_header import (
    V1_MAX,
    AddressError,
    HeaderError,
    HeaderV1,
    LineError,
    NotAHeaderError,
    format_header,
    format_v1,
    parse,
    parse_v1,
)
from tests.support.protocol.proxy_headers import LINE, read

FULL_HOST6 = "ffff:" * 7 + "ffff"  # 39 characters
LONG_HOST6 = "0000:" * 5 + "ffff:255.255.255.255"  # 45 characters, more than the 39 of the specification


def line(words: str) -> bytes:
    return f"PROXY {words}\r\n".encode()


# Reading


def test_line_of_haproxy_is_read() -> None:
    assert read(LINE) == HeaderV1(
        protocol="TCP4", source=("127.0.0.1", 54644), destination=("127.0.0.1", 22001)
    )
    assert read(LINE).version == 1


def test_line_before_a_request_is_read() -> None:
    answer = parse(line("TCP4 192.168.0.1 192.168.0.11 56324 443") + b"GET / HTTP/1.1\r\n")
    assert not isinstance(answer, NeedMore)
    header, length = answer
    assert header.endpoints == (("192.168.0.1", 56324), ("192.168.0.11", 443))
    assert length == len(line("TCP4 192.168.0.1 192.168.0.11 56324 443"))


@pytest.mark.parametrize(
    "host",
    [
        *("::", "::1", "1::", "2001:db8::1", "2001:DB8::A", "2001:0db8:0000:0000:0000:0000:0000:0001"),
        *("::ffff:192.0.2.1", "::FFFF:c000:201", "64:ff9b::192.0.2.1", FULL_HOST6),
    ],
)
def test_ipv6_address_keeps_its_written_form(host: str) -> None:
    data = line(f"TCP6 {host} ::2 1 2")
    header = read(data)
    assert header == HeaderV1(protocol="TCP6", source=(host, 1), destination=("::2", 2))
    assert format_header(header) == data
    assert header.endpoints == ((format_ipv6(IPv6Address(host)), 1), ("::2", 2))


def test_endpoints_have_canonical_ipv6_addresses() -> None:
    header = read(line("TCP6 2001:0DB8:0:0:0:0:0:00AB 0::0 1 2"))
    assert header.endpoints == (("2001:db8::ab", 1), ("::", 2))


@pytest.mark.parametrize("port", [0, 1, 9, 10, 143, 9999, 10000, 65535])
def test_ports_from_0_to_65535_are_read(port: int) -> None:
    assert read(line(f"TCP4 192.0.2.1 192.0.2.2 {port} {port}")).endpoints == (
        ("192.0.2.1", port),
        ("192.0.2.2", port),
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "255.255.255.255", "1.20.100.249"])
def test_ipv4_numbers_from_0_to_255_are_read(host: str) -> None:
    assert read(line(f"TCP4 {host} {host} 1 2")).endpoints == ((host, 1), (host, 2))


@pytest.mark.parametrize(
    "rest",
    [b"", b" ", b" TCP4", b" 192.0.2.1 192.0.2.2 1 2", b"  x\t\0\xff ", f" {FULL_HOST6} {FULL_HOST6} 65535 65535".encode()],
    ids=["short", "blank", "word", "addresses", "nonsense", "longest"],
)  # fmt: skip
def test_rest_after_unknown_is_ignored_and_kept(rest: bytes) -> None:
    data = b"PROXY UNKNOWN" + rest + b"\r\n"
    header = read(data)
    assert header == HeaderV1(protocol="UNKNOWN", rest=rest)
    assert header.endpoints is None
    assert format_header(header) == data


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (line("TCP4 255.255.255.255 255.255.255.255 65535 65535"), 56),
        (line(f"TCP6 {FULL_HOST6} {FULL_HOST6} 65535 65535"), 104),
        (line("UNKNOWN"), 15),
        (line(f"UNKNOWN {FULL_HOST6} {FULL_HOST6} 65535 65535"), V1_MAX),
    ],
    ids=["TCP4", "TCP6", "UNKNOWN", "worst case"],
)
def test_longest_lines_of_the_specification_are_read(data: bytes, length: int) -> None:
    assert len(data) == length
    assert format_header(read(data)) == data


@pytest.mark.parametrize("extra", [b"\r\n", b"\n", b"\r", b"PROXY TCP4", b"\0" * 200, LINE], ids=repr)
def test_bytes_after_line_are_ignored(extra: bytes) -> None:
    for data in (LINE, line("UNKNOWN"), line("TCP6 ::1 ::2 1 2")):
        assert parse(data + extra) == parse(data)


# Refusing


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", NotAHeaderError),
        (b"PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n", NotAHeaderError),
        (b"PROXY\r\n", NotAHeaderError),
        (b"PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n", NotAHeaderError),
        (b" PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", NotAHeaderError),
        (b"\xef\xbb\xbfPROXY UNKNOWN\r\n", NotAHeaderError),
        (b"POST / HTTP/1.1\r\n", NotAHeaderError),
        (b"EHLO client.example\r\n", NotAHeaderError),
        (b"\x16\x03\x01\x02\x00\x01", NotAHeaderError),
    ],
    ids=[
        *("lower case", "tab", "word alone", "no blank", "blank before", "byte order mark"),
        *("HTTP", "SMTP", "TLS"),
    ],
)
def test_other_beginning_is_not_a_header(data: bytes, error: type[HeaderError]) -> None:
    with pytest.raises(error):
        parse(data)


@pytest.mark.parametrize(
    "words",
    [
        *("", " ", "TCP", "TCP5 192.0.2.1 192.0.2.2 1 2", "UDP4 192.0.2.1 192.0.2.2 1 2", "UNSPEC"),
        *("tcp4 192.0.2.1 192.0.2.2 1 2", "unknown", "UNKNOWNS", "UNKNOWN\t", "TCP4192.0.2.1 192.0.2.2 1 2"),
    ],
)
def test_other_protocol_word_is_refused(words: str) -> None:
    with pytest.raises(LineError, match="none of TCP4, TCP6 and UNKNOWN"):
        parse(line(words))


@pytest.mark.parametrize(
    "words",
    [
        *("TCP4", "TCP4 192.0.2.1", "TCP4 192.0.2.1 192.0.2.2", "TCP4 192.0.2.1 192.0.2.2 1"),
        *("TCP4 192.0.2.1 192.0.2.2 1 2 3", "TCP4 192.0.2.1 192.0.2.2 1 2 ", "TCP6 ::1 ::2 1 2 x"),
        *("TCP4  192.0.2.1 192.0.2.2 1 2", "TCP4 192.0.2.1  192.0.2.2 1 2", "TCP4 192.0.2.1 192.0.2.2 1  2"),
        *("TCP4\t192.0.2.1 192.0.2.2 1 2", "TCP4 192.0.2.1\t192.0.2.2 1 2", " TCP4 192.0.2.1 192.0.2.2 1 2"),
    ],
)
def test_wrong_number_of_words_or_blanks_is_refused(words: str) -> None:
    with pytest.raises(LineError):
        parse(line(words))


WRONG_HOSTS4 = [
    *(
        "192.0.2",
        "192.0.2.1.1",
        "192.0.2.",
        ".192.0.2",
        "192..0.2",
        "192.0.2.256",
        "192.0.2.-1",
        "192.0.2.+1",
    ),
    *("192.0.2.01", "00.0.0.0", "0300.0.2.1", "0xc0.0.2.1", "192.0.2.1/32", "192.0.2.1:25", "3221225985"),
    *(
        "::1",
        "::ffff:192.0.2.1",
        "localhost",
        "*",
        "\x00",
        "192.0.2.1\x00",
        "192.0.2.\u0661",
        "1\u00b2.0.2.1",
    ),
]
WRONG_HOSTS6 = [
    *(":", ":::", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", ":1::2", "1::2:"),
    *("12345::", "00001::1", "g::1", "-1::", "::1/128", "[::1]", "fe80::1%eth0", "fe80::1%", "::\u0661"),
    *("192.0.2.1", "::ffff:192.0.2", "::ffff:192.0.2.256", "::ffff:192.0.2.01", "::192.0.2.1:1", "localhost"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("protocol", "valid", "invalid"),
    [("TCP4", "192.0.2.9", host) for host in ["", *WRONG_HOSTS4]]
    + [("TCP6", "2001:db8::9", host) for host in ["", *WRONG_HOSTS6]],
)
def test_invalid_address_is_refused(protocol: str, valid: str, invalid: str) -> None:
    for hosts in (f"{invalid} {valid}", f"{valid} {invalid}"):
        with pytest.raises(AddressError, match="is not an IPv"):
            parse(line(f"{protocol} {hosts} 1 2"))


@pytest.mark.parametrize(
    "port",
    [
        *(
            "",
            "65536",
            "99999",
            "100000",
            "4294967297",
            "00",
            "025",
            "065535",
            "-1",
            "+1",
            "-0",
            "1.0",
            "1e3",
        ),
        *("0x19", "imap", "1_0", "*", "\x00", "25\x00", "\t25", "\u0661", "\u00b2"),
    ],
)
def test_invalid_port_is_refused(port: str) -> None:
    for ports in (f"{port} 1", f"1 {port}"):
        with pytest.raises(AddressError, match="is not a port"):
            parse(line(f"TCP4 192.0.2.1 192.0.2.2 {ports}"))


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"PROXY UNKNOWN\n",
            b"PROXY UNKNOWN\n\r\n",
            b"PROXY UNKNOWN\r\r\n",
            b"PROXY UNKNOWN\rX",
            b"PROXY \n",
        ),
        *(LINE[:-2] + b"\n", LINE[:-2] + b"\r ", LINE[:-2] + b"\n\r", LINE[:-2] + b"\r\r\n"),
        *(b"PROXY TCP4\n" + LINE, b"PROXY TCP4\r192.0.2.1 192.0.2.2 1 2\r\n"),
    ],
    ids=repr,
)
def test_cr_or_lf_alone_is_refused(data: bytes) -> None:
    with pytest.raises(LineError, match="CR or LF alone"):
        parse(data)


@pytest.mark.parametrize(
    ("length", "end"), [(106, b"\r\n"), (107, b"\r\n"), (500, b"\r\n"), (106, b"\r"), (107, b"\n"), (107, b""), (500, b"")]
)  # fmt: skip
def test_line_beyond_107_bytes_is_refused(length: int, end: bytes) -> None:
    with pytest.raises(LineError, match="longer than 107 bytes"):
        parse(b"PROXY UNKNOWN ".ljust(length, b"f") + end)


def test_incomplete_line_needs_one_more_byte() -> None:
    data = b"PROXY UNKNOWN ".ljust(V1_MAX - 2, b"f")
    assert parse(data) == NeedMore(V1_MAX - 1)
    assert parse(data + b"\r") == NeedMore(V1_MAX)
    assert parse(data + b"\r\n") == (HeaderV1(protocol="UNKNOWN", rest=data[13:]), V1_MAX)


def test_version_2_header_is_refused_by_parse_v1() -> None:
    with pytest.raises(NotAHeaderError):
        parse_v1(b"\r\n\r\n\0\r\nQUIT\n")


# Writing


def tcp(protocol: str, source: str, destination: str = "192.0.2.2", port: int = 1) -> HeaderV1:
    return HeaderV1(
        protocol="TCP4" if protocol == "TCP4" else "TCP6", source=(source, port), destination=(destination, 2)
    )


def test_line_is_written() -> None:
    assert format_v1(tcp("TCP4", "192.0.2.1")) == b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    assert format_v1(tcp("TCP6", "::1", "::2")) == b"PROXY TCP6 ::1 ::2 1 2\r\n"
    assert format_v1(HeaderV1(protocol="UNKNOWN")) == b"PROXY UNKNOWN\r\n"


@pytest.mark.parametrize(
    ("header", "error"),
    [
        (HeaderV1(protocol="TCP4"), AddressError),
        (HeaderV1(protocol="TCP6", source=("::1", 1)), AddressError),
        (tcp("TCP4", "::1", "::2"), AddressError),
        (tcp("TCP4", "192.0.2.1", "::2"), AddressError),
        (tcp("TCP6", "192.0.2.1"), AddressError),
        (tcp("TCP6", "fe80::1%eth0", "::2"), AddressError),
        (tcp("TCP4", "imap.example.com"), AddressError),
        (tcp("TCP4", "192.0.2.\u0661"), AddressError),
        (tcp("TCP4", "192.0.2.1\udcff"), AddressError),
        (tcp("TCP4", "192.0.2.1", port=65536), AddressError),
        (tcp("TCP4", "192.0.2.1", port=-1), AddressError),
        (tcp("TCP4", "192.0.2.1 192.0.2.2"), LineError),
        (tcp("TCP4", "192.0.2.1\r\nNOOP"), LineError),
        (tcp("TCP4", "192.0.2.1 192.0.2.3 1 2\r\n"), LineError),
        (tcp("TCP6", FULL_HOST6 + "0"), AddressError),
        (tcp("TCP6", LONG_HOST6, LONG_HOST6), LineError),
        (HeaderV1(protocol="UNKNOWN", rest=b"x"), LineError),
        (HeaderV1(protocol="UNKNOWN", rest=b" \r\nNOOP"), LineError),
        (HeaderV1(protocol="UNKNOWN", rest=b" \n"), LineError),
        (HeaderV1(protocol="UNKNOWN", rest=b" " * 93), LineError),
        (HeaderV1(protocol="UNKNOWN", source=("::1", 1), destination=("::2", 2)), LineError),
    ],
    ids=repr,
)
def test_invalid_header_is_not_written(header: HeaderV1, error: type[HeaderError]) -> None:
    with pytest.raises(error):
        format_v1(header)
