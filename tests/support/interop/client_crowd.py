"""People with mail in front of a cluster: those who stay, and those who come and go all the time."""

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

    from tests.support.programs.dovecot_cluster import ProxyInFront

HURRY = 16  # logging in at the same moment: each is a process that Dovecot starts
STAY_FROM, COME_FROM = "127.0.0.40", "127.0.0.41"
CHECKED_WAYS = ("clear", "secure")


class StayingClient(imaplib.IMAP4_SSL):
    """A session, logged in. Raises what imaplib and sockets raise."""

    def __init__(self, front: ProxyInFront, way: str, user: str, address: str) -> None:
        self._address = address
        trust = ssl.create_default_context(cafile=str(front.ca))
        super().__init__(HOST, front.ports[way], ssl_context=trust, timeout=TIMEOUT_S)
        try:
            self.login(user, PASSWORD)
        except BaseException:
            self.close_client()
            raise

    def _create_socket(self, timeout: float | None) -> socket.socket:
        connection = socket.create_connection((self.host, self.port), timeout, (self._address, 0))
        try:
            secured: ssl.SSLSocket = self.ssl_context.wrap_socket(connection, server_hostname=self.host)
        except BaseException:
            connection.close()
            raise
        return secured

    @property
    def server(self) -> str:
        """As it has introduced itself."""
        name = re.search(rb"(\w+) ready\.", self.welcome)
        assert name, self.welcome
        return name[1].decode()

    def close_client(self) -> None:
        """Without a word."""
        with suppress(OSError):
            self.shutdown()

    def wait_for_end(self) -> None:
        """The server's, to which the answer is the own."""
        with suppress(ConnectionError):
            while self.file.read(1):
                pass
        self.close_client()


class StayingClients:
    """So many who stay, half of them on each checked way."""

    def __init__(self, front: ProxyInFront, count: int) -> None:
        def enter(n: int) -> StayingClient:
            return StayingClient(front, CHECKED_WAYS[n % 2], USERS[n % 40], STAY_FROM)

        with ThreadPoolExecutor(HURRY) as hurry:
            self._guests = list(hurry.map(enter, range(count)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for guest in self._guests:
            guest.close_client()

    def at(self, server: str) -> list[StayingClient]:
        return [guest for guest in self._guests if guest.server == server]


@attrs.frozen
class LoginAttempt:
    """Somebody came at this moment, logged in at a server, and left; or could not."""

    began: float
    server: str = ""
    failure: str = ""


class LoginLoop:
    """They log in and out as fast as they can, on both checked ways."""

    def __init__(self, front: ProxyInFront, count: int = 4) -> None:
        self._front = front
        self._visits: list[LoginAttempt] = []
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
            began = time.monotonic()
            try:
                guest = StayingClient(self._front, CHECKED_WAYS[n % 2], USERS[40 + n], COME_FROM)
                try:
                    guest.logout()
                finally:
                    guest.close_client()
                self._visits.append(LoginAttempt(began, guest.server))
            except (imaplib.IMAP4.error, OSError) as error:
                self._visits.append(LoginAttempt(began, failure=repr(error)))

    def since(self, moment: float) -> Sequence[LoginAttempt]:
        """Of those who came after that."""
        return [visit for visit in self._visits if visit.began > moment]

    def wait_for_logins(self, at: Sequence[str], since: float = 0.0, count: int = 10) -> None:
        """Return when so many that came after that moment have logged in, at each of these servers."""

        def are_there() -> bool:
            servers = [visit.server for visit in self.since(since)]
            return all(servers.count(name) >= count for name in at)

        wait_until(are_there, f"logins at {at}")

    def failures(self, since: float = 0.0) -> list[LoginAttempt]:
        return [visit for visit in self.since(since) if visit.failure]
