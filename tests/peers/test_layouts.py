"""Every layout in `config/`, as it would be deployed: real clients, the proxy, two real Dovecots."""

from __future__ import annotations

import base64
import random
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs
import pytest

from .clients import Curl, Door, Imaplib, Mbsync, SClient
from .programs import Mailproxy, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .clients import MailClient, Person, Security
    from .conftest import Site

pytestmark = pytest.mark.peers

CONFIG = Path(__file__).parents[2] / "config"
CLIENTS: tuple[type[Imaplib | Curl | Mbsync | SClient], ...] = (Imaplib, Curl, Mbsync, SClient)

SMALL = b"From: a@example.com\r\nSubject: news\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n"
BODY = base64.encodebytes(random.Random(143).randbytes(38_900_000)).replace(b"\n", b"\r\n")  # noqa: S311 - not a secret
LARGE = b"From: a@example.com\r\nSubject: large\r\nMessage-ID: <2@example.com>\r\n\r\n" + BODY
assert len(LARGE) > 50 * 1024 * 1024


@attrs.frozen
class Entrance:
    """A way in that a layout offers, and who ends TLS there."""

    number: Literal[143, 993]
    security: Security
    tls_ends_at: Literal["server", "proxy"] = "server"

    def __str__(self) -> str:
        return f"{self.number}-{self.security}" + (f"-at-{self.tls_ends_at}" if self.number == 993 else "")

    def door(self, site: Site) -> Door:
        authority = site.servers if self.tls_ends_at == "server" else site.proxy
        return Door(site.clear_port if self.number == 143 else site.tls_port, self.security, authority.ca)

    def clients(self) -> list[type[Imaplib | Curl | Mbsync | SClient]]:
        return [client for client in CLIENTS if not (client is SClient and self.security == "clear")]


CLEAR = Entrance(143, "clear")
STARTTLS = Entrance(143, "starttls")
FORWARDED = Entrance(993, "tls")
OFFLOADED = Entrance(993, "tls", "proxy")

LAYOUTS = {
    "exchange-imap-forward": [CLEAR, STARTTLS],
    "exchange-imaps-forward": [FORWARDED],
    "exchange-imaps-offload": [OFFLOADED],
    "exchange-both-forward": [CLEAR, STARTTLS, FORWARDED],
    "exchange-forward-and-offload": [CLEAR, STARTTLS, OFFLOADED],
    "dovecot-passthrough": [FORWARDED],
}


def runnable(text: str, site: Site) -> str:
    """The file as a reader would adapt it: other addresses, other ports, other certificates, nothing else."""
    replacements = {
        "/etc/mailproxy/certs/": f"{site.proxy.folder}/",
        "192.0.2.11": site.dovecots[0].address[0],
        "192.0.2.12": site.dovecots[1].address[0],
        '"*:': '"127.0.0.1:',
    }
    for old, new in replacements.items():
        text = text.replace(old, new)
    return re.sub(
        r"\b(143|993)\b", lambda port: str(site.clear_port if port[0] == "143" else site.tls_port), text
    )


@pytest.fixture(scope="module")
def layout(
    request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mailproxy]:
    """mailproxy running that file of `config/`."""
    text = (CONFIG / f"{request.param}.toml").read_text(encoding="utf-8")
    ports = {143: site.clear_port, 993: site.tls_port}
    listens = [
        ("127.0.0.1", ports[number]) for number in {entrance.number for entrance in LAYOUTS[request.param]}
    ]
    folder = tmp_path_factory.mktemp(request.param)
    with Mailproxy(runnable(text, site), folder, listens) as running:
        yield running


EVERY_WAY = [
    pytest.param(layout, entrance, client, id=f"{layout}-{entrance}-{client.__name__}")
    for layout, entrances in LAYOUTS.items()
    for entrance in entrances
    for client in entrance.clients()
]
every_way = pytest.mark.parametrize(
    ("layout", "entrance", "client_type"), EVERY_WAY, indirect=["layout"], scope="module"
)


@pytest.fixture
def client(
    layout: Mailproxy, entrance: Entrance, client_type: type[MailClient], site: Site, person: Person
) -> MailClient:
    return client_type(entrance.door(site), person)


@every_way
def test_log_in_and_list(client: MailClient) -> None:
    assert client.folders() == {"INBOX"}


@every_way
def test_fifty_megabytes_there_and_back(client: MailClient) -> None:
    client.append(LARGE)
    assert client.fetch() == LARGE


@every_way
def test_new_mail_is_told_to_an_idle_session(
    client: MailClient, entrance: Entrance, site: Site, person: Person
) -> None:
    with Imaplib(entrance.door(site), person).idle() as idle:
        client.append(SMALL)
        idle.wait_for_new_mail()


@pytest.mark.parametrize(
    ("layout", "entrance"),
    [
        pytest.param(layout, entrance, id=f"{layout}-{entrance}")
        for layout, entrances in LAYOUTS.items()
        for entrance in entrances
        if entrance.security != "clear"
    ],
    indirect=["layout"],
    scope="module",
)
def test_s_client_idles_too(layout: Mailproxy, entrance: Entrance, site: Site, person: Person) -> None:
    with SClient(entrance.door(site), person).idle() as idle:
        Imaplib(entrance.door(site), person).append(SMALL)
        idle.wait_for_new_mail()


@pytest.mark.parametrize("layout", LAYOUTS, indirect=True, scope="module")
def test_both_servers_get_sessions(
    layout: Mailproxy, request: pytest.FixtureRequest, site: Site, person: Person
) -> None:
    entrance = LAYOUTS[request.node.callspec.params["layout"]][0]
    client = Imaplib(entrance.door(site), person)

    def spread() -> list[int]:
        return [dovecot.log.text().count(f"Login: user=<{person.name}>") for dovecot in site.dovecots]

    with ExitStack() as sessions:
        for _ in range(4):
            sessions.enter_context(client.session())
        wait_until(lambda: spread() == [2, 2], f"two sessions at each server\n{layout.log!r}")
