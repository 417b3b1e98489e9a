"""The running proxy at one moment: what its admin socket answers, as values."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from mailproxy.cli.ctl import AdminAddress, Answer

_QUESTION = "show info;show stat"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@frozen(kw_only=True)
class Figures:
    """A frontend, a backend or a server.

    Attributes:
        proxy: The name of the frontend or backend.
        server: The name of the server, empty for the others.
        status: HAProxy's word, such as ``OPEN``, ``UP`` or ``DOWN 1/2``.
        sessions: Its sessions now.
        limit: The most that it may have, empty for no limit.
        queue: The sessions that wait for it.
        weight: The weight of a server.
        total: Its sessions so far.
        rate: New sessions in the last second.
        bytes_in: Bytes from clients so far.
        bytes_out: Bytes from servers so far.
        active: The usable active servers of a backend.
        backup: The usable backups of a backend.
        check: The result of a server's last check, in HAProxy's code.
    """

    proxy: str
    server: str = ""
    status: str
    sessions: int
    limit: str
    queue: int
    weight: str
    total: int
    rate: int
    bytes_in: int
    bytes_out: int
    active: str
    backup: str
    check: str

    @property
    def name(self) -> str:
        """The name by which commands call it: ``BACKEND/SERVER`` for a server."""
        return f"{self.proxy}/{self.server}" if self.server else self.proxy


@frozen(kw_only=True)
class SessionFigures:
    """A session, with ages in seconds."""

    id: str
    client: str
    frontend: str
    server: str
    age: int
    idle: int
    bytes_in: int
    bytes_out: int
    phase: str


@frozen(kw_only=True)
class Picture:
    """The proxy at one moment.

    Attributes:
        info: ``show info``, by name.
        frontends: The frontends.
        backends: The backends.
        servers: The servers of all backends.
        sessions: The sessions; empty if they were not asked for.
        refusal: Why there are no sessions, such as a level that may not list them.
    """

    info: dict[str, str] = field(factory=dict)
    frontends: Sequence[Figures] = ()
    backends: Sequence[Figures] = ()
    servers: Sequence[Figures] = ()
    sessions: Sequence[SessionFigures] = ()
    refusal: str = ""


def take_picture(address: AdminAddress, *, with_sessions: bool) -> Picture:
    """Ask the proxy for its figures, and for its sessions if they are shown.

    Raises:
        NoAnswerError: The proxy cannot be reached, or does not answer.
    """
    figures = address.ask(_QUESTION)
    return parse_picture(figures.text, address.ask("show sess") if with_sessions else None)


def parse_picture(figures: str, sessions: Answer | None) -> Picture:
    """Return the picture that ``show info;show stat`` and ``show sess`` give. Unknown lines are skipped."""
    info_text, _, stat_text = figures.partition("# pxname")
    info = dict(line.split(": ", 1) for line in info_text.splitlines() if ": " in line)
    rows = list(csv.DictReader(f"pxname{stat_text}".splitlines())) if stat_text else []
    of_type: dict[str, list[Figures]] = {"0": [], "1": [], "2": []}
    for row in rows:
        if row.get("type") in of_type:
            of_type[row["type"]].append(_figures(row))
    refusal = sessions.text.strip() if sessions is not None and sessions.is_error else ""
    lines = sessions.text.splitlines() if sessions is not None and not refusal else ()
    return Picture(
        info=info,
        frontends=of_type["0"],
        backends=of_type["1"],
        servers=of_type["2"],
        sessions=list(_sessions(lines)),
        refusal=refusal,
    )


def _figures(row: dict[str, str]) -> Figures:
    return Figures(
        proxy=row["pxname"],
        server=row["svname"] if row["type"] == "2" else "",
        status=row["status"],
        sessions=_number(row["scur"]),
        limit=row["slim"],
        queue=_number(row["qcur"]),
        weight=row["weight"],
        total=_number(row["stot"]),
        rate=_number(row["rate"]),
        bytes_in=_number(row["bin"]),
        bytes_out=_number(row["bout"]),
        active=row["act"],
        backup=row["bck"],
        check=row["check_status"],
    )


def _sessions(lines: Iterable[str]) -> Iterable[SessionFigures]:
    for line in lines:
        head, _, rest = line.partition(": ")
        facts = dict(word.split("=", 1) for word in rest.split() if "=" in word)
        if not head.startswith("0x") or not facts:
            continue
        has_server = facts.get("srv", "<none>") != "<none>"
        yield SessionFigures(
            id=head.removeprefix("0x"),
            client=facts.get("src", ""),
            frontend=facts.get("fe", ""),
            server=f"{facts.get('be', '')}/{facts['srv']}" if has_server else "-",
            age=parse_age(facts.get("age", "")),
            idle=parse_age(facts.get("idle", "")),
            bytes_in=_number(facts.get("bytes_in", "")),
            bytes_out=_number(facts.get("bytes_out", "")),
            phase=facts.get("phase", ""),
        )


def parse_age(text: str) -> int:
    """Return the seconds of an age such as ``1m5s`` or ``2d3h``."""
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([smhd])", text))


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0
