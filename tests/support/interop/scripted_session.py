"""A session whose client and server are scripted by a test, with HAProxy or mailproxy between them."""

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
PROGRAMS = (Mailproxy, HAProxy)  # the tested program and its model
# Between the two programs, on a busy machine. A timeout that is not in effect makes a difference of 7 s.
MAX_TIME_DIFFERENCE_MS = 3_000
GREETING = b"* OK ready\r\n"
CLEAR_TEXT = b"a1 CAPABILITY\r\n"


@attrs.frozen(kw_only=True)
class ProxyConfig:
    """One frontend, one bind, one backend and one server, for both configurations."""

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
            f" bind {HOST}:{port} name main {tls}",
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
            'protocol = "tcp"',  # the scripts are no IMAP, and HAProxy knows no refusals in words
            'backend = "mail"',
            "log_null = true",
            # HAProxy's client timeout applies to the handshake, too.
            f'timeouts = {{ client = "{self.client_ms}ms", handshake = "{self.client_ms}ms"{half_closed} }}',
            f'tls = {{ certificates = ["{self.certificates}"] }}' if self.tls else "",
            "[[frontends.imap.bind]]",
            f'address = "{HOST}:{port}"',
            'name = "main"',
            f'mode = "{"tls" if self.tls else "forward"}"',
            "[backends.mail]",
            f'timeouts = {{ server = "{self.server_ms}ms", connect = "{self.connect_ms}ms" }}',
            'check = "none"',
            "retries = 0",
            f'servers = [{{ name = "s1", address = "{self.server[0]}:{self.server[1]}" }}]',
        ]
        return "\n".join(lines) + "\n"


class Peer:
    """A socket, clear or TLS, with the various ways to close it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(TIMEOUT_S)

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def receive(self, data: bytes) -> None:
        """Receive exactly these bytes."""
        received = b""
        while len(received) < len(data) and (chunk := self.connection.recv(len(data) - len(received))):
            received += chunk
        assert received == data

    def receive_until(self, end: bytes) -> None:
        received = b""
        while not received.endswith(end):
            chunk = self.connection.recv(4096)
            assert chunk, received
            received += chunk

    def wait_for_end(self) -> None:
        """Wait for the end of the connection: a FIN (over TLS the one after close_notify) or a reset."""
        with suppress(ConnectionError, ssl.SSLError):
            while self.connection.recv(4096):
                pass
            while socket.socket.recv(self.connection, 4096):
                pass

    def half_close(self) -> None:
        """Close the sending direction and continue to receive."""
        self._send_close_notify()
        socket.socket.shutdown(self.connection, socket.SHUT_WR)

    def close(self) -> None:
        self._send_close_notify()
        self.connection.close()

    def close_without_notify(self) -> None:
        """Close with a FIN but without close_notify, as many clients do."""
        self.connection.close()

    def _send_close_notify(self) -> None:
        """Send close_notify if the connection has TLS, without waiting for the answer."""
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.setblocking(False)
            with suppress(OSError, ValueError):
                self.connection.unwrap()
            self.connection.settimeout(TIMEOUT_S)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())  # not through ssl, which would send close_notify


class ScriptedSession:
    """A client that is connected to the proxy, and the server that the proxy connects to."""

    def __init__(
        self,
        proxy: HAProxy | Mailproxy,
        port: int,
        listener: socket.socket | None,
        tls_context: ssl.SSLContext | None,
    ) -> None:
        self.proxy = proxy
        self._listener = listener
        self._tls_context = tls_context
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
        """Return the server's connection, which is accepted on first use."""
        if not self._server:
            assert self._listener, "no listener"
            self._server = Peer(self._listener.accept()[0])
        return self._server

    def handshake(self) -> None:
        """Make the TLS handshake if the bind has TLS."""
        if self._tls_context:
            connection = self.client.connection
            self.client = Peer(
                self._tls_context.wrap_socket(connection, server_hostname=HOST, suppress_ragged_eofs=False)
            )

    def start(self) -> None:
        """Connect client and server, and read the greeting, with which TLS sends its first messages."""
        self.handshake()
        self.server.send(GREETING)
        self.client.receive(GREETING)


@attrs.frozen(kw_only=True)
class Comparison:
    """Runs a scenario with each proxy in turn and compares their log lines."""

    folder: Path
    certificates: Path
    ca: Path
    tls: bool

    def run(
        self,
        scenario: Callable[[ScriptedSession], None],
        *,
        server: tuple[str, int] | None = None,
        **timeouts: int,
    ) -> tcplog.Session:
        """Return the log line of a session. Without a `server` the scenario is the server, too."""
        result, model = (
            tcplog.session(line) for line in self._run_both(scenario, tcplog.SESSION, server, timeouts)
        )
        assert result == model
        assert abs(result.total_ms - model.total_ms) < MAX_TIME_DIFFERENCE_MS, (result, model)
        return result

    def run_failure(self, scenario: Callable[[ScriptedSession], None], **timeouts: int) -> tcplog.FailedStart:
        """Return the log line of a connection that never became a session."""
        result, model = (
            tcplog.failed_start(line)
            for line in self._run_both(scenario, tcplog.FAILED_START, None, timeouts)
        )
        assert result == model
        return result

    def _run_both(
        self,
        scenario: Callable[[ScriptedSession], None],
        line: re.Pattern[str],
        server: tuple[str, int] | None,
        timeouts: dict[str, int],
    ) -> Iterator[re.Match[str]]:
        tls_context = ssl.create_default_context(cafile=str(self.ca)) if self.tls else None
        for program in PROGRAMS:
            port = free_port()
            with socket.create_server((HOST, 0)) as listener:
                listener.settimeout(TIMEOUT_S)
                config = ProxyConfig(
                    tls=self.tls,
                    certificates=self.certificates,
                    server=server or listener.getsockname(),
                    **timeouts,
                )
                text = config.for_haproxy(port) if program is HAProxy else config.for_mailproxy(port)
                with (
                    program(text, self.folder, [(HOST, port)]) as proxy,
                    ScriptedSession(proxy, port, listener, tls_context) as session,
                ):
                    scenario(session)
                    written = proxy.log.wait_for(line)
                ends = [
                    line
                    for line in proxy.log.lines()
                    if tcplog.SESSION.fullmatch(line) or tcplog.FAILED_START.fullmatch(line)
                ]
                assert ends == [written.string], repr(proxy.log)
                yield written


def refused_address() -> tuple[str, int]:
    """Return an address without a listener."""
    return HOST, free_port()


class Blackhole:
    """An address that never answers. The queue of its listener is full, so the kernel drops further connections."""

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
