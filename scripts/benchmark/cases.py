"""The cases: kinds of work, and the rows of the table that each fills."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

IDLE_SESSIONS = 4_000


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work, and the rows of the table that it fills: figure -> words."""

    name: str
    mode: str  # of load.c
    bind: str  # clear, ec or rsa
    rows: dict[str, str]
    options: tuple[str, ...] = ()

    def command(self, load: Path, port: int) -> list[str | Path]:
        tls = () if self.bind == "clear" else ("--tls",)
        return [load, self.mode, str(port), *self.options, *tls]


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
