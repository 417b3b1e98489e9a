"""One measurement: load.c runs one case through one proxy, stage by stage, while the meter reads.

Two cases that differ in one thing share the proxy and alternate in slices. The same process then does both at
nearly the same time. The load of the machine and the process's memory layout affect both alike.
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
from configurations import ProxySetup
from errors import MeasurementError
from meter import Meter, idle_ns
from proxies import Proxy

WARM_UP_SESSIONS = 64
SLICES = 32  # of each case of a pair
STREAM_LEAD_SECONDS = 0.3
MIN_RESUMED_FRACTION = 0.99
STAGE_SECONDS = 150.0  # load.c itself gives up after 120


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the work cost the proxy, and how long it took the clients.

    Attributes:
        cpu_ns: Processor time of the proxy.
        system_ns: The part of it in system calls, an estimate.
        memory_kib: Memory that the sessions took.
        seconds: Duration of the work.
        samples: The number of sessions or round trips.
        p50: Median duration of a sample in seconds.
        p99: 99th percentile of it.
        negotiated: The cryptography of the clients' sessions.
        idle_ns: Idle time of the machine's processors.
        clients_cpu: Processor time of the clients in seconds.
        background_rate: Bytes per second of the clients in the background.
        cpu_ns_of_slices: Processor time per sample, for each slice.
    """

    cpu_ns: int
    system_ns: int
    memory_kib: int
    seconds: float
    samples: int
    p50: float
    p99: float
    negotiated: str
    idle_ns: int = 0
    clients_cpu: float = 0
    background_rate: float = 0
    cpu_ns_of_slices: tuple[float, ...] = ()


@dataclass(slots=True)
class Load:
    """A running load.c with the clients of one case."""

    process: subprocess.Popen[str]
    errors: Path

    def has_output(self, seconds: float) -> bool:
        """Whether a stage, or the process, ends within this time."""
        return bool(select.select([self.output], [], [], seconds)[0])

    @property
    def output(self) -> IO[str]:
        return cast("IO[str]", self.process.stdout)

    def wait_for_stage(self, name: str) -> dict[str, str | float]:
        """Wait for the end of a stage and return its report. Raises MeasurementError if a session failed."""
        if not self.has_output(STAGE_SECONDS):
            raise MeasurementError(f"the clients hang before {name!r}")
        line = self.output.readline()
        if not line:
            raise MeasurementError(f"the clients ended before {name!r}: {self.error_text()}")
        report: dict[str, str | float] = json.loads(line)
        if report["failed"]:
            raise MeasurementError(
                f"{report['failed']} sessions failed before {name!r}; the first: {self.error_text()}"
            )
        return report

    def proceed(self) -> None:
        """Start the next stage."""
        with contextlib.suppress(BrokenPipeError):  # the next stage reports why the clients have ended
            stdin = cast("IO[str]", self.process.stdin)
            stdin.write("\n")
            stdin.flush()

    def error_text(self) -> str:
        return self.errors.read_text(errors="replace").strip() or "no reason given"


@contextlib.contextmanager
def clients(case: Case, program: Path, setup: ProxySetup) -> Iterator[Load]:
    """Start the clients of a case, and end them afterwards."""
    errors = setup.folder / f"{case.name}.errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            case.command(program, setup.ports[case.bind]),
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


def figures(case: Case, measurement: Measurement) -> dict[str, float]:
    """Return the figures of a measurement: those of the table, and some more for the JSON."""
    seconds = measurement.seconds
    if case.mode == "idle":
        return {"kib": measurement.memory_kib / case.count}
    if case.mode.startswith("bulk"):
        gigabytes = case.count * float(case.option("--bytes")) / 1e9
        return {
            "cpu_s_per_gb": measurement.cpu_ns / 1e9 / gigabytes,
            "system_s_per_gb": measurement.system_ns / 1e9 / gigabytes,
            "mb_per_s": gigabytes * 1e3 / seconds,
        }
    values = {
        "cpu_us": measurement.cpu_ns / 1e3 / measurement.samples,
        "system_us": measurement.system_ns / 1e3 / measurement.samples,
        "p50_us": measurement.p50 * 1e6,
        "p99_us": measurement.p99 * 1e6,
        "per_s": measurement.samples / seconds,
        "idle_cores": measurement.idle_ns / 1e9 / seconds,
        "clients_cores": measurement.clients_cpu / seconds,
    }
    if case.background and case.background.mode == "streams":
        # Most of the processor time went to the streams, not to the round trips.
        del values["cpu_us"], values["system_us"]
        values["beside_mb_per_s"] = measurement.background_rate / 1e6
    return values


def warm_up(case: Case, program: Path, setup: ProxySetup) -> None:
    warm_up_case = Case("warm-up", "sessions", case.bind, options=("--count", str(WARM_UP_SESSIONS)))
    with clients(warm_up_case, program, setup) as load:
        load.wait_for_stage("ready")
        load.proceed()
        load.wait_for_stage("worked")


def measure(cases: list[Case], program: Path, proxy: Proxy) -> list[Measurement]:
    """Measure one case, or several in alternating slices."""
    meter = Meter(proxy.process.pid)
    for case in cases:
        warm_up(case, program, proxy.setup)
    if len(cases) == 1:
        return [combined([_measure_once(cases[0], program, proxy, meter) for _ in range(cases[0].repeats)])]
    slices: list[list[Measurement]] = [[] for _ in cases]
    for number in range(SLICES):
        pairs = list(zip(cases, slices, strict=True))
        for case, measurements in pairs if number % 2 else pairs[::-1]:
            measurements.append(_measure_once(case.part(SLICES), program, proxy, meter))
    return [combined(measurements) for measurements in slices]


def combined(slices: list[Measurement]) -> Measurement:
    """Return the sums and medians of several measurements of one case."""
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
def background_clients(case: Case, program: Path, setup: ProxySetup) -> Iterator[Load | None]:
    """Log in the clients that the case has in the background. The caller starts their work, or does not."""
    if case.background is None:
        yield None
        return
    with clients(case.background, program, setup) as load:
        load.wait_for_stage("ready")
        yield load


def _start_streams(background: Load | None, case: Case) -> bool:
    """Start streams in the background a moment before the work, so that they are at full speed.

    Return False for idle clients: they stay idle.
    """
    if background is None or case.background is None or case.background.mode == "idle":
        return False
    background.proceed()
    time.sleep(STREAM_LEAD_SECONDS)
    return True


def _check_resumed(case: Case, report: dict[str, str | float]) -> None:
    handshakes, resumed = float(report["handshakes"]), float(report["resumed"])
    if case.resumes and resumed < MIN_RESUMED_FRACTION * handshakes:
        raise MeasurementError(f"only {resumed:.0f} of {handshakes:.0f} sessions were resumed")


TICKETS = ", tickets "


def negotiated(report: dict[str, str | float]) -> str:
    """Return the cryptography, with the number of tickets that each session got."""
    handshakes = float(report["handshakes"])
    if not handshakes:
        return str(report["negotiated"])
    resumed = " resumed" if float(report["resumed"]) > handshakes / 2 else ""
    return f"{report['negotiated']}{resumed}{TICKETS}{float(report['tickets']) / handshakes:.0f}"


def _measure_once(case: Case, program: Path, proxy: Proxy, meter: Meter) -> Measurement:
    with background_clients(case, program, proxy.setup) as background:
        meter.wait_until_idle()
        memory = meter.memory_kib()
        with clients(case, program, proxy.setup) as load:
            load.wait_for_stage("ready")
            cpu, system = meter.wait_until_idle(), meter.system_ns()
            streams = _start_streams(background, case)
            idle = idle_ns()
            load.proceed()
            report = load.wait_for_stage("worked")
            idle = idle_ns() - idle
            stream_report = background.wait_for_stage("worked") if background and streams else None
            cpu, system = meter.wait_until_idle() - cpu, meter.system_ns() - system
            memory = meter.memory_kib() - memory
            load.proceed()
            load.wait_for_stage("closed")
        if background and not streams:  # idle clients check that their sessions are still open
            background.proceed()
            background.wait_for_stage("worked")
    proxy.check_alive()
    _check_resumed(case, report)
    return Measurement(
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
        background_rate=float(stream_report["bytes"]) / float(stream_report["seconds"])
        if stream_report
        else 0,
    )
