"""Addresses: what is accepted, why the rest is rejected, and that formatting and parsing round-trip."""

from __future__ import annotations

import string
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mailproxy.address import (
    BindAddress,
    DescriptorAddress,
    Networks,
    ServerAddress,
    TcpAddress,
    UnixAddress,
    format_ipv6,
    join_host_port,
    map_to_ipv6,
    parse_bind,
    parse_server,
    unmap_ipv4,
)

ports = st.integers(0, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
zones = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=15)
scoped = st.builds("{}%{}".format, ipv6, zones)
labels = st.from_regex(r"\A[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9_])?\Z")
host_names = (
    st.lists(labels, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda name: not set(name) <= set("0123456789."))
)
paths = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda path: len(path.encode()) <= 107
)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("*:143", TcpAddress("*", 143)),
        ("*:0", TcpAddress("*", 0)),
        ("127.0.0.1:65535", TcpAddress("127.0.0.1", 65535)),
        ("[::]:993", TcpAddress("::", 993)),
        ("[2001:DB8:0:0::1]:993", TcpAddress("2001:db8::1", 993)),
        ("[fe80::1%eth0]:143", TcpAddress("fe80::1%eth0", 143)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
        ("unix:x y.sock", UnixAddress("x y.sock")),
        ("unix:fd:3", UnixAddress("fd:3")),
        ("fd:0", DescriptorAddress(0)),
        ("fd:17", DescriptorAddress(17)),
        ("fd:imaps", DescriptorAddress("imaps")),
        ("fd:mailproxy-993.socket", DescriptorAddress("mailproxy-993.socket")),
    ],
)
def test_bind_address_is_parsed(text: str, address: BindAddress) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no valid host"),
        ("*", "has no port"),
        ("143", 'has no host: "*:143" is every IPv4 address'),
        (":143", 'has no host: "*:143" is every IPv4 address'),
        ("/run/x.sock", "is a path: write unix: before it"),
        ("*:", "port '' is not a number from 0 to 65535"),
        ("*:65536", "port '65536' is not a number from 0 to 65535"),
        ("*:000143", "port '000143' is not a number from 0 to 65535"),
        ("*:-1", "port '-1' is not a number from 0 to 65535"),
        ("*:14 3", "has blanks in it"),
        ("*:\u0661\u0664\u0663", "port '\u0661\u0664\u0663' is not a number from 0 to 65535"),
        ("127.0.0.1", "has no port"),
        ("::1", "has no port"),
        ("[::1]", "has no port"),
        ("::1:993:", "is neither HOST:PORT nor [IPv6]:PORT"),
        ("[127.0.0.1]:993", "has no IPv6 address between its brackets"),
        ("[]:993", "has no IPv6 address between its brackets"),
        ("[::1]993", "is neither HOST:PORT nor [IPv6]:PORT"),
        ("[::1]:99:3", "is neither HOST:PORT nor [IPv6]:PORT"),
        ("[fe80::1%eth 0]:993", "has blanks in it"),
        ("[fe80::1%a\0b]:993", "has no IPv6 address between its brackets"),
        ("[fe80::1%interface-too-long]:993", "has no IPv6 address between its brackets"),
        ("imap.example.com:993", "is not an IP address: a bind takes one"),
        ("localhost:993", "is not an IP address: a bind takes one"),
        ("127.0.0.256:993", "has no valid host"),
        ("127.1:993", "has no valid host"),
        ("127.0.0.01:993", "has no valid host"),
        *(
            (text, "fd: takes the number of an inherited descriptor, or its FileDescriptorName")
            for text in ("fd:", "fd:-1", "fd:a:b", "fd:a b", "fd:123456", "fd:é", "fd:" + 256 * "a")
        ),
        ("fd:3 ", "fd: takes the number of an inherited descriptor"),
        ("unix:", "unix: takes a path"),
        ("unix:/run/\0", "unix: takes a path"),
        ("unix:" + "x" * 108, "the path is longer than 107 bytes"),
        ("unix:" + "\u00e9" * 54, "the path is longer than 107 bytes"),
        (" *:143", "has blanks in it"),
        ("*:143\n", "has blanks in it"),
    ],
)
def test_invalid_bind_address_is_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_bind(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:993", TcpAddress("10.0.0.1", 993)),
        ("10.0.0.2", TcpAddress("10.0.0.2", None)),
        ("[2001:db8::1]:993", TcpAddress("2001:db8::1", 993)),
        ("[2001:db8::1]", TcpAddress("2001:db8::1", None)),
        ("2001:DB8:0::1", TcpAddress("2001:db8::1", None)),
        ("imap.internal:993", TcpAddress("imap.internal", 993)),
        ("imap.internal.", TcpAddress("imap.internal.", None)),
        ("d1", TcpAddress("d1", None)),
        ("_imaps._tcp.example.com", TcpAddress("_imaps._tcp.example.com", None)),
        ("xn--bcher-kva.example:143", TcpAddress("xn--bcher-kva.example", 143)),
        ("unix:/run/dovecot/imap.sock", UnixAddress("/run/dovecot/imap.sock")),
    ],
)
def test_server_address_is_parsed(text: str, address: ServerAddress) -> None:
    assert parse_server(text) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no valid host"),
        ("*:993", "a server needs a host name or an IP address"),
        ("*", "a server needs a host name or an IP address"),
        ("10.0.0.1:0", "port '0' is not a number from 1 to 65535"),
        ("10.0.0.1:imaps", "port 'imaps' is not a number from 1 to 65535"),
        ("10.0.0.300", "has no valid host"),
        ("10.0.0.1.5", "has no valid host"),
        ("imap..internal", "has no valid host"),
        ("-imap.internal", "has no valid host"),
        ("imap-.internal", "has no valid host"),
        ("imap internal", "has blanks in it"),
        ("b\u00fccher.example", "has no valid host"),
        ("x" * 64, "has no valid host"),
        (".".join(["x" * 63] * 4), "has no valid host"),
        ("unix:", "unix: takes a path"),
        ("http://d1:80", "is a URL"),
        ("/run/x.sock", "is a path: write unix: before it"),
        ("10.0.0.1/24", "has no valid host"),
    ],
)
def test_invalid_server_address_is_rejected(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_server(text)
    assert str(caught.value).startswith(message)


@given(st.one_of(
    st.builds(TcpAddress, st.just("*") | ipv4 | ipv6 | scoped, ports),
    st.builds(UnixAddress, paths),
    st.builds(DescriptorAddress, st.integers(0, 99999) | st.from_regex(r"\A[a-z][!-9;-~]{0,20}\Z")),
))  # fmt: skip
def test_bind_address_round_trips(address: BindAddress) -> None:
    assert parse_bind(str(address)) == address


@given(st.one_of(
    st.builds(TcpAddress, ipv4 | ipv6 | scoped | host_names, st.none() | ports.filter(bool)),
    st.builds(UnixAddress, paths),
))  # fmt: skip
def test_server_address_round_trips(address: ServerAddress) -> None:
    assert parse_server(str(address)) == address


@given(st.text() | st.from_regex(r"\A(\[?[0-9a-f:.%*]*\]?|unix:.*|fd:.*)(:[0-9]*)?\Z"))
def test_parsed_text_round_trips(text: str) -> None:
    for parse in (parse_bind, parse_server):
        try:
            address = parse(text)
        except ValueError:
            continue
        assert parse(str(address)) == address


@given(st.ip_addresses(v=6), ports)
def test_ipv6_notations_are_equal(address: IPv6Address, port: int) -> None:
    canonical = parse_bind(f"[{address}]:{port}")
    assert parse_bind(f"[{address.exploded}]:{port}") == canonical
    assert parse_bind(f"[{str(address).upper()}]:{port}") == canonical
    assert parse_server(address.exploded) == parse_server(f"[{address}]")


@given(st.ip_addresses(), ports)
def test_join_host_port_output_is_parsed(address: IPv4Address | IPv6Address, port: int) -> None:
    assert parse_bind(join_host_port(str(address), port)) == TcpAddress(str(address), port)


@given(host_names)
def test_only_addresses_are_literal(name: str) -> None:
    address = parse_server(name)
    assert isinstance(address, TcpAddress)
    assert not address.is_literal
    assert all(TcpAddress(host, 1).is_literal for host in ("*", "127.0.0.1", "::1", "fe80::1%eth0"))


# Networks.


def networks(*texts: str) -> Networks:
    return Networks(ip_network(text) for text in texts)


def test_mapped_network_equals_ipv4_network() -> None:
    mapped = networks("::ffff:10.0.0.0/104")
    assert "10.1.2.3" in mapped
    assert "::ffff:10.1.2.3" in mapped
    assert "11.1.2.3" not in mapped


@pytest.mark.parametrize(
    ("host", "is_inside"),
    [
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::", True),
        ("2001:db8:ffff::1", True),
        ("2001:db9::1", False),
        ("fe80::1%eth0", True),
        ("fe80::1", True),
        # A bind for both families reports IPv4 clients in this form.
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        # This is not a mapped address, although it looks like one.
        ("::10.1.2.3", False),
    ],
)
def test_address_in_networks(host: str, is_inside: bool) -> None:
    assert (host in networks("10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "fe80::/10")) == is_inside


def test_empty_networks_contain_no_address() -> None:
    assert not networks()
    assert "10.0.0.1" not in networks()
    assert networks("0.0.0.0/0")


def test_wildcard_networks_contain_one_family() -> None:
    assert "192.0.2.1" in networks("0.0.0.0/0")
    assert "::ffff:192.0.2.1" in networks("0.0.0.0/0")
    assert "2001:db8::1" not in networks("0.0.0.0/0")
    assert "2001:db8::1" in networks("::/0")
    assert "192.0.2.1" not in networks("::/0")


# IPv4 in IPv6.


@given(st.ip_addresses(v=4))
def test_mapped_ipv4_address_round_trips(address: IPv4Address) -> None:
    mapped = map_to_ipv6(str(address))
    assert IPv6Address(mapped).ipv4_mapped == address
    assert unmap_ipv4(f"::ffff:{address}") == str(address)


@given(st.ip_addresses(v=6))
def test_unmapped_ipv6_address_is_unchanged(address: IPv6Address) -> None:
    assume(address.ipv4_mapped is None)
    assert map_to_ipv6(str(address)) == unmap_ipv4(str(address)) == str(address)


@pytest.mark.parametrize("host", ["192.0.2.1", "::1", "fe80::1%eth0", "::ffff:0:192.0.2.1", "::192.0.2.1"])
def test_unmap_leaves_other_addresses_unchanged(host: str) -> None:
    assert unmap_ipv4(host) == host


def test_mapped_address_is_formatted_with_ipv4_end() -> None:
    assert format_ipv6(IPv6Address("::ffff:c000:201")) == "::ffff:192.0.2.1"
    for host in ("::1", "2001:db8::9", "::c000:201"):
        assert format_ipv6(IPv6Address(host)) == str(IPv6Address(host))


def test_unmap_accepts_every_notation() -> None:
    assert unmap_ipv4("::ffff:c000:201") == unmap_ipv4("::ffff:192.0.2.1") == "192.0.2.1"


# Without those that are an IPv4 address in another form.
ip_addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6).filter(lambda each: int(each) >> 48))
ip_networks = ip_addresses.flatmap(
    lambda each: st.integers(0, each.max_prefixlen).map(lambda bits: ip_network((each, bits), strict=False))
)


@given(st.lists(ip_networks, max_size=6), ip_addresses)
def test_networks_contain_what_one_of_them_contains(
    members: list[IPv4Network | IPv6Network], address: IPv4Address | IPv6Address
) -> None:
    both = Networks(members)
    assert (str(address) in both) == any(address in network for network in members)
    assert all(str(network[0]) in both and str(network[-1]) in both for network in members)
