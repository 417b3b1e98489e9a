"""The PROXY header to a server: each kind byte for byte, the extensions, and the length limits."""

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
OUR_CERTIFICATE = Certificate(
    Path("imap.pem"), key=None, names=("imap.example.com",), key_type="1.2.840.113549.1.1.1", not_after=_NOW,
    not_before=_NOW, signature_algorithm="RSA-SHA256", key_algorithm="RSA2048",
)  # fmt: skip
PLAIN = TlsInfo(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", alpn=None)
ALICE = evolve(PLAIN, has_client_certificate=True, client_name="alice@example.com")


class CertificateSocket(ssl.SSLSocket):
    """The socket of a client that has sent a certificate."""

    der: bytes | None = None

    def getpeercert(self, binary_form: bool = False) -> Any:
        assert binary_form
        return self.der


def client_info(
    source: tuple[str, int] | None = ("127.0.0.1", 52140),
    destination: tuple[str, int] | None = ("127.0.0.1", 22002),
    *,
    certificate: bytes | None = None,
    **facts: Any,
) -> ClientInfo:
    """Return a client with these facts."""
    sock = CertificateSocket.__new__(CertificateSocket)  # the socket of a handshake that was never made
    sock.der = certificate
    listener = cast("Listener", SimpleNamespace(number=1, port=None, only_address=None))
    return ClientInfo(listener, source, cast("socket.socket", sock), destination=destination, **facts)


def header(
    kind: str, client: ClientInfo | None = None, *tlvs: str, protocol: str = "imap", forward: bool = False
) -> bytes:
    """Return the header that the server gets."""
    server = config.Server(
        name=Name("d1"),
        address=TcpAddress("192.0.2.1", 143),
        send_proxy=cast("Any", kind),
        send_proxy_tlvs=cast("Any", tlvs),
        forward_tlvs=forward,
    )
    return ProxyHeaderBuilder(server, protocol).build(client or client_info())


def read(data: bytes) -> HeaderV2:
    """Parse as a receiver does."""
    parsed = parse(data)
    assert isinstance(parsed, tuple)
    value, length = parsed
    assert length == len(data)
    assert isinstance(value, HeaderV2)
    return value


def tlvs(data: bytes) -> dict[int, bytes]:
    result = read(data).tlvs
    assert len({tlv.type for tlv in result}) == len(result)
    return {tlv.type: tlv.value for tlv in result}


def ssl_of(data: bytes) -> Ssl:
    return parse_ssl(tlvs(data)[Type.SSL])


# Byte for byte


def test_version_1_is_a_line() -> None:
    assert header("v1") == b"PROXY TCP4 127.0.0.1 127.0.0.1 52140 22002\r\n"
    client_v6 = client_info(("2001:db8::9", 40000), ("2001:db8::1", 993))
    assert header("v1", client_v6) == b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 993\r\n"


def test_version_2_matches_haproxy() -> None:
    assert header("v2") == bytes.fromhex("0d0a0d0a000d0a515549540a2111000c7f0000017f000001cbac55f2")


def test_version_2_with_tls_matches_haproxy() -> None:
    client = client_info(("127.0.0.1", 35408), ("127.0.0.1", 22003), tls=PLAIN)
    expected = "0d0a0d0a000d0a515549540a2111001e7f0000017f0000018a5055f320000f0100000000210007544c5376312e33"
    assert header("v2-ssl", client) == bytes.fromhex(expected)


def test_version_2_with_all_tlvs_matches_haproxy() -> None:
    """Only the checksum and the unique id differ."""
    client = client_info(
        ("127.0.0.1", 36172), ("127.0.0.1", 22004), id=0x2A,
        authority="imap.example.com",
        tls=evolve(ALICE, alpn="imap", certificate=OUR_CERTIFICATE),
    )  # fmt: skip
    requested = ("authority", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key")
    our_header, haproxy_header = read(header("v2-ssl-cn", client, *requested)), read(FULL)
    assert [tlv.type for tlv in our_header.tlvs] == [tlv.type for tlv in haproxy_header.tlvs]
    differing = {Type.CRC32C, Type.UNIQUE_ID}
    assert [tlv for tlv in our_header.tlvs if tlv.type not in differing] == [
        tlv for tlv in haproxy_header.tlvs if tlv.type not in differing
    ]
    assert (our_header.source, our_header.destination) == (haproxy_header.source, haproxy_header.destination)


# Addresses


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("source", "destination", "family", "expected"),
    [
        ("192.0.2.9", "192.0.2.1", 4, ("192.0.2.9", "192.0.2.1")),
        ("2001:db8::9", "2001:db8::1", 6, ("2001:db8::9", "2001:db8::1")),
        # IPv4 at a bind for both families
        ("::ffff:192.0.2.9", "::ffff:192.0.2.1", 4, ("192.0.2.9", "192.0.2.1")),
        ("::ffff:192.0.2.9", "192.0.2.1", 4, ("192.0.2.9", "192.0.2.1")),
        # of two families, as a received header may have them
        ("192.0.2.9", "2001:db8::1", 6, ("::ffff:192.0.2.9", "2001:db8::1")),
        ("2001:db8::9", "192.0.2.1", 6, ("2001:db8::9", "::ffff:192.0.2.1")),
        ("fe80::9%eth0", "fe80::1%eth0", 6, ("fe80::9", "fe80::1")),
    ],
)
def test_both_addresses_have_one_family(
    kind: str, source: str, destination: str, family: int, expected: tuple[str, str]
) -> None:
    parsed = parse(header(kind, client_info((source, 40000), (destination, 993))))
    assert isinstance(parsed, tuple)
    value = parsed[0]
    assert value.protocol == (f"TCP{family}" if isinstance(value, HeaderV1) else Protocol[f"TCP{family}"])
    assert value.endpoints is not None
    hosts = [_packed(host) for host, _ in value.endpoints]
    assert hosts == [_packed(host) for host in expected]
    assert [port for _, port in value.endpoints] == [40000, 993]


def _packed(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)


def test_unix_socket_client_sends_local_or_unknown() -> None:
    client = client_info(None, None, tls=evolve(ALICE, alpn="imap"), authority="imap.example.com")
    assert header("v1", client) == b"PROXY UNKNOWN\r\n"
    for kind in ("v2", "v2-ssl", "v2-ssl-cn"):
        assert header(kind, client, *ALL_TLVS) == LOCAL


def test_unix_socket_client_sends_received_address() -> None:
    client = client_info(None, None)
    client.apply_proxy_header(
        HeaderV1(protocol="TCP4", source=("192.0.2.9", 40000), destination=("192.0.2.1", 993))
    )
    assert header("v1", client) == b"PROXY TCP4 192.0.2.9 192.0.2.1 40000 993\r\n"


# Extensions


@pytest.mark.parametrize(
    ("protocol", "alpn", "requested", "is_sent"),
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
def test_alpn_is_sent_if_requested_or_matching_protocol(
    kind: str, protocol: str, alpn: str | None, *, requested: tuple[str, ...], is_sent: bool
) -> None:
    result = tlvs(header(kind, client_info(tls=evolve(PLAIN, alpn=alpn)), *requested, protocol=protocol))
    assert result.get(Type.ALPN) == (str(alpn).encode() if is_sent else None)


def test_alpn_is_not_sent_without_terminated_tls() -> None:
    client = client_info(authority="imap.example.com")
    assert tlvs(header("v2", client, "alpn")) == {}


@pytest.mark.parametrize(
    "name", ["imap.example.com", "IMAP.Example.COM", "localhost", "xn--bcher-kva.example"]
)
def test_authority_is_sent_if_requested(name: str) -> None:
    client = client_info(tls=PLAIN, authority=name)
    assert tlvs(header("v2", client)) == {}
    assert tlvs(header("v2", client, "authority")) == {Type.AUTHORITY: name.encode()}


def test_authority_is_sent_for_passthrough() -> None:
    client = client_info(authority="imap.example.com")
    assert tlvs(header("v2", client, "authority")) == {Type.AUTHORITY: b"imap.example.com"}


@pytest.mark.parametrize(
    "name",
    [
        None, "", "imap_example", "imap example.com", "-imap.example.com", "imap-.example.com", "imap..example", "imap.",
        ".imap", "a" * 64, ".".join(["a" * 63] * 4), "imap.example.com\n", "b\u00fccher.example", "\u212aelvin.example", "a\0b",
        "[::1]", "%s%n",
    ],
)  # fmt: skip
def test_invalid_host_name_is_not_sent(name: str | None) -> None:
    assert tlvs(header("v2", client_info(tls=PLAIN, authority=name), "authority")) == {}


def test_unique_id_is_session_number() -> None:
    assert tlvs(header("v2", client_info(id=0xBEEF), "unique-id")) == {Type.UNIQUE_ID: b"beef"}
    assert tlvs(header("v2", client_info(id=0xBEEF))) == {}


def test_checksum_is_first_and_correct() -> None:
    for client in (client_info(), client_info(tls=evolve(ALICE, alpn="imap"))):
        for kind in ("v2", "v2-ssl-cn"):
            # `read` rejects a wrong checksum.
            first, *_ = read(header(kind, client, "crc32c", "unique-id")).tlvs
            assert first.type == Type.CRC32C


# TLS


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_tls_is_not_sent_unless_requested(kind: str) -> None:
    assert header(kind, client_info(tls=ALICE)) == header(kind, client_info())


@pytest.mark.parametrize("requested", [("ssl-cipher",), ("cert-key",), ("cert-sig",), ("client-cert",)])
def test_any_tls_tlv_requests_ssl_tlv(requested: tuple[str, ...]) -> None:
    assert ssl_of(header("v2", client_info(tls=PLAIN), *requested)).value_of(Type.SSL_VERSION) == b"TLSv1.3"


@pytest.mark.parametrize("kind", ["v2-ssl", "v2-ssl-cn"])
def test_ssl_tlv_without_tls_is_zero(kind: str) -> None:
    """HAProxy does the same."""
    assert tlvs(header(kind, client_info(), "ssl-cipher", "cert-key")) == {Type.SSL: bytes(5)}
    passthrough = client_info(authority="imap.example.com")
    assert tlvs(header(kind, passthrough)) == {Type.SSL: bytes(5)}


@pytest.mark.parametrize(
    ("facts", "client"),
    [
        (PLAIN, Client.SSL),
        (evolve(PLAIN, is_resumed=True), Client.SSL),
        (ALICE, Client.SSL | Client.CERT_CONN | Client.CERT_SESS),
        # sent when the TLS session was established, and not on this connection
        (evolve(ALICE, is_resumed=True), Client.SSL | Client.CERT_SESS),
    ],
)
def test_client_bits_tell_when_certificate_was_sent(facts: TlsInfo, client: Client) -> None:
    ssl_tlv = ssl_of(header("v2-ssl", client_info(tls=facts)))
    assert (ssl_tlv.client, ssl_tlv.verify) == (client, 0)


def test_client_name_is_sent_if_requested() -> None:
    assert ssl_of(header("v2-ssl-cn", client_info(tls=ALICE))).value_of(Type.SSL_CN) == b"alice@example.com"
    assert ssl_of(header("v2-ssl", client_info(tls=ALICE))).value_of(Type.SSL_CN) is None
    assert ssl_of(header("v2-ssl-cn", client_info(tls=PLAIN))).value_of(Type.SSL_CN) is None
    umlaut = evolve(ALICE, client_name="B\u00e4rbel")
    assert (
        ssl_of(header("v2-ssl-cn", client_info(tls=umlaut))).value_of(Type.SSL_CN) == "B\u00e4rbel".encode()
    )


def test_known_facts_of_our_certificate_are_sent() -> None:
    requested = ("cert-key", "cert-sig")
    ssl_tlv_known = ssl_of(
        header("v2", client_info(tls=evolve(PLAIN, certificate=OUR_CERTIFICATE)), *requested)
    )
    assert ssl_tlv_known.value_of(Type.SSL_KEY_ALG) == b"RSA2048"
    assert ssl_tlv_known.value_of(Type.SSL_SIG_ALG) == b"RSA-SHA256"
    without_algorithms = evolve(OUR_CERTIFICATE, key_algorithm="", signature_algorithm="")
    for facts in (PLAIN, evolve(PLAIN, certificate=without_algorithms)):
        ssl_tlv = ssl_of(header("v2", client_info(tls=facts), *requested))
        assert [tlv.type for tlv in ssl_tlv.extensions] == [Type.SSL_VERSION]


def test_requested_facts_of_our_certificate_are_sent() -> None:
    client = client_info(tls=evolve(PLAIN, certificate=OUR_CERTIFICATE))
    for requested, kind in (("cert-key", Type.SSL_KEY_ALG), ("cert-sig", Type.SSL_SIG_ALG), ("ssl-cipher", Type.SSL_CIPHER)):  # fmt: skip
        ssl_tlv = ssl_of(header("v2-ssl", client, requested))
        assert [tlv.type for tlv in ssl_tlv.extensions] == [Type.SSL_VERSION, kind]


def test_client_certificate_is_sent_if_requested() -> None:
    client = client_info(tls=ALICE, certificate=b"der" * 300)
    assert ssl_of(header("v2-ssl", client, "client-cert")).value_of(Type.SSL_CLIENT_CERT) == b"der" * 300
    assert ssl_of(header("v2-ssl", client)).value_of(Type.SSL_CLIENT_CERT) is None
    without_certificate = client_info(tls=PLAIN, certificate=b"der")
    assert ssl_of(header("v2-ssl", without_certificate, "client-cert")).value_of(Type.SSL_CLIENT_CERT) is None


# Forwarded extensions


def client_from_header(*received_tlvs: Tlv, **facts: Any) -> ClientInfo:
    """Return a client that a received header with these extensions describes."""
    client = client_info(**facts)
    client.apply_proxy_header(
        HeaderV2(
            command=Command.PROXY, protocol=Protocol.TCP4, source=("127.0.0.1", 52140),
            destination=("127.0.0.1", 22002), tlvs=received_tlvs,
        )
    )  # fmt: skip
    return client


SPECIAL, OTHER = Tlv(0xEA, b"\x01vpce-0123"), Tlv(Type.NETNS, b"blue")
NAMED = Tlv(Type.AUTHORITY, b"received.example")
SSL_BEFORE_PROXY = format_ssl(
    Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.2"),))
)


def test_received_tlvs_are_forwarded_if_requested() -> None:
    client = client_from_header(SPECIAL, NAMED, OTHER)
    assert read(header("v2", client, forward=True)).tlvs == (SPECIAL, NAMED, OTHER)
    assert read(header("v2", client)).tlvs == ()


def test_version_1_forwards_no_tlvs() -> None:
    assert header("v1", client_from_header(SPECIAL), forward=True) == header("v1")


def test_own_tlvs_replace_received_ones() -> None:
    client = client_from_header(
        NAMED, SPECIAL, Tlv(Type.UNIQUE_ID, b"theirs"), SSL_BEFORE_PROXY, Tlv(Type.ALPN, b"pop3"), id=0x2A,
        tls=evolve(PLAIN, alpn="imap"), authority="own.example",
    )  # fmt: skip
    result = tlvs(header("v2-ssl", client, "authority", "unique-id", "alpn", forward=True))
    assert result == {
        Type.ALPN: b"imap",
        Type.AUTHORITY: b"own.example",
        Type.UNIQUE_ID: b"2a",
        Type.SSL: format_ssl(
            Ssl(client=Client.SSL, verify=0, extensions=(Tlv(Type.SSL_VERSION, b"TLSv1.3"),))
        ).value,
        SPECIAL.type: SPECIAL.value,
    }


def test_received_ssl_tlv_is_forwarded_without_own_tls() -> None:
    client = client_from_header(SSL_BEFORE_PROXY)
    assert tlvs(header("v2-ssl", client, forward=True)) == {Type.SSL: SSL_BEFORE_PROXY.value}
    assert tlvs(header("v2-ssl", client)) == {Type.SSL: bytes(5)}


def test_checksum_and_padding_are_not_forwarded() -> None:
    client = client_from_header(Tlv(Type.CRC32C, b"\1\2\3\4"), Tlv(Type.NOOP, bytes(40)), SPECIAL)
    assert read(header("v2", client, forward=True)).tlvs == (SPECIAL,)
    # Our own checksum, because `read` would reject the received one.
    first, second = read(header("v2", client, "crc32c", forward=True)).tlvs
    assert (first.type, second) == (Type.CRC32C, SPECIAL)


@pytest.mark.parametrize(
    "invalid",
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
def test_invalid_tlvs_are_not_forwarded(invalid: Tlv) -> None:
    """Servers end the connection when they receive such an extension."""
    assert read(header("v2", client_from_header(invalid, SPECIAL), forward=True)).tlvs == (SPECIAL,)


@pytest.mark.parametrize(
    ("alpn", "requested", "is_forwarded"), [(b"imap", (), True), (b"h2", (), False), (b"h2", ("alpn",), True)]
)
def test_received_alpn_follows_rule_of_own_alpn(
    alpn: bytes, requested: tuple[str, ...], *, is_forwarded: bool
) -> None:
    client = client_from_header(Tlv(Type.ALPN, alpn))
    assert (Type.ALPN in tlvs(header("v2", client, *requested, forward=True))) == is_forwarded


# Length


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("size", [400, 536, 1000, 4000])
def test_too_long_tlv_is_left_out(family: int, size: int) -> None:
    host = "127.0.0.1" if family == 4 else "::1"
    client = client_from_header(Tlv(0xE0, bytes(size)), SPECIAL, tls=ALICE)
    client.source, client._destination = (host, 1), (host, 2)
    data = header("v2-ssl", client, forward=True)
    assert len(data) <= 536
    assert (0xE0 in tlvs(data)) == (size == 400)
    assert SPECIAL.type in tlvs(data)
    assert ssl_of(data).value_of(Type.SSL_VERSION) == b"TLSv1.3"


def test_longest_header_has_536_bytes() -> None:
    fixed = len(header("v2"))
    for size, is_sent in ((536 - fixed - 3, True), (536 - fixed - 2, False)):
        data = header("v2", client_from_header(Tlv(0xE0, bytes(size))), forward=True)
        assert len(data) == (536 if is_sent else fixed)


def test_ssl_tlv_is_kept_when_others_are_dropped() -> None:
    sni = ".".join(["a" * 60] * 4)
    client = client_from_header(
        *(Tlv(kind, bytes(90)) for kind in range(0xE0, 0xE8)),
        tls=evolve(ALICE, alpn="imap"),
        authority=sni,
        id=1,
    )
    for requested in ((), ("crc32c",), ("authority", "alpn", "unique-id", "ssl-cipher")):
        data = header("v2-ssl-cn", client, *requested, forward=True)
        assert len(data) <= 536
        assert ssl_of(data).value_of(Type.SSL_CN) == b"alice@example.com"


@pytest.mark.parametrize("requested", [(), ("crc32c",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("length", range(440, 520))
def test_too_long_client_name_leaves_ssl_tlv(requested: tuple[str, ...], host: str, length: int) -> None:
    client = client_info((host, 1), (host, 2), tls=evolve(ALICE, client_name="a" * length))
    data = header("v2-ssl-cn", client, *requested)
    assert len(data) <= 536
    assert ssl_of(data).value_of(Type.SSL_VERSION) == b"TLSv1.3"


@pytest.mark.parametrize("requested", [(), ("crc32c",)])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("length", [*range(3990, 4060), 5000, 70000])
def test_header_with_certificate_has_4096_bytes_at_most(
    requested: tuple[str, ...], host: str, length: int
) -> None:
    client = client_info((host, 1), (host, 2), tls=ALICE, certificate=bytes(length))
    data = header("v2-ssl", client, "client-cert", *requested)
    assert len(data) <= 4096
    ssl_tlv = ssl_of(data)
    assert ssl_tlv.value_of(Type.SSL_VERSION) == b"TLSv1.3"
    assert ssl_tlv.client == Client.SSL | Client.CERT_CONN | Client.CERT_SESS
    if length == 3990:
        assert ssl_tlv.value_of(Type.SSL_CLIENT_CERT) == bytes(length)


any_tlv = st.builds(
    Tlv,
    st.sampled_from([*set(Type) - {Type.SSL, Type.CRC32C, Type.AUTHORITY, Type.UNIQUE_ID}, 0xE0, 0xF0]),
    st.binary(max_size=600),
)


@given(
    kind=st.sampled_from(["v2", "v2-ssl", "v2-ssl-cn"]),
    requested=st.sets(st.sampled_from(ALL_TLVS)),
    client_name=st.none() | st.text(min_size=1, max_size=300),
    sni=st.none() | st.text(max_size=300),
    alpn=st.none() | st.text(min_size=1, max_size=255),
    received_tlvs=st.lists(any_tlv, max_size=4, unique_by=lambda tlv: tlv.type),
)
def test_any_header_is_readable_and_within_limit(
    *,
    kind: str,
    requested: set[str],
    client_name: str | None,
    sni: str | None,
    alpn: str | None,
    received_tlvs: list[Tlv],
) -> None:
    facts = evolve(PLAIN, alpn=alpn, has_client_certificate=client_name is not None, client_name=client_name)  # fmt: skip
    data = header(
        kind,
        client_from_header(*received_tlvs, tls=facts, certificate=b"der" * 100),
        *requested,
        forward=True,
    )
    assert len(data) <= (4096 if "client-cert" in requested else 536)
    assert (Type.SSL in tlvs(data)) >= (kind != "v2")
