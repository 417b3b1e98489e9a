"""Pictures as rows of text: the columns of each view, the order of sessions, and the filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter

from attrs import frozen

from mailproxy.cli.top.picture import Figures, Picture, SessionFigures

LEFT_COLUMNS = frozenset({"server", "backend", "frontend", "client", "status", "phase", "check", "id"})
"""Columns with words. The others have numbers, which end at the right."""

_UNITS = "kMGTP"
_ROWS_MAX = 500  # of a view: nothing reads more, and the screen must stay quick


@frozen
class Table:
    """A view.

    Attributes:
        columns: The heads of the columns.
        rows: What each row is about, with its cells. The key is what commands call it.
        hidden: The number of rows that are not shown.
        note: What to show instead of rows.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    hidden: int = 0
    note: str = ""


@frozen
class Choice:
    """How sessions are shown.

    Attributes:
        sort: One of ``SORTS``.
        text: What a client, a server or a frontend must contain. Empty for all.
    """

    sort: str = "age"
    text: str = ""

    def matches(self, *names: str) -> bool:
        """Whether one of the names has the text in it, whatever its case."""
        return any(self.text.lower() in name.lower() for name in names)


SORTS: Mapping[str, Callable[[SessionFigures], int]] = {
    "age": attrgetter("age"),
    "bytes": lambda session: session.bytes_in + session.bytes_out,
    "idle": attrgetter("idle"),
}
"""What sessions can be sorted by. The largest value comes first."""


def table(view: str, picture: Picture, choice: Choice) -> Table:
    """Return a view of a picture: ``servers``, ``backends``, ``frontends`` or ``sessions``."""
    return VIEWS[view](picture, choice)


def _servers(picture: Picture, choice: Choice) -> Table:
    columns = ("server", "status", "sessions", "limit", "queue", "weight", "total", "in", "out", "check")
    rows = [
        (
            each.name,
            (
                each.name, each.status, str(each.sessions), each.limit or "-", str(each.queue), each.weight,
                str(each.total), short_bytes(each.bytes_in), short_bytes(each.bytes_out), each.check or "-",
            ),
        )
        for each in picture.servers
        if choice.matches(each.name)
    ]  # fmt: skip
    return Table(columns, rows[:_ROWS_MAX], max(len(rows) - _ROWS_MAX, 0))


def _backends(picture: Picture, choice: Choice) -> Table:
    columns = ("backend", "status", "sessions", "queue", "active", "backup", "rate/s", "total", "in", "out")
    rows = [
        (
            each.name,
            (
                each.name, each.status, str(each.sessions), str(each.queue), each.active, each.backup,
                str(each.rate), str(each.total), short_bytes(each.bytes_in), short_bytes(each.bytes_out),
            ),
        )
        for each in picture.backends
        if choice.matches(each.name)
    ]  # fmt: skip
    return Table(columns, rows)


def _frontends(picture: Picture, choice: Choice) -> Table:
    columns = ("frontend", "status", "sessions", "limit", "rate/s", "total", "in", "out")
    rows = [(each.name, _frontend_cells(each)) for each in picture.frontends if choice.matches(each.name)]
    return Table(columns, rows)


def _frontend_cells(each: Figures) -> Sequence[str]:
    return (
        each.name, each.status, str(each.sessions), each.limit or "-", str(each.rate), str(each.total),
        short_bytes(each.bytes_in), short_bytes(each.bytes_out),
    )  # fmt: skip


def _sessions(picture: Picture, choice: Choice) -> Table:
    columns = ("client", "server", "age", "idle", "in", "out", "frontend", "phase", "id")
    found = [each for each in picture.sessions if choice.matches(each.client, each.server)]
    found.sort(key=SORTS[choice.sort], reverse=True)
    rows = [
        (
            each.id,
            (
                each.client, each.server, short_age(each.age), short_age(each.idle), short_bytes(each.bytes_in),
                short_bytes(each.bytes_out), each.frontend, each.phase, each.id,
            ),
        )
        for each in found[:_ROWS_MAX]
    ]  # fmt: skip
    return Table(columns, rows, max(len(found) - _ROWS_MAX, 0), picture.refusal)


VIEWS: Mapping[str, Callable[[Picture, Choice], Table]] = {
    "servers": _servers,
    "backends": _backends,
    "frontends": _frontends,
    "sessions": _sessions,
}
"""The views, in the order of the Tab key."""


def summary(picture: Picture) -> str:
    """Return one line about the process."""
    info = picture.info
    sessions, limit = info.get("CurrConns", "0"), info.get("Maxconn", "0")
    words = [
        f"mailproxy {info.get('Version', '')}",
        f"up {short_age(int(info.get('Uptime_sec', '0')))}",
        f"sessions {sessions}/{limit}",
        f"{info.get('ConnRate', info.get('SessRate', '0'))}/s",
    ]
    return "  ".join(words)


def short_bytes(number: int) -> str:
    """Return a number of bytes in at most 5 characters: ``912``, ``12.3k``, ``4.5G``."""
    value, unit = float(number), ""
    for unit in ("", *_UNITS):  # noqa: B007 - the last one is used below
        if value < 1000:
            break
        value /= 1024
    return f"{value:.1f}{unit}" if unit and value < 100 else f"{value:.0f}{unit}"


def short_age(seconds: int) -> str:
    """Return an age with its two largest units: ``42s``, ``1m05s``, ``2d03h``."""
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02}s"
    if seconds < 86400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02}m"
    return f"{seconds // 86400}d{seconds % 86400 // 3600:02}h"
