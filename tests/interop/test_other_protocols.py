"""POP3, submission and ManageSieve through `config/dovecot-pop3-submission-sieve.toml` to real Dovecots."""

from __future__ import annotations

import base64
import random
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.layouts import POP3_SUBMISSION_SIEVE, RunningLayout
from tests.support.ports import free_port
from tests.support.programs.imap_clients import Endpoint, is_refused
from tests.support.programs.other_clients import Poplib, Sieve, Smtplib
from tests.support.programs.postfix import Postfix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import Site
    from tests.support.interop.layouts import RunningLayouts
    from tests.support.programs.imap_clients import MailUser, Security

pytestmark = pytest.mark.peers

BODY = base64.encodebytes(random.Random(110).randbytes(3_900_000)).replace(b"\n", b"\r\n")  # noqa: S311 - not a secret
MESSAGE = b"From: a@example.com\r\nSubject: large\r\nMessage-ID: <3@example.com>\r\n\r\n" + BODY
assert len(MESSAGE) > 5 * 1024 * 1024
SCRIPT = b"keep;\r\n" + b"# kept as it is\r\n" * 10_000

# port, security, and the security in Dovecot's log
POP3 = pytest.mark.parametrize(
    ("number", "security", "logged"), [(995, "tls", "secured"), (110, "starttls", "TLS")]
)
SUBMISSION = pytest.mark.parametrize(
    ("number", "security", "logged"), [(465, "tls", "secured"), (587, "starttls", "TLS")]
)
SIEVE = pytest.mark.parametrize(("number", "security", "logged"), [(4190, "starttls", "TLS")])


@pytest.fixture(scope="module")
def layout(deployments: RunningLayouts) -> RunningLayout:
    return deployments[POP3_SUBMISSION_SIEVE]


@pytest.fixture
def endpoint(layout: RunningLayout, number: int, security: Security) -> Endpoint:
    authority = layout.site.proxy if security == "tls" else layout.site.servers
    return Endpoint(layout.ports[number], security, authority.ca)


@pytest.fixture(scope="module")
def relay(layout: RunningLayout) -> Iterator[Postfix]:
    """Run the server that Dovecot sends submitted mail to."""
    with Postfix("127.0.0.1", plain_port=layout.ports[25], proxied_port=free_port()) as postfix:
        yield postfix


def assert_logged(layout: RunningLayout, mail_user: MailUser, logged: str) -> None:
    """Assert that Dovecot has logged the client's address, the proxy's, and the client's TLS."""
    login = layout.login(mail_user.name)
    assert (login.client, login.destination, login.security) == (mail_user.address, "127.0.0.1", logged)


@POP3
def test_pop3_client_fetches_mail(
    layout: RunningLayout, endpoint: Endpoint, mail_user: MailUser, site: Site, logged: str
) -> None:
    site.store.deliver(mail_user.name, MESSAGE)
    assert Poplib(endpoint, mail_user).fetch() == MESSAGE
    assert_logged(layout, mail_user, logged)


@SUBMISSION
def test_smtp_client_submits_mail(
    layout: RunningLayout, endpoint: Endpoint, mail_user: MailUser, relay: Postfix, logged: str
) -> None:
    Smtplib(endpoint, mail_user).submit(MESSAGE)
    relay.log.wait_for(re.compile(r".*size=5\d{6}.*"))
    assert_logged(layout, mail_user, logged)


@SIEVE
def test_sieve_script_is_stored(
    layout: RunningLayout, endpoint: Endpoint, mail_user: MailUser, logged: str
) -> None:
    sieve = Sieve(endpoint, mail_user)
    sieve.put("holidays", SCRIPT)
    assert sieve.names() == {"holidays"}
    assert sieve.get("holidays") == SCRIPT
    assert_logged(layout, mail_user, logged)


def test_dovecot_accepts_headers_from_the_proxy_only(layout: RunningLayout, mail_user: MailUser) -> None:
    for number in (110, 587, 4190):
        assert is_refused(mail_user, layout.server_endpoint(("127.0.0.2", layout.ports[number])))
