"""What a server is told of a client: the PROXY header for each way of asking for it, to the byte, and never too long."""

from __future__ import annotations

import socket
import ssl
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from mailproxy import config
from mailproxy.address import TcpAddress
from mailproxy.config.values import Name
from mailproxy.net.listener import Listener
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.handshake import TlsInfo
from mailproxy.protocol.proxy_header import (
    Client,
    Command,
    HeaderV1,
    HeaderV2,
    Protocol,
    Ssl,
    Tlv,
    Type,
    format_ssl,
    parse,
    parse_ssl,
)
from mailproxy.proxy.backend.header_builder import ProxyHeaderBuilder
from mailproxy.proxy.client_info import ClientInfo
from tests.support.protocol.proxy_headers import FULL

KINDS = ("v1", "v2", "v2-ssl", "v2-ssl-cn")
ALL_TLVS = ("authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key", "client-cert")
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a20000000")

_NOW = datetime.now(UTC)
OURS = Certificate(
    Path("imap.pem"), key=None, names=("imap.example.com",), key_type="1.2.840.113549.1.1.1", not_after=_NOW,
    not_before=_NOW, signature_algorithm="RSA-SHA256", key_algorithm="RSA2048",
)  # fmt: skip
PLAIN = TlsInfo(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", alpn=None)
ALICE = evolve(PLAIN, has_client_certificate=True, client_name="alice@example.com")


class Showing(ssl.SSLSocket):
    """The socket of a client that has shown a certificate."""

    der: bytes | None = None

    def getpeercert(self, binary_form: bool = False) -> Any:
        assert binary_form
        return self.der


def caller(
    source: tuple[str, int] | None = ("127.0.0.1", 52140),
    destination: tuple[str, int] | None = ("127.0.0.1", 22002),
    *,
    certificate: bytes | None = None,
    **facts: Any,
) -> ClientInfo:
    """A client of whom this is known."""
    sock = Showing.__new__(Showing)  # that of a handshake, which there was none
    sock.der = certificate
    listener = cast("Listener", SimpleNamespace(number=1, port=None, only_address=None))
    return ClientInfo(listener, source, cast("socket.socket", sock), destination=destination, **facts)


def header(
    kind: str, client: ClientInfo | None = None, *tlvs: str, protocol: str = "imap", forward: bool = False
) -> bytes:
    """What a server is sent."""
    server = config.Server(
        name=Name("d1"),
        address=TcpAddress("192.0.2.1", 143),
        send_proxy=cast("Any", kind),
        send_proxy_tlvs=cast("Any", tlvs),
        forward_tlvs=forward,
    )
    return ProxyHeaderBuilder(server, protocol).build(client or caller())


def read(data: bytes) -> HeaderV2:
    """What a receiver reads of it."""
    answer = parse(data)
    assert isinstance(answer, tuple)
    value, length = answer
    assert length == len(data)
    assert isinstance(value, HeaderV2)
    return value


def tlvs(data: bytes) -> dict[int, bytes]:
    found = read(data).tlvs
    assert len({tlv.type for tlv in found}) == len(found)
    return {tlv.type: tlv.value for tlv in found}


def ssl_of(data: bytes) -> Ssl:
    return parse_ssl(tlvs(data)[Type.SSL])


# To the byte.


def test_version_1_is_a_line() -> None:
    assert header("v1") == b"PROXY TCP4 127.0.0.1 127.0.0.1 52140 22002\r\n"
    v6 = caller(("2001:db8::9", 40000), ("2001:db8::1", 993))
    assert header("v1", v6) == b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 993\r\n"


def test_version_2_is_haproxys() -> None:
    assert header("v2") == bytes.fromhex("0d0a0d0a000d0a515549540a2111000c7f0000017f000001cbac55f2")


def test_version_2_with_tls_is_haproxys() -> None:
    client = caller(("127.0.0.1", 35408), ("127.0.0.1", 22003), tls=PLAIN)
    golden = "0d0a0d0a000d0a515549540a2111001e7f0000017f0000018a5055f320000f0100000000210007544c5376312e33"
    assert header("v2-ssl", client) == bytes.fromhex(golden)


def test_version_2_with_all_is_haproxys_but_for_the_unique_id() -> None:
    client = caller(
        ("127.0.0.1", 36172), ("127.0.0.1", 22004), id=0x2A,
        authority="imap.example.com",
        tls=evolve(ALICE, alpn="imap", certificate=OURS),
    )  # fmt: skip
    asked = ("authority", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key")
    ours, haproxys = read(header("v2-ssl-cn", client, *asked)), read(FULL)
    assert [tlv.type for tlv in ours.tlvs] == [tlv.type for tlv in haproxys.tlvs]
    own = {Type.CRC32C, Type.UNIQUE_ID}
    assert [tlv for tlv in ours.tlvs if tlv.type not in own] == [
        tlv for tlv in haproxys.tlvs if tlv.type not in own
    ]
    assert (ours.source, ours.destination) == (haproxys.source, haproxys.destination)


# Addresses.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "destination", "family", "told"),
    [
        ("192.0.2.9", "192.0.2.1", 4, ("192.0.2.9", "192.0.2.1")),
        ("2001:db8::9", "2001:db8::1", 6, ("2001:db8::9", "2001:db8::1")),
        # IPv4 at a bind for both families
        ("::ffff:192.0.2.9", "::ffff:192.0.2.1", 4, ("192.0.2.9", "192.0.2.1")),
        ("::ffff:192.0.2.9", "192.0.2.1", 4, ("192.0.2.9", "192.0.2.1")),
        # of two families, as a header that was received may have them
        ("192.0.2.9", "2001:db8::1", 6, ("::ffff:192.0.2.9", "2001:db8::1")),
        ("2001:db8::9", "192.0.2.1", 6, ("2001:db8::9", "::ffff:192.0.2.1")),
        ("fe80::9%eth0", "fe80::1%eth0", 6, ("fe80::9", "fe80::1")),
    ],
)
def test_both_addresses_are_of_one_family(
    kind: str, source: str, destination: str, family: int, told: tuple[str, str]
) -> None:
    answer = parse(header(kind, caller((source, 40000), (destination, 993))))
    assert isinstance(answer, tuple)
    value = answer[0]
    assert value.protocol == (f"TCP{family}" if isinstance(value, HeaderV1) else Protocol[f"TCP{family}"])
    assert value.endpoints is not None
    hosts = [_plain(host) for host, _ in value.endpoints]
    assert hosts == [_plain(host) for host in told]
    assert [port for _, port in value.endpoints] == [40000, 993]


def _plain(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def test_a_client_of_a_unix_socket_has_no_address_to_tell_of() -> None:
    client = caller(None, None, tls=evolve(ALICE, alpn="imap"), authority="imap.example.com")
    assert header("v1", client) == b"PROXY UNKNOWN\r\n"
    for kind in ("v2", "v2-ssl", "v2-ssl-cn"):
        assert header(kind, client, *ALL_TLVS) == LOCAL


def test_a_client_of_a_unix_socket_whose_address_a_header_told() -> None:
    client = caller(None, None)
    client.apply_proxy_header(
        HeaderV1(protocol="TCP4", source=("192.0.2.9", 40000), destination=("192.0.2.1", 993))
    )
    assert header("v1", client) == b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 993\r\n"


# What comes with it.


@pytest.mark.parametrize(
    ("protocol", "alpn", "asked", "is_told"),
    [
        ("imap", "imap", (), True),
        ("pop3", "pop3", (), True),
        ("sieve", "managesieve", (), True),
        ("imap", "pop3", (), False),
        ("sieve", "sieve", (), False),
        ("submission", "submission", (), False),
        ("submission", "smtp", (), False),
        ("tcp", "imap", (), False),
        ("imap", "h2", (), False),
        ("imap", "h2", ("alpn",), True),
        ("tcp", "h2", ("alpn",), True),
        ("imap", None, ("alpn",), False),
    ],
)
@pytest.mark.parametrize("kind", ["v2", "v2-ssl"])
def test_the_application_protocol_is_told_where_it_is_the_servers_or_asked_for(
    kind: str, protocol: str, alpn: str | None, *, asked: tuple[str, ...], is_told: bool
) -> None:
    found = tlvs(header(kind, caller(tls=evolve(PLAIN, alpn=alpn)), *asked, protocol=protocol))
    assert found.get(Type.ALPN) == (str(alpn).encode() if is_told else None)


def test_without_tls_here_there_is_no_application_protocol() -> None:
    client = caller(authority="imap.example.com")
    assert tlvs(header("v2", client, "alpn")) == {}


@pytest.mark.parametrize(
    "name", ["imap.example.com", "IMAP.Example.COM", "localhost", "xn--bcher-kva.example"]
)
def test_the_name_that_was_asked_for_is_told_if_that_is_asked_for(name: str) -> None:
    client = caller(tls=PLAIN, authority=name)
    assert tlvs(header("v2", client)) == {}
    assert tlvs(header("v2", client, "authority")) == {Type.AUTHORITY: name.encode()}


def test_the_name_is_told_where_tls_only_passes() -> None:
    client = caller(authority="imap.example.com")
    assert tlvs(header("v2", client, "authority")) == {Type.AUTHORITY: b"imap.example.com"}


@pytest.mark.parametrize(
    "name",
    [
        None, "", "imap_example", "imap example.com", "-imap.example.com", "imap-.example.com", "imap..example", "imap.",
        ".imap", "a" * 64, ".".join(["a" * 63] * 4), "imap.example.com\n", "b\u00fccher.example", "\u212aelvin.example", "a\0b",
        "[::1]", "%s%n",
    ],
)  # fmt: skip
def test_a_name_that_is_no_host_name_is_not_told(name: str | None) -> None:
    assert tlvs(header("v2", caller(tls=PLAIN, authority=name), "authority")) == {}


def test_the_sessions_number_is_its_unique_id() -> None:
    assert tlvs(header("v2", caller(id=0xBEEF), "unique-id")) == {Type.UNIQUE_ID: b"beef"}
    assert tlvs(header("v2", caller(id=0xBEEF))) == {}


def test_a_checksum_stands_first_and_is_right() -> None:
    for client in (caller(), caller(tls=evolve(ALICE, alpn="imap"))):
        for kind in ("v2", "v2-ssl-cn"):
            first, *_ = read(
                header(kind, client, "crc32c", "unique-id")
            ).tlvs  # a wrong one would not be read
            assert first.type == Type.CRC32C


# TLS.


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_tls_is_told_where_it_is_asked_for(kind: str) -> None:
    assert header(kind, caller(tls=ALICE)) == header(kind, caller())


@pytest.mark.parametrize("asked", [("ssl-cipher",), ("cert-key",), ("cert-sig",), ("client-cert",)])
def test_whoever_asks_for_a_part_of_it_gets_the_whole(asked: tuple[str, ...]) -> None:
    assert ssl_of(header("v2", caller(tls=PLAIN), *asked)).value_of(Type.SSL_VERSION) == b"TLSv1.3"


@pytest.mark.parametrize("kind", ["v2-ssl", "v2-ssl-cn"])
def test_without_tls_all_of_it_is_zero_as_haproxy_has_it(kind: str) -> None:
    assert tlvs(header(kind, caller(), "ssl-cipher", "cert-key")) == {Type.SSL: bytes(5)}
    passing = caller(authority="imap.example.com")
    assert tlvs(header(kind, passing)) == {Type.SSL: bytes(5)}


@pytest.mark.parametrize(
    ("facts", "client"),
    [
        (PLAIN, Client.SSL),
        (evolve(PLAIN, is_resumed=True), Client.SSL),
        (ALICE, Client.SSL | Client.CERT_CONN | Client.CERT_SESS),
        # shown when the TLS session began, and not on this connection
        (evolve(ALICE, is_resumed=True), Client.SSL | Client.CERT_SESS),
    ],
)
def test_the_bits_say_what_the_client_has_shown_and_when(facts: TlsInfo, client: Client) -> None:
    said = ssl_of(header("v2-ssl", caller(tls=facts)))
    assert (said.client, said.verify) == (client, 0)


def test_the_clients_name_is_told_where_it_is_asked_for() -> None:
    assert ssl_of(header("v2-ssl-cn", caller(tls=ALICE))).value_of(Type.SSL_CN) == b"alice@example.com"
    assert ssl_of(header("v2-ssl", caller(tls=ALICE))).value_of(Type.SSL_CN) is None
    assert ssl_of(header("v2-ssl-cn", caller(tls=PLAIN))).value_of(Type.SSL_CN) is None
    umlaut = evolve(ALICE, client_name="B\u00e4rbel")
    assert ssl_of(header("v2-ssl-cn", caller(tls=umlaut))).value_of(Type.SSL_CN) == "B\u00e4rbel".encode()


def test_of_our_certificate_is_told_what_is_known() -> None:
    asked = ("cert-key", "cert-sig")
    known = ssl_of(header("v2", caller(tls=evolve(PLAIN, certificate=OURS)), *asked))
    assert known.value_of(Type.SSL_KEY_ALG) == b"RSA2048"
    assert known.value_of(Type.SSL_SIG_ALG) == b"RSA-SHA256"
    nameless = evolve(OURS, key_algorithm="", signature_algorithm="")
    for facts in (PLAIN, evolve(PLAIN, certificate=nameless)):
        said = ssl_of(header("v2", caller(tls=facts), *asked))
        assert [tlv.type for tlv in said.extensions] == [Type.SSL_VERSION]


def test_of_our_certificate_is_told_what_is_asked_for() -> None:
    client = caller(tls=evolve(PLAIN, certificate=OURS))
    for asked, kind in (("cert-key", Type.SSL_KEY_ALG), ("cert-sig", Type.SSL_SIG_ALG), ("ssl-cipher", Type.SSL_CIPHER)):  # fmt: skip
        said = ssl_of(header("v2-ssl", client, asked))
        assert [tlv.type for tlv in said.extensions] == [Type.SSL_VERSION, kind]


def test_the_clients_certificate_itself() -> None:
    client = caller(tls=ALICE, certificate=b"der" * 300)
    assert ssl_of(header("v2-ssl", client, "client-cert")).value_of(Type.SSL_CLIENT_CERT) == b"der" * 300
    assert ssl_of(header("v2-ssl", client)).value_of(Type.SSL_CLIENT_CERT) is None
    unasked = caller(tls=PLAIN, certificate=b"der")
    assert ssl_of(header("v2-ssl", unasked, "client-cert")).value_of(Type.SSL_CLIENT_CERT) is None


# Passed on.


def introduced(*received: Tlv, **facts: Any) -> ClientInfo:
    """A client of whom a header has told, with these extensions."""
    client = caller(**facts)
    client.apply_proxy_header(
        HeaderV2(
            command=Command.PROXY, protocol=Protocol.TCP4, source=("127.0.0.1", 52140),
            destination=("127.0.0.1", 22002), tlvs=received,
        )
    )  # fmt: skip
    return client


SPECIAL, OTHER = Tlv(0xEA, b"\x01vpce-0123"), Tlv(Type.NETNS, b"blue")
NAMED = Tlv(Type.AUTHORITY, b"received.example")
BEHIND_TLS = format_ssl(Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.2"),)))


def test_what_came_is_passed_on_if_that_is_asked_for() -> None:
    client = introduced(SPECIAL, NAMED, OTHER)
    assert read(header("v2", client, forward=True)).tlvs == (SPECIAL, NAMED, OTHER)
    assert read(header("v2", client)).tlvs == ()


def test_version_1_has_no_place_for_it() -> None:
    assert header("v1", introduced(SPECIAL), forward=True) == header("v1")


def test_our_own_wins() -> None:
    client = introduced(
        NAMED, SPECIAL, Tlv(Type.UNIQUE_ID, b"theirs"), BEHIND_TLS, Tlv(Type.ALPN, b"pop3"), id=0x2A,
        tls=evolve(PLAIN, alpn="imap"), authority="own.example",
    )  # fmt: skip
    found = tlvs(header("v2-ssl", client, "authority", "unique-id", "alpn", forward=True))
    assert found == {
        Type.ALPN: b"imap",
        Type.AUTHORITY: b"own.example",
        Type.UNIQUE_ID: b"2a",
        Type.SSL: format_ssl(
            Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.3"),))
        ).value,
        SPECIAL.type: SPECIAL.value,
    }


def test_tls_that_ended_before_us_is_not_denied() -> None:
    client = introduced(BEHIND_TLS)
    assert tlvs(header("v2-ssl", client, forward=True)) == {Type.SSL: BEHIND_TLS.value}
    assert tlvs(header("v2-ssl", client)) == {Type.SSL: bytes(5)}


def test_what_was_about_the_bytes_of_that_header_is_not_passed_on() -> None:
    client = introduced(Tlv(Type.CRC32C, b"\1\2\3\4"), Tlv(Type.NOOP, bytes(40)), SPECIAL)
    assert read(header("v2", client, forward=True)).tlvs == (SPECIAL,)
    first, second = read(header("v2", client, "crc32c", forward=True)).tlvs  # ours, or it would not be read
    assert (first.type, second) == (Type.CRC32C, SPECIAL)


@pytest.mark.parametrize(
    "unfit",
    [
        Tlv(Type.ALPN, b""),
        Tlv(Type.ALPN, b"h2"),
        Tlv(Type.AUTHORITY, b""),
        Tlv(Type.AUTHORITY, b"imap example"),
        Tlv(Type.AUTHORITY, b"b\xfccher.example"),
        Tlv(Type.AUTHORITY, "\u212aelvin.example".encode()),
        Tlv(Type.SSL, b""),
        Tlv(Type.SSL, b"\1\0\0\0\0\x21\0\x09TLS"),
        format_ssl(Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_CN, b"root\0.example"),))),
    ],
    ids=repr,
)
def test_what_servers_end_the_connection_for_is_not_passed_on(unfit: Tlv) -> None:
    assert read(header("v2", introduced(unfit, SPECIAL), forward=True)).tlvs == (SPECIAL,)


@pytest.mark.parametrize(
    ("alpn", "asked", "is_passed"), [(b"imap", (), True), (b"h2", (), False), (b"h2", ("alpn",), True)]
)
def test_an_application_protocol_is_passed_on_as_our_own_would_be_told(
    alpn: bytes, asked: tuple[str, ...], *, is_passed: bool
) -> None:
    client = introduced(Tlv(Type.ALPN, alpn))
    assert (Type.ALPN in tlvs(header("v2", client, *asked, forward=True))) == is_passed


# Length.


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [400, 536, 1000, 4000])
def test_what_is_too_long_is_left_out_as_a_whole(family: int, size: int) -> None:
    host = "127.0.0.1" if family == 4 else "::1"
    client = introduced(Tlv(0xE0, bytes(size)), SPECIAL, tls=ALICE)
    client.source, client._destination = (host, 1), (host, 2)
    data = header("v2-ssl", client, forward=True)
    assert len(data) <= 536
    assert (0xE0 in tlvs(data)) == (size == 400)
    assert SPECIAL.type in tlvs(data)
    assert ssl_of(data).value_of(Type.SSL_VERSION) == b"TLSv1.3"


def test_to_the_last_byte() -> None:
    fixed = len(header("v2"))
    for size, is_told in ((536 - fixed - 3, True), (536 - fixed - 2, False)):
        data = header("v2", introduced(Tlv(0xE0, bytes(size))), forward=True)
        assert len(data) == (536 if is_told else fixed)


def test_tls_stays_when_something_must_go() -> None:
    sni = ".".join(["a" * 60] * 4)
    client = introduced(
        *(Tlv(kind, bytes(90)) for kind in range(0xE0, 0xE8)),
        tls=evolve(ALICE, alpn="imap"),
        authority=sni,
        id=1,
    )
    for asked in ((), ("crc32c",), ("authority", "alpn", "unique-id", "ssl-cipher")):
        data = header("v2-ssl-cn", client, *asked, forward=True)
        assert len(data) <= 536
        assert ssl_of(data).value_of(Type.SSL_CN) == b"alice@example.com"


@pytest.mark.parametrize("asked", [(), ("crc32c",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("length", range(440, 520))
def test_a_name_that_is_too_long_takes_nothing_with_it(
    asked: tuple[str, ...], host: str, length: int
) -> None:
    client = caller((host, 1), (host, 2), tls=evolve(ALICE, client_name="a" * length))
    data = header("v2-ssl-cn", client, *asked)
    assert len(data) <= 536
    assert ssl_of(data).value_of(Type.SSL_VERSION) == b"TLSv1.3"


@pytest.mark.parametrize("asked", [(), ("crc32c",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("length", [*range(3990, 4060), 5000, 70000])
def test_with_a_certificate_it_may_be_longer(asked: tuple[str, ...], host: str, length: int) -> None:
    client = caller((host, 1), (host, 2), tls=ALICE, certificate=bytes(length))
    data = header("v2-ssl", client, "client-cert", *asked)
    assert len(data) <= 4096
    said = ssl_of(data)
    assert said.value_of(Type.SSL_VERSION) == b"TLSv1.3"
    assert said.client == Client.SSL | Client.CERT_CONN | Client.CERT_SESS
    if length == 3990:
        assert said.value_of(Type.SSL_CLIENT_CERT) == bytes(length)


received = st.builds(
    Tlv,
    st.sampled_from([*set(Type) - {Type.SSL, Type.CRC32C, Type.AUTHORITY, Type.UNIQUE_ID}, 0xE0, 0xF0]),
    st.binary(max_size=600),
)


@given(
    kind=st.sampled_from(["v2", "v2-ssl", "v2-ssl-cn"]),
    asked=st.sets(st.sampled_from(ALL_TLVS)),
    client_name=st.none() | st.text(min_size=1, max_size=300),
    sni=st.none() | st.text(max_size=300),
    alpn=st.none() | st.text(min_size=1, max_size=255),
    came=st.lists(received, max_size=4, unique_by=lambda tlv: tlv.type),
)
def test_whatever_a_client_is_its_header_can_be_read_and_is_not_too_long(
    *, kind: str, asked: set[str], client_name: str | None, sni: str | None, alpn: str | None, came: list[Tlv]
) -> None:
    facts = evolve(PLAIN, alpn=alpn, has_client_certificate=client_name is not None, client_name=client_name)  # fmt: skip
    data = header(kind, introduced(*came, tls=facts, certificate=b"der" * 100), *asked, forward=True)
    assert len(data) <= (4096 if "client-cert" in asked else 536)
    assert (Type.SSL in tlvs(data)) >= (kind != "v2")
