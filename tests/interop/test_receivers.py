"""The headers that mailproxy sends, as Postfix, nginx and Dovecot understand them: seen in their logs, felt by clients."""

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

EVERYTHING = '"authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key"'
SENDS = {
    "v1": 'send_proxy = "v1"',
    "v2": 'send_proxy = "v2"',
    "v2-ssl": 'send_proxy = "v2-ssl"',
    "v2-ssl-cn": 'send_proxy = "v2-ssl-cn"',
    "everything": f'send_proxy = "v2-ssl-cn"\nsend_proxy_tlvs = [{EVERYTHING}]',
    "everything-passed-on": f'send_proxy = "v2-ssl-cn"\nsend_proxy_tlvs = [{EVERYTHING}]\nforward_tlvs = true',
}
WITH_CERTIFICATE = f'send_proxy = "v2-ssl-cn"\nsend_proxy_tlvs = [{EVERYTHING}, "client-cert"]'
PASSED_ON = 'send_proxy = "v2-ssl-cn"\nforward_tlvs = true'
LONGEST_CN = "名" * 21 + "!"  # 64 bytes, as long as may be (X.520)
LOCAL = bytes.fromhex("0d0a0d0a000d0a515549540a 20 00 0000")


every_send = pytest.mark.parametrize("send", SENDS)
every_bind = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


def introduction(host: str, *tlvs: Tlv) -> bytes:
    """What a proxy in front says of its client."""
    server = "2001:db8::2" if ":" in host else "198.51.100.2"
    return format_tcp((host, 4711), (server, 143), format_tlvs(tlvs))


def shown(name: str) -> Tlv:
    """What a proxy in front says of a client that has shown its certificate."""
    bits = Bits.SSL | Bits.CERT_CONN | Bits.CERT_SESS
    return format_ssl(Ssl(client=bits, verify=0, extensions=(Tlv(Type.SSL_CN, name.encode()),)))


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> ClientCertificates:
    return ClientCertificates.new(tmp_path_factory.mktemp("papers"))


@contextmanager
def introducer(ways: Mapping[str, SendProxyVariant], papers: ClientCertificates) -> Iterator[HeaderSender]:
    with tempfile.TemporaryDirectory() as folder, HeaderSender(ways, papers, Path(folder)) as running:
        yield running


# Every test has addresses of its own: by them the logs tell one client from another.
_numbers = itertools.count(1)


@pytest.fixture
def local() -> str:
    """A client on loopback."""
    return "127.9.{}.{}".format(*divmod(next(_numbers), 256))


@pytest.fixture
def outer() -> str:
    """A proxy in front."""
    return "127.8.{}.{}".format(*divmod(next(_numbers), 256))


@pytest.fixture
def far() -> str:
    """A client of the proxy in front."""
    return "198.18.{}.{}".format(*divmod(next(_numbers), 256))


# Postfix


@pytest.fixture(scope="module")
def mail(papers: ClientCertificates) -> Iterator[PostfixReceiver]:
    ports = free_ports(["plain", "proxied"])
    with Postfix(HOST, plain_port=ports["plain"], proxied_port=ports["proxied"]) as postfix:
        with introducer(
            {send: SendProxyVariant(postfix.proxied_address, SENDS[send]) for send in SENDS}, papers
        ) as proxy:
            yield PostfixReceiver(postfix, proxy)
        assert "haproxy read" not in postfix.log.text(), repr(postfix.log)


@every_bind
@every_send
def test_postfix_knows_the_client_and_takes_its_mail(
    mail: PostfixReceiver, send: str, tls: bool, local: str
) -> None:
    mail.deliver(send, Client(host=local, tls=tls))
    mail.wait_for_client(local)


@every_send
def test_postfix_reads_a_header_in_which_everything_is_long(
    mail: PostfixReceiver, send: str, papers: ClientCertificates, outer: str, far: str
) -> None:
    mail.deliver(send, of_many_words(papers, outer, far))
    mail.wait_for_client(far)


def of_many_words(papers: ClientCertificates, outer: str, far: str) -> Client:
    """Whose names are as long as may be, with a proxy in front that adds its own."""
    header = introduction(far, Tlv(0xE0, bytes(400)), Tlv(0xE1, bytes(100)), Tlv(Type.UNIQUE_ID, bytes(128)))
    return Client(
        host=outer,
        header=header,
        tls=True,
        asks_for=LONGEST_NAME,
        alpn=["imap"],
        shows=papers.path(LONGEST_CN),
    )


@every_bind
@every_send
def test_postfix_relays_for_its_own_people(mail: PostfixReceiver, send: str, tls: bool, local: str) -> None:
    assert mail.relays(send, Client(host=local, tls=tls))


@every_bind
@every_send
def test_postfix_does_not_relay_for_others(
    mail: PostfixReceiver, send: str, tls: bool, outer: str, far: str
) -> None:
    assert not mail.relays(send, Client(host=outer, header=introduction(far), tls=tls))
    mail.wait_for_client(far)


@every_send
def test_postfix_knows_a_client_on_ipv6(mail: PostfixReceiver, send: str, outer: str) -> None:
    host = f"2001:db8::{outer.rpartition('.')[2]}"
    assert not mail.relays(send, Client(host=outer, header=introduction(host)))
    mail.wait_for_client(host)


@every_send
def test_postfix_gets_a_mapped_address_as_ipv4(
    mail: PostfixReceiver, send: str, outer: str, far: str
) -> None:
    header = f"PROXY TCP6 ::ffff:{far} ::ffff:198.51.100.2 4711 25\r\n"
    assert not mail.relays(send, Client(host=outer, header=header.encode()))
    mail.wait_for_client(far)


@every_send
@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"], ids=["LOCAL", "UNKNOWN"])
def test_postfix_gets_the_real_address_of_a_proxy_that_names_nobody(
    mail: PostfixReceiver, send: str, header: bytes, outer: str
) -> None:
    assert mail.relays(send, Client(host=outer, header=header))
    mail.wait_for_client(outer)


# nginx


@pytest.fixture(scope="module")
def stream(papers: ClientCertificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxReceiver]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    with (
        socket.create_server((HOST, 0)) as server,
        Nginx(HOST, port, upstream=server.getsockname(), folder=folder) as nginx,
    ):
        server.settimeout(TIMEOUT_S)
        with introducer(
            {send: SendProxyVariant(nginx.address, SENDS[send]) for send in SENDS}, papers
        ) as proxy:
            yield NginxReceiver(nginx, proxy, server)


# Before 1.23.3 it reads 107 bytes, in which not everything has room.
short_sends = pytest.mark.parametrize("send", ["v1", "v2", "v2-ssl", "v2-ssl-cn"])


@every_bind
@short_sends
def test_nginx_knows_both_ends(
    stream: NginxReceiver, papers: ClientCertificates, send: str, tls: bool, local: str
) -> None:
    shows = papers.path("alice@mail.example") if tls else None
    said, wanted = stream.logged_clients(send, Client(host=local, tls=tls, shows=shows))
    assert said == wanted


@every_bind
@short_sends
def test_nginx_knows_both_ends_on_ipv6(
    stream: NginxReceiver, papers: ClientCertificates, send: str, tls: bool
) -> None:
    shows = papers.path("alice@mail.example") if tls else None
    said, wanted = stream.logged_clients(send, Client(host=HOST6, tls=tls, shows=shows))
    assert said == wanted


# Dovecot

TLS_DEMANDED = {"ssl": "required", "disable_plaintext_auth": "yes", **NAMES_FROM_CERTIFICATES}


@contextmanager
def mailboxes(
    papers: ClientCertificates, sends: Mapping[str, str], settings: Mapping[str, str], *, alone: bool
) -> Iterator[DovecotReceiver]:
    ports = free_ports(["clear", "tls"])
    listeners = [Listener(ports["clear"], proxied=True), Listener(ports["tls"], tls=True, proxied=True)]
    users = [f"user{n}" for n in range(300)]
    to_tls = f'tls = {{ ca = "{papers.ca}", server_name = "localhost" }}'
    with MailStore() as store:
        dovecot = Dovecot(
            HOST,
            *listeners,
            users=users,
            store=store,
            certificate=papers.servers,
            settings={"login_log_format_elements": LOGGED, **settings},
            alone=alone,
        )
        ways = {send: SendProxyVariant(dovecot.address, text) for send, text in sends.items()}
        ways["to-tls"] = SendProxyVariant((HOST, ports["tls"]), f"{SENDS['v2-ssl']}\n{to_tls}")
        with dovecot, introducer(ways, papers) as proxy:
            yield DovecotReceiver(dovecot, proxy, iter(users))
            assert not re.search("Panic|Fatal|killed with signal|Error", dovecot.log.text()), repr(
                dovecot.log
            )


@pytest.fixture(scope="module")
def boxes(papers: ClientCertificates) -> Iterator[DovecotReceiver]:
    """Whose sessions share login processes: one that dies takes those of others with it."""
    with mailboxes(papers, SENDS | {"passed-on": PASSED_ON}, {}, alone=False) as running:
        yield running


@pytest.fixture(scope="module")
def safe(papers: ClientCertificates) -> Iterator[DovecotReceiver]:
    """Where nobody logs in without TLS, and nobody with a certificate needs a password."""
    with mailboxes(papers, SENDS | {"passed-on": PASSED_ON}, TLS_DEMANDED, alone=True) as running:
        yield running


@every_bind
@every_send
def test_dovecot_knows_the_client_and_its_tls(
    boxes: DovecotReceiver, send: str, tls: bool, local: str
) -> None:
    login = boxes.log_in(send, Client(host=local, tls=tls))
    is_told = tls and send not in ("v1", "v2")
    assert (login.client, login.destination) == (local, HOST)
    assert login.safety == ("secured" if is_told else "")


@every_bind
@every_send
def test_dovecot_knows_a_client_on_ipv6(boxes: DovecotReceiver, send: str, tls: bool) -> None:
    login = boxes.log_in(send, Client(host=HOST6, tls=tls))
    assert (login.client, login.destination) == (HOST6, HOST6)


@every_bind
def test_dovecot_speaks_tls_behind_the_header(boxes: DovecotReceiver, tls: bool, local: str) -> None:
    login = boxes.log_in("to-tls", Client(host=local, tls=tls))
    assert (login.client, login.safety) == (local, "TLS")


@every_send
@pytest.mark.parametrize("alpn", [["imap"], ["h2", "imap"]], ids=["imap", "imap-or-h2"])
def test_an_alpn_does_not_disturb_dovecot(
    boxes: DovecotReceiver, send: str, alpn: list[str], local: str
) -> None:
    assert boxes.log_in(send, Client(host=local, tls=True, alpn=alpn)).client == local


@pytest.mark.parametrize("send", ["v2", "v2-ssl", "v2-ssl-cn", "passed-on"])
def test_an_alpn_of_no_mail_does_not_disturb_dovecot(boxes: DovecotReceiver, send: str, local: str) -> None:
    assert boxes.log_in(send, Client(host=local, tls=True, alpn=["h2"])).client == local


def test_dovecot_reads_a_header_in_which_everything_is_long(
    boxes: DovecotReceiver, papers: ClientCertificates, outer: str, far: str
) -> None:
    login = boxes.log_in("everything-passed-on", of_many_words(papers, outer, far))
    assert (login.client, login.safety) == (far, "secured")


def test_dovecot_gets_the_server_name(safe: DovecotReceiver, local: str) -> None:
    login = safe.log_in("everything", Client(host=local, tls=True, asks_for=NAME))
    assert login == Login(client=local, safety="secured", name=NAME)


@pytest.mark.parametrize("send", ["v2-ssl", "v2-ssl-cn", "everything", "passed-on"])
def test_where_tls_is_demanded_that_of_the_proxy_will_do(
    safe: DovecotReceiver, send: str, local: str
) -> None:
    assert safe.log_in(send, Client(host=local, tls=True)).safety == "secured"


@every_send
def test_where_tls_is_demanded_a_clear_bind_is_none(safe: DovecotReceiver, send: str, local: str) -> None:
    with safe.session(send, Client(host=local)) as imap:
        assert "LOGINDISABLED" in imap.capabilities
        with pytest.raises(imaplib.IMAP4.error, match="PRIVACYREQUIRED"):
            imap.login(next(safe.users), PASSWORD)


def test_the_name_in_a_certificate_is_the_user(
    safe: DovecotReceiver, papers: ClientCertificates, local: str
) -> None:
    user = next(safe.users)
    client = Client(host=local, tls=True, shows=papers.path(user))
    login = safe.log_in_by_certificate("v2-ssl-cn", client, user)
    assert login == Login(method="EXTERNAL", client=local, safety="secured", name="")


@pytest.mark.parametrize("send", ["v2-ssl-cn", "everything", "passed-on"])
def test_without_a_certificate_nobody_is_known(safe: DovecotReceiver, send: str, local: str) -> None:
    assert safe.log_in_by_certificate(send, Client(host=local, tls=True), "nobody") is None


def test_only_those_who_are_to_be_told_get_the_name(
    safe: DovecotReceiver, papers: ClientCertificates, local: str
) -> None:
    client = Client(host=local, tls=True, shows=papers.path(next(safe.users)))
    assert safe.log_in_by_certificate("v2-ssl", client, "nobody") is None


@every_bind
@pytest.mark.parametrize("send", ["v2-ssl", "v2-ssl-cn", "everything"])
def test_the_word_of_a_proxy_in_front_is_not_passed_on(
    safe: DovecotReceiver, send: str, tls: bool, outer: str, far: str
) -> None:
    header = introduction(far, shown(next(safe.users)))
    assert safe.log_in_by_certificate(send, Client(host=outer, header=header, tls=tls), "nobody") is None


def test_the_word_of_a_proxy_in_front_holds_where_it_is_passed_on(
    safe: DovecotReceiver, outer: str, far: str
) -> None:
    """TLS ended there, and whoever sets forward_tlvs trusts it with the names of users."""
    user = next(safe.users)
    client = Client(host=outer, header=introduction(far, shown(user)))
    login = safe.log_in_by_certificate("passed-on", client, user)
    assert login == Login(
        method="EXTERNAL", client=far, destination="198.51.100.2", safety="secured", name=""
    )


def test_what_the_proxy_has_seen_itself_wins(
    safe: DovecotReceiver, papers: ClientCertificates, outer: str, far: str
) -> None:
    user, other = next(safe.users), next(safe.users)
    header = introduction(far, shown(other))
    stranger = Client(host=outer, header=header, tls=True)
    assert safe.log_in_by_certificate("passed-on", stranger, "nobody") is None
    assert safe.log_in_by_certificate("passed-on", attrs.evolve(stranger, shows=papers.path(user)), user)


def test_a_name_that_dovecot_would_cut_is_not_passed_on(safe: DovecotReceiver, outer: str, far: str) -> None:
    header = introduction(far, shown(f"{next(safe.users)}\0@elsewhere.example"))
    assert safe.log_in_by_certificate("passed-on", Client(host=outer, header=header), "nobody") is None


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
    "SSL with an empty name": [shown("")],
    "SSL with a long name": [shown("a" * 3000)],
    "SSL with all bits": [Tlv(Type.SSL, b"\xff" * 5)],
    "SSL twice": [shown("a"), Tlv(Type.SSL, bytes(5))],
    "parts of SSL outside of it": [Tlv(kind, b"x") for kind in range(0x21, 0x29)],
    "all types, empty": [Tlv(kind, b"") for kind in range(256) if kind != Type.CRC32C],
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_that_is_passed_on_disturbs_dovecot(
    boxes: DovecotReceiver, hostile: str, outer: str, far: str, local: str
) -> None:
    header = introduction(far, *HOSTILE[hostile])
    with boxes.session("v2", Client(host=local)) as waiting:
        assert boxes.log_in("passed-on", Client(host=outer, header=header)).client == far
        assert boxes.log_in("passed-on", Client(host=outer, header=header, tls=True)).client == far
        waiting.login(next(boxes.users), PASSWORD)


def test_a_header_with_a_wrong_checksum_comes_no_further(
    boxes: DovecotReceiver, outer: str, far: str
) -> None:
    header = introduction(far, Tlv(Type.CRC32C, b"\xde\xad\xbe\xef"))
    with (
        boxes.proxy.connect("passed-on", Client(host=outer, header=header)) as connection,
        suppress(ConnectionResetError),
    ):
        assert connection.recv(100) == b""
    boxes.proxy.log.wait_for(re.compile(rf".* {re.escape(outer)}:\d+ header-invalid .*"))
    assert far not in boxes.dovecot.log.text()


# What leaves


@pytest.fixture(scope="module")
def raw(papers: ClientCertificates) -> Iterator[RawReceiver]:
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(TIMEOUT_S)
        address = listener.getsockname()
        ways = {send: SendProxyVariant(address, text) for send, text in SENDS.items()}
        ways["with-certificate"] = SendProxyVariant(address, WITH_CERTIFICATE)
        to_tls = f'tls = {{ ca = "{papers.ca}", server_name = "localhost" }}'
        ways["to-tls"] = SendProxyVariant(address, f"{SENDS['everything']}\n{to_tls}")
        with introducer(ways, papers) as proxy:
            yield RawReceiver(proxy, listener)


@every_send
def test_everything_fits_536_bytes(
    raw: RawReceiver, send: str, papers: ClientCertificates, outer: str, far: str
) -> None:
    for host in (far, "2001:db8::1"):
        with raw.receive(send, of_many_words(papers, outer, host)) as arrival:
            assert arrival.header_bytes <= 536


def test_tls_is_told_whatever_else_is_too_long(
    raw: RawReceiver, papers: ClientCertificates, outer: str, far: str
) -> None:
    with raw.receive("everything-passed-on", of_many_words(papers, outer, far)) as arrival:
        assert parse_ssl(arrival.tlvs[Type.SSL]).value_of(Type.SSL_CN) == LONGEST_CN.encode()
        assert 0xE0 not in arrival.tlvs


@every_bind
@pytest.mark.parametrize("send", [*SENDS, "with-certificate"])
def test_the_header_is_one_segment(
    raw: RawReceiver, send: str, papers: ClientCertificates, tls: bool, local: str
) -> None:
    client = Client(host=local, tls=tls, asks_for=LONGEST_NAME, shows=papers.path(LONGEST_CN))
    with raw.receive(send, client) as arrival:
        assert len(arrival.first) == arrival.header_bytes
        assert arrival.segments == 1


@every_bind
def test_the_header_comes_before_tls(
    raw: RawReceiver, papers: ClientCertificates, tls: bool, local: str
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(papers.pem)
    client = Client(host=local, tls=tls)
    with raw.proxy.connect("to-tls", client) as end, raw.listener.accept()[0] as connection:
        arrival = ReceivedHeader.receive_from(connection)
        assert arrival.first[arrival.header_bytes :][:1] in (b"", b"\x16")  # a ClientHello may have caught up
        with server.wrap_socket(connection, server_side=True) as its_end:
            its_end.sendall(b"* OK ready\r\n")
            assert end.recv(100) == b"* OK ready\r\n"


@pytest.mark.parametrize("send", ["v2", "v2-ssl", "v2-ssl-cn"])
@pytest.mark.parametrize("alpn", ["imap", "h2"])
def test_the_alpn_is_told_where_it_is_the_servers(raw: RawReceiver, send: str, alpn: str, local: str) -> None:
    with raw.receive(send, Client(host=local, tls=True, alpn=[alpn])) as arrival:
        assert arrival.tlvs.get(Type.ALPN) == (b"imap" if alpn == "imap" else None)
