"""Which sessions are drained, why, and what is left of them."""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.proxy.session.registry import LiveSession


class Purpose(Enum):
    """Why sessions end."""

    STOP = "stop"
    DRAIN = "drain"
    KILL = "kill"

    @property
    def end_reason(self) -> EndReason:
        """The end reason of sessions that are connected."""
        return _END_REASONS[self]


_END_REASONS = {
    Purpose.STOP: end_reasons.STOPPED,
    Purpose.DRAIN: end_reasons.DRAINED,
    Purpose.KILL: end_reasons.KILLED,
}


@frozen
class DrainTarget:
    """The sessions of a server, of a frontend, or all.

    Attributes:
        frontend: The frontend's name; empty for a server or the process.
        backend: The name of the server's backend.
        server: The server's name.
    """

    frontend: str = ""
    backend: str = ""
    server: str = ""

    def matches(self, session: LiveSession) -> bool:
        """Whether a session is one of them. A server has those that are connected, connecting or in its queue."""
        record = session.record
        if self.server:
            return record.server == self.server and record.backend == self.backend
        return not self.frontend or record.frontend == self.frontend

    def __str__(self) -> str:
        if self.server:
            return f"server {self.backend}/{self.server}"
        return f"frontend {self.frontend}" if self.frontend else "process"


PROCESS = DrainTarget()
"""All sessions."""


@frozen
class DrainStatus:
    """How far a drain has come.

    Attributes:
        what: Which sessions it ends, such as ``server dovecot/d1``. No two drains have the same.
        purpose: Why they end.
        left: The sessions that have not ended.
        idle: How many of them are idle.
        seconds: The time until the deadline.
    """

    what: str
    purpose: Purpose
    left: int
    idle: int
    seconds: float

    def __str__(self) -> str:
        """Return the line of ``show drain``."""
        return f"{self.what} left={self.left} idle={self.idle} deadline={max(0, round(self.seconds))}s"
