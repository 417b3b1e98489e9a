"""The layouts of `config/` for Postfix: mail is accepted, and Postfix logs the clients' addresses."""

from __future__ import annotations

import re
import smtplib
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.interop.postfix_layouts import (
    MX,
    MX_POSTSCREEN,
    POSTFIX_LAYOUTS,
    SUBMISSION,
    SUBMISSION_PASSTHROUGH,
    RunningPostfixLayout,
    run_layout,
)
from tests.support.programs.other_clients import SmtpConnection, Smtplib

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.conftest import Site
    from tests.support.programs.imap_clients import MailUser, Security

pytestmark = pytest.mark.peers

MESSAGE = b"From: a@example.com\r\nSubject: news\r\nMessage-ID: <7@example.com>\r\n\r\nHello\r\n"

SUBMISSION_BINDS = pytest.mark.parametrize(
    ("layout", "number", "security", "ends_at_proxy"),
    [
        pytest.param(SUBMISSION, 587, "starttls", False, id="587"),
        pytest.param(SUBMISSION, 465, "tls", True, id="465"),
        pytest.param(SUBMISSION_PASSTHROUGH, 587, "starttls", False, id="passthrough-587"),
        pytest.param(SUBMISSION_PASSTHROUGH, 465, "tls", False, id="passthrough-465"),
    ],
    indirect=["layout"],
)
MX_LAYOUTS = pytest.mark.parametrize("layout", [MX, MX_POSTSCREEN], ids=str, indirect=True)


@pytest.fixture(scope="module")
def running(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, RunningPostfixLayout]]:
    with ExitStack() as stack:
        yield {
            str(layout): stack.enter_context(run_layout(layout, site, tmp_path_factory.mktemp(str(layout))))
            for layout in POSTFIX_LAYOUTS
        }


@pytest.fixture
def layout(request: pytest.FixtureRequest, running: dict[str, RunningPostfixLayout]) -> RunningPostfixLayout:
    return running[str(request.param)]


@SUBMISSION_BINDS
def test_submitted_mail_is_logged_with_client_address(
    layout: RunningPostfixLayout, mail_user: MailUser, number: int, security: Security, ends_at_proxy: bool
) -> None:
    Smtplib(layout.client_endpoint(number, security, ends_at_proxy=ends_at_proxy), mail_user).submit(MESSAGE)
    service = "submissions" if number == 465 else "submission"
    logged = layout.wait_for(
        rf"postfix/{service}/smtpd\[\d+\]: (\w+): client=.*sasl_username={mail_user.name}\b"
    )
    assert f"client=unknown[{mail_user.address}]" in logged
    queue_id = re.findall(r": (\w+): client=", logged)[0]
    layout.wait_for(rf"{queue_id}: to=<b@mail\.example>,.* status=sent")


@SUBMISSION_BINDS
def test_mail_without_login_is_refused(
    layout: RunningPostfixLayout, mail_user: MailUser, number: int, security: Security, ends_at_proxy: bool
) -> None:
    endpoint = layout.client_endpoint(number, security, ends_at_proxy=ends_at_proxy)
    with SmtpConnection(endpoint, mail_user) as connection:
        if security == "starttls":
            with pytest.raises(smtplib.SMTPSenderRefused, match="Must issue a STARTTLS command first"):
                connection.sendmail("a@mail.example", ["b@mail.example"], MESSAGE)
            connection.starttls(context=mail_user.tls_context(endpoint))
        with pytest.raises(smtplib.SMTPRecipientsRefused):
            connection.sendmail("a@mail.example", ["b@mail.example"], MESSAGE)


@MX_LAYOUTS
@pytest.mark.parametrize("security", ["clear", "starttls"])
def test_incoming_mail_is_logged_with_client_address(
    layout: RunningPostfixLayout, mail_user: MailUser, security: Security
) -> None:
    endpoint = layout.client_endpoint(25, security)
    sender = f"{mail_user.name}-{security}@outside.example"
    with SmtpConnection(endpoint, mail_user) as connection:
        if security == "starttls":
            connection.starttls(context=mail_user.tls_context(endpoint))
        connection.sendmail(sender, ["b@mail.example"], MESSAGE)
    queue_id = re.findall(r": (\w+): from=", layout.wait_for(rf": \w+: from=<{sender}>"))[0]
    assert f"unknown[{mail_user.address}]" in layout.wait_for(rf"{queue_id}: client=.*")
    layout.wait_for(rf"{queue_id}: to=<b@mail\.example>,.* status=sent")


@pytest.mark.parametrize("layout", [MX_POSTSCREEN], ids=str, indirect=True)
def test_postscreen_logs_client_address(layout: RunningPostfixLayout, mail_user: MailUser) -> None:
    with SmtpConnection(layout.client_endpoint(25, "clear"), mail_user) as connection:
        assert connection.noop()[0] == 250
    layout.wait_for(rf"postscreen\[\d+\]: CONNECT from \[{re.escape(mail_user.address)}\]:\d+")


@pytest.mark.parametrize("layout", POSTFIX_LAYOUTS, ids=str, indirect=True)
def test_every_server_passes_its_checks(layout: RunningPostfixLayout) -> None:
    log = layout.proxy.log
    log.wait_for(re.compile(".*mailproxy is ready"))  # after the first checks
    assert "reason: " not in log.text(), repr(log)
