"""Whether clients can log in to a server, as the log says it: when it changes, and not with each check."""

from __future__ import annotations

import trio

from mailproxy.protocol.capabilities import Capabilities
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend.server import CheckOutcome, Login
from tests.support.proxy.check_harness import REFUSED, RecordingLog, make_backend

CLOSED = Login(Capabilities({"LOGINDISABLED": ()}), "announces LOGINDISABLED in clear text")
OPEN = Login(Capabilities({"AUTH=PLAIN": ()}), "")


async def test_it_is_said_when_it_changes() -> None:
    diary = RecordingLog()
    backend = make_backend("127.0.0.1:143", diary=diary, check={"type": "imap"})
    (server,) = backend.servers

    def passed(login: Login | None) -> None:
        backend.record_check(server, CheckOutcome(CheckResult(CheckCode.L7OK), 1, login))

    passed(OPEN)
    passed(None)
    assert diary.events == []
    await trio.lowlevel.checkpoint()
    for _ in range(3):
        passed(CLOSED)
    passed(None)  # a check that learnt nothing
    backend.record_check(server, CheckOutcome(REFUSED, 1))
    passed(CLOSED)
    said = [entry.message for entry in diary.events_named("login-disabled")]
    assert said == ["Server b/127.0.0.1:143 announces LOGINDISABLED in clear text"]
    assert server.login is CLOSED
    assert server.is_up, "it is no failed check"
    passed(OPEN)
    passed(OPEN)
    said = [entry.message for entry in diary.events_named("login-enabled")]
    assert said == ["Clients can log in to server b/127.0.0.1:143 again"]
