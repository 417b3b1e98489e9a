"""The cases: kinds of work, the rows of the table that each fills, and the rows that two fill by their difference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

# What the clients say at each of the proxies' binds; the first bytes of a hello are there to be looked at, no TLS follows.
BINDS: dict[str, tuple[str, ...]] = {
    "clear": (),
    "ec": ("--tls",),
    "rsa": ("--tls",),
    "opaque": ("--hello",),  # the proxy passes the hello on like everything else
    "v2": ("--hello",),  # and sends a PROXY header before it (version 2; nginx knows only 1)
    "names": ("--hello",),  # the proxy chooses by the name in it, the second of two
}
TALKATIVE, STREAMS = 64, 4  # of the fairness cases
TRIP_SECONDS, LONE_REPEATS = 2.5, 5


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as the table shows it. ``bound``: what it may come to, over HAProxy's with as many threads."""

    figure: str
    words: str
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """The case is one point of a line: a figure against a number of sessions."""

    line: str
    figure: str
    sessions: int
    counted: str  # what sessions these are


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work, and the rows of the table that it fills."""

    name: str
    mode: str  # of load.c
    bind: str  # of BINDS
    rows: tuple[Row, ...] = ()
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()  # beside those of the bind
    beside: Case | None = None  # what other clients do meanwhile
    repeats: int = 1  # by fresh clients, whose medians count: where they come to lie on the cores is chance
    growth: Growth | None = None
    principal: bool = False  # weighed without being asked for
    brief: bool = True  # has a place where there is little

    @property
    def count(self) -> int:
        return int(self.option("--count"))

    @property
    def resumes(self) -> bool:
        return "--resume" in self.flags

    @property
    def held(self) -> int:
        """Sessions that are there at the same time."""
        own = 64 if self.mode == "sessions" else self.count
        return own + (self.beside.held if self.beside else 0)

    def option(self, name: str) -> str:
        return self.options[self.options.index(name) + 1]

    def command(self, load: Path, port: int) -> list[str | Path]:
        return [load, self.mode, str(port), *self.options, *BINDS[self.bind], *self.flags]

    def cut(self, parts: int) -> Case:
        """One of so many parts of the same work."""
        place = self.options.index("--count") + 1
        count = str(self.count // parts)
        return replace(self, options=(*self.options[:place], count, *self.options[place + 1 :]))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cases of whole sessions that differ in one thing; a row tells what that costs."""

    words: str
    without: str
    having: str


def sessions(
    name: str,
    bind: str,
    words: str,
    count: int,
    bound: float | None = None,
    *flags: str,
    principal: bool = True,
) -> Case:
    rows = (
        Row("cpu_us", f"CPU µs per session, {words}", bound),
        Row("per_s", f"sessions per second, {words}"),
    )
    growth = (
        Growth("CPU µs per session, clear", "cpu_us", 0, "idle ones beside")
        if name == "sessions-clear"
        else None
    )
    return Case(
        name, "sessions", bind, rows, ("--count", str(count)), flags, growth=growth, principal=principal
    )


def beside(idle_ones: int) -> Case:
    """Clear sessions that come and go while others are silent."""
    words = "CPU µs per session, clear"
    return Case(
        f"sessions-clear-beside-{idle_ones}",
        "sessions",
        "clear",
        (Row("cpu_us", f"{words}, {idle_ones} idle ones beside"),),
        ("--count", "8000"),
        beside=Case("beside", "idle", "clear", options=("--count", str(idle_ones))),
        growth=Growth(words, "cpu_us", idle_ones, "idle ones beside"),
    )


def bulk(way: str, bind: str, words: str, gigabytes: float, *, bound: float, streams: int = 1) -> Case:
    mode, direction = ("bulk-down", "download") if way == "down" else ("bulk-up", "upload")
    line = f"CPU s per GB, {words}, {direction}"
    words = f"{words}, {direction}" + (f", {streams} streams" if streams > 1 else "")
    rows = (Row("cpu_s_per_gb", f"CPU s per GB, {words}", bound), Row("mb_per_s", f"MB per second, {words}"))
    size = ("--count", str(streams), "--bytes", str(int(gigabytes * 1e9 / streams)))
    name = f"{way}-{'clear' if bind == 'clear' else 'tls'}" + (f"-{streams}" if streams > 1 else "")
    return Case(
        name,
        mode,
        bind,
        rows,
        size,
        growth=Growth(line, "cpu_s_per_gb", streams, "streams"),
        principal=True,
        brief=streams == 1,
    )


def trips(name: str, bind: str, words: str, busy: int, *, lone: float = 0, cpu: float | None = None) -> Case:
    line = f"CPU µs per round trip, {words}"
    rows: tuple[Row, ...] = (
        Row("cpu_us", f"{line}, {busy} busy", cpu),
        Row("p50_us", f"round trip p50 µs, {words}, {busy} busy"),
        Row("p99_us", f"round trip p99 µs, {words}, {busy} busy"),
    )
    if busy == 1:
        rows = (
            Row("p50_us", f"lone round trip p50 µs, {words}", lone),
            Row("p99_us", f"lone round trip p99 µs, {words}"),
            Row("cpu_us", f"{line}, 1 busy"),
        )
    return Case(
        name,
        "trips",
        bind,
        rows,
        ("--count", str(busy), "--seconds", str(TRIP_SECONDS / (LONE_REPEATS if busy == 1 else 1))),
        repeats=LONE_REPEATS if busy == 1 else 1,
        growth=Growth(line, "cpu_us", busy, "busy sessions"),
        principal=busy <= 64,
    )


def fairness(name: str, bind: str, words: str) -> Case:
    rows = (
        Row("p50_us", f"{TALKATIVE} talkative beside {STREAMS} streams, round trip p50 µs, {words}"),
        Row("p99_us", f"{TALKATIVE} talkative beside {STREAMS} streams, round trip p99 µs, {words}"),
        Row("beside_mb_per_s", f"MB per second of {STREAMS} streams beside {TALKATIVE} talkative, {words}"),
    )
    seconds = TRIP_SECONDS + 1  # they begin before the others and go on until those are done
    return Case(
        name,
        "trips",
        bind,
        rows,
        ("--count", str(TALKATIVE), "--seconds", str(TRIP_SECONDS)),
        beside=Case("beside", "streams", bind, options=("--count", str(STREAMS), "--seconds", str(seconds))),
    )


def idle(name: str, bind: str, words: str, count: int, bound: float) -> Case:
    line = f"KiB per idle session, {words}"
    return Case(
        f"{name}-{count}",
        "idle",
        bind,
        (Row("kib", f"{line}, {count} of them", bound),),
        ("--count", str(count)),
        growth=Growth(line, "kib", count, "idle sessions"),
        principal=count != 4000,
        brief=count == 9000,
    )


CASES = {
    case.name: case
    for case in (
        sessions("sessions-clear", "clear", "clear", 8000, 2.2),
        sessions("sessions-ec", "ec", "TLS EC", 4000, 1.3),
        sessions("sessions-rsa", "rsa", "TLS RSA", 3000, 1.3),
        sessions("sessions-resumed", "ec", "TLS resumed", 4000, None, "--resume"),
        sessions(
            "sessions-resumed-1.2",
            "ec",
            "TLS 1.2 resumed",
            4000,
            None,
            "--resume",
            "--tls-1.2",
            principal=False,
        ),
        sessions("sessions-opaque", "opaque", "hello passed unseen", 8000, principal=False),
        sessions("sessions-v2", "v2", "hello passed behind PROXY v2", 8000, principal=False),
        sessions("sessions-names", "names", "chosen by TLS name", 8000, principal=False),
        *(beside(count) for count in (4000, 8000)),
        bulk("down", "clear", "clear", 2, bound=0.5),
        bulk("up", "clear", "clear", 2, bound=0.5),
        bulk("down", "ec", "TLS", 1.5, bound=1.05),
        bulk("up", "ec", "TLS", 1.5, bound=1.05),
        bulk("down", "clear", "clear", 2, bound=0.5, streams=8),
        bulk("up", "clear", "clear", 2, bound=0.5, streams=8),
        bulk("down", "ec", "TLS", 1.5, bound=1.05, streams=8),
        bulk("up", "ec", "TLS", 1.5, bound=1.05, streams=8),
        trips("trips-clear", "clear", "clear", 1, lone=1.4),
        trips("trips-tls", "ec", "TLS", 1, lone=1.5),
        trips("trips-clear-64", "clear", "clear", 64, cpu=1.6),
        trips("trips-tls-64", "ec", "TLS", 64, cpu=1.7),
        trips("trips-clear-1000", "clear", "clear", 1000),
        trips("trips-tls-1000", "ec", "TLS", 1000),
        *(idle("idle-clear", "clear", "clear", count, 2.0) for count in (1000, 4000, 9000)),
        *(idle("idle-tls", "ec", "TLS", count, 1.1) for count in (1000, 4000, 9000)),
        fairness("fairness-clear", "clear", "clear"),
        fairness("fairness-tls", "ec", "TLS"),
    )
}
PRINCIPAL = [case for case in CASES.values() if case.principal]
WORKERS = [CASES[name] for name in ("sessions-clear", "sessions-ec", "sessions-rsa")]

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
