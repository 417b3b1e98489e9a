"""The soak's sessions: 200,000 of them leave descriptors, pipes and memory as near the start."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from cases import Case
from meter import Meter, OpenDescriptors
from proxies import Proxy, running
from runner import clients, warm_up
from soak_result import SoakResult, SoakRun
from svg import COLOURS, FAINT, Drawing
from svg_panel import Frame, Line, draw_panel

SESSIONS = 200_000
SAMPLES = 100  # fewer if a sample would have fewer sessions than the next number
MIN_SESSIONS_PER_SAMPLE = 100
WARM_UP_SESSIONS = 2_000  # not counted: the first sessions allocate some 6 MiB that later ones reuse
MAX_GROWTH_KIB = 4096  # of the process tree: under 21 bytes for each of 200,000 sessions
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """What the idle proxy holds after a number of sessions.

    Attributes:
        sessions: The number of sessions so far.
        idle: Its descriptors now.
        peak: The most descriptors seen since the last sample.
        memory_kib: Its memory now.
    """

    sessions: int
    idle: OpenDescriptors
    peak: OpenDescriptors
    memory_kib: int


def whole_sessions(bind: str, count: int) -> Case:
    return Case(f"sessions-{bind}", "sessions", bind, options=("--count", str(count)))


def run_sessions(soak: SoakRun, proxy: Proxy, meter: Meter, bind: str, count: int) -> OpenDescriptors:
    """Run this number of sessions, and return the most descriptors that the proxy was seen to hold."""
    peak = OpenDescriptors(0, 0)
    with clients(whole_sessions(bind, count), soak.environment.program, proxy.setup) as load:
        load.wait_for_stage("ready")
        load.proceed()
        while not load.has_output(POLL_SECONDS):
            current = meter.open_descriptors()
            peak = OpenDescriptors(max(peak.descriptors, current.descriptors), max(peak.pipes, current.pipes))
        load.wait_for_stage("worked")
        load.proceed()
        load.wait_for_stage("closed")
    return peak


def take_samples(soak: SoakRun, total: int) -> list[Sample]:
    """Run all sessions, and return the samples. The first one is of the warmed-up proxy."""
    number = min(SAMPLES, max(10, total // (2 * MIN_SESSIONS_PER_SAMPLE)))
    count = total // number // 2
    with running(soak.proxy, soak.environment.setup("sessions")) as proxy:
        meter = Meter(proxy.process.pid)
        for bind in ("clear", "ec"):
            warm_up(whole_sessions(bind, 0), soak.environment.program, proxy.setup)
            run_sessions(soak, proxy, meter, bind, WARM_UP_SESSIONS // 2)
        meter.wait_until_idle()
        samples = [Sample(0, meter.open_descriptors(), meter.open_descriptors(), meter.memory_kib())]
        for i in range(number):
            peaks = [run_sessions(soak, proxy, meter, bind, count) for bind in ("clear", "ec")]
            meter.wait_until_idle()
            peak = max(peaks, key=lambda held: held.descriptors)
            samples.append(Sample(2 * count * (i + 1), meter.open_descriptors(), peak, meter.memory_kib()))
        proxy.check_alive()
    return samples


def find_faults(samples: list[Sample]) -> list[str]:
    tenth = max(1, len(samples) // 10)
    early, late = samples[1 : tenth + 1], samples[-tenth:]
    faults = []
    highest = max(sample.idle.descriptors for sample in early)
    if samples[-1].idle.descriptors > highest:
        faults.append(f"{samples[-1].idle.descriptors - highest} descriptors more than after the first tenth")
    if samples[-1].idle.pipes > max(sample.idle.pipes for sample in early):
        faults.append("pipes are left")
    grown = growth_kib(early, late)
    if grown > MAX_GROWTH_KIB:
        faults.append(f"{grown / 1024:.1f} MiB more than after the first tenth")
    return faults


def growth_kib(early: list[Sample], late: list[Sample]) -> float:
    medians = [statistics.median(sample.memory_kib for sample in samples) for samples in (early, late)]
    return medians[1] - medians[0]


def graph(samples: list[Sample], proxy: str) -> str:
    drawing = Drawing(900, f"{proxy} over {samples[-1].sessions} sessions")
    drawing.text(24, 34, f"{samples[-1].sessions:,} sessions, half of them TLS", size=15, weight=600)
    drawing.text(24, 52, f"{proxy}, its whole process tree, at rest after each part", colour=FAINT)
    memory = [(float(s.sessions), s.memory_kib / 1024) for s in samples]
    descriptors = [(float(s.sessions), float(s.idle.descriptors)) for s in samples]
    pipes = [(float(s.sessions), float(s.idle.pipes)) for s in samples]
    draw_panel(drawing, Frame(20, 70, 424, 230), "memory, MiB", "sessions so far", [Line(COLOURS[0], memory)])
    lines = [Line(COLOURS[0], descriptors), Line(COLOURS[1], pipes)]
    draw_panel(
        drawing,
        Frame(456, 70, 424, 230),
        "descriptors (blue), ends of pipes (orange)",
        "sessions so far",
        lines,
    )
    return drawing.svg(312)


def soak_sessions(soak: SoakRun) -> SoakResult:
    samples = take_samples(soak, soak.scaled(SESSIONS, least=2000))
    soak.graph.write_text(graph(samples, soak.proxy))
    first, last = samples[0], samples[-1]
    tenth = max(1, len(samples) // 10)
    grown = growth_kib(samples[1 : tenth + 1], samples[-tenth:])
    summary = (
        f"{last.sessions:,} sessions, descriptors {first.idle.descriptors} → {last.idle.descriptors} "
        f"(up to {max(sample.peak.descriptors for sample in samples)} on the way), ends of pipes {first.idle.pipes} → "
        f"{last.idle.pipes}, memory {first.memory_kib / 1024:.1f} → {last.memory_kib / 1024:.1f} MiB "
        f"({grown:+.0f} KiB since the first tenth); {soak.graph}"
    )
    return SoakResult("sessions", summary, find_faults(samples))
