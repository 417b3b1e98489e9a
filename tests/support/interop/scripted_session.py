"""Both ends of one session in the hands of a test, and the proxy between them, which is HAProxy or mailproxy."""

from __future__ import annotations

import os
import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import attrs

from tests.support.ports import attempts_to_connect, free_port
from tests.support.programs import tcplog
from tests.support.programs.program import TIMEOUT_S, HAProxy, Mailproxy, wait_until

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOST = "127.0.0.1"
PROGRAMS = (Mailproxy, HAProxy)  # what is tried, and its model
SAME_MOMENT_MS = 500  # two programs' times for the same, on a busy machine
GREETING = b"* OK ready\r\n"
CLEAR_TEXT = b"a1 CAPABILITY\r\n"


@attrs.frozen(kw_only=True)
class ProxyConfig:
    """One frontend, one bind, one backend, one server: said once, written in both languages."""

    tls: bool = False
    certificates: Path
    server: tuple[str, int]
    client_ms: int = 8_000
    server_ms: int = 8_000
    connect_ms: int = 8_000
    half_closed_ms: int | None = None
    drain_ms: int = 300

    def for_haproxy(self, port: int) -> str:
        tls = f"ssl crt {self.certificates}" if self.tls else ""
        half_closed = [
            f"timeout {side}-fin {self.half_closed_ms}ms"
            for side in ("client", "server")
            if self.half_closed_ms
        ]
        lines = [
            "global",
            " log stdout format raw local0",
            " nbthread 1",
            f" hard-stop-after {self.drain_ms}ms",
            "defaults",
            " mode tcp",
            " log global",
            " option tcplog",
            " retries 0",
            f" timeout client {self.client_ms}ms",
            f" timeout server {self.server_ms}ms",
            f" timeout connect {self.connect_ms}ms",
            *half_closed,
            "frontend imap",
            f" bind {HOST}:{port} name door {tls}",
            " default_backend mail",
            "backend mail",
            f" server s1 {self.server[0]}:{self.server[1]}",
        ]
        return "\n".join(lines) + "\n"

    def for_mailproxy(self, port: int) -> str:
        half_closed = f', half_closed = "{self.half_closed_ms}ms"' if self.half_closed_ms else ""
        lines = [
            "[process]",
            f'drain_timeout = "{self.drain_ms}ms"',
            "[log]",
            'format = "tcplog"',
            'to = "stdout"',
            "[frontends.imap]",
            'protocol = "imap"',
            'backend = "mail"',
            "log_null = true",
            # HAProxy's one limit on the client holds in its handshake too
            f'timeouts = {{ client = "{self.client_ms}ms", handshake = "{self.client_ms}ms"{half_closed} }}',
            f'tls = {{ certificates = ["{self.certificates}"] }}' if self.tls else "",
            "[[frontends.imap.bind]]",
            f'address = "{HOST}:{port}"',
            'name = "door"',
            f'mode = "{"tls" if self.tls else "forward"}"',
            "[backends.mail]",
            f'timeouts = {{ server = "{self.server_ms}ms", connect = "{self.connect_ms}ms" }}',
            'check = "none"',
            "retries = 0",
            f'servers = [{{ name = "s1", address = "{self.server[0]}:{self.server[1]}" }}]',
        ]
        return "\n".join(lines) + "\n"


class Peer:
    """A socket, clear or TLS, and the ways in which peers leave."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(TIMEOUT_S)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def receive(self, data: bytes) -> None:
        """Exactly this must come."""
        got = b""
        while len(got) < len(data) and (chunk := self.connection.recv(len(data) - len(got))):
            got += chunk
        assert got == data

    def receive_until(self, end: bytes) -> None:
        got = b""
        while not got.endswith(end):
            chunk = self.connection.recv(4096)
            assert chunk, got
            got += chunk

    def wait_for_end(self) -> None:
        """However it comes: a FIN (over TLS the one behind close_notify), a reset."""
        with suppress(ConnectionError, ssl.SSLError):
            while self.connection.recv(4096):
                pass
            while socket.socket.recv(self.connection, 4096):
                pass

    def half_close(self) -> None:
        """Say that no more comes, and listen on."""
        self._send_close_notify()
        socket.socket.shutdown(self.connection, socket.SHUT_WR)

    def close(self) -> None:
        self._send_close_notify()
        self.connection.close()

    def close_without_notify(self) -> None:
        """As many clients do: a FIN where close_notify should have come first."""
        self.connection.close()

    def _send_close_notify(self) -> None:
        """close_notify where there is TLS, without waiting for the answer."""
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.setblocking(False)
            with suppress(OSError, ValueError):
                self.connection.unwrap()
            self.connection.settimeout(TIMEOUT_S)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # not by way of ssl, which would say goodbye


class ScriptedSession:
    """A client connected to the proxy, and the server that the proxy connects to when asked for."""

    def __init__(
        self,
        proxy: HAProxy | Mailproxy,
        port: int,
        listener: socket.socket | None,
        trust: ssl.SSLContext | None,
    ) -> None:
        self.proxy = proxy
        self._listener = listener
        self._trust = trust
        self._server: Peer | None = None
        self.client = Peer(socket.create_connection((HOST, port), TIMEOUT_S))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.connection.close()
        if self._server:
            self._server.connection.close()

    @property
    def server(self) -> Peer:
        """Accepted on first use."""
        if not self._server:
            assert self._listener, "nobody listens"
            self._server = Peer(self._listener.accept()[0])
        return self._server

    def handshake(self) -> None:
        """Over TLS if the bind is TLS."""
        if self._trust:
            connection = self.client.connection
            self.client = Peer(
                self._trust.wrap_socket(connection, server_hostname=HOST, suppress_ragged_eofs=False)
            )

    def start(self) -> None:
        """Connected all the way, the greeting read (and with it, whatever TLS sends first)."""
        self.handshake()
        self.server.send(GREETING)
        self.client.receive(GREETING)


@attrs.frozen(kw_only=True)
class Comparison:
    """Plays a story with each proxy in turn; what both wrote must be the same."""

    folder: Path
    certificates: Path
    ca: Path
    tls: bool

    def run(
        self,
        story: Callable[[ScriptedSession], None],
        *,
        server: tuple[str, int] | None = None,
        **limits: int,
    ) -> tcplog.Session:
        """The line of a session; without a `server` the story plays that part too."""
        written = [tcplog.session(line) for line in self._run_both(story, tcplog.SESSION, server, limits)]
        ours, model = written
        assert ours == model
        assert abs(ours.total_ms - model.total_ms) < SAME_MOMENT_MS, written
        return ours

    def run_failure(self, story: Callable[[ScriptedSession], None], **limits: int) -> tcplog.FailedStart:
        """The line of a client that never came to have a session."""
        ours, model = (
            tcplog.failed_start(line) for line in self._run_both(story, tcplog.FAILED_START, None, limits)
        )
        assert ours == model
        return ours

    def _run_both(
        self,
        story: Callable[[ScriptedSession], None],
        line: re.Pattern[str],
        server: tuple[str, int] | None,
        limits: dict[str, int],
    ) -> Iterator[re.Match[str]]:
        trust = ssl.create_default_context(cafile=str(self.ca)) if self.tls else None
        for program in PROGRAMS:
            port = free_port()
            with socket.create_server((HOST, 0)) as listener:
                listener.settimeout(TIMEOUT_S)
                plan = ProxyConfig(
                    tls=self.tls,
                    certificates=self.certificates,
                    server=server or listener.getsockname(),
                    **limits,
                )
                text = plan.for_haproxy(port) if program is HAProxy else plan.for_mailproxy(port)
                with (
                    program(text, self.folder, [(HOST, port)]) as proxy,
                    ScriptedSession(proxy, port, listener, trust) as wire,
                ):
                    story(wire)
                    written = proxy.log.wait_for(line)
                ends = [
                    each
                    for each in proxy.log.lines()
                    if tcplog.SESSION.fullmatch(each) or tcplog.FAILED_START.fullmatch(each)
                ]
                assert ends == [written.string], repr(proxy.log)
                yield written


def refused_address() -> tuple[str, int]:
    """Where nobody listens."""
    return HOST, free_port()


class Blackhole:
    """Where nobody answers: the queue of a listener that never accepts is full, and the kernel drops what comes."""

    def __enter__(self) -> Self:
        self._sockets = [socket.create_server((HOST, 0), backlog=0)]
        self.address: tuple[str, int] = self._sockets[0].getsockname()
        for _ in range(3):
            self._sockets.append(filler := socket.socket())
            filler.setblocking(False)
            filler.connect_ex(self.address)
        self._unanswered = attempts_to_connect(*self.address)
        assert self._unanswered, "the queue is not full"
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def wait_for_attempt(self) -> None:
        """Return when the proxy is connecting."""
        wait_until(lambda: attempts_to_connect(*self.address) > self._unanswered, "the proxy connects")
