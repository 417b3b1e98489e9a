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
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from cases import Case
from faults import Fault
from meter import Meter
from proxies import Place, Proxy

WARM_UP_SESSIONS = 64
SLICES = 32  # of each case of a pair
STAGE_SECONDS = 150.0  # load.c itself gives up after 120


@dataclass(frozen=True, slots=True)
class Worked:
    """What the work cost the proxy, and how long it took the clients."""

    cpu_ns: int
    memory_kib: int
    seconds: float
    samples: int  # sessions or round trips
    p50: float  # seconds of one sample
    p99: float
    negotiated: str
    cpu_ns_of_slices: tuple[float, ...] = ()  # per sample, where the work was cut


@dataclass(slots=True)
class Load:
    """The clients of one case, stage by stage."""

    process: subprocess.Popen[str]
    errors: Path

    def stage(self, name: str) -> dict[str, str | float]:
        """Wait for the end of a stage and for every session to have survived it."""
        output = cast("IO[str]", self.process.stdout)
        if not select.select([output], [], [], STAGE_SECONDS)[0]:
            raise Fault(f"the clients hang before {name!r}")
        line = output.readline()
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
    errors = place.folder / "clients.errors"
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
    options = dict(zip(case.options[::2], case.options[1::2], strict=True))
    count, seconds = int(options["--count"]), worked.seconds
    if case.mode == "idle":
        return {"kib": worked.memory_kib / count}
    if case.mode.startswith("bulk"):
        gigabytes = count * float(options["--bytes"]) / 1e9
        return {"cpu_s_per_gb": worked.cpu_ns / 1e9 / gigabytes, "mb_per_s": gigabytes * 1e3 / seconds}
    return {
        "cpu_us": worked.cpu_ns / 1e3 / worked.samples,
        "p50_us": worked.p50 * 1e6,
        "p99_us": worked.p99 * 1e6,
        "per_s": worked.samples / seconds,
    }


def warm_up(case: Case, program: Path, place: Place) -> None:
    few = Case("warm-up", "sessions", case.bind, {}, ("--count", str(WARM_UP_SESSIONS)))
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
        return [work_on(cases[0], program, proxy, meter)]
    slices: list[list[Worked]] = [[] for _ in cases]
    for number in range(SLICES):
        each = list(zip(cases, slices, strict=True))
        for case, done in each if number % 2 else each[::-1]:
            done.append(work_on(case.cut(SLICES), program, proxy, meter))
    return [joined(done) for done in slices]


def joined(slices: list[Worked]) -> Worked:
    return replace(
        slices[0],
        cpu_ns=sum(part.cpu_ns for part in slices),
        seconds=sum(part.seconds for part in slices),
        samples=sum(part.samples for part in slices),
        p50=statistics.median(part.p50 for part in slices),
        p99=statistics.median(part.p99 for part in slices),
        cpu_ns_of_slices=tuple(part.cpu_ns / part.samples for part in slices),
    )


def work_on(case: Case, program: Path, proxy: Proxy, meter: Meter) -> Worked:
    meter.await_rest()
    memory = meter.memory_kib()
    with clients(case, program, proxy.place) as load:
        load.stage("ready")
        cpu = meter.await_rest()
        load.go_on()
        report = load.stage("worked")
        cpu = meter.await_rest() - cpu
        memory = meter.memory_kib() - memory
        load.go_on()
        load.stage("closed")
    proxy.check_alive()
    return Worked(
        cpu_ns=cpu,
        memory_kib=memory,
        seconds=float(report["seconds"]),
        samples=int(report["samples"]),
        p50=float(report["p50"]),
        p99=float(report["p99"]),
        negotiated=str(report["negotiated"]),
    )
