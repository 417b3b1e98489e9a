"""Health checks: playbooks for the servers, the events of a check, and checks without sockets."""

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

# What servers send

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
class ServerPlaybook:
    """Play the server's part of a playbook, with TLS from ``tls`` where the playbook has it.

    The format is that of ``RECORDED_CHECKS``. A client that closes early is accepted. One that sends anything
    else raises PlaybookError.
    """

    playbook: str
    tls: ssl.SSLContext | None = None

    async def play(self, connection: Connection) -> None:
        for line in self.playbook.splitlines():
            if line.startswith("S: "):
                await connection.send(line.removeprefix("S: ").encode() + b"\r\n")
            elif line.startswith("C: "):
                received = await connection.receive_line()
                if connection.end is not None:
                    return
                if received != line.removeprefix("C: ").encode() + b"\r\n":
                    raise PlaybookError(f"expected {line}, received {received!r}")
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


def client_bytes(playbook: str) -> bytes:
    """Return all bytes that the check sends in a playbook."""
    lines = [line.removeprefix("C: ") for line in playbook.splitlines() if line.startswith("C: ")]
    return "".join(f"{line}\r\n" for line in lines).encode()


# Results of a check


def check_options(check: Mapping[str, Any], *, protocol: str = "tcp", **backend: Any) -> dict[str, Any]:
    """Return changes for a harness: a backend ``b`` whose servers are checked once.

    ``check`` overrides the interval of one hour.
    """
    return {"backends": {"b": {"protocol": protocol, "check": {"interval": "1h", **check}, **backend}}}


async def check_once(
    harness: ProxyHarness,
    *servers: str,
    protocol: str = "tcp",
    backend: Mapping[str, Any] | None = None,
    **check: Any,
) -> ProxyServer:
    """Run a proxy and return the first of these servers.

    The server is checked once, at the start.
    """
    proxy = await harness.proxy(*servers, **check_options(check, protocol=protocol, **(backend or {})))
    server: ProxyServer = next(iter(proxy.backends["b"].servers.values()))
    return server


async def wait_for_down(harness: ProxyHarness, words: str, **data: Any) -> Line:
    """Wait for the event that the only server is down, then return its line.

    ``words`` are the text between ``reason:`` and the duration of the check. ``data`` are fields of the line.
    """
    (line,) = await harness.events("server-down")
    assert f" is DOWN, reason: {words}, check duration: " in line["message"]
    assert {key: line[key] for key in data} == data
    assert line["status"] == "DOWN"
    return line


def server_messages(harness: ProxyHarness) -> list[str]:
    """Return the messages about servers, in order."""
    return [line["message"] for line in harness.lines() if line["event"] in CHECK_EVENTS]


async def wait_for_messages(harness: ProxyHarness, words: str, count: int = 1) -> list[str]:
    """Wait until this number of messages has these words, then return all messages about servers."""
    with trio.fail_after(TIMEOUT_S):
        while sum(words in message for message in server_messages(harness)) < count:  # noqa: ASYNC110 - a file
            await trio.sleep(0.005)
    return server_messages(harness)


# Without sockets


@frozen
class LoggedEvent:
    """An event in the log, with its time."""

    event: str
    message: str
    time: float
    data: Mapping[str, object]


class RecordingLog(Log):
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[LoggedEvent] = []

    def event(self, event: Event, message: str, **data: object) -> None:
        self.events.append(LoggedEvent(event.name, message, trio.current_time(), data))

    @property
    def messages(self) -> list[str]:
        return [entry.message for entry in self.events]

    def events_named(self, name: str) -> list[LoggedEvent]:
        """Return the events with this name."""
        return [entry for entry in self.events if entry.event == name]


def make_backend(
    *servers: str | Mapping[str, Any], log: RecordingLog | None = None, **settings: Any
) -> Backend:
    """Return a backend ``b`` of these servers without a proxy.

    Its random numbers are the same each time. The caller runs the checks.
    """
    mapping = {
        "frontends": {"f": {"bind": ["127.0.0.1:0"], "backend": "b"}},
        "backends": {"b": {"servers": list(servers), **settings}},
    }
    return factory.make_backend(
        mailproxy.from_mapping(mapping).backends["b"], {}, log or RecordingLog(), seeded_random(1)
    )


PASSED = CheckResult(CheckCode.L4OK)
REFUSED = CheckResult(CheckCode.L4CON, "Connection refused")
SILENT = CheckResult(CheckCode.L4TOUT)

Outcome = Callable[[], Awaitable[CheckResult]]


@define(eq=False)
class SimulatedCheck(Check):
    """A check that takes simulated time, and ``close_s`` more to close.

    ``started_at`` has the time of each start.
    """

    outcome: Outcome = field(kw_only=True)
    close_s: float = field(default=0.0, kw_only=True)
    started_at: list[float] = field(factory=list, init=False)

    @classmethod
    def of(cls, server: BackendServer, outcome: Outcome) -> SimulatedCheck:
        return cls(server, (), 1.0, _no_context, outcome=outcome)

    async def run(self, report: Callable[[CheckOutcome], None]) -> None:
        started_at = trio.current_time()
        self.started_at.append(started_at)
        result = await self.outcome()
        report(CheckOutcome(result, int((trio.current_time() - started_at) * 1000)))
        await trio.sleep(self.close_s)


def _no_context(tls: config.ServerTls) -> ssl.SSLContext:
    raise AssertionError(f"{tls} must not be used")


def seeded_random(seed: int) -> RandomSource:
    """Return random numbers that are the same each time."""
    return Random(seed)  # noqa: S311 - not used for secrets
