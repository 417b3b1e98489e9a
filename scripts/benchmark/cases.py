"""The cases: kinds of work, and the table rows that they and the differences of pairs fill."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

# The options of the clients at each of the proxies' binds. With --hello, a ClientHello comes first, and no
# TLS follows.
BINDS: dict[str, tuple[str, ...]] = {
    "clear": (),
    "ec": ("--tls",),
    "rsa": ("--tls",),
    "opaque": ("--hello",),  # the proxy relays the ClientHello unread
    "v2": ("--hello",),  # the proxy sends a PROXY header before it (version 2; nginx has only version 1)
    # The proxy routes by the server name in it, which matches the second of two routes.
    "names": ("--hello",),
    # With the mail protocol named, which costs more than "ec": TLS from the first byte, and STARTTLS.
    "imaps": ("--tls",),
    "starttls": ("--starttls",),
}
BUSY_SESSIONS, STREAMS = 64, 4  # of the fairness cases
TRIP_SECONDS, SINGLE_REPEATS = 2.5, 5


def is_offered(bind: str, program: str) -> bool:
    """Whether a program has this bind. HAProxy has no STARTTLS, and nginx none without a login server."""
    return bind not in {"imaps", "starttls"} or program not in {"haproxy", "nginx"}


@dataclass(frozen=True, slots=True)
class Row:
    """A figure as the table shows it.

    Attributes:
        figure: The figure's key, as of ``runner.figures``.
        title: The first cell of the row.
        bound: The maximum, as a multiple of HAProxy's figure with as many threads.
    """

    figure: str
    title: str
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """One point of a line in a chart: a figure against a number of sessions.

    Attributes:
        line: The line's title.
        figure: The figure's key.
        sessions: The number of sessions.
        sessions_title: What these sessions are.
    """

    line: str
    figure: str
    sessions: int
    sessions_title: str


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work, and the table rows that it fills.

    Attributes:
        name: The name on the command line.
        mode: The mode of load.c.
        bind: A key of BINDS.
        rows: The table rows.
        options: The options of load.c.
        flags: Its flags besides those of the bind.
        background: What other clients do meanwhile.
        repeats: How often new clients repeat the work. Medians are taken, because the kernel places clients
            on cores by chance.
        growth: The point of a line in the chart.
        is_default: Measured unless the command line selects cases.
        in_summary: Part of the short table.
    """

    name: str
    mode: str
    bind: str
    rows: tuple[Row, ...] = ()
    options: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    background: Case | None = None
    repeats: int = 1
    growth: Growth | None = None
    is_default: bool = False
    in_summary: bool = True

    @property
    def count(self) -> int:
        return int(self.option("--count"))

    @property
    def resumes(self) -> bool:
        return "--resume" in self.flags

    @property
    def concurrent_sessions(self) -> int:
        own = 64 if self.mode == "sessions" else self.count
        return own + (self.background.concurrent_sessions if self.background else 0)

    def option(self, name: str) -> str:
        return self.options[self.options.index(name) + 1]

    def command(self, load: Path, port: int) -> list[str | Path]:
        return [load, self.mode, str(port), *self.options, *BINDS[self.bind], *self.flags]

    def part(self, parts: int) -> Case:
        """Return one of this number of equal parts of the work."""
        index = self.options.index("--count") + 1
        count = str(self.count // parts)
        return replace(self, options=(*self.options[:index], count, *self.options[index + 1 :]))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two cases of whole sessions that differ in one thing. A table row shows what that costs.

    Attributes:
        title: The first cell of the row.
        baseline: The name of the case without the thing.
        variant: The name of the case with it.
    """

    title: str
    baseline: str
    variant: str


def sessions(
    name: str,
    bind: str,
    title: str,
    count: int,
    bound: float | None = None,
    *flags: str,
    is_default: bool = True,
) -> Case:
    rows = (
        Row("cpu_us", f"CPU µs per session, {title}", bound),
        Row("per_s", f"sessions per second, {title}"),
    )
    growth = (
        Growth("CPU µs per session, clear", "cpu_us", 0, "idle ones beside")
        if name == "sessions-clear"
        else None
    )
    return Case(
        name, "sessions", bind, rows, ("--count", str(count)), flags, growth=growth, is_default=is_default
    )


def with_idle_sessions(count: int) -> Case:
    """Whole clear sessions, with others idle in the background."""
    line = "CPU µs per session, clear"
    return Case(
        f"sessions-clear-beside-{count}",
        "sessions",
        "clear",
        (Row("cpu_us", f"{line}, {count} idle ones beside"),),
        ("--count", "8000"),
        background=Case("beside", "idle", "clear", options=("--count", str(count))),
        growth=Growth(line, "cpu_us", count, "idle ones beside"),
    )


def bulk(
    name_prefix: str, bind: str, title: str, gigabytes: float, *, bound: float, streams: int = 1
) -> Case:
    mode, direction = ("bulk-down", "download") if name_prefix == "down" else ("bulk-up", "upload")
    line = f"CPU s per GB, {title}, {direction}"
    title = f"{title}, {direction}" + (f", {streams} streams" if streams > 1 else "")
    rows = (Row("cpu_s_per_gb", f"CPU s per GB, {title}", bound), Row("mb_per_s", f"MB per second, {title}"))
    size = ("--count", str(streams), "--bytes", str(int(gigabytes * 1e9 / streams)))
    name = f"{name_prefix}-{'clear' if bind == 'clear' else 'tls'}" + (f"-{streams}" if streams > 1 else "")
    return Case(
        name,
        mode,
        bind,
        rows,
        size,
        growth=Growth(line, "cpu_s_per_gb", streams, "streams"),
        is_default=True,
        in_summary=streams == 1,
    )


def trips(name: str, bind: str, title: str, busy: int, *, lone: float = 0, cpu: float | None = None) -> Case:
    line = f"CPU µs per round trip, {title}"
    rows: tuple[Row, ...] = (
        Row("cpu_us", f"{line}, {busy} busy", cpu),
        Row("p50_us", f"round trip p50 µs, {title}, {busy} busy"),
        Row("p99_us", f"round trip p99 µs, {title}, {busy} busy"),
    )
    if busy == 1:
        rows = (
            Row("p50_us", f"lone round trip p50 µs, {title}", lone),
            Row("p99_us", f"lone round trip p99 µs, {title}"),
            Row("cpu_us", f"{line}, 1 busy", cpu),
        )
    return Case(
        name,
        "trips",
        bind,
        rows,
        ("--count", str(busy), "--seconds", str(TRIP_SECONDS / (SINGLE_REPEATS if busy == 1 else 1))),
        repeats=SINGLE_REPEATS if busy == 1 else 1,
        growth=Growth(line, "cpu_us", busy, "busy sessions"),
        is_default=busy <= 64,
    )


def fairness(name: str, bind: str, title: str) -> Case:
    rows = (
        Row("p50_us", f"{BUSY_SESSIONS} talkative beside {STREAMS} streams, round trip p50 µs, {title}"),
        Row("p99_us", f"{BUSY_SESSIONS} talkative beside {STREAMS} streams, round trip p99 µs, {title}"),
        Row(
            "beside_mb_per_s", f"MB per second of {STREAMS} streams beside {BUSY_SESSIONS} talkative, {title}"
        ),
    )
    seconds = TRIP_SECONDS + 1  # the streams start before the round trips, and end after them
    return Case(
        name,
        "trips",
        bind,
        rows,
        ("--count", str(BUSY_SESSIONS), "--seconds", str(TRIP_SECONDS)),
        background=Case(
            "beside", "streams", bind, options=("--count", str(STREAMS), "--seconds", str(seconds))
        ),
    )


def idle(name: str, bind: str, title: str, count: int, bound: float) -> Case:
    line = f"KiB per idle session, {title}"
    return Case(
        f"{name}-{count}",
        "idle",
        bind,
        (Row("kib", f"{line}, {count} of them", bound),),
        ("--count", str(count)),
        growth=Growth(line, "kib", count, "idle sessions"),
        is_default=count != 4000,
        in_summary=count == 9000,
    )


CASES = {
    case.name: case
    for case in (
        sessions("sessions-clear", "clear", "clear", 8000, 2.2),
        sessions("sessions-ec", "ec", "TLS EC", 4000, 1.3),
        sessions("sessions-rsa", "rsa", "TLS RSA", 3000, 1.15),
        sessions("sessions-resumed", "ec", "TLS resumed", 4000, 1.35, "--resume"),
        sessions(
            "sessions-resumed-1.2",
            "ec",
            "TLS 1.2 resumed",
            4000,
            None,
            "--resume",
            "--tls-1.2",
            is_default=False,
        ),
        sessions("sessions-opaque", "opaque", "hello passed unseen", 8000, is_default=False),
        sessions("sessions-v2", "v2", "hello passed behind PROXY v2", 8000, is_default=False),
        sessions("sessions-names", "names", "chosen by TLS name", 8000, is_default=False),
        sessions("sessions-imaps", "imaps", "IMAP over TLS EC", 4000, is_default=False),
        sessions("sessions-starttls", "starttls", "IMAP, STARTTLS, TLS EC", 4000, is_default=False),
        *(with_idle_sessions(count) for count in (4000, 8000)),
        bulk("down", "clear", "clear", 2, bound=0.5),
        bulk("up", "clear", "clear", 2, bound=0.5),
        bulk("down", "ec", "TLS", 1.5, bound=1.05),
        bulk("up", "ec", "TLS", 1.5, bound=1.0),
        bulk("down", "clear", "clear", 2, bound=0.5, streams=8),
        bulk("up", "clear", "clear", 2, bound=0.5, streams=8),
        bulk("down", "ec", "TLS", 1.5, bound=1.05, streams=8),
        bulk("up", "ec", "TLS", 1.5, bound=1.05, streams=8),
        trips("trips-clear", "clear", "clear", 1, lone=1.2, cpu=1.3),
        trips("trips-tls", "ec", "TLS", 1, lone=1.3, cpu=1.4),
        trips("trips-clear-64", "clear", "clear", 64, cpu=1.4),
        trips("trips-tls-64", "ec", "TLS", 64, cpu=1.3),
        trips("trips-clear-1000", "clear", "clear", 1000),
        trips("trips-tls-1000", "ec", "TLS", 1000),
        *(idle("idle-clear", "clear", "clear", count, 1.6) for count in (1000, 4000, 9000)),
        *(idle("idle-tls", "ec", "TLS", count, 0.95) for count in (1000, 4000, 9000)),
        fairness("fairness-clear", "clear", "clear"),
        fairness("fairness-tls", "ec", "TLS"),
    )
}
DEFAULT_CASES = [case for case in CASES.values() if case.is_default]
WORKERS_CASES = [CASES[name] for name in ("sessions-clear", "sessions-ec", "sessions-rsa")]

PAIRS = (
    # In both cases the server greets after the ClientHello. A server that greets at once would greet at
    # another moment.
    Pair("CPU µs more per session, sending v2", "sessions-opaque", "sessions-v2"),
    Pair("CPU µs more per session, selecting by server name", "sessions-opaque", "sessions-names"),
    Pair("CPU µs more per session, STARTTLS", "sessions-imaps", "sessions-starttls"),
)


def selected_pairs(cases: list[Case]) -> list[Pair]:
    """Return the pairs of which both cases are selected."""
    names = {case.name for case in cases}
    return [pair for pair in PAIRS if names >= {pair.baseline, pair.variant}]


def grouped_by_pair(cases: list[Case]) -> list[list[Case]]:
    """Return the cases in their order, with those of pairs in one group."""
    paired = {name for pair in selected_pairs(cases) for name in (pair.baseline, pair.variant)}
    groups: list[list[Case]] = []
    for case in cases:
        names = paired if case.name in paired else {case.name}
        group = [each for each in cases if each.name in names]
        if group not in groups:
            groups.append(group)
    return groups
