"""The events about whether clients can log in to a server: logged when this changes, not with each check."""

from __future__ import annotations

import trio

from mailproxy.protocol.capabilities import Capabilities
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend.server import CheckOutcome, Login
from tests.support.proxy.check_harness import REFUSED, RecordingLog, make_backend

CLOSED = Login(Capabilities({"LOGINDISABLED": ()}), "announces LOGINDISABLED in clear text")
OPEN = Login(Capabilities({"AUTH=PLAIN": ()}), "")


async def test_login_change_is_logged_once() -> None:
    log = RecordingLog()
    backend = make_backend("127.0.0.1:143", log=log, check={"type": "imap"})
    (server,) = backend.servers

    def record_pass(login: Login | None) -> None:
        backend.record_check(server, CheckOutcome(CheckResult(CheckCode.L7OK), 1, login))

    record_pass(OPEN)
    record_pass(None)
    assert log.events == []
    await trio.lowlevel.checkpoint()
    for _ in range(3):
        record_pass(CLOSED)
    record_pass(None)  # a check that learnt nothing about the login
    backend.record_check(server, CheckOutcome(REFUSED, 1))
    record_pass(CLOSED)
    messages = [entry.message for entry in log.events_named("login-disabled")]
    assert messages == ["Server b/127.0.0.1:143 announces LOGINDISABLED in clear text"]
    assert server.login is CLOSED
    assert server.is_up, "the check has not failed"
    record_pass(OPEN)
    record_pass(OPEN)
    messages = [entry.message for entry in log.events_named("login-enabled")]
    assert messages == ["Clients can log in to server b/127.0.0.1:143 again"]
