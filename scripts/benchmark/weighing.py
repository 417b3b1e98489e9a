"""One weighing: load.c does one case through one proxy, stage by stage, while the meter reads.

Two cases that differ in one thing share the proxy and take turns in slices: then the same process does both within a
moment, and what the machine does meanwhile, or how that process came to lie in memory, is in both alike.
"""

from __future__ import annotations

import contextlib
import json
import select
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from cases import Case
from configurations import Place
from faults import Fault
from meter import Meter, idle_ns
from proxies import Proxy

WARM_UP_SESSIONS = 64
SLICES = 32  # of each case of a pair
STREAM_AHEAD_SECONDS = 0.3
RESUMED_SHARE = 0.99
STAGE_SECONDS = 150.0  # load.c itself gives up after 120


@dataclass(frozen=True, slots=True)
class Worked:
    """What the work cost the proxy, and how long it took the clients."""

    cpu_ns: int
    system_ns: int  # of these, in system calls: only roughly
    memory_kib: int
    seconds: float
    samples: int  # sessions or round trips
    p50: float  # seconds of one sample
    p99: float
    negotiated: str
    idle_ns: int = 0  # of the machine's processors, meanwhile
    clients_cpu: float = 0  # seconds
    beside: float = 0  # bytes per second that other clients moved
    cpu_ns_of_slices: tuple[float, ...] = ()  # per sample, where the work was cut


@dataclass(slots=True)
class Load:
    """The clients of one case, stage by stage."""

    process: subprocess.Popen[str]
    errors: Path

    def has_said(self, seconds: float) -> bool:
        """Has a stage ended, or the process, within that time?"""
        return bool(select.select([self.output], [], [], seconds)[0])

    @property
    def output(self) -> IO[str]:
        return cast("IO[str]", self.process.stdout)

    def stage(self, name: str) -> dict[str, str | float]:
        """Wait for the end of a stage and for every session to have survived it."""
        if not self.has_said(STAGE_SECONDS):
            raise Fault(f"the clients hang before {name!r}")
        line = self.output.readline()
        if not line:
            raise Fault(f"the clients ended before {name!r}: {self.complaint()}")
        report: dict[str, str | float] = json.loads(line)
        if report["failed"]:
            raise Fault(f"{report['failed']} sessions failed before {name!r}; the first: {self.complaint()}")
        return report

    def go_on(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the next stage says why they have ended
            tell = cast("IO[str]", self.process.stdin)
            tell.write("\n")
            tell.flush()

    def complaint(self) -> str:
        return self.errors.read_text(errors="replace").strip() or "no reason given"


@contextlib.contextmanager
def clients(case: Case, program: Path, place: Place) -> Iterator[Load]:
    errors = place.folder / f"{case.name}.errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            case.command(program, place.ports[case.bind]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )
    try:
        yield Load(process, errors)
    finally:
        process.kill()
        process.communicate()


def figures(case: Case, worked: Worked) -> dict[str, float]:
    """What a weighing came to: the rows of the table, and some more for the JSON."""
    seconds = worked.seconds
    if case.mode == "idle":
        return {"kib": worked.memory_kib / case.count}
    if case.mode.startswith("bulk"):
        gigabytes = case.count * float(case.option("--bytes")) / 1e9
        return {
            "cpu_s_per_gb": worked.cpu_ns / 1e9 / gigabytes,
            "system_s_per_gb": worked.system_ns / 1e9 / gigabytes,
            "mb_per_s": gigabytes * 1e3 / seconds,
        }
    found = {
        "cpu_us": worked.cpu_ns / 1e3 / worked.samples,
        "system_us": worked.system_ns / 1e3 / worked.samples,
        "p50_us": worked.p50 * 1e6,
        "p99_us": worked.p99 * 1e6,
        "per_s": worked.samples / seconds,
        "idle_cores": worked.idle_ns / 1e9 / seconds,
        "clients_cores": worked.clients_cpu / seconds,
    }
    if case.beside and case.beside.mode == "streams":
        # what the proxy used went to the streams more than to the round trips
        del found["cpu_us"], found["system_us"]
        found["beside_mb_per_s"] = worked.beside / 1e6
    return found


def warm_up(case: Case, program: Path, place: Place) -> None:
    few = Case("warm-up", "sessions", case.bind, options=("--count", str(WARM_UP_SESSIONS)))
    with clients(few, program, place) as load:
        load.stage("ready")
        load.go_on()
        load.stage("worked")


def work(cases: list[Case], program: Path, proxy: Proxy) -> list[Worked]:
    """Do one case, or several in slices by turns."""
    meter = Meter(proxy.process.pid)
    for case in cases:
        warm_up(case, program, proxy.place)
    if len(cases) == 1:
        return [joined([work_on(cases[0], program, proxy, meter) for _ in range(cases[0].repeats)])]
    slices: list[list[Worked]] = [[] for _ in cases]
    for number in range(SLICES):
        each = list(zip(cases, slices, strict=True))
        for case, done in each if number % 2 else each[::-1]:
            done.append(work_on(case.cut(SLICES), program, proxy, meter))
    return [joined(done) for done in slices]


def joined(slices: list[Worked]) -> Worked:
    if len(slices) == 1:
        return slices[0]
    return replace(
        slices[0],
        cpu_ns=sum(part.cpu_ns for part in slices),
        system_ns=sum(part.system_ns for part in slices),
        idle_ns=sum(part.idle_ns for part in slices),
        clients_cpu=sum(part.clients_cpu for part in slices),
        seconds=sum(part.seconds for part in slices),
        samples=sum(part.samples for part in slices),
        p50=statistics.median(part.p50 for part in slices),
        p99=statistics.median(part.p99 for part in slices),
        cpu_ns_of_slices=tuple(part.cpu_ns / part.samples for part in slices),
    )


@contextlib.contextmanager
def company(case: Case, program: Path, place: Place) -> Iterator[Load | None]:
    """The clients that are there beside those of the case, logged in; the caller lets them work, or not."""
    if case.beside is None:
        yield None
        return
    with clients(case.beside, program, place) as load:
        load.stage("ready")
        yield load


def let_stream(beside: Load | None, case: Case) -> bool:
    """Streams begin a moment before the others, to be at full speed; idle ones have nothing to begin with."""
    if beside is None or case.beside is None or case.beside.mode == "idle":
        return False
    beside.go_on()
    time.sleep(STREAM_AHEAD_SECONDS)
    return True


def check_resumed(case: Case, report: dict[str, str | float]) -> None:
    handshakes, resumed = float(report["handshakes"]), float(report["resumed"])
    if case.resumes and resumed < RESUMED_SHARE * handshakes:
        raise Fault(f"only {resumed:.0f} of {handshakes:.0f} sessions were resumed")


TICKETS = ", tickets "


def negotiated(report: dict[str, str | float]) -> str:
    """The cryptography, with the tickets that each session got."""
    handshakes = float(report["handshakes"])
    if not handshakes:
        return str(report["negotiated"])
    resumed = " resumed" if float(report["resumed"]) > handshakes / 2 else ""
    return f"{report['negotiated']}{resumed}{TICKETS}{float(report['tickets']) / handshakes:.0f}"


def work_on(case: Case, program: Path, proxy: Proxy, meter: Meter) -> Worked:
    with company(case, program, proxy.place) as beside:
        meter.await_rest()
        memory = meter.memory_kib()
        with clients(case, program, proxy.place) as load:
            load.stage("ready")
            cpu, system = meter.await_rest(), meter.system_ns()
            streams = let_stream(beside, case)
            idle = idle_ns()
            load.go_on()
            report = load.stage("worked")
            idle = idle_ns() - idle
            streamed = beside.stage("worked") if beside and streams else None
            cpu, system = meter.await_rest() - cpu, meter.system_ns() - system
            memory = meter.memory_kib() - memory
            load.go_on()
            load.stage("closed")
        if beside and not streams:  # those that were silent are still there
            beside.go_on()
            beside.stage("worked")
    proxy.check_alive()
    check_resumed(case, report)
    return Worked(
        cpu_ns=cpu,
        system_ns=system,
        memory_kib=memory,
        seconds=float(report["seconds"]),
        samples=int(report["samples"]),
        p50=float(report["p50"]),
        p99=float(report["p99"]),
        negotiated=negotiated(report),
        idle_ns=idle,
        clients_cpu=float(report["processor_seconds"]),
        beside=float(streamed["bytes"]) / float(streamed["seconds"]) if streamed else 0,
    )
