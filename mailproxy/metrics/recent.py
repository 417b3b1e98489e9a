"""The last sessions that have ended, for the status page."""

from __future__ import annotations

from collections import deque
from typing import Any

from attrs import define, field

from mailproxy.log.feed import Record
from mailproxy.log.record import SessionRecord
from mailproxy.metrics.ends import FAILURES

RECENT_MAX = 30


def _bounded() -> deque[Any]:
    return deque(maxlen=RECENT_MAX)


def has_failed(record: SessionRecord) -> bool:
    """Whether a session ended neither by its client's leaving nor by the operator."""
    return record.end is not None and record.end.name in FAILURES


@define(eq=False)
class RecentSessions:
    """The records of the last sessions in the log, and of the last of them that failed.

    Attributes:
        sessions: The last sessions.
        failures: The last sessions that failed.
    """

    sessions: deque[SessionRecord] = field(factory=_bounded)
    failures: deque[SessionRecord] = field(factory=_bounded)

    def add(self, record: Record) -> None:
        """Take a record of the log. It is a `Subscriber`, and each session comes here."""
        if isinstance(record, SessionRecord):
            self.sessions.append(record)
            if has_failed(record):
                self.failures.append(record)

    def records(self) -> list[SessionRecord]:
        """Return all of them, each once."""
        return list({record.id: record for record in (*self.sessions, *self.failures)}.values())
