"""Every layout in `config/` for IMAP, as it would be deployed: real clients, the proxy, real Dovecots.

Through the layouts for Exchange, where bytes pass as they are or TLS ends, all clients do everything; through those for
Dovecot all log in, and one does the rest.
"""

from __future__ import annotations

import base64
import imaplib
import random
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.layouts import (
    BOTH_FORWARD_IMPATIENT,
    CHAIN,
    CONFIG,
    EXCHANGE_LAYOUTS,
    POP3_SUBMISSION_SIEVE,
    STICKY,
    RunningLayout,
    RunningLayouts,
)
from tests.support.interop.layouts import DOVECOT_LAYOUTS as FILES_FOR_DOVECOT
from tests.support.interop.postfix_layouts import POSTFIX_LAYOUTS
from tests.support.interop.readme_layout import FIRST_CONFIGURATION, WITHOUT_TLS_FACTS
from tests.support.programs.imap_clients import Curl, Imaplib, MailUser, Mbsync, SClient, is_refused
from tests.support.programs.program import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.interop.layouts import Layout, LayoutBind
    from tests.support.programs.imap_clients import MailClient

pytestmark = pytest.mark.peers

Client = type[Imaplib | Curl | Mbsync | SClient]
CLIENTS: tuple[Client, ...] = (Imaplib, Curl, Mbsync, SClient)
DOVECOT_LAYOUTS = [*FILES_FOR_DOVECOT, FIRST_CONFIGURATION]
LAYOUTS = [*EXCHANGE_LAYOUTS, *DOVECOT_LAYOUTS]

SMALL = b"From: a@example.com\r\nSubject: news\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n"
BODY = base64.encodebytes(random.Random(143).randbytes(38_900_000)).replace(b"\n", b"\r\n")  # noqa: S311 - not a secret
LARGE = b"From: a@example.com\r\nSubject: large\r\nMessage-ID: <2@example.com>\r\n\r\n" + BODY
assert len(LARGE) > 50 * 1024 * 1024


@pytest.fixture
def layout(request: pytest.FixtureRequest, deployments: RunningLayouts) -> RunningLayout:
    return deployments[request.param]


def is_able(client: Client, entrance: LayoutBind) -> bool:
    """s_client speaks no clear text; mbsync asks for the name that it looks up."""
    return not (
        (client is SClient and entrance.security == "clear")
        or (client is Mbsync and entrance.name == "imap.example.com")
    )


def ways(layouts: Sequence[Layout], clients: Sequence[Client] = CLIENTS) -> list[object]:
    return [
        pytest.param(layout, entrance, client, id=f"{layout}-{entrance}-{client.__name__}")
        for layout in layouts
        for entrance in layout.entrances
        for client in clients
        if is_able(client, entrance)
    ]


every_way = pytest.mark.parametrize(("layout", "entrance", "client_type"), ways(LAYOUTS), indirect=["layout"])
every_way_for_exchange_and_one_for_dovecot = pytest.mark.parametrize(
    ("layout", "entrance", "client_type"),
    ways(EXCHANGE_LAYOUTS) + ways(DOVECOT_LAYOUTS, [Imaplib]),
    indirect=["layout"],
)
one_way_for_dovecot = pytest.mark.parametrize(
    ("layout", "entrance", "client_type"), ways(DOVECOT_LAYOUTS, [Imaplib]), indirect=["layout"]
)


@pytest.fixture
def client(
    layout: RunningLayout, entrance: LayoutBind, client_type: type[MailClient], mail_user: MailUser
) -> MailClient:
    return client_type(layout.client_address(entrance), mail_user)


def test_every_file_is_tried() -> None:
    tried = {layout.file for layout in [*LAYOUTS, POP3_SUBMISSION_SIEVE]}
    tried |= {layout.file for layout in POSTFIX_LAYOUTS}
    assert tried - {FIRST_CONFIGURATION.file} == {file.stem for file in CONFIG.glob("*.toml")}


@every_way
def test_log_in_and_list(client: MailClient) -> None:
    assert client.folders() == {"INBOX"}


@every_way_for_exchange_and_one_for_dovecot
def test_fifty_megabytes_there_and_back(client: MailClient) -> None:
    client.append(LARGE)
    assert client.fetch() == LARGE


@every_way_for_exchange_and_one_for_dovecot
def test_new_mail_is_told_to_an_idle_session(
    client: MailClient, layout: RunningLayout, entrance: LayoutBind, mail_user: MailUser
) -> None:
    with Imaplib(layout.client_address(entrance), mail_user).idle() as idle:
        client.append(SMALL)
        idle.wait_for_new_mail()


@pytest.mark.parametrize(
    ("layout", "entrance", "client_type"), ways(EXCHANGE_LAYOUTS, [SClient]), indirect=["layout"]
)
def test_s_client_idles_too(
    client: SClient, layout: RunningLayout, entrance: LayoutBind, mail_user: MailUser
) -> None:
    with client.idle() as idle:
        Imaplib(layout.client_address(entrance), mail_user).append(SMALL)
        idle.wait_for_new_mail()


@pytest.mark.parametrize(
    ("layout", "entrance"),
    [
        pytest.param(layout, layout.entrances[0], id=str(layout))
        for layout in LAYOUTS
        if layout not in (CHAIN, STICKY, FIRST_CONFIGURATION)
    ],
    indirect=["layout"],
)
def test_both_servers_get_sessions(layout: RunningLayout, entrance: LayoutBind, mail_user: MailUser) -> None:
    client = Imaplib(layout.client_address(entrance), mail_user)

    def spread() -> list[int]:
        return [len(dovecot.logins(mail_user.name)) for dovecot in layout.dovecots]

    with ExitStack() as sessions:
        for _ in range(4):
            sessions.enter_context(client.session())
        wait_until(lambda: spread() == [2, 2], f"two sessions at each server\n{layout.proxy.log!r}")


@one_way_for_dovecot
def test_dovecot_knows_the_client_and_its_tls(
    client: MailClient, layout: RunningLayout, entrance: LayoutBind, mail_user: MailUser
) -> None:
    client.folders()
    login = layout.login(mail_user.name)
    assert (login.client, login.destination) == (mail_user.address, "127.0.0.1")
    assert login.security == entrance.logged


@pytest.mark.parametrize("layout", DOVECOT_LAYOUTS, ids=str, indirect=True)
def test_dovecot_believes_the_proxy_alone(layout: RunningLayout, mail_user: MailUser) -> None:
    for dovecot in layout.dovecots:
        assert is_refused(mail_user, layout.server_address(dovecot.address))
        dovecot.log.wait_for(re.compile(r".*Client not trusted.*127\.0\.0\.9.*"))


@pytest.mark.parametrize("layout", [WITHOUT_TLS_FACTS], ids=str, indirect=True)
def test_a_stock_dovecot_refuses_logins_that_it_takes_for_clear_text(
    layout: RunningLayout, mail_user: MailUser
) -> None:
    """Why the README's first configuration has `v2-ssl`, and what its test would show without that."""
    client = Imaplib(layout.client_address(WITHOUT_TLS_FACTS.entrances[0]), mail_user)
    with pytest.raises(imaplib.IMAP4.error, match=r"PRIVACYREQUIRED|LOGINDISABLED|disallowed"):
        client.folders()


# Sticking


@pytest.mark.parametrize("layout", [STICKY], ids=str, indirect=True)
def test_a_client_comes_back_to_its_server(layout: RunningLayout, mail_user: MailUser) -> None:
    """Although the other one has less to do, which whoever comes anew gets."""
    door = layout.client_address(STICKY.entrances[0])
    other = MailUser(mail_user.name, mail_user.folder, address="127.0.0.10")

    def logins() -> list[list[str]]:
        return [[login.client for login in dovecot.logins(mail_user.name)] for dovecot in layout.dovecots]

    with ExitStack() as sessions:
        for each in (mail_user, mail_user, mail_user, other, other):
            sessions.enter_context(Imaplib(door, each).session())
        Imaplib(door, mail_user).folders()
        wait_until(lambda: sum(map(len, logins())) == 6, f"six logins\n{layout.proxy.log!r}")
    assert sorted(logins()) == [[other.address] * 2, [mail_user.address] * 4]


# Checks


@pytest.mark.parametrize("layout", [*LAYOUTS, POP3_SUBMISSION_SIEVE], ids=str, indirect=True)
def test_every_server_passes_its_checks(layout: RunningLayout) -> None:
    log = layout.proxy.log
    log.wait_for(re.compile(".*mailproxy is ready"))  # they were made by then
    assert "reason: " not in log.text(), repr(log)


@pytest.mark.parametrize("layout", [BOTH_FORWARD_IMPATIENT], ids=str, indirect=True)
@pytest.mark.parametrize("number", [143, 993])
def test_a_server_for_exchange_is_up_while_both_its_ports_are_there(
    layout: RunningLayout, number: int, mail_user: MailUser
) -> None:
    """Whoever has a session there, be it through the other port, is sent away and may come again."""
    client, log = (
        Imaplib(layout.client_address(BOTH_FORWARD_IMPATIENT.entrances[0]), mail_user),
        layout.proxy.log,
    )
    begin = len(log.lines())
    with ExitStack() as sessions:
        for _ in layout.dovecots:
            sessions.enter_context(client.idle())
        with layout.stop_server(number, at=0):
            reason = r'Layer4 connection problem, info: "Connection refused at port \d+"'
            log.wait_for(re.compile(f"Server exchange/CAS1 is DOWN, reason: {reason}, .*"), behind=begin)
            log.wait_for(re.compile(r".* exchange/CAS1 .* D- .*"), behind=begin)
            for _ in range(2):
                assert client.folders() == {"INBOX"}
        log.wait_for(re.compile(r"Server exchange/CAS1 is UP, reason: Layer7 check passed, .*"), behind=begin)
    assert not any(" exchange/CAS2 " in line and " D- " in line for line in log.lines()[begin:])
