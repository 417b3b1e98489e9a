"""The layouts of `config/` for IMAP with real clients, mailproxy and real Dovecots.

In the layouts for Exchange, which pass TLS through or terminate it, all clients perform all actions. In those for
Dovecot all clients log in, and one performs the other actions.
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
from tests.support.interop.layouts import DOVECOT_LAYOUTS as DOVECOT_FILES
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
DOVECOT_LAYOUTS = [*DOVECOT_FILES, FIRST_CONFIGURATION]
LAYOUTS = [*EXCHANGE_LAYOUTS, *DOVECOT_LAYOUTS]

SMALL = b"From: a@example.com\r\nSubject: news\r\nMessage-ID: <1@example.com>\r\n\r\nHello\r\n"


@pytest.fixture(scope="module")
def large() -> bytes:
    """Return a message of more than 50 MiB."""
    body = base64.encodebytes(random.Random(143).randbytes(38_900_000)).replace(b"\n", b"\r\n")  # noqa: S311 - not a secret
    return b"From: a@example.com\r\nSubject: large\r\nMessage-ID: <2@example.com>\r\n\r\n" + body


@pytest.fixture
def layout(request: pytest.FixtureRequest, deployments: RunningLayouts) -> RunningLayout:
    return deployments[request.param]


def supports(client: Client, bind: LayoutBind) -> bool:
    """Whether a client supports a bind: s_client needs TLS, mbsync cannot set the server name."""
    return not (
        (client is SClient and bind.security == "clear")
        or (client is Mbsync and bind.name == "imap.example.com")
    )


def bind_cases(layouts: Sequence[Layout], clients: Sequence[Client] = CLIENTS) -> list[object]:
    return [
        pytest.param(layout, bind, client, id=f"{layout}-{bind}-{client.__name__}")
        for layout in layouts
        for bind in layout.binds
        for client in clients
        if supports(client, bind)
    ]


all_binds_and_clients = pytest.mark.parametrize(
    ("layout", "bind", "client_type"), bind_cases(LAYOUTS), indirect=["layout"]
)
all_clients_for_exchange_one_for_dovecot = pytest.mark.parametrize(
    ("layout", "bind", "client_type"),
    bind_cases(EXCHANGE_LAYOUTS) + bind_cases(DOVECOT_LAYOUTS, [Imaplib]),
    indirect=["layout"],
)
one_client_for_dovecot = pytest.mark.parametrize(
    ("layout", "bind", "client_type"), bind_cases(DOVECOT_LAYOUTS, [Imaplib]), indirect=["layout"]
)


@pytest.fixture
def client(
    layout: RunningLayout, bind: LayoutBind, client_type: type[MailClient], mail_user: MailUser
) -> MailClient:
    return client_type(layout.client_endpoint(bind), mail_user)


def test_all_files_of_config_are_tested() -> None:
    tested = {layout.file for layout in [*LAYOUTS, POP3_SUBMISSION_SIEVE]}
    tested |= {layout.file for layout in POSTFIX_LAYOUTS}
    tested.add("mail-host")  # test_mail_host
    assert tested - {FIRST_CONFIGURATION.file} == {file.stem for file in CONFIG.glob("*.toml")}


@all_binds_and_clients
def test_client_logs_in_and_lists_folders(client: MailClient) -> None:
    assert client.folders() == {"INBOX"}


@pytest.mark.parametrize(
    ("layout", "bind", "client_type"),
    # curl takes a quarter of imaplib's time.
    bind_cases(EXCHANGE_LAYOUTS) + bind_cases(DOVECOT_LAYOUTS, [Curl]),
    indirect=["layout"],
)
def test_fifty_megabytes_are_appended_and_fetched(client: MailClient, large: bytes) -> None:
    assert len(large) > 50 * 1024 * 1024
    client.append(large)
    assert client.fetch() == large


@all_clients_for_exchange_one_for_dovecot
def test_idle_session_is_notified_of_new_mail(
    client: MailClient, layout: RunningLayout, bind: LayoutBind, mail_user: MailUser
) -> None:
    with Imaplib(layout.client_endpoint(bind), mail_user).idle() as idle:
        client.append(SMALL)
        idle.wait_for_new_mail()


@pytest.mark.parametrize(
    ("layout", "bind", "client_type"), bind_cases(EXCHANGE_LAYOUTS, [SClient]), indirect=["layout"]
)
def test_idle_s_client_is_notified_of_new_mail(
    client: SClient, layout: RunningLayout, bind: LayoutBind, mail_user: MailUser
) -> None:
    with client.idle() as idle:
        Imaplib(layout.client_endpoint(bind), mail_user).append(SMALL)
        idle.wait_for_new_mail()


@pytest.mark.parametrize(
    ("layout", "bind"),
    [
        pytest.param(layout, layout.binds[0], id=str(layout))
        for layout in LAYOUTS
        if layout not in (CHAIN, STICKY, FIRST_CONFIGURATION)
    ],
    indirect=["layout"],
)
def test_both_servers_get_sessions(layout: RunningLayout, bind: LayoutBind, mail_user: MailUser) -> None:
    client = Imaplib(layout.client_endpoint(bind), mail_user)

    def spread() -> list[int]:
        return [len(dovecot.logins(mail_user.name)) for dovecot in layout.dovecots]

    with ExitStack() as sessions:
        for _ in range(4):
            sessions.enter_context(client.session())
        wait_until(lambda: spread() == [2, 2], f"two sessions at each server\n{layout.proxy.log!r}")


@one_client_for_dovecot
def test_dovecot_logs_client_address_and_tls(
    client: MailClient, layout: RunningLayout, bind: LayoutBind, mail_user: MailUser
) -> None:
    client.folders()
    login = layout.login(mail_user.name)
    assert (login.client, login.destination) == (mail_user.address, "127.0.0.1")
    assert login.security == bind.logged


@pytest.mark.parametrize("layout", DOVECOT_LAYOUTS, ids=str, indirect=True)
def test_dovecot_accepts_headers_from_the_proxy_only(layout: RunningLayout, mail_user: MailUser) -> None:
    for dovecot in layout.dovecots:
        assert is_refused(mail_user, layout.server_endpoint(dovecot.address))
        dovecot.log.wait_for(re.compile(r".*Client not trusted.*127\.0\.0\.9.*"))


@pytest.mark.parametrize("layout", [WITHOUT_TLS_FACTS], ids=str, indirect=True)
def test_stock_dovecot_refuses_login_without_tls_facts(layout: RunningLayout, mail_user: MailUser) -> None:
    """The README's first configuration needs `v2-ssl`. Without it Dovecot refuses the login."""
    client = Imaplib(layout.client_endpoint(WITHOUT_TLS_FACTS.binds[0]), mail_user)
    with pytest.raises(imaplib.IMAP4.error, match=r"PRIVACYREQUIRED|LOGINDISABLED|disallowed"):
        client.folders()


# Stickiness


@pytest.mark.parametrize("layout", [STICKY], ids=str, indirect=True)
def test_client_returns_to_its_server(layout: RunningLayout, mail_user: MailUser) -> None:
    """The client returns although the other server has fewer sessions and would get a new client."""
    endpoint = layout.client_endpoint(STICKY.binds[0])
    other = MailUser(mail_user.name, mail_user.folder, address="127.0.0.10")

    def logins() -> list[list[str]]:
        return [[login.client for login in dovecot.logins(mail_user.name)] for dovecot in layout.dovecots]

    with ExitStack() as sessions:
        for each in (mail_user, mail_user, mail_user, other, other):
            sessions.enter_context(Imaplib(endpoint, each).session())
        Imaplib(endpoint, mail_user).folders()
        wait_until(lambda: sum(map(len, logins())) == 6, f"six logins\n{layout.proxy.log!r}")
    assert sorted(logins()) == [[other.address] * 2, [mail_user.address] * 4]


# Checks


@pytest.mark.parametrize("layout", [*LAYOUTS, POP3_SUBMISSION_SIEVE], ids=str, indirect=True)
def test_every_server_passes_its_checks(layout: RunningLayout) -> None:
    log = layout.proxy.log
    log.wait_for(re.compile(".*mailproxy is ready"))  # after the first checks
    assert "reason: " not in log.text(), repr(log)


@pytest.mark.parametrize("layout", [BOTH_FORWARD_IMPATIENT], ids=str, indirect=True)
@pytest.mark.parametrize("number", [143, 993])
def test_exchange_server_is_up_if_both_ports_listen(
    layout: RunningLayout, number: int, mail_user: MailUser
) -> None:
    """Sessions at the server are closed, also those through the other port, and clients may reconnect."""
    client, log = (
        Imaplib(layout.client_endpoint(BOTH_FORWARD_IMPATIENT.binds[0]), mail_user),
        layout.proxy.log,
    )
    before = len(log.lines())
    with ExitStack() as sessions:
        for _ in layout.dovecots:
            sessions.enter_context(client.idle())
        with layout.stop_server(number, at=0):
            reason = r'Layer4 connection problem, info: "Connection refused at port \d+"'
            log.wait_for(re.compile(f"Server exchange/CAS1 is DOWN, reason: {reason}, .*"), after=before)
            log.wait_for(re.compile(r".* exchange/CAS1 .* D- .*"), after=before)
            for _ in range(2):
                assert client.folders() == {"INBOX"}
        log.wait_for(re.compile(r"Server exchange/CAS1 is UP, reason: Layer7 check passed, .*"), after=before)
    assert not any(" exchange/CAS2 " in line and " D- " in line for line in log.lines()[before:])
