"""What subscribers of the log get: each session that has ended, and each event, as values.

A subscriber is independent of the targets, their formats and their levels. It gets what this process logs:
events that another process logs are that one's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
