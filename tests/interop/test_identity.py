"""Servers that learn the client's address from XCLIENT or IMAP's ID, in front of real Dovecot and Postfix."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support.ports import free_ports
from tests.support.programs.dovecot import PASSWORD, USERS, Dovecot, Listener
from tests.support.programs.postfix import Postfix
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.interop.conftest import Site

pytestmark = pytest.mark.peers

CLIENT = "127.0.0.9"  # the clients' address, which is not the proxy's
SPOOFED = "192.0.2.66"
MESSAGE = f"Subject: x\r\n\r\nXCLIENT ADDR={SPOOFED}\r\n.\r\nend\r\n"

CONFIGURATION = """
[defaults.frontend]
tls = {{ certificates = ["{certificates}/"] }}

[frontends.imap]
protocol = "imap"
backend = "imap"
bind = [{{ address = "127.0.0.1:{ports[imap]}", mode = "starttls" }}]

[backends.imap]
identity = "id"
servers = ["127.0.0.2:{servers[imap]}"]

[frontends.pop3]
protocol = "pop3"
backend = "pop3"
bind = [{{ address = "127.0.0.1:{ports[pop3]}", mode = "starttls" }}]

[backends.pop3]
identity = "xclient"
servers = ["127.0.0.2:{servers[pop3]}"]

[frontends.plain-imap]
protocol = "imap"
backend = "plain-imap"
bind = [{{ address = "127.0.0.1:{ports[plain-imap]}" }}]

[backends.plain-imap]
servers = ["127.0.0.2:{servers[imap]}"]

[frontends.plain-pop3]
protocol = "pop3"
backend = "plain-pop3"
bind = [{{ address = "127.0.0.1:{ports[plain-pop3]}" }}]

[backends.plain-pop3]
servers = ["127.0.0.2:{servers[pop3]}"]

[frontends.smtp]
protocol = "smtp"
backend = "smtp"
bind = [{{ address = "127.0.0.1:{ports[smtp]}", mode = "starttls" }}]

[backends.smtp]
identity = "xclient"
servers = ["127.0.0.3:{servers[smtp]}"]
"""


@attrs.frozen
class Place:
    ports: Mapping[str, int]
    dovecot: Dovecot
    postfix: Postfix
    proxy: Mailproxy

    def wait_for(self, program: Dovecot | Postfix, words: str) -> str:
        lines: list[str] = []

        def is_logged() -> bool:
            lines.extend(line for line in program.log.text().splitlines() if words in line)
            return bool(lines)

        wait_until(is_logged, f"{words}\n{program.log!r}\n{self.proxy.log!r}")
        return lines[-1]


@pytest.fixture(scope="module")
def place(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    names = ("imap", "pop3", "smtp", "plain-imap", "plain-pop3")
    numbers = free_ports(len(names) + 4, ("127.0.0.1", "127.0.0.2", "127.0.0.3"))
    ports = dict(zip(names, numbers, strict=False))
    servers = dict(zip(("imap", "pop3", "smtp"), numbers[len(names) :], strict=False))
    folder = tmp_path_factory.mktemp("identity")
    text = CONFIGURATION.format(certificates=site.proxy.folder, ports=ports, servers=servers)
    with ExitStack() as running:
        dovecot = running.enter_context(
            Dovecot(
                "127.0.0.2",
                Listener(servers["imap"]),
                Listener(servers["pop3"], "pop3"),
                users=USERS,
                store=site.store,
                certificate=site.servers.certificate,
                settings={"login_trusted_networks": "127.0.0.1"},
            )
        )
        postfix = running.enter_context(
            Postfix(
                "127.0.0.3",
                plain_port=servers["smtp"],
                proxied_port=numbers[-1],
                settings="smtpd_authorized_xclient_hosts = 127.0.0.1",
            )
        )
        listens = [("127.0.0.1", port) for port in ports.values()]
        proxy = running.enter_context(Mailproxy(text, folder, listens))
        yield Place(ports, dovecot, postfix, proxy)


@pytest.fixture
def context(site: Site) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(site.proxy.ca))
    context.check_hostname = False
    return context


class Imap(imaplib.IMAP4):
    """Connects from ``CLIENT``."""

    def _create_socket(self, timeout: float | None) -> object:
        import socket

        return socket.create_connection((self.host, self.port), timeout, source_address=(CLIENT, 0))


def test_imap_id_tells_dovecot(place: Place, context: ssl.SSLContext) -> None:
    client = Imap("127.0.0.1", place.ports["imap"])
    client.starttls(context)
    assert client.xatom("ID", f'("name" "x" "x-originating-ip" "{SPOOFED}")')[0] == "OK"
    client.login("user11", PASSWORD)
    client.logout()
    line = place.wait_for(place.dovecot, "Login: user=<user11>")
    assert f"rip={CLIENT}, lip=127.0.0.1," in line


def test_pop3_xclient_tells_dovecot(place: Place, context: ssl.SSLContext) -> None:
    client = poplib.POP3("127.0.0.1", place.ports["pop3"])
    client.stls(context)
    with pytest.raises(poplib.error_proto):
        client._shortcmd(f"XCLIENT ADDR={SPOOFED}")  # type: ignore[attr-defined]  # there is no public way
    client.user("user12")
    client.pass_(PASSWORD)
    client.quit()
    line = place.wait_for(place.dovecot, "Login: user=<user12>")
    assert "rip=127.0.0.1," in line
    assert SPOOFED not in place.dovecot.log.text()


def test_plain_relay_passes_no_claims_on(place: Place) -> None:
    """Dovecot trusts the proxy's address, and nothing in the configuration says so."""
    imap = Imap("127.0.0.1", place.ports["plain-imap"])
    assert imap.xatom("ID", f'("name" "x" "x-originating-ip" "{SPOOFED}")')[0] == "OK"
    imap.login("user13", PASSWORD)
    imap.logout()
    assert "rip=127.0.0.1," in place.wait_for(place.dovecot, "Login: user=<user13>")
    pop3 = poplib.POP3("127.0.0.1", place.ports["plain-pop3"])
    with pytest.raises(poplib.error_proto):
        pop3._shortcmd(f"XCLIENT ADDR={SPOOFED}")  # type: ignore[attr-defined]  # there is no public way
    pop3.user("user14")
    pop3.pass_(PASSWORD)
    pop3.quit()
    assert "rip=127.0.0.1," in place.wait_for(place.dovecot, "Login: user=<user14>")
    assert SPOOFED not in place.dovecot.log.text()


@pytest.mark.parametrize("upgrades", [False, True], ids=["clear", "STARTTLS"])
def test_smtp_xclient_tells_postfix(place: Place, context: ssl.SSLContext, upgrades: bool) -> None:
    client = smtplib.SMTP("127.0.0.1", place.ports["smtp"], source_address=(CLIENT, 0))
    client.ehlo("client.example")
    if upgrades:
        client.starttls(context=context)
        client.ehlo("client.example")
    assert client.docmd(f"XCLIENT ADDR={SPOOFED}")[0] >= 500
    client.sendmail("a@example.com", ["b@mail.example"], MESSAGE)
    client.quit()
    place.wait_for(place.postfix, f"client=unknown[{CLIENT}]")
    assert SPOOFED not in place.postfix.log.text()
