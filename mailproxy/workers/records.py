"""The records of workers on their way to the control process, while something there follows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from attrs import fields

from mailproxy.ipc.channel import Channel
from mailproxy.log import END_REASONS, EventRecord, Log, Phase, Record, RecordBuffer, SessionRecord
from mailproxy.log.events import EVENTS
from mailproxy.workers.messages import Message, PackedRecord, Records, batch_by_size

_RECORDS_MAX = 2000  # in each worker until the control process takes them, about 1 MB
_INTERVAL_S = 0.1  # between two messages, so that a busy worker sends many records in one

_SESSION_FIELDS = tuple(field.name for field in fields(SessionRecord))
_END_REASONS = {each.name: each for each in END_REASONS}
_EVENTS = {each.name: each for each in EVENTS}


def pack(record: Record) -> PackedRecord:
    """Return a record as values that JSON can have: those of a session, or the name of an event and its values."""
    if isinstance(record, EventRecord):
        return record.event.name, record.message, dict(record.data), record.time
    values = [getattr(record, name) for name in _SESSION_FIELDS]
    values[_PHASE], values[_END] = record.phase.value, record.end.name if record.end is not None else None
    return "", *values


_PHASE, _END = _SESSION_FIELDS.index("phase"), _SESSION_FIELDS.index("end")


def unpack(packed: PackedRecord) -> Record:
    """Return the record that was packed."""
    name, *values = packed
    if name:
        return EventRecord(_EVENTS[name], *values)
    facts: dict[str, Any] = dict(zip(_SESSION_FIELDS, values, strict=True))
    facts["phase"] = Phase(facts["phase"])
    facts["end"] = _END_REASONS[facts["end"]] if facts["end"] is not None else None
    return SessionRecord(**facts)


class RecordSender:
    """Sends the control process what a worker logs, while it asks for that."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._buffer = RecordBuffer(_RECORDS_MAX)
        self._subscriber: Callable[[Record], object] | None = None

    def follow(self, *, is_on: bool) -> None:
        """Begin to collect records, or stop."""
        if self._subscriber is not None:
            self._log.unsubscribe(self._subscriber)
            self._subscriber = None
        self._buffer.clear()
        if is_on:
            self._subscriber = self._buffer.add
            self._log.subscribe(self._subscriber)

    async def run(self, channel: Channel[Message]) -> None:
        """Send what is collected, until cancelled. While the channel is full, records are lost and counted."""
        while True:
            records, lost = await self._buffer.take()
            for part in batch_by_size(map(pack, records)):
                await channel.send(Records(part, 0))
            if lost:
                await channel.send(Records((), lost))
            await trio.sleep(_INTERVAL_S)
