"""The cases: kinds of work, the rows of the table that each fills, and the rows that two fill by their difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

IDLE_SESSIONS = 4_000
# What the clients say at each of the proxies' binds; the first bytes of a hello are there to be looked at, no TLS follows.
BINDS: dict[str, tuple[str, ...]] = {
    "clear": (),
    "ec": ("--tls",),
    "rsa": ("--tls",),
    "opaque": ("--hello",),  # the proxy passes the hello on like everything else
    "v2": ("--hello",),  # and sends a PROXY header before it (version 2; nginx knows only 1)
    "names": ("--hello",),  # the proxy chooses by the name in it, the second of two
}


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work, and the rows of the table that it fills: figure -> words."""

    name: str
    mode: str  # of load.c
    bind: str  # of BINDS
    rows: dict[str, str]
    options: tuple[str, ...] = ()

    def command(self, load: Path, port: int) -> list[str | Path]:
        return [load, self.mode, str(port), *self.options, *BINDS[self.bind]]

    def cut(self, parts: int) -> Case:
        """One of so many parts of the same work."""
        place = self.options.index("--count") + 1
        count = str(int(self.options[place]) // parts)
        return replace(self, options=(*self.options[:place], count, *self.options[place + 1 :]))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cases of whole sessions that differ in one thing; a row tells what that costs."""

    words: str
    without: str
    having: str


def sessions(name: str, bind: str, words: str, count: int) -> Case:
    return Case(name, "sessions", bind, {"cpu_us": f"CPU µs per session, {words}"}, ("--count", str(count)))


def bulk(name: str, bind: str, words: str, direction: str, gigabytes: float) -> Case:
    mode, way = ("bulk-down", "download") if direction == "down" else ("bulk-up", "upload")
    rows = {"cpu_s_per_gb": f"CPU s per GB, {words}, {way}"}
    return Case(name, mode, bind, rows, ("--count", "1", "--bytes", str(int(gigabytes * 1e9))))


def trips(name: str, bind: str, words: str, busy: int) -> Case:
    rows = {"cpu_us": f"CPU µs per round trip, {words}, {busy} busy"}
    if busy == 1:
        rows = {f"{p}_us": f"lone round trip {p} µs, {words}" for p in ("p50", "p99")} | rows
    return Case(name, "trips", bind, rows, ("--count", str(busy), "--seconds", "2.5"))


def idle(name: str, bind: str, words: str) -> Case:
    rows = {"kib": f"KiB per idle session, {words}"}
    return Case(name, "idle", bind, rows, ("--count", str(IDLE_SESSIONS)))


CASES = {
    case.name: case
    for case in (
        sessions("sessions-clear", "clear", "clear", 8000),
        sessions("sessions-opaque", "opaque", "hello passed unseen", 8000),
        sessions("sessions-v2", "v2", "hello passed behind PROXY v2", 8000),
        sessions("sessions-names", "names", "chosen by TLS name", 8000),
        sessions("sessions-ec", "ec", "TLS EC", 4000),
        sessions("sessions-rsa", "rsa", "TLS RSA", 3000),
        bulk("down-clear", "clear", "clear", "down", 2),
        bulk("up-clear", "clear", "clear", "up", 2),
        bulk("down-tls", "ec", "TLS", "down", 1.5),
        bulk("up-tls", "ec", "TLS", "up", 1.5),
        trips("trips-clear", "clear", "clear", 1),
        trips("trips-tls", "ec", "TLS", 1),
        trips("trips-clear-64", "clear", "clear", 64),
        trips("trips-tls-64", "ec", "TLS", 64),
        idle("idle-clear", "clear", "clear"),
        idle("idle-tls", "ec", "TLS"),
    )
}

PAIRS = (
    # in both the server greets when the hello has come: a server that greets at once would be heard at another moment
    Pair("CPU µs more per session, sending v2", "sessions-opaque", "sessions-v2"),
    Pair("CPU µs more per session, choosing by name", "sessions-opaque", "sessions-names"),
)


def chosen_pairs(cases: list[Case]) -> list[Pair]:
    """Those of which both are there."""
    names = {case.name for case in cases}
    return [pair for pair in PAIRS if names >= {pair.without, pair.having}]


def in_turns(cases: list[Case]) -> list[list[Case]]:
    """The cases in their order, those of pairs together."""
    paired = {name for pair in chosen_pairs(cases) for name in (pair.without, pair.having)}
    turns: list[list[Case]] = []
    for case in cases:
        names = paired if case.name in paired else {case.name}
        turn = [each for each in cases if each.name in names]
        if turn not in turns:
            turns.append(turn)
    return turns
