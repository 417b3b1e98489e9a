"""One health check of one server: every connection of it, what is said there, and how it ended.

It leaves no more in a server's log than a client does that logs out. A plain connect is never heard of by the server's
program at all, unless that listens on a Unix socket; everything else says goodbye in the protocol, ends its side and lets the server close.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import trio
from attrs import define, evolve, field, frozen

from mailproxy import config
from mailproxy.address import TcpAddress
from mailproxy.config.check_plan import EntryPath, Probe, is_like_terminated_session, plan_probes
from mailproxy.errors import ProxyError, ServerHandshakeError, ServerRefusedError
from mailproxy.net.dial import Endpoint, Source, connect, half_open_connect
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.net.simple_io import ServerConnectionError, close_gracefully, receive, send_all
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.handshake import connect_tls
from mailproxy.protocol.checks.dialogue import CheckDialogue
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.registry import DIALOGUES, SAYING_HELLO
from mailproxy.protocol.checks.result import INFO_MAX, CheckCode, CheckFailedError, CheckResult, printable
from mailproxy.protocol.checks.script import ScriptCheck, ScriptStep, compile_step
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.header_builder import local_header
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome, Login, tls_name
from mailproxy.proxy.checks.login import login_of

_RECEIVED_BYTES_MAX = 64 * 1024  # of the answer to a goodbye
_CLOSE_TIMEOUT_S = 1.0  # for the server to close, when everything has been said

_SAYS_GOODBYE = re.compile(rb"(?i)\b(LOGOUT|QUIT)\b")


@frozen
class _Script:
    """What a script does on one connection: its steps with their own time limits."""

    steps: tuple[ScriptStep, ...]
    limits: tuple[float | None, ...]

    @classmethod
    def of(cls, probe: Probe) -> _Script:
        return cls(tuple(map(_compiled, probe.steps)), tuple(step.timeout for step in probe.steps))


def _compiled(step: config.Step) -> ScriptStep:
    return compile_step(
        send=step.send,
        send_hex=step.send_hex,
        expect=step.expect,
        expect_regex=step.expect_regex,
        expect_hex=step.expect_hex,
        negated=step.not_,
    )


@define(eq=False)
class _Connection:
    """One connection of a check and how it went; ``late`` is what it means if its time is up now."""

    probe: Probe
    sock: socket.socket | None = None
    sent: bytes = b""
    timeout_result: CheckResult = CheckResult(CheckCode.L4TOUT)
    dialogue: CheckDialogue | None = None
    result: CheckResult | None = None
    ended: float = 0.0

    def end(self, result: CheckResult) -> None:
        """What comes after the result is for politeness alone."""
        if self.result is None:
            self.result, self.ended = result, trio.current_time()

    def on_timeout(self) -> CheckResult:
        result = self.timeout_result
        if self.dialogue is not None:
            result = self.dialogue.failure or CheckResult(CheckCode.L7TOUT, self.dialogue.expecting)
        self.end(result)
        return result


@define(eq=False)
class Check:
    """What is done to check ``server``, again and again, ``timeout`` seconds at most until there is a result.

    ``context_of`` gives TLS as its files are now. ``as_sessions``: the probes whose connection the server sees as those of
    sessions whose TLS ends here. ``failed``: the probe that made the last outcome a failure.
    """

    server: BackendServer
    probes: Sequence[Probe]
    timeout: float
    context_of: Callable[[config.ServerTls], Context]
    as_sessions: frozenset[Probe] = frozenset()
    prefer: Literal["ipv4", "ipv6"] | None = None
    failed: Probe | None = field(default=None, init=False)
    _scripts: dict[Probe, _Script] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._scripts = {probe: _Script.of(probe) for probe in self.probes if probe.kind == "script"}

    async def run(self, report: Callable[[CheckOutcome], None]) -> None:
        """Make it once. Raises nothing for what servers do.

        ``tell`` gets the outcome, which is that of the first connection that fails, as soon as it is known: leave is taken
        afterwards, and has its own time.
        """
        spent, result = 0.0, CheckResult(CheckCode.UNK)
        opened: list[_Connection] = []
        self.failed = None
        try:
            for probe in self.probes:
                opened.append(connection := _Connection(probe))
                began = trio.current_time()
                result = await self._connect_and_talk(connection, max(self.timeout - spent, 0.0))
                spent += connection.ended - began
                if not result.code.is_passed:
                    self.failed = probe
                    result = self._with_port(result, probe)
                    break
            report(
                CheckOutcome(
                    result, int(spent * 1000), self._login(opened) if result.code.is_passed else None
                )
            )
            for connection in opened:
                await self._close_gracefully(connection)
        finally:
            for connection in opened:
                if connection.sock is not None:
                    connection.sock.close()

    def _login(self, opened: Sequence[_Connection]) -> Login | None:
        """What was learnt of how sessions log in; the first obstacle counts."""
        logins = [
            login_of(self.server.config, connection.probe, connection.dialogue)
            for connection in opened
            if connection.probe in self.as_sessions and isinstance(connection.dialogue, MailCheck)
        ]
        return next((login for login in logins if login.obstacle), logins[0] if logins else None)

    def _with_port(self, result: CheckResult, probe: Probe) -> CheckResult:
        """With the port where it could be one of several."""
        if result.code.is_passed or len(self.probes) == 1 or probe.port is None:
            return result
        place = f" at port {probe.port}"
        return evolve(result, info=f"{result.info[: INFO_MAX - len(place)]}{place}".lstrip())

    async def _connect_and_talk(self, connection: _Connection, seconds: float) -> CheckResult:
        with trio.move_on_after(seconds):
            try:
                await self._open(connection)
                await self._talk(connection)
            except CheckFailedError as failed:
                connection.end(failed.result)
        return connection.result or connection.on_timeout()

    # The connection

    async def _open(self, connection: _Connection) -> None:
        """Connect, send the PROXY header, make the handshake."""
        probe = connection.probe
        endpoints = await self._endpoints(probe)
        try:
            if probe.kind == "tcp" and probe.tls is None and probe.send_proxy == "none":
                await half_open_connect(endpoints, probe.port, self._source(endpoints))
                return
            connection.sock, _ = await connect(endpoints, probe.port, source=self._source(endpoints))
        except ServerRefusedError as error:
            raise _failed(CheckCode.L4CON, error.reason) from None
        except ProxyError as error:
            raise _failed(CheckCode.SOCKERR, str(error)) from None
        if probe.send_proxy != "none":
            await _send(connection, local_header(probe.send_proxy, connection.sock))
            connection.sent = b""  # whose signature spells QUIT
        if probe.tls is not None and probe.tls.mode == "implicit":
            await self._secure(connection, probe.tls)

    def _source(self, endpoints: Sequence[Endpoint]) -> Source | None:
        """The fixed local address of sessions; an address of the check's own may be of another family."""
        source = self.server.source
        if source is None or not any((":" in each.host) == (":" in source.host) for each in endpoints):
            return None
        return source

    async def _endpoints(self, probe: Probe) -> Sequence[Endpoint]:
        if probe.address is None:
            if not self.server.addresses:
                raise _failed(CheckCode.L4CON, self.server.resolve_error)
            return [endpoint.with_port(probe.port) for endpoint in self.server.endpoints]
        endpoint = literal_endpoint(probe.address)
        return await _look_up(probe, self.prefer) if endpoint is None else [endpoint.with_port(probe.port)]

    async def _secure(self, connection: _Connection, tls: config.ServerTls) -> None:
        context = self.context_of(tls)
        sock, connection.sock = connection.sock, None  # it is closed there, if it comes to that
        assert sock is not None  # noqa: S101 - it was opened
        connection.timeout_result = CheckResult(CheckCode.L6TOUT)
        # an address of the check's own is another way to the same server
        own, other = self.server.config.address, connection.probe.address
        name = tls_name(tls, own if other is None or literal_endpoint(own) is None else other)
        try:
            connection.sock = await connect_tls(sock, context, name)
        except ServerHandshakeError as error:
            raise _failed(CheckCode.L6RSP, str(error)) from None

    # What is said

    async def _talk(self, connection: _Connection) -> None:
        probe = connection.probe
        opened = CheckResult(CheckCode.L4OK if probe.tls is None else CheckCode.L6OK)
        if probe.kind in ("tcp", "tls") or (probe.kind == "script" and not probe.steps):
            connection.end(opened)
            return
        if probe.kind == "script":
            planned = self._scripts[probe]
            connection.dialogue = script = ScriptCheck(planned.steps, first=probe.first)
            await self._run_script(connection, script, planned.limits)
        else:
            upgrades = probe.tls is not None and probe.tls.mode == "starttls"
            connection.dialogue = dialogue = _dialogue(probe.kind, probe, starttls=upgrades)
            await _send(connection, dialogue.start())
            while not dialogue.is_decided:
                await self._step(connection, dialogue)
        connection.end(connection.dialogue.result)

    async def _step(self, connection: _Connection, dialogue: CheckDialogue) -> None:
        """Take what comes next in a dialogue: TLS where it asks for it, or what the server says."""
        if dialogue.wants_tls:
            assert connection.probe.tls is not None  # noqa: S101 - or it would not ask
            connection.dialogue = None
            await self._secure(connection, connection.probe.tls)
            connection.dialogue = dialogue
            said = dialogue.tls_started()
        else:
            said = dialogue.receive(await _receive(connection))
        await _send(connection, said)

    async def _run_script(
        self, connection: _Connection, script: ScriptCheck, limits: Sequence[float | None]
    ) -> None:
        """A script to its end, each step within its own time."""
        await _send(connection, script.start())
        while not script.is_over:
            step, limit = script.step, limits[script.step - connection.probe.first]
            with trio.move_on_after(limit if limit is not None else float("inf")) as scope:
                while script.step == step and not script.is_over:
                    await _send(connection, script.receive(await _receive(connection)))
            if scope.cancelled_caught:
                await _send(connection, script.on_step_timeout())

    async def _close_gracefully(self, connection: _Connection) -> None:
        """Say goodbye where that has not been said, hear its answer, and let the server close."""
        if connection.sock is None:
            return
        with trio.move_on_after(_CLOSE_TIMEOUT_S), contextlib.suppress(CheckFailedError):
            await self._send_logout(connection)
        await close_gracefully(connection.sock, _CLOSE_TIMEOUT_S)

    async def _send_logout(self, connection: _Connection) -> None:
        probe, dialogue = connection.probe, connection.dialogue
        has_passed = connection.result is not None and connection.result.code.is_passed
        if probe.kind in ("tcp", "tls") and probe.protocol in DIALOGUES and has_passed:
            dialogue = _dialogue(probe.protocol, probe)
            await _send(connection, dialogue.start())
        elif isinstance(dialogue, ScriptCheck) or (dialogue is not None and not dialogue.is_decided):
            if not _SAYS_GOODBYE.search(connection.sent):
                await _send(connection, _goodbye(probe, dialogue))
            if _SAYS_GOODBYE.search(connection.sent):
                # who ends its side at once does not hear the answer, and a server that cannot give it is not pleased
                heard = 0
                while heard < _RECEIVED_BYTES_MAX and (data := await _receive(connection)):
                    heard += len(data)
            return
        while dialogue is not None and not dialogue.is_over:
            await self._step(connection, dialogue)


def checks_of(
    backend: Backend, ways: Sequence[EntryPath], context_of: Callable[[config.ServerTls], Context]
) -> Iterator[Check]:
    """The checks of a backend's servers, of those that are to be checked; ``ways`` lead to it."""
    settings = backend.config
    for server in backend.servers:
        planned = plan_probes(server.config, settings.protocol, ways)
        if planned and server.config.check is not None:
            timeout = server.config.check.timeout or settings.timeouts.check
            like = (
                probe
                for probe in planned
                if is_like_terminated_session(server.config, settings.protocol, ways, probe)
            )
            yield Check(server, planned, timeout, context_of, frozenset(like), settings.resolve_prefer)


def _dialogue(kind: str, probe: Probe, *, starttls: bool = False) -> MailCheck:
    """The protocol's dialogue, with the name that the check is to say of itself."""
    if probe.hello is not None and kind in SAYING_HELLO:
        return SAYING_HELLO[kind](probe.hello, starttls=starttls)
    return DIALOGUES[kind](starttls=starttls)


def _goodbye(probe: Probe, dialogue: CheckDialogue) -> bytes:
    """The goodbye of the protocol that is spoken; nothing where that is not known."""
    if isinstance(dialogue, MailCheck):
        return dialogue.logout()
    return DIALOGUES[probe.protocol]().logout() if probe.protocol in DIALOGUES else b""


def _failed(code: CheckCode, info: str) -> CheckFailedError:
    return CheckFailedError(CheckResult(code, printable(info)))


async def _send(connection: _Connection, data: bytes) -> None:
    assert connection.sock is not None  # noqa: S101 - it is open
    connection.sent += data
    try:
        await send_all(connection.sock, data)
    except ServerConnectionError as error:
        raise _connection_failed(connection, error) from None


async def _receive(connection: _Connection) -> bytes:
    assert connection.sock is not None  # noqa: S101 - it is open
    try:
        return await receive(connection.sock)
    except ServerConnectionError as error:
        raise _connection_failed(connection, error) from None


def _connection_failed(connection: _Connection, error: ServerConnectionError) -> CheckFailedError:
    """Once a dialogue has its failure, it is no news that the connection fails, too."""
    said = connection.dialogue.failure if connection.dialogue is not None else None
    return CheckFailedError(said) if said is not None else _failed(CheckCode.L4CON, str(error))


async def _look_up(probe: Probe, prefer: Literal["ipv4", "ipv6"] | None) -> Sequence[Endpoint]:
    assert isinstance(probe.address, TcpAddress)  # noqa: S101 - other addresses have no names
    try:
        return await resolve(probe.address.host, probe.port, prefer)
    except ServerRefusedError as error:
        raise _failed(CheckCode.L4CON, str(error)) from None
    except ProxyError as error:
        raise _failed(CheckCode.SOCKERR, str(error)) from None
