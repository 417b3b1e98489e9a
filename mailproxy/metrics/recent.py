"""The last sessions that have ended, for the status page."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from attrs import define, field, frozen

from mailproxy.log.record import SessionRecord
from mailproxy.metrics.ends import FAILURES

RECENT_MAX = 30


@frozen
class RecentEnd:
    """A session that has ended. Without the client's address: every user of the machine may read the page.

    Attributes:
        id: Its id, as in the log.
        ended_at: When it ended, in seconds since 1970.
        frontend: Its frontend.
        backend: Its backend, empty if it had none.
        server: Its server, empty if it had none.
        end: The name of its end reason.
        detail: The cause, if there is more to say.
        total_ms: How long it took.
        bytes_in: Bytes from the client.
        bytes_out: Bytes from the server.
    """

    id: str
    ended_at: float
    frontend: str
    backend: str
    server: str
    end: str
    detail: str
    total_ms: int
    bytes_in: int
    bytes_out: int

    @classmethod
    def of(cls, record: SessionRecord) -> RecentEnd:
        """Describe a session that has ended."""
        return cls(
            id=f"{record.id:x}",
            ended_at=round(record.accepted + record.total_ms / 1000, 3),
            frontend=record.frontend,
            backend=record.backend,
            server=record.server,
            end=record.end.name if record.end is not None else "",
            detail=str(record.detail).replace(record.client.rpartition(":")[0] or "\0", "the client")[:200],
            total_ms=record.total_ms,
            bytes_in=record.bytes_in,
            bytes_out=record.bytes_out,
        )

    @property
    def has_failed(self) -> bool:
        """Whether it ended neither by its client's leaving nor by the operator."""
        return self.end in FAILURES


def _bounded() -> deque[Any]:
    return deque(maxlen=RECENT_MAX)


@define(eq=False)
class RecentSessions:
    """The records of the last sessions in the log, and of the last of them that failed.

    Attributes:
        records: The last sessions.
        failures: The last sessions that failed.
    """

    records: deque[SessionRecord] = field(factory=_bounded)
    failures: deque[SessionRecord] = field(factory=_bounded)

    def add(self, record: SessionRecord, end: str) -> None:
        """Add a session that has ended. Each session comes here."""
        self.records.append(record)
        if end in FAILURES:
            self.failures.append(record)

    def ends(self) -> list[RecentEnd]:
        """Return all of them, each once."""
        records = {record.id: record for record in (*self.records, *self.failures)}
        return [RecentEnd.of(record) for record in records.values()]


def newest(ends: Iterable[RecentEnd]) -> list[RecentEnd]:
    """Return the last ones, the newest first."""
    return sorted(ends, key=lambda end: end.ended_at, reverse=True)[:RECENT_MAX]
