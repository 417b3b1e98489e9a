"""What subscribers of the log get: each session that has ended, and each event, as values.

A subscriber is independent of the targets, their formats and their levels. It gets what this process logs:
events that another process logs are that one's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import trio
from attrs import frozen

from mailproxy.log.events import Event
from mailproxy.log.record import SessionRecord


@frozen
class EventRecord:
    """An event that was logged.

    Attributes:
        event: Its kind.
        message: The message for people.
        data: Its data for programs, as JSON can have them.
        time: When it was logged, in seconds since the epoch.
    """

    event: Event
    message: str
    data: Mapping[str, object]
    time: float


Record = SessionRecord | EventRecord
"""A session at its end, or an event."""

Subscriber = Callable[[Record], object]
"""Takes a record. It is called on the session's path, so it must neither block nor raise."""


@frozen
class LostRecords:
    """Records that another process could not pass on, because it had too many.

    Attributes:
        count: Their number.
    """

    count: int


Follower = Callable[[Record | LostRecords], object]
"""Takes records of all processes, as a `Subscriber` does those of one."""


class RecordBuffer:
    """Records that a task has not taken yet. The path of sessions adds them, and never waits.

    Args:
        size: The records at most. Further ones are lost, and counted.
        wants: Returns whether a record is wanted.
    """

    def __init__(self, size: int, wants: Callable[[Record], bool] = lambda _: True) -> None:
        self._size = size
        self._wants = wants
        self._records: deque[Record] = deque()
        self._lost = 0
        self._wake = trio.Event()

    def add(self, item: Record | LostRecords) -> None:
        """Take a record. It is a `Follower`."""
        if isinstance(item, LostRecords):
            self._lost += item.count
        elif not self._wants(item):
            return
        elif len(self._records) >= self._size:
            self._lost += 1
        else:
            self._records.append(item)
        self._wake.set()

    def clear(self) -> None:
        """Forget all records."""
        self._records.clear()
        self._lost = 0

    async def take(self) -> tuple[Sequence[Record], int]:
        """Wait for records, and return them, with the number of those that were lost behind them."""
        await self._wake.wait()
        self._wake = trio.Event()
        records, lost = tuple(self._records), self._lost
        self.clear()
        return records, lost
