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
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.checks.check import Check
from mailproxy.testing import Connection, PlaybookError
from tests.support.protocol.recorded_checks import GOLDEN
from tests.support.proxy.proxy_fixture import PATIENCE_S, Line, Scene

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

BOOKS: dict[str, str] = {
    "imap": GOLDEN["Dovecot 2.3.19, IMAP"][1],
    "pop3": GOLDEN["Dovecot 2.3.19, POP3"][1],
    "smtp": GOLDEN["postscreen"][1],
    "submission": GOLDEN["Exchange, SMTP"][1],
    "lmtp": GOLDEN["Dovecot, LMTP"][1],
    "sieve": GOLDEN["Dovecot 2.3.19, ManageSieve"][1],
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
UPGRADED: dict[str, str] = {
    "imap": GOLDEN["Dovecot 2.3.19, IMAP with STARTTLS"][1],
    "pop3": GOLDEN["Dovecot 2.3.19, POP3 with STLS"][1],
    "smtp": GOLDEN["Dovecot 2.3.19, submission with STARTTLS"][1],
    "submission": GOLDEN["Dovecot 2.3.19, submission with STARTTLS"][1],
    "lmtp": _LMTP_UPGRADED,
    "sieve": GOLDEN["Dovecot 2.3.19, ManageSieve with STARTTLS"][1],
}
MAIL = tuple(BOOKS)


@frozen
class Act:
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
class Shake:
    """Take the server's part in a TLS handshake."""

    tls: ssl.SSLContext

    async def play(self, connection: Connection) -> None:
        await connection.accept_tls(self.tls)


def said_by_client(book: str) -> bytes:
    """All that the check says in a book."""
    lines = [line.removeprefix("C: ") for line in book.splitlines() if line.startswith("C: ")]
    return "".join(f"{line}\r\n" for line in lines).encode()


# What was made of it


def backend_with(check: Mapping[str, Any], *, protocol: str = "tcp", **backend: Any) -> dict[str, Any]:
    """The changes of a scene for a backend ``b`` whose servers are checked once, unless ``check`` says otherwise."""
    return {"backends": {"b": {"protocol": protocol, "check": {"interval": "1h", **check}, **backend}}}


async def once_checked(
    scene: Scene, *servers: str, protocol: str = "tcp", backend: Mapping[str, Any] | None = None, **check: Any
) -> ProxyServer:
    """The first of these servers, after its only check."""
    proxy = await scene.proxy(*servers, **backend_with(check, protocol=protocol, **(backend or {})))
    server: ProxyServer = next(iter(proxy.backends["b"].servers.values()))
    return server


async def down(scene: Scene, words: str, **data: Any) -> Line:
    """The only server's going down: with these words between ``reason:`` and the duration, and these data."""
    (line,) = await scene.events("server-down")
    assert f" is DOWN, reason: {words}, check duration: " in line["message"]
    assert {key: line[key] for key in data} == data
    assert line["status"] == "DOWN"
    return line


def told(scene: Scene) -> list[str]:
    """The sentences about servers, in their order."""
    return [line["message"] for line in scene.lines() if line["event"] in CHECK_EVENTS]


async def wait_told(scene: Scene, words: str, count: int = 1) -> list[str]:
    """All sentences about servers, as soon as so many have these words."""
    with trio.fail_after(PATIENCE_S):
        while sum(words in sentence for sentence in told(scene)) < count:  # noqa: ASYNC110 - a file
            await trio.sleep(0.005)
    return told(scene)


# Without sockets


@frozen
class Entry:
    """What was told, and when."""

    event: str
    sentence: str
    time: float
    data: Mapping[str, object]


class Diary(Log):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def event(self, event: Event, message: str, **data: object) -> None:
        self.entries.append(Entry(event.name, message, trio.current_time(), data))

    @property
    def sentences(self) -> list[str]:
        return [entry.sentence for entry in self.entries]

    def of(self, name: str) -> list[Entry]:
        """Those of one event."""
        return [entry for entry in self.entries if entry.event == name]


def backend_of(*servers: str | Mapping[str, Any], diary: Diary | None = None, **settings: Any) -> Backend:
    """A backend ``b`` of these servers with nobody around it; chance is the same each time, checks are the caller's."""
    mapping = {
        "frontends": {"f": {"bind": ["127.0.0.1:0"], "backend": "b"}},
        "backends": {"b": {"servers": list(servers), **settings}},
    }
    return Backend(mailproxy.from_mapping(mapping).backends["b"], {}, diary or Diary(), dice(1))


PASSED = CheckResult(CheckCode.L4OK)
REFUSED = CheckResult(CheckCode.L4CON, "Connection refused")
SILENT = CheckResult(CheckCode.L4TOUT)

Outcome = Callable[[], Awaitable[CheckResult]]


@define(eq=False)
class Pretended(Check):
    """A check that takes simulated time, and more of it to leave; ``begins`` has when each began."""

    outcome: Outcome = field(kw_only=True)
    leaving_s: float = field(default=0.0, kw_only=True)
    begins: list[float] = field(factory=list, init=False)

    @classmethod
    def of(cls, server: BackendServer, outcome: Outcome) -> Pretended:
        return cls(server, (), 1.0, _no_context, outcome=outcome)

    async def run(self, report: Callable[[CheckOutcome], None]) -> None:
        began = trio.current_time()
        self.begins.append(began)
        result = await self.outcome()
        report(CheckOutcome(result, int((trio.current_time() - began) * 1000)))
        await trio.sleep(self.leaving_s)


def _no_context(tls: config.ServerTls) -> ssl.SSLContext:
    raise AssertionError(f"nobody uses {tls}")


def dice(seed: int) -> RandomSource:
    """The same throws each time."""
    return Random(seed)  # noqa: S311 - nothing is to be kept secret
