"""LMTP: delivery to a real Dovecot through STARTTLS at the proxy, which names the client in XCLIENT."""

from __future__ import annotations

import smtplib
import ssl
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support.ports import free_ports
from tests.support.programs.dovecot import Dovecot, Listener
from tests.support.programs.program import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.interop.conftest import Site

pytestmark = pytest.mark.peers

HOST, CLIENT = "127.0.0.2", "127.0.0.9"
USER = "lmtp-user"
MESSAGE = "Subject: by LMTP\r\n\r\n.\r\nSTARTTLS\r\nend\r\n"

DOVECOT = """
ssl = yes
auth_mechanisms = plain login
login_trusted_networks = 127.0.0.1
protocols = imap lmtp
service lmtp {{
  inet_listener lmtp {{
    port = {port}
  }}
}}
"""

CONFIGURATION = """
[frontends.lmtp]
protocol = "lmtp"
backend = "lmtp"
tls = {{ certificates = ["{certificates}/"] }}
bind = [{{ address = "127.0.0.1:{port}", mode = "starttls" }}]

[backends.lmtp]
identity = "xclient"
check = {{ type = "lmtp", interval = "200ms" }}
servers = ["{host}:{server}"]
"""


@attrs.frozen
class Delivery:
    """A Dovecot that takes mail by LMTP, and the port of the proxy before it."""

    dovecot: Dovecot
    port: int
    ca: Path


@pytest.fixture(scope="module")
def delivery(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Delivery]:
    imap, lmtp, port = free_ports(3, ("127.0.0.1", HOST))
    folder = tmp_path_factory.mktemp("lmtp")
    dovecot = Dovecot(
        HOST,
        Listener(imap),
        users=[USER],
        store=site.store,
        certificate=site.servers.certificate,
        configuration=DOVECOT.format(port=lmtp),
    )
    text = CONFIGURATION.format(certificates=site.proxy.folder, port=port, host=HOST, server=lmtp)
    with dovecot, Mailproxy(text, folder, [("127.0.0.1", port)]):
        yield Delivery(dovecot, port, site.proxy.ca)


@pytest.fixture
def client(delivery: Delivery) -> Iterator[smtplib.LMTP]:
    with smtplib.LMTP("localhost", delivery.port, source_address=(CLIENT, 0), timeout=20) as client:
        yield client


def test_message_is_delivered_after_starttls(delivery: Delivery, client: smtplib.LMTP, site: Site) -> None:
    client.starttls(context=ssl.create_default_context(cafile=str(delivery.ca)))
    assert client.sendmail("sender@example.com", [USER], MESSAGE) == {}
    (file,) = (site.store.path / USER / "new").iterdir()
    stored = file.read_bytes().replace(b"\r\n", b"\n")
    assert stored.endswith(b"\n\n.\nSTARTTLS\nend\n")
    client.quit()
    log = delivery.dovecot.log
    wait_until(lambda: f"Disconnect from {CLIENT}: Logged out" in log.text(), repr(log))


def test_mail_is_refused_before_starttls(client: smtplib.LMTP) -> None:
    client.ehlo()
    assert client.has_extn("starttls")
    code, text = client.docmd("MAIL FROM:<sender@example.com>")
    assert (code, text.split()[0]) == (530, b"5.7.0")


def test_claim_of_identity_is_not_passed_on(delivery: Delivery, client: smtplib.LMTP) -> None:
    client.starttls(context=ssl.create_default_context(cafile=str(delivery.ca)))
    client.ehlo()
    code, _ = client.docmd("XCLIENT ADDR=192.0.2.66")
    assert code >= 500
    assert "192.0.2.66" not in delivery.dovecot.log.text()
