"""What a command of the admin socket is called with, and how it refuses."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Protocol

from attrs import define, field

from mailproxy.admin.handover.giver import HandOver
from mailproxy.admin.history import C, History, Key, Trend
from mailproxy.admin.target import Target
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer

IDLE_TIMEOUT_S = 10.0
PROMPT_TIMEOUT_S = 600.0


class Level(IntEnum):
    """What a client of an admin socket may do. Each level may do what the ones before it may."""

    USER = 1
    OPERATOR = 2
    ADMIN = 3


class CommandError(Exception):
    """The command cannot be carried out. The message is the answer."""


class Stream(Protocol):
    """An answer that goes on until its client leaves or sends a line."""

    async def run(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Send lines until cancelled."""


@define(eq=False)
class Client:
    """The settings of one client's conversation.

    Attributes:
        level: What it may do now. It can only fall.
        is_interactive: Whether it gets a prompt, and the connection stays open after an answer.
        timeout: Seconds without a command after which the connection is closed; None for the default.
        severity: How errors are marked: ``none``, ``number`` or ``string``.
        is_done: Whether it has sent ``quit``.
        credentials: Its process id and user when it connected; None over TCP.
        attachment: A socket that goes with the next answer, and is closed then.
    """

    level: Level
    is_interactive: bool = False
    timeout: float | None = None
    severity: str = "none"
    is_done: bool = False
    credentials: tuple[int, int] | None = None
    attachment: socket.socket | None = None

    @property
    def idle_timeout(self) -> float:
        """Seconds without a command after which the connection is closed."""
        if self.timeout is not None:
            return self.timeout
        return PROMPT_TIMEOUT_S if self.is_interactive else IDLE_TIMEOUT_S


@define(eq=False)
class Call:
    """What a command is called with.

    Attributes:
        target: The proxy.
        history: What follows from its figures over time.
        client: The client that asks.
        streams: The streams of all clients.
        handover: Hands the sockets over to another process.
        ignores_clear: Whether counters count from the start, whatever ``clear counters`` did: those of metrics must
            never go back.
    """

    target: Target
    history: History
    client: Client = field(factory=lambda: Client(Level.USER))
    streams: set[Stream] = field(factory=set)
    handover: HandOver | None = None
    ignores_clear: bool = False

    def since_cleared(self, key: Key, counters: C) -> C:
        """Return counters without what they were when they were cleared."""
        return counters if self.ignores_clear else self.history.since_cleared(key, counters)

    def backend_downs(self, trend: Trend) -> tuple[int, float]:
        """Return how often and how long a backend was down, without what was cleared."""
        if self.ignores_clear:
            return trend.downs, trend.down_seconds
        return trend.downs - trend.cleared[0], trend.down_seconds - trend.cleared[1]

    def backend(self, name: str, missing: str = "No such backend.") -> Backend:
        """Return a backend.

        Raises:
            CommandError: There is no such backend.
        """
        try:
            return self.target.backends[name]
        except KeyError:
            raise CommandError(missing) from None

    def server(self, text: str) -> tuple[Backend, BackendServer]:
        """Return the server that ``BACKEND/SERVER`` names, and its backend.

        Raises:
            CommandError: It is no such pair, or there is no such server.
        """
        name, slash, server_name = text.partition("/")
        if not slash or not server_name:
            raise CommandError("Require 'backend/server'.")
        backend = self.backend(name)
        for server in backend.servers:
            if server.name == server_name:
                return backend, server
        raise CommandError("No such server.")

    def frontend(self, name: str) -> str:
        """Return a frontend's name if it exists.

        Raises:
            CommandError: No name was given, or there is no such frontend.
        """
        if not name:
            raise CommandError("A frontend name is expected.")
        if name not in self.target.config.frontends:
            raise CommandError("No such frontend.")
        return name
