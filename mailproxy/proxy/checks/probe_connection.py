"""One connection of a health check: connect, PROXY header, TLS, dialogue, result, close.

A check leaves no more in a server's log than a client that logs out. The program of a TCP server never learns
of a plain connect (a Unix socket's does). On every other connection the check logs out in the protocol,
half-closes, and lets the server close.
"""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable, Sequence
from typing import Literal

import trio
from attrs import define, frozen

from mailproxy import config
from mailproxy.address import TcpAddress
from mailproxy.config.check_plan import Probe
from mailproxy.errors import ProxyError, ServerHandshakeError, ServerRefusedError
from mailproxy.net.dial import Endpoint, Source, connect, half_open_connect
from mailproxy.net.resolve import literal_endpoint, resolve
from mailproxy.net.simple_io import ServerConnectionError, close_gracefully, receive, send_all
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.handshake import connect_tls
from mailproxy.protocol.checks.dialogue import CheckDialogue
from mailproxy.protocol.checks.mail import MailCheck
from mailproxy.protocol.checks.registry import DIALOGUES, DIALOGUES_WITH_NAME
from mailproxy.protocol.checks.result import CheckCode, CheckFailedError, CheckResult, excerpt
from mailproxy.protocol.checks.script import ScriptCheck, ScriptStep, compile_step
from mailproxy.proxy.backend.header_builder import local_header
from mailproxy.proxy.backend.server import BackendServer, tls_name

_LOGOUT_ANSWER_MAX = 64 * 1024  # bytes
_CLOSE_TIMEOUT_S = 1.0  # for the logout, and again for the server to close

_LOGOUT_COMMAND = re.compile(rb"(?i)\b(LOGOUT|QUIT)\b")


@frozen
class Script:
    """The steps of a script on one connection, with the timeout of each in seconds, None without one."""

    steps: tuple[ScriptStep, ...]
    timeouts: tuple[float | None, ...]

    @classmethod
    def of(cls, probe: Probe) -> Script:
        """Compile the steps of a probe."""
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
class ProbeConnection:
    """One connection of a check, for one run of it.

    Attributes:
        server: The server that is checked.
        probe: What to connect to, and what to speak there.
        context_of: Returns the TLS context for a ``tls`` table, with its files as they are now.
        prefer: The address family to prefer if the probe's own address is a host name.
        script: The compiled script, for probes of kind ``script``.
        dialogue: What is spoken; None before that and during a TLS handshake.
        result: How it went, once that is decided. What follows is the logout.
        seconds: How long it took until then.
    """

    server: BackendServer
    probe: Probe
    context_of: Callable[[config.ServerTls], Context]
    prefer: Literal["ipv4", "ipv6"] | None = None
    script: Script | None = None
    dialogue: CheckDialogue | None = None
    result: CheckResult | None = None
    seconds: float = 0.0
    _sock: socket.socket | None = None
    _sent: bytes = b""
    _started_at: float = 0.0
    # What a timeout means before there is a dialogue.
    _timeout_code: CheckCode = CheckCode.L4TOUT

    async def run(self, seconds: float) -> CheckResult:
        """Connect and talk until there is a result, for ``seconds`` at most; the connection stays open.

        Raises nothing for what servers do.
        """
        self._started_at = trio.current_time()
        with trio.move_on_after(seconds):
            try:
                await self._open()
                await self._talk()
            except CheckFailedError as failed:
                self._decide(failed.result)
        return self.result or self._decide(self._timeout_result())

    async def close_gracefully(self) -> None:
        """Log out unless that is done, read the answer, and let the server close first.

        Closing with unread bytes would send a reset, which is a line in the server's log.

        Closes:
            The socket, also when cancelled.
        """
        if self._sock is None:
            return
        with trio.move_on_after(_CLOSE_TIMEOUT_S), contextlib.suppress(CheckFailedError):
            await self._log_out()
        await close_gracefully(self._sock, _CLOSE_TIMEOUT_S)

    def close(self) -> None:
        """Close the socket, if it is open."""
        if self._sock is not None:
            self._sock.close()

    def _decide(self, result: CheckResult) -> CheckResult:
        """Take a result, unless there is one."""
        if self.result is None:
            self.result, self.seconds = result, trio.current_time() - self._started_at
        return self.result

    def _timeout_result(self) -> CheckResult:
        if self.dialogue is None:
            return CheckResult(self._timeout_code)
        return self.dialogue.failure or CheckResult(CheckCode.L7TOUT, self.dialogue.expecting)

    # Connect

    async def _open(self) -> None:
        """Connect, send the PROXY header, make the TLS handshake."""
        probe = self.probe
        endpoints = await self._endpoints()
        source = self._source(endpoints)
        try:
            if probe.kind == "tcp" and probe.tls is None and probe.send_proxy == "none":
                await half_open_connect(endpoints, probe.port, source)
                return
            self._sock, _ = await connect(endpoints, probe.port, source=source)
        except ServerRefusedError as error:
            raise _failed(CheckCode.L4CON, error.reason) from None
        except ProxyError as error:
            raise _failed(CheckCode.SOCKERR, str(error)) from None
        if probe.send_proxy != "none":
            await self._send(local_header(probe.send_proxy, self._sock))
            self._sent = b""  # the header's signature contains QUIT
        if probe.tls is not None and probe.tls.mode == "implicit":
            await self._start_tls(probe.tls)

    async def _endpoints(self) -> Sequence[Endpoint]:
        probe, server = self.probe, self.server
        if probe.address is None:
            if not server.addresses:
                raise _failed(CheckCode.L4CON, server.resolve_error)
            return [endpoint.with_port(self._port) for endpoint in server.endpoints]
        endpoint = literal_endpoint(probe.address)
        if endpoint is not None:
            return [endpoint.with_port(probe.port)]
        assert isinstance(probe.address, TcpAddress)  # noqa: S101 - other addresses have no host names
        try:
            return await resolve(probe.address.host, probe.port, self.prefer)
        except ServerRefusedError as error:
            raise _failed(CheckCode.L4CON, str(error)) from None
        except ProxyError as error:
            raise _failed(CheckCode.SOCKERR, str(error)) from None

    @property
    def _port(self) -> int | None:
        """The port at the server's own address; None for that of sessions, which the operator may have changed."""
        own = self.server.config.address
        if self.server.check_port is not None:
            return self.server.check_port
        follows_sessions = isinstance(own, TcpAddress) and self.probe.port == own.port
        return None if follows_sessions else self.probe.port

    def _source(self, endpoints: Sequence[Endpoint]) -> Source | None:
        """Return the fixed local address of sessions, unless the check connects to the other family."""
        source = self.server.source
        if source is None or not any((":" in each.host) == (":" in source.host) for each in endpoints):
            return None
        return source

    async def _start_tls(self, tls: config.ServerTls) -> None:
        context = self.context_of(tls)
        sock, self._sock = self._sock, None  # connect_tls takes it over, and closes it if it fails
        assert sock is not None  # noqa: S101 - _open has connected it
        self._timeout_code = CheckCode.L6TOUT
        # An IP address of the check's own is another way to the same server, so the server's name is
        # verified.
        own, other = self.server.config.address, self.probe.address
        name = tls_name(tls, own if other is None or literal_endpoint(own) is None else other)
        try:
            self._sock = await connect_tls(sock, context, name)
        except ServerHandshakeError as error:
            raise _failed(CheckCode.L6RSP, str(error)) from None

    # Talk

    async def _talk(self) -> None:
        probe = self.probe
        if probe.kind in ("tcp", "tls") or (probe.kind == "script" and not probe.steps):
            self._decide(CheckResult(CheckCode.L4OK if probe.tls is None else CheckCode.L6OK))
            return
        if self.script is not None:
            self.dialogue = script = ScriptCheck(self.script.steps, first=probe.first)
            await self._run_script(script, self.script.timeouts)
        else:
            upgrades = probe.tls is not None and probe.tls.mode == "starttls"
            self.dialogue = dialogue = _mail_check(probe.kind, probe.hello, starttls=upgrades)
            await self._send(dialogue.start())
            while not dialogue.is_decided:
                await self._step(dialogue)
        self._decide(self.dialogue.result)

    async def _step(self, dialogue: CheckDialogue) -> None:
        """Make the next step of a dialogue: the TLS handshake if it wants that, else one exchange."""
        if dialogue.wants_tls:
            assert self.probe.tls is not None  # noqa: S101 - else it would not want TLS
            self.dialogue = None
            await self._start_tls(self.probe.tls)
            self.dialogue = dialogue
            answer = dialogue.tls_started()
        else:
            answer = dialogue.receive(await self._receive())
        await self._send(answer)

    async def _run_script(self, script: ScriptCheck, timeouts: Sequence[float | None]) -> None:
        """Run a script to its end, each step within its own timeout."""
        await self._send(script.start())
        while not script.is_over:
            step, timeout = script.step, timeouts[script.step - self.probe.first]
            with trio.move_on_after(timeout if timeout is not None else float("inf")) as scope:
                while script.step == step and not script.is_over:
                    await self._send(script.receive(await self._receive()))
            if scope.cancelled_caught:
                await self._send(script.on_step_timeout())

    async def _send(self, data: bytes) -> None:
        assert self._sock is not None  # noqa: S101 - it is open
        self._sent += data
        try:
            await send_all(self._sock, data)
        except ServerConnectionError as error:
            raise self._connection_failed(error) from None

    async def _receive(self) -> bytes:
        assert self._sock is not None  # noqa: S101 - it is open
        try:
            return await receive(self._sock)
        except ServerConnectionError as error:
            raise self._connection_failed(error) from None

    def _connection_failed(self, error: ServerConnectionError) -> CheckFailedError:
        """Return what a failed connection means: the dialogue's failure, if that came first."""
        failure = self.dialogue.failure if self.dialogue is not None else None
        return CheckFailedError(failure) if failure is not None else _failed(CheckCode.L4CON, str(error))

    # Close

    async def _log_out(self) -> None:
        """Log out of the protocol that the server speaks, as far as that is known.

        There are three cases:

        - A dialogue with a result goes on to its end, which is the logout.
        - A connection that has passed without a dialogue has the whole dialogue now.
        - A script, or a dialogue without a result, gets a logout command.
        """
        probe, dialogue = self.probe, self.dialogue
        has_passed = self.result is not None and self.result.code.is_passed
        if probe.kind in ("tcp", "tls") and probe.protocol in DIALOGUES and has_passed:
            dialogue = _mail_check(probe.protocol, probe.hello)
            await self._send(dialogue.start())
        elif dialogue is not None and (isinstance(dialogue, ScriptCheck) or not dialogue.is_decided):
            await self._send_logout(dialogue)
            return
        while dialogue is not None and not dialogue.is_over:
            await self._step(dialogue)

    async def _send_logout(self, dialogue: CheckDialogue) -> None:
        """Send the logout command, unless a script has sent one, and read until the server closes."""
        if not _LOGOUT_COMMAND.search(self._sent):
            await self._send(_logout_command(self.probe, dialogue))
        if _LOGOUT_COMMAND.search(self._sent):
            # Half-closing at once would miss the answer, and servers log that they could not send it.
            received = 0
            while received < _LOGOUT_ANSWER_MAX and (data := await self._receive()):
                received += len(data)


def _mail_check(kind: str, hello: str | None, *, starttls: bool = False) -> MailCheck:
    """Make the protocol's dialogue; ``hello`` is the check's own name in protocols with one."""
    if hello is not None and kind in DIALOGUES_WITH_NAME:
        return DIALOGUES_WITH_NAME[kind](hello, starttls=starttls)
    return DIALOGUES[kind](starttls=starttls)


def _logout_command(probe: Probe, dialogue: CheckDialogue) -> bytes:
    """Return the logout command of the protocol that is spoken, empty if that is unknown."""
    if isinstance(dialogue, MailCheck):
        return dialogue.logout()
    return DIALOGUES[probe.protocol]().logout() if probe.protocol in DIALOGUES else b""


def _failed(code: CheckCode, info: str) -> CheckFailedError:
    return CheckFailedError(CheckResult(code, excerpt(info)))
