"""Clients of a cluster: some with long sessions, others that log in and out all the time."""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import attrs

from tests.support.interop.scripted_session import HOST
from tests.support.programs.dovecot import PASSWORD, USERS
from tests.support.programs.program import TIMEOUT_S, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.programs.dovecot_cluster import ClusterProxy

MAX_PARALLEL_LOGINS = 16  # because Dovecot starts a process for each
LOGGED_IN_SOURCE, LOGIN_SOURCE = "127.0.0.40", "127.0.0.41"
CHECKED_BACKENDS = ("clear", "secure")


class LoggedInClient(imaplib.IMAP4_SSL):
    """A session that is logged in. Raises the exceptions of imaplib and sockets."""

    def __init__(self, proxy: ClusterProxy, backend: str, user: str, address: str) -> None:
        self._address = address
        tls_context = ssl.create_default_context(cafile=str(proxy.ca))
        super().__init__(HOST, proxy.ports[backend], ssl_context=tls_context, timeout=TIMEOUT_S)
        try:
            self.login(user, PASSWORD)
        except BaseException:
            self.close_client()
            raise

    def _create_socket(self, timeout: float | None) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout, (self._address, 0))
        try:
            tls_connection: ssl.SSLSocket = self.ssl_context.wrap_socket(
                connection, server_hostname=self.host
            )
        except BaseException:
            connection.close()
            raise
        return tls_connection

    @property
    def server(self) -> str:
        """Return the server's name in its greeting."""
        name = re.search(rb"(\w+) ready\.", self.welcome)
        assert name, self.welcome
        return name[1].decode()

    def close_client(self) -> None:
        """Close the connection without a logout."""
        with suppress(OSError):
            self.shutdown()

    def wait_for_end(self) -> None:
        """Wait until the server closes, then close."""
        with suppress(ConnectionError):
            while self.file.read(1):
                pass
        self.close_client()


class LoggedInClients:
    """A number of long sessions, half of them on each checked backend."""

    def __init__(self, proxy: ClusterProxy, count: int) -> None:
        def log_in(n: int) -> LoggedInClient:
            return LoggedInClient(proxy, CHECKED_BACKENDS[n % 2], USERS[n % 40], LOGGED_IN_SOURCE)

        with ThreadPoolExecutor(MAX_PARALLEL_LOGINS) as pool:
            self._clients = list(pool.map(log_in, range(count)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close_client()

    def at(self, server: str) -> list[LoggedInClient]:
        return [client for client in self._clients if client.server == server]


@attrs.frozen
class LoginAttempt:
    """A client that connected at this time and logged in and out at a server, or failed."""

    started_at: float
    server: str = ""
    failure: str = ""


class LoginLoop:
    """Clients that log in and out as fast as they can, on both checked backends."""

    def __init__(self, proxy: ClusterProxy, count: int = 4) -> None:
        self._proxy = proxy
        self._attempts: list[LoginAttempt] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._login_loop, args=(n,)) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _login_loop(self, n: int) -> None:
        while not self._stop.is_set():
            started_at = time.monotonic()
            try:
                client = LoggedInClient(self._proxy, CHECKED_BACKENDS[n % 2], USERS[40 + n], LOGIN_SOURCE)
                try:
                    client.logout()
                finally:
                    client.close_client()
                self._attempts.append(LoginAttempt(started_at, client.server))
            except (imaplib.IMAP4.error, OSError) as error:
                self._attempts.append(LoginAttempt(started_at, failure=repr(error)))

    def since(self, start: float) -> Sequence[LoginAttempt]:
        """Return the attempts that started after this time."""
        return [attempt for attempt in self._attempts if attempt.started_at > start]

    def wait_for_logins(self, at: Sequence[str], since: float = 0.0, count: int = 10) -> None:
        """Return when `count` clients that started after this time have logged in at each of these servers."""

        def have_logged_in() -> bool:
            servers = [attempt.server for attempt in self.since(since)]
            return all(servers.count(name) >= count for name in at)

        wait_until(have_logged_in, f"logins at {at}")

    def failures(self, since: float = 0.0) -> list[LoginAttempt]:
        return [attempt for attempt in self.since(since) if attempt.failure]
