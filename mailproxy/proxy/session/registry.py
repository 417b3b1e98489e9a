"""The live sessions of a process: what an operator may list, and end.

A session adds itself when it is accepted and removes itself when it ends. That is all it pays: one entry of a
dict. Everything else is read from it when an operator asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from mailproxy.log.end_reasons import KILLED, EndReason
from mailproxy.log.record import SessionRecord
from mailproxy.net.listener import Listener
from mailproxy.proxy.backend.server import BackendServer


class LiveSession(Protocol):
    """A session that has not ended.

    Attributes:
        record: Its facts so far: id, addresses, frontend, backend, server, phase. The byte counts in it are
            only set at its end.
        listener: The listener that accepted it.
        counted_in: The bytes from the client that are counted already.
        counted_out: Those from the server.
    """

    record: SessionRecord
    listener: Listener
    counted_in: int
    counted_out: int

    @property
    def server(self) -> BackendServer | None:
        """The server whose slot it has; None before it has one."""

    @property
    def is_connected(self) -> bool:
        """Whether it has a server, and relays bytes."""

    @property
    def local_address(self) -> str:
        """The address and port that the client connected to here, empty for a Unix socket."""

    @property
    def age(self) -> float:
        """Seconds since it was accepted."""

    @property
    def idle(self) -> float:
        """Seconds since the last byte in either direction. Before it is connected: since it was accepted."""

    @property
    def bytes_in(self) -> int:
        """Bytes from the client so far, without TLS."""

    @property
    def bytes_out(self) -> int:
        """Bytes from the server so far, without TLS."""

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of one side wait until the other one takes them."""

    def end(self, reason: EndReason) -> None:
        """End it.

        Args:
            reason: Its end reason if it is connected: STOPPED, DRAINED or KILLED. Before that, it ends with the
                reason of its phase, such as STOPPED_QUEUED, and this one is the detail.
        """


class SessionRegistry:
    """The live sessions of one process.

    Attributes:
        sessions: All of them, by id. Sessions add and remove themselves. The oldest one is the first.
    """

    def __init__(self) -> None:
        self.sessions: dict[int, LiveSession] = {}

    def __len__(self) -> int:
        return len(self.sessions)

    def __iter__(self) -> Iterator[LiveSession]:
        """Iterate over the sessions that there are now. They may end meanwhile."""
        return iter(tuple(self.sessions.values()))

    def get(self, number: int) -> LiveSession | None:
        """Return the session with this id, None if it has ended or is another process's."""
        return self.sessions.get(number)

    def kill(self, number: int) -> bool:
        """End a session with end reason KILLED. Return False if it has ended or is another process's."""
        session = self.sessions.get(number)
        if session is None:
            return False
        session.end(KILLED)
        return True

    def select(self, matches: Callable[[LiveSession], bool]) -> list[LiveSession]:
        """Return the sessions that match, the oldest first."""
        return [session for session in self.sessions.values() if matches(session)]
