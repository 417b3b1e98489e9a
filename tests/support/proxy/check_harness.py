"""Servers that are checked: what they say to a check, what the check made of it, and checks without any socket."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import trio
from attrs import define, field, frozen

import mailproxy
from mailproxy import config
from mailproxy.app.api import ProxyServer
from mailproxy.log import Log
from mailproxy.log.events import Event
from mailproxy.pool import RandomSource
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend import factory
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.checks.check import Check
from mailproxy.testing import Connection, PlaybookError
from tests.support.protocol.recorded_checks import RECORDED_CHECKS
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness

CHECK_EVENTS = (
    "server-down",
    "server-up",
    "server-check",
    "server-state",
    "backend-down",
    "check-not-made",
    "check-fault",
)

# What servers say

PLAYBOOKS: dict[str, str] = {
    "imap": RECORDED_CHECKS["Dovecot 2.3.19, IMAP"][1],
    "pop3": RECORDED_CHECKS["Dovecot 2.3.19, POP3"][1],
    "smtp": RECORDED_CHECKS["postscreen"][1],
    "submission": RECORDED_CHECKS["Exchange, SMTP"][1],
    "lmtp": RECORDED_CHECKS["Dovecot, LMTP"][1],
    "sieve": RECORDED_CHECKS["Dovecot 2.3.19, ManageSieve"][1],
}
_LMTP_UPGRADED = """
S: 220 mail.example Dovecot (Debian) ready.
C: LHLO localhost
S: 250-mail.example
S: 250 STARTTLS
C: STARTTLS
S: 220 2.0.0 Begin TLS negotiation now.
(TLS)
C: LHLO localhost
S: 250 mail.example
C: QUIT
S: 221 2.0.0 Bye
"""
STARTTLS_PLAYBOOKS: dict[str, str] = {
    "imap": RECORDED_CHECKS["Dovecot 2.3.19, IMAP with STARTTLS"][1],
    "pop3": RECORDED_CHECKS["Dovecot 2.3.19, POP3 with STLS"][1],
    "smtp": RECORDED_CHECKS["Dovecot 2.3.19, submission with STARTTLS"][1],
    "submission": RECORDED_CHECKS["Dovecot 2.3.19, submission with STARTTLS"][1],
    "lmtp": _LMTP_UPGRADED,
    "sieve": RECORDED_CHECKS["Dovecot 2.3.19, ManageSieve with STARTTLS"][1],
}
MAIL_PROTOCOLS = tuple(PLAYBOOKS)


@frozen
class PlayServer:
    """Play the server's part of a book as those of ``check_golden``, with TLS from ``tls`` where the book has it.

    A client that leaves early is no fault; one that says something else is: PlaybookError.
    """

    book: str
    tls: ssl.SSLContext | None = None

    async def play(self, connection: Connection) -> None:
        for line in self.book.splitlines():
            if line.startswith("S: "):
                await connection.send(line.removeprefix("S: ").encode() + b"\r\n")
            elif line.startswith("C: "):
                heard = await connection.receive_line()
                if connection.end is not None:
                    return
                if heard != line.removeprefix("C: ").encode() + b"\r\n":
                    raise PlaybookError(f"expected {line}, received {heard!r}")
            elif line == "(TLS)":
                assert self.tls is not None
                await connection.accept_tls(self.tls)
        await connection.receive_until_end()


@frozen
class TlsHandshake:
    """Take the server's part in a TLS handshake."""

    tls: ssl.SSLContext

    async def play(self, connection: Connection) -> None:
        await connection.accept_tls(self.tls)


def client_bytes(book: str) -> bytes:
    """All that the check says in a book."""
    lines = [line.removeprefix("C: ") for line in book.splitlines() if line.startswith("C: ")]
    return "".join(f"{line}\r\n" for line in lines).encode()


# What was made of it


def check_options(check: Mapping[str, Any], *, protocol: str = "tcp", **backend: Any) -> dict[str, Any]:
    """The changes of a harness for a backend ``b`` whose servers are checked once, unless ``check`` says otherwise."""
    return {"backends": {"b": {"protocol": protocol, "check": {"interval": "1h", **check}, **backend}}}


async def check_once(
    harness: ProxyHarness,
    *servers: str,
    protocol: str = "tcp",
    backend: Mapping[str, Any] | None = None,
    **check: Any,
) -> ProxyServer:
    """The first of these servers, after its only check."""
    proxy = await harness.proxy(*servers, **check_options(check, protocol=protocol, **(backend or {})))
    server: ProxyServer = next(iter(proxy.backends["b"].servers.values()))
    return server


async def wait_for_down(harness: ProxyHarness, words: str, **data: Any) -> Line:
    """The only server's going down: with these words between ``reason:`` and the duration, and these data."""
    (line,) = await harness.events("server-down")
    assert f" is DOWN, reason: {words}, check duration: " in line["message"]
    assert {key: line[key] for key in data} == data
    assert line["status"] == "DOWN"
    return line


def server_messages(harness: ProxyHarness) -> list[str]:
    """The sentences about servers, in their order."""
    return [line["message"] for line in harness.lines() if line["event"] in CHECK_EVENTS]


async def wait_for_messages(harness: ProxyHarness, words: str, count: int = 1) -> list[str]:
    """All sentences about servers, as soon as so many have these words."""
    with trio.fail_after(TIMEOUT_S):
        while sum(words in sentence for sentence in server_messages(harness)) < count:  # noqa: ASYNC110 - a file
            await trio.sleep(0.005)
    return server_messages(harness)


# Without sockets


@frozen
class LoggedEvent:
    """What was told, and when."""

    event: str
    message: str
    time: float
    data: Mapping[str, object]


class RecordingLog(Log):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []

    def event(self, event: Event, message: str, **data: object) -> None:
        self.events.append(LoggedEvent(event.name, message, trio.current_time(), data))

    @property
    def messages(self) -> list[str]:
        return [entry.message for entry in self.events]

    def events_named(self, name: str) -> list[LoggedEvent]:
        """Those of one event."""
        return [entry for entry in self.events if entry.event == name]


def make_backend(
    *servers: str | Mapping[str, Any], diary: RecordingLog | None = None, **settings: Any
) -> Backend:
    """A backend ``b`` of these servers with nobody around it; chance is the same each time, checks are the caller's."""
    mapping = {
        "frontends": {"f": {"bind": ["127.0.0.1:0"], "backend": "b"}},
        "backends": {"b": {"servers": list(servers), **settings}},
    }
    return factory.make_backend(
        mailproxy.from_mapping(mapping).backends["b"], {}, diary or RecordingLog(), seeded_random(1)
    )


PASSED = CheckResult(CheckCode.L4OK)
REFUSED = CheckResult(CheckCode.L4CON, "Connection refused")
SILENT = CheckResult(CheckCode.L4TOUT)

Outcome = Callable[[], Awaitable[CheckResult]]


@define(eq=False)
class SimulatedCheck(Check):
    """A check that takes simulated time, and more of it to leave; ``begins`` has when each began."""

    outcome: Outcome = field(kw_only=True)
    close_s: float = field(default=0.0, kw_only=True)
    started_at: list[float] = field(factory=list, init=False)

    @classmethod
    def of(cls, server: BackendServer, outcome: Outcome) -> SimulatedCheck:
        return cls(server, (), 1.0, _no_context, outcome=outcome)

    async def run(self, report: Callable[[CheckOutcome], None]) -> None:
        began = trio.current_time()
        self.started_at.append(began)
        result = await self.outcome()
        report(CheckOutcome(result, int((trio.current_time() - began) * 1000)))
        await trio.sleep(self.close_s)


def _no_context(tls: config.ServerTls) -> ssl.SSLContext:
    raise AssertionError(f"nobody uses {tls}")


def seeded_random(seed: int) -> RandomSource:
    """The same throws each time."""
    return Random(seed)  # noqa: S311 - nothing is to be kept secret
