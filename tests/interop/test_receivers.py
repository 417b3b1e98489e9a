"""PROXY headers of mailproxy as Postfix, nginx and Dovecot read them, by their logs and by their effect on clients."""

from __future__ import annotations

import imaplib
import itertools
import re
import socket
import ssl
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from mailproxy.protocol.proxy_header import (
    Client as Bits,
)
from mailproxy.protocol.proxy_header import (
    Ssl,
    Tlv,
    Type,
    format_ssl,
    format_tcp,
    format_tlvs,
    parse_ssl,
)
from tests.support.interop.entry_paths import HOST6, free_ports
from tests.support.interop.header_senders import (
    LONGEST_NAME,
    NAME,
    Client,
    ClientCertificates,
    HeaderSender,
    SendProxyVariant,
)
from tests.support.interop.receivers import (
    LOGGED,
    DovecotReceiver,
    Login,
    NginxReceiver,
    PostfixReceiver,
    RawReceiver,
    ReceivedHeader,
)
from tests.support.interop.scripted_session import HOST
from tests.support.ports import free_port
from tests.support.programs.dovecot import NAMES_FROM_CERTIFICATES, PASSWORD, Dovecot, Listener, MailStore
from tests.support.programs.nginx import Nginx
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.peers

ALL_TLVS = '"authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key"'
VARIANTS = {
    "v1": 'send_proxy = "v1"',
    "v2": 'send_proxy = "v2"',
    "v2-ssl": 'send_proxy = "v2-ssl"',
    "v2-ssl-cn": 'send_proxy = "v2-ssl-cn"',
    "all-tlvs": f'send_proxy = "v2-ssl-cn"\nsend_proxy_tlvs = [{ALL_TLVS}]',
    "all-tlvs-forwarded": f'send_proxy = "v2-ssl-cn"\nsend_proxy_tlvs = [{ALL_TLVS}]\nforward_tlvs = true',
}
WITH_CERTIFICATE = f'send_proxy = "v2-ssl-cn"\nsend_proxy_tlvs = [{ALL_TLVS}, "client-cert"]'
FORWARDING = 'send_proxy = "v2-ssl-cn"\nforward_tlvs = true'
LONGEST_CN = "名" * 21 + "!"  # 64 bytes, the maximum length (X.520)
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")


all_variants = pytest.mark.parametrize("variant", VARIANTS)
both_binds = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


def proxy_header(host: str, *tlvs: Tlv) -> bytes:
    """Return the PROXY header of a proxy in front, for a client at this address."""
    server = "2001:db8::2" if ":" in host else "198.51.100.2"
    return format_tcp((host, 4711), (server, 143), format_tlvs(tlvs))


def certificate_tlv(name: str) -> Tlv:
    """Return the extension by which a proxy in front reports a client certificate."""
    bits = Bits.SSL | Bits.CERT_CONN | Bits.CERT_SESS
    return format_ssl(Ssl(client=bits, verify=0, extensions=(Tlv(Type.SSL_CN, name.encode()),)))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificates:
    return ClientCertificates.new(tmp_path_factory.mktemp("certificates"))


@contextmanager
def run_sender(
    variants: Mapping[str, SendProxyVariant], certificates: ClientCertificates
) -> Iterator[HeaderSender]:
    with (
        tempfile.TemporaryDirectory() as folder,
        HeaderSender(variants, certificates, Path(folder)) as running,
    ):
        yield running


# Each test has its own addresses, which distinguish the clients in logs.
_numbers = itertools.count(1)


@pytest.fixture
def client_host() -> str:
    """Return the address of a client on loopback."""
    return "127.9.{}.{}".format(*divmod(next(_numbers), 256))


@pytest.fixture
def proxy_host() -> str:
    """Return the address of a proxy in front."""
    return "127.8.{}.{}".format(*divmod(next(_numbers), 256))


@pytest.fixture
def remote_host() -> str:
    """Return the address of a client of the proxy in front."""
    return "198.18.{}.{}".format(*divmod(next(_numbers), 256))


# Postfix


@pytest.fixture(scope="module")
def postfix_receiver(certificates: ClientCertificates) -> Iterator[PostfixReceiver]:
    ports = free_ports(["plain", "proxied"])
    with Postfix(HOST, plain_port=ports["plain"], proxied_port=ports["proxied"]) as postfix:
        with run_sender(
            {variant: SendProxyVariant(postfix.proxied_address, VARIANTS[variant]) for variant in VARIANTS},
            certificates,
        ) as proxy:
            yield PostfixReceiver(postfix, proxy)
        assert "haproxy read" not in postfix.log.text(), repr(postfix.log)


@both_binds
@all_variants
def test_postfix_logs_client_and_accepts_its_mail(
    postfix_receiver: PostfixReceiver, variant: str, tls: bool, client_host: str
) -> None:
    postfix_receiver.deliver(variant, Client(host=client_host, tls=tls))
    postfix_receiver.wait_for_client(client_host)


@all_variants
def test_postfix_reads_the_longest_header(
    postfix_receiver: PostfixReceiver,
    variant: str,
    certificates: ClientCertificates,
    proxy_host: str,
    remote_host: str,
) -> None:
    postfix_receiver.deliver(variant, client_with_longest_names(certificates, proxy_host, remote_host))
    postfix_receiver.wait_for_client(remote_host)


def client_with_longest_names(certificates: ClientCertificates, proxy_host: str, remote_host: str) -> Client:
    """Return a client whose names have the maximum length, behind a proxy that adds extensions."""
    header = proxy_header(
        remote_host, Tlv(0xE0, bytes(400)), Tlv(0xE1, bytes(100)), Tlv(Type.UNIQUE_ID, bytes(128))
    )
    return Client(
        host=proxy_host,
        header=header,
        tls=True,
        server_name=LONGEST_NAME,
        alpn=["imap"],
        certificate=certificates.path(LONGEST_CN),
    )


@both_binds
@all_variants
def test_postfix_relays_for_local_clients(
    postfix_receiver: PostfixReceiver, variant: str, tls: bool, client_host: str
) -> None:
    assert postfix_receiver.relays(variant, Client(host=client_host, tls=tls))


@both_binds
@all_variants
def test_postfix_does_not_relay_for_remote_clients(
    postfix_receiver: PostfixReceiver, variant: str, tls: bool, proxy_host: str, remote_host: str
) -> None:
    assert not postfix_receiver.relays(
        variant, Client(host=proxy_host, header=proxy_header(remote_host), tls=tls)
    )
    postfix_receiver.wait_for_client(remote_host)


@all_variants
def test_postfix_logs_ipv6_client(postfix_receiver: PostfixReceiver, variant: str, proxy_host: str) -> None:
    host = f"2001:db8::{proxy_host.rpartition('.')[2]}"
    assert not postfix_receiver.relays(variant, Client(host=proxy_host, header=proxy_header(host)))
    postfix_receiver.wait_for_client(host)


@all_variants
def test_mapped_address_is_sent_as_ipv4(
    postfix_receiver: PostfixReceiver, variant: str, proxy_host: str, remote_host: str
) -> None:
    header = f"PROXY TCP6 ::ffff:{remote_host} ::ffff:198.51.100.2 4711 25\r\n"
    assert not postfix_receiver.relays(variant, Client(host=proxy_host, header=header.encode()))
    postfix_receiver.wait_for_client(remote_host)


@all_variants
@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["LOCAL", "UNKNOWN"])
def test_header_without_client_keeps_address_of_proxy(
    postfix_receiver: PostfixReceiver, variant: str, header: bytes, proxy_host: str
) -> None:
    assert postfix_receiver.relays(variant, Client(host=proxy_host, header=header))
    postfix_receiver.wait_for_client(proxy_host)


# nginx


@pytest.fixture(scope="module")
def nginx_receiver(
    certificates: ClientCertificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NginxReceiver]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with (
        socket.create_server((HOST, 0)) as server,
        Nginx(HOST, port, upstream=server.getsockname(), folder=folder) as nginx,
    ):
        server.settimeout(TIMEOUT_S)
        with run_sender(
            {variant: SendProxyVariant(nginx.address, VARIANTS[variant]) for variant in VARIANTS},
            certificates,
        ) as proxy:
            yield NginxReceiver(nginx, proxy, server)


# Before version 1.23.3, nginx reads 107 bytes, in which not all extensions fit.
short_variants = pytest.mark.parametrize("variant", ["v1", "v2", "v2-ssl", "v2-ssl-cn"])


@both_binds
@short_variants
def test_nginx_reads_both_addresses(
    nginx_receiver: NginxReceiver, certificates: ClientCertificates, variant: str, tls: bool, client_host: str
) -> None:
    certificate = certificates.path("alice@mail.example") if tls else None
    logged, expected = nginx_receiver.logged_and_expected(
        variant, Client(host=client_host, tls=tls, certificate=certificate)
    )
    assert logged == expected


@both_binds
@short_variants
def test_nginx_reads_both_ipv6_addresses(
    nginx_receiver: NginxReceiver, certificates: ClientCertificates, variant: str, tls: bool
) -> None:
    certificate = certificates.path("alice@mail.example") if tls else None
    logged, expected = nginx_receiver.logged_and_expected(
        variant, Client(host=HOST6, tls=tls, certificate=certificate)
    )
    assert logged == expected


# Dovecot

TLS_REQUIRED = {"ssl": "required", "disable_plaintext_auth": "yes", **NAMES_FROM_CERTIFICATES}


@contextmanager
def run_dovecot_receiver(
    certificates: ClientCertificates,
    header_keys: Mapping[str, str],
    settings: Mapping[str, str],
    *,
    process_per_session: bool,
) -> Iterator[DovecotReceiver]:
    ports = free_ports(["clear", "tls"])
    listeners = [Listener(ports["clear"], proxied=True), Listener(ports["tls"], tls=True, proxied=True)]
    users = [f"user{n}" for n in range(300)]
    to_tls = f'tls = {{ ca = "{certificates.ca}", server_name = "localhost" }}'
    with MailStore() as store:
        dovecot = Dovecot(
            HOST,
            *listeners,
            users=users,
            store=store,
            certificate=certificates.servers,
            settings={"login_log_format_elements": LOGGED, **settings},
            process_per_session=process_per_session,
        )
        variants = {variant: SendProxyVariant(dovecot.address, text) for variant, text in header_keys.items()}
        variants["to-tls"] = SendProxyVariant((HOST, ports["tls"]), f"{VARIANTS['v2-ssl']}\n{to_tls}")
        with dovecot, run_sender(variants, certificates) as proxy:
            yield DovecotReceiver(dovecot, proxy, iter(users))
            assert not re.search("Panic|Fatal|killed with signal|Error", dovecot.log.text()), repr(
                dovecot.log
            )


@pytest.fixture(scope="module")
def dovecot_receiver(certificates: ClientCertificates) -> Iterator[DovecotReceiver]:
    """Run a Dovecot whose sessions share login processes, so that a crash ends the sessions of others, too."""
    with run_dovecot_receiver(
        certificates, VARIANTS | {"forwarded": FORWARDING}, {}, process_per_session=False
    ) as running:
        yield running


@pytest.fixture(scope="module")
def tls_receiver(certificates: ClientCertificates) -> Iterator[DovecotReceiver]:
    """Run a Dovecot that demands TLS for logins, and accepts client certificates in place of passwords."""
    with run_dovecot_receiver(
        certificates, VARIANTS | {"forwarded": FORWARDING}, TLS_REQUIRED, process_per_session=True
    ) as running:
        yield running


@both_binds
@all_variants
def test_dovecot_logs_client_and_its_tls(
    dovecot_receiver: DovecotReceiver, variant: str, tls: bool, client_host: str
) -> None:
    login = dovecot_receiver.log_in(variant, Client(host=client_host, tls=tls))
    has_tls_facts = tls and variant not in ("v1", "v2")
    assert (login.client, login.destination) == (client_host, HOST)
    assert login.security == ("secured" if has_tls_facts else "")


@both_binds
@all_variants
def test_dovecot_logs_ipv6_client(dovecot_receiver: DovecotReceiver, variant: str, tls: bool) -> None:
    login = dovecot_receiver.log_in(variant, Client(host=HOST6, tls=tls))
    assert (login.client, login.destination) == (HOST6, HOST6)


@both_binds
def test_dovecot_accepts_tls_after_the_header(
    dovecot_receiver: DovecotReceiver, tls: bool, client_host: str
) -> None:
    login = dovecot_receiver.log_in("to-tls", Client(host=client_host, tls=tls))
    assert (login.client, login.security) == (client_host, "TLS")


@all_variants
@pytest.mark.parametrize("alpn", [["imap"], ["h2", "imap"]], ids=["imap", "imap-or-h2"])
def test_dovecot_accepts_alpn_with_imap(
    dovecot_receiver: DovecotReceiver, variant: str, alpn: list[str], client_host: str
) -> None:
    assert (
        dovecot_receiver.log_in(variant, Client(host=client_host, tls=True, alpn=alpn)).client == client_host
    )


@pytest.mark.parametrize("variant", ["v2", "v2-ssl", "v2-ssl-cn", "forwarded"])
def test_dovecot_accepts_client_with_other_alpn(
    dovecot_receiver: DovecotReceiver, variant: str, client_host: str
) -> None:
    assert (
        dovecot_receiver.log_in(variant, Client(host=client_host, tls=True, alpn=["h2"])).client
        == client_host
    )


def test_dovecot_reads_the_longest_header(
    dovecot_receiver: DovecotReceiver, certificates: ClientCertificates, proxy_host: str, remote_host: str
) -> None:
    login = dovecot_receiver.log_in(
        "all-tlvs-forwarded", client_with_longest_names(certificates, proxy_host, remote_host)
    )
    assert (login.client, login.security) == (remote_host, "secured")


def test_dovecot_logs_the_server_name(tls_receiver: DovecotReceiver, client_host: str) -> None:
    login = tls_receiver.log_in("all-tlvs", Client(host=client_host, tls=True, server_name=NAME))
    assert login == Login(client=client_host, security="secured", name=NAME)


@pytest.mark.parametrize("variant", ["v2-ssl", "v2-ssl-cn", "all-tlvs", "forwarded"])
def test_required_tls_is_satisfied_by_tls_of_proxy(
    tls_receiver: DovecotReceiver, variant: str, client_host: str
) -> None:
    assert tls_receiver.log_in(variant, Client(host=client_host, tls=True)).security == "secured"


@all_variants
def test_required_tls_refuses_login_through_clear_bind(
    tls_receiver: DovecotReceiver, variant: str, client_host: str
) -> None:
    with tls_receiver.session(variant, Client(host=client_host)) as imap:
        assert "LOGINDISABLED" in imap.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            imap.login(next(tls_receiver.users), PASSWORD)


def test_name_in_certificate_is_the_user(
    tls_receiver: DovecotReceiver, certificates: ClientCertificates, client_host: str
) -> None:
    user = next(tls_receiver.users)
    client = Client(host=client_host, tls=True, certificate=certificates.path(user))
    login = tls_receiver.log_in_by_certificate("v2-ssl-cn", client, user)
    assert login == Login(method="EXTERNAL", client=client_host, security="secured", name="")


@pytest.mark.parametrize("variant", ["v2-ssl-cn", "all-tlvs", "forwarded"])
def test_client_without_certificate_is_not_logged_in(
    tls_receiver: DovecotReceiver, variant: str, client_host: str
) -> None:
    assert tls_receiver.log_in_by_certificate(variant, Client(host=client_host, tls=True), "nobody") is None


def test_name_is_sent_with_v2_ssl_cn_only(
    tls_receiver: DovecotReceiver, certificates: ClientCertificates, client_host: str
) -> None:
    client = Client(host=client_host, tls=True, certificate=certificates.path(next(tls_receiver.users)))
    assert tls_receiver.log_in_by_certificate("v2-ssl", client, "nobody") is None


@both_binds
@pytest.mark.parametrize("variant", ["v2-ssl", "v2-ssl-cn", "all-tlvs"])
def test_certificate_from_outer_proxy_is_not_forwarded(
    tls_receiver: DovecotReceiver, variant: str, tls: bool, proxy_host: str, remote_host: str
) -> None:
    header = proxy_header(remote_host, certificate_tlv(next(tls_receiver.users)))
    assert (
        tls_receiver.log_in_by_certificate(variant, Client(host=proxy_host, header=header, tls=tls), "nobody")
        is None
    )


def test_certificate_from_outer_proxy_is_forwarded_if_configured(
    tls_receiver: DovecotReceiver, proxy_host: str, remote_host: str
) -> None:
    """TLS was terminated at the proxy in front, and forward_tlvs trusts it with the names of users."""
    user = next(tls_receiver.users)
    client = Client(host=proxy_host, header=proxy_header(remote_host, certificate_tlv(user)))
    login = tls_receiver.log_in_by_certificate("forwarded", client, user)
    assert login == Login(
        method="EXTERNAL", client=remote_host, destination="198.51.100.2", security="secured", name=""
    )


def test_own_tls_overrides_facts_of_outer_proxy(
    tls_receiver: DovecotReceiver, certificates: ClientCertificates, proxy_host: str, remote_host: str
) -> None:
    user, other = next(tls_receiver.users), next(tls_receiver.users)
    header = proxy_header(remote_host, certificate_tlv(other))
    client_without_certificate = Client(host=proxy_host, header=header, tls=True)
    assert tls_receiver.log_in_by_certificate("forwarded", client_without_certificate, "nobody") is None
    assert tls_receiver.log_in_by_certificate(
        "forwarded", attrs.evolve(client_without_certificate, certificate=certificates.path(user)), user
    )


def test_name_with_zero_byte_is_not_forwarded(
    tls_receiver: DovecotReceiver, proxy_host: str, remote_host: str
) -> None:
    header = proxy_header(remote_host, certificate_tlv(f"{next(tls_receiver.users)}\0@elsewhere.example"))
    assert (
        tls_receiver.log_in_by_certificate("forwarded", Client(host=proxy_host, header=header), "nobody")
        is None
    )


HOSTILE = {
    "empty ALPN": [Tlv(Type.ALPN, b"")],
    "ALPN of another protocol": [Tlv(Type.ALPN, b"pop3")],
    "ALPN of 255 bytes": [Tlv(Type.ALPN, b"a" * 255)],
    "ALPN with a zero byte": [Tlv(Type.ALPN, b"imap\0")],
    "ALPN twice": [Tlv(Type.ALPN, b"imap"), Tlv(Type.ALPN, b"")],
    "empty authority": [Tlv(Type.AUTHORITY, b"")],
    "authority that is no DNS name": [Tlv(Type.AUTHORITY, b"no name, at all")],
    "authority that is no UTF-8": [Tlv(Type.AUTHORITY, b"\xff\xfe")],
    "authority with a zero byte": [Tlv(Type.AUTHORITY, b"mail.example\0.example")],
    "authority of 255 bytes": [Tlv(Type.AUTHORITY, b"a" * 255)],
    "authority twice": [Tlv(Type.AUTHORITY, b"a.example"), Tlv(Type.AUTHORITY, b"b.example")],
    "unique id of 128 bytes": [Tlv(Type.UNIQUE_ID, b"\0" * 128)],
    "empty unique id": [Tlv(Type.UNIQUE_ID, b"")],
    "namespace": [Tlv(Type.NETNS, b"\xff")],
    "NOOP": [Tlv(Type.NOOP, b"x")],
    "much NOOP": [Tlv(Type.NOOP, bytes(1024))] * 3,
    "anybody's own": [Tlv(0xE0, b"x")],
    "anybody's own, long": [Tlv(0xE0, bytes(5000))],
    "anybody's own, many": [Tlv(0xE0, b"x")] * 1000,
    "empty SSL": [Tlv(Type.SSL, b"")],
    "SSL of 4 bytes": [Tlv(Type.SSL, b"\x07\0\0\0")],
    "SSL with half an extension": [Tlv(Type.SSL, b"\x07\0\0\0\0\x21\0")],
    "SSL with an extension over its end": [Tlv(Type.SSL, b"\x07\0\0\0\0\x21\0\xffTLS")],
    "SSL with an empty name": [certificate_tlv("")],
    "SSL with a long name": [certificate_tlv("a" * 3000)],
    "SSL with all bits": [Tlv(Type.SSL, b"\xff" * 5)],
    "SSL twice": [certificate_tlv("a"), Tlv(Type.SSL, bytes(5))],
    "parts of SSL outside of it": [Tlv(kind, b"x") for kind in range(0x21, 0x29)],
    "all types, empty": [Tlv(kind, b"") for kind in range(256) if kind != Type.CRC32C],
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_extensions_do_not_disturb_dovecot(
    dovecot_receiver: DovecotReceiver, hostile: str, proxy_host: str, remote_host: str, client_host: str
) -> None:
    header = proxy_header(remote_host, *HOSTILE[hostile])
    with dovecot_receiver.session("v2", Client(host=client_host)) as waiting_session:
        assert (
            dovecot_receiver.log_in("forwarded", Client(host=proxy_host, header=header)).client == remote_host
        )
        assert (
            dovecot_receiver.log_in("forwarded", Client(host=proxy_host, header=header, tls=True)).client
            == remote_host
        )
        waiting_session.login(next(dovecot_receiver.users), PASSWORD)


def test_header_with_wrong_checksum_is_refused(
    dovecot_receiver: DovecotReceiver, proxy_host: str, remote_host: str
) -> None:
    header = proxy_header(remote_host, Tlv(Type.CRC32C, b"\xde\xad\xbe\xef"))
    with (
        dovecot_receiver.proxy.connect("forwarded", Client(host=proxy_host, header=header)) as connection,
        suppress(ConnectionResetError),
    ):
        assert connection.recv(100) == b""
    dovecot_receiver.proxy.log.wait_for(re.compile(rf".* {re.escape(proxy_host)}:\d+ header-invalid .*"))
    assert remote_host not in dovecot_receiver.dovecot.log.text()


# Sent bytes


@pytest.fixture(scope="module")
def raw_receiver(certificates: ClientCertificates) -> Iterator[RawReceiver]:
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        address = listener.getsockname()
        variants = {variant: SendProxyVariant(address, text) for variant, text in VARIANTS.items()}
        variants["with-certificate"] = SendProxyVariant(address, WITH_CERTIFICATE)
        to_tls = f'tls = {{ ca = "{certificates.ca}", server_name = "localhost" }}'
        variants["to-tls"] = SendProxyVariant(address, f"{VARIANTS['all-tlvs']}\n{to_tls}")
        with run_sender(variants, certificates) as proxy:
            yield RawReceiver(proxy, listener)


@all_variants
def test_every_header_fits_in_536_bytes(
    raw_receiver: RawReceiver,
    variant: str,
    certificates: ClientCertificates,
    proxy_host: str,
    remote_host: str,
) -> None:
    for host in (remote_host, "2001:db8::1"):
        with raw_receiver.receive(
            variant, client_with_longest_names(certificates, proxy_host, host)
        ) as received:
            assert received.header_bytes <= 536


def test_tls_facts_have_precedence_in_long_header(
    raw_receiver: RawReceiver, certificates: ClientCertificates, proxy_host: str, remote_host: str
) -> None:
    with raw_receiver.receive(
        "all-tlvs-forwarded", client_with_longest_names(certificates, proxy_host, remote_host)
    ) as received:
        assert parse_ssl(received.tlvs[Type.SSL]).value_of(Type.SSL_CN) == LONGEST_CN.encode()
        assert 0xE0 not in received.tlvs


@both_binds
@pytest.mark.parametrize("variant", [*VARIANTS, "with-certificate"])
def test_header_is_one_segment(
    raw_receiver: RawReceiver, variant: str, certificates: ClientCertificates, tls: bool, client_host: str
) -> None:
    client = Client(
        host=client_host, tls=tls, server_name=LONGEST_NAME, certificate=certificates.path(LONGEST_CN)
    )
    with raw_receiver.receive(variant, client) as received:
        assert len(received.first) == received.header_bytes
        assert received.segments == 1


@both_binds
def test_header_precedes_tls(
    raw_receiver: RawReceiver, certificates: ClientCertificates, tls: bool, client_host: str
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificates.pem)
    client = Client(host=client_host, tls=tls)
    with (
        raw_receiver.proxy.connect("to-tls", client) as client_end,
        raw_receiver.listener.accept()[0] as connection,
    ):
        received = ReceivedHeader.receive_from(connection)
        # The ClientHello may have arrived, too.
        assert received.first[received.header_bytes :][:1] in (b"", b"\x16")
        with server.wrap_socket(connection, server_side=True) as server_end:
            server_end.sendall(b"* OK ready\r\n")
            assert client_end.recv(100) == b"* OK ready\r\n"


@pytest.mark.parametrize("variant", ["v2", "v2-ssl", "v2-ssl-cn"])
@pytest.mark.parametrize("alpn", ["imap", "h2"])
def test_alpn_of_the_protocol_is_sent(
    raw_receiver: RawReceiver, variant: str, alpn: str, client_host: str
) -> None:
    with raw_receiver.receive(variant, Client(host=client_host, tls=True, alpn=[alpn])) as received:
        assert received.tlvs.get(Type.ALPN) == (b"imap" if alpn == "imap" else None)
