"""``tail``: follows the ends of sessions and the events of the running proxy, whatever the log's targets get."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

from attrs import define, field, frozen

from mailproxy.admin.runtime.call import Call, CommandError, Stream
from mailproxy.admin.target import Target
from mailproxy.log import END_REASONS, EndedBy, EventRecord, Record, RecordBuffer, SessionRecord
from mailproxy.log.events import LINES_LOST
from mailproxy.log.formats import EVENTS_AT, FORMATS, text_date, undated_session

_RECORDS_MAX = 1000  # that wait for one client
_STREAMS_MAX = 16
_KEYS = ("frontend", "server", "end", "format", "color")
_USAGE = "Usage: tail [frontend=F] [server=B/S] [end=E] [format=text|json|tcplog] [color=on]"

# Sequences of ECMA-48 (SGR), which all terminals have.
_RED, _YELLOW, _GREEN, _FAINT, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[2m", "\x1b[0m"
_LEVEL_COLORS = {"error": _RED, "warning": _YELLOW, "debug": _FAINT}
_END_COLORS = {EndedBy.CLIENT: "", EndedBy.ADMIN: _YELLOW, EndedBy.TIMEOUT: _YELLOW}


@frozen(kw_only=True)
class RecordFilter:
    """Which records are followed. An empty value matches any, and a record without the fact matches none.

    Attributes:
        frontend: The name of the frontend.
        backend: The name of the backend.
        server: The name of the server.
        end: The end reason.
    """

    frontend: str = ""
    backend: str = ""
    server: str = ""
    end: str = ""

    def matches(self, record: Record) -> bool:
        """Whether a record is followed."""
        facts: tuple[object, ...]
        if isinstance(record, SessionRecord):
            facts = (record.frontend, record.backend, record.server, record.end.name if record.end else "")
        else:
            data = record.data
            facts = (data.get("frontend"), data.get("backend"), data.get("server"), None)
        wanted = (self.frontend, self.backend, self.server, self.end)
        return all(value in ("", fact) for value, fact in zip(wanted, facts, strict=True))


@define(eq=False)
class Tail:
    """The stream of one client.

    Attributes:
        target: The proxy.
        form: The format of the lines.
        is_colored: Whether they have the colours of terminals.
        streams: The streams of all clients.
    """

    target: Target
    form: Literal["text", "json", "tcplog"]
    is_colored: bool
    streams: set[Stream]
    _buffer: RecordBuffer = field(alias="buffer")

    async def run(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Send a line for each record, until cancelled. A client that is slow is sent the number of lost lines."""
        follower = self._buffer.add
        self.streams.add(self)
        self.target.subscribe(follower)
        try:
            while True:
                records, lost = await self._buffer.take()
                await send("".join(f"{line}\n" for line in self._lines(records, lost)))
        finally:
            self.target.unsubscribe(follower)
            self.streams.discard(self)

    def _lines(self, records: Sequence[Record], lost: int) -> list[str]:
        lines = [self._line(record) for record in records]
        if lost:
            s = "" if lost == 1 else "s"
            event = EventRecord(
                LINES_LOST, f"{lost} line{s} lost: this client reads too slowly", {"lost": lost}, time.time()
            )
            lines.append(self._line(event))
        return lines

    def _line(self, record: Record) -> str:
        if isinstance(record, EventRecord):
            line = EVENTS_AT[self.form](record.time, record.event, record.message, record.data)
            color = _LEVEL_COLORS.get(record.event.level, "")
        else:
            line = _session(record) if self.form == "text" else FORMATS[self.form][0](record)
            color = _color(record)
        return f"{color}{line}{_RESET}" if self.is_colored and color else line


def _session(record: SessionRecord) -> str:
    """Return the line of a session for people, with the date of its end and its id."""
    moment = record.accepted + record.total_ms / 1000
    return f"{text_date(moment)} {undated_session(record)} id={record.id:x}"


def _color(record: SessionRecord) -> str:
    end = record.end
    if end is None or end.state == "--":
        return _GREEN
    return _END_COLORS.get(end.by, _RED)


def follow(call: Call, *words: str) -> Tail:
    """Answer ``tail [frontend=F] [server=B/S] [end=E] [format=text|json|tcplog] [color=on]``."""
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _KEYS or key in values:
            raise CommandError(f"Unexpected {word!r}. {_USAGE}")
        values[key] = value
    form = values.get("format", "text")
    if form not in FORMATS:
        raise CommandError(f"format is one of {', '.join(FORMATS)}.")
    if values.get("color", "off") not in ("on", "off"):
        raise CommandError("color is on or off.")
    wanted = _filter(call, values)
    if len(call.streams) >= _STREAMS_MAX:
        raise CommandError(f"There are {_STREAMS_MAX} tails already.")
    return Tail(
        call.target,
        form,  # type: ignore[arg-type]  # one of FORMATS
        values.get("color") == "on",
        call.streams,
        buffer=RecordBuffer(_RECORDS_MAX, wanted.matches),
    )


def _filter(call: Call, values: dict[str, str]) -> RecordFilter:
    frontend, end, backend, server = values.get("frontend", ""), values.get("end", ""), "", ""
    if "frontend" in values:
        call.frontend(frontend)
    if "server" in values:
        found = call.server(values["server"])
        backend, server = found[0].name, found[1].name
    if end and end not in {each.name for each in END_REASONS}:
        names = ", ".join(each.name for each in END_REASONS)
        raise CommandError(f"No such end reason. They are: {names}.")
    return RecordFilter(frontend=frontend, backend=backend, server=server, end=end)
