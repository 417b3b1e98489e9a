"""POP3, Submission and ManageSieve through `config/dovecot-pop3-submission-sieve.toml`, to Dovecots that have them."""

from __future__ import annotations

import base64
import random
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.layouts import POP3_SUBMISSION_SIEVE, RunningLayout
from tests.support.ports import free_port
from tests.support.programs.imap_clients import ClientAddress, is_refused
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

# port, security, and what Dovecot knows of it
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
def door(layout: RunningLayout, number: int, security: Security) -> ClientAddress:
    authority = layout.site.proxy if security == "tls" else layout.site.servers
    return ClientAddress(layout.ports[number], security, authority.ca)


@pytest.fixture(scope="module")
def relay(layout: RunningLayout) -> Iterator[Postfix]:
    """Where Dovecot sends what is submitted."""
    with Postfix("127.0.0.1", plain_port=layout.ports[25], proxied_port=free_port()) as postfix:
        yield postfix


def assert_known(layout: RunningLayout, mail_user: MailUser, logged: str) -> None:
    """Dovecot has logged where the client is, where it went, and its TLS."""
    login = layout.login(mail_user.name)
    assert (login.client, login.destination, login.security) == (mail_user.address, "127.0.0.1", logged)


@POP3
def test_mail_is_fetched(
    layout: RunningLayout, door: ClientAddress, mail_user: MailUser, site: Site, logged: str
) -> None:
    site.store.deliver(mail_user.name, MESSAGE)
    assert Poplib(door, mail_user).fetch() == MESSAGE
    assert_known(layout, mail_user, logged)


@SUBMISSION
def test_mail_is_submitted(
    layout: RunningLayout, door: ClientAddress, mail_user: MailUser, relay: Postfix, logged: str
) -> None:
    Smtplib(door, mail_user).submit(MESSAGE)
    relay.log.wait_for(re.compile(r".*size=5\d{6}.*"))
    assert_known(layout, mail_user, logged)


@SIEVE
def test_a_script_is_kept(
    layout: RunningLayout, door: ClientAddress, mail_user: MailUser, logged: str
) -> None:
    sieve = Sieve(door, mail_user)
    sieve.put("holidays", SCRIPT)
    assert sieve.names() == {"holidays"}
    assert sieve.get("holidays") == SCRIPT
    assert_known(layout, mail_user, logged)


def test_dovecot_believes_the_proxy_alone(layout: RunningLayout, mail_user: MailUser) -> None:
    for number in (110, 587, 4190):
        assert is_refused(mail_user, layout.server_address(("127.0.0.2", layout.ports[number])))
