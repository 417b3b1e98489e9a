"""The soak's sessions: 200,000 of them, after which descriptors, pipes and memory are what they were after the first."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from cases import Case
from drawing import COLOURS, FAINT, Drawing
from meter import Held, Meter
from panel import Frame, Line, draw_panel
from proxies import Proxy, running
from verdict import Soak, Verdict
from weighing import clients, warm_up

SESSIONS = 200_000
SAMPLES = 100  # of the whole; fewer where they would be of under SMALLEST sessions
SMALLEST = 100
SETTLING = 2_000  # before they are counted: what the first ones need is kept for all, some 6 MiB
GROWTH_KIB = 4096  # of the whole tree: under 21 bytes for a session of 200,000
WATCHED_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """At rest after so many sessions; ``busy`` is the most that was seen on the way there."""

    sessions: int
    held: Held
    busy: Held
    memory_kib: int


def whole_sessions(bind: str, count: int) -> Case:
    return Case(f"sessions-{bind}", "sessions", bind, options=("--count", str(count)))


def take(soak: Soak, proxy: Proxy, meter: Meter, bind: str, count: int) -> Held:
    """Let them come and go; gives the most that the proxy was seen to hold meanwhile."""
    most = Held(0, 0)
    with clients(whole_sessions(bind, count), soak.stand.program, proxy.place) as load:
        load.stage("ready")
        load.go_on()
        while not load.has_said(WATCHED_SECONDS):
            seen = meter.held()
            most = Held(max(most.descriptors, seen.descriptors), max(most.pipes, seen.pipes))
        load.stage("worked")
        load.go_on()
        load.stage("closed")
    return most


def sampled(soak: Soak, total: int) -> list[Sample]:
    """The first one is of the warm proxy."""
    number = min(SAMPLES, max(10, total // (2 * SMALLEST)))
    count = total // number // 2
    with running(soak.proxy, soak.stand.place("sessions")) as proxy:
        meter = Meter(proxy.process.pid)
        for bind in ("clear", "ec"):
            warm_up(whole_sessions(bind, 0), soak.stand.program, proxy.place)
            take(soak, proxy, meter, bind, SETTLING // 2)
        meter.await_rest()
        samples = [Sample(0, meter.held(), meter.held(), meter.memory_kib())]
        for i in range(number):
            busy = [take(soak, proxy, meter, bind, count) for bind in ("clear", "ec")]
            meter.await_rest()
            most = max(busy, key=lambda held: held.descriptors)
            samples.append(Sample(2 * count * (i + 1), meter.held(), most, meter.memory_kib()))
        proxy.check_alive()
    return samples


def faults(samples: list[Sample]) -> list[str]:
    tenth = max(1, len(samples) // 10)
    settled, last = samples[1 : tenth + 1], samples[-tenth:]
    found = []
    most = max(sample.held.descriptors for sample in settled)
    if samples[-1].held.descriptors > most:
        found.append(f"{samples[-1].held.descriptors - most} descriptors more than after the first tenth")
    if samples[-1].held.pipes > max(sample.held.pipes for sample in settled):
        found.append("pipes are left")
    grown = growth_kib(settled, last)
    if grown > GROWTH_KIB:
        found.append(f"{grown / 1024:.1f} MiB more than after the first tenth")
    return found


def growth_kib(settled: list[Sample], last: list[Sample]) -> float:
    medians = [statistics.median(sample.memory_kib for sample in samples) for samples in (settled, last)]
    return medians[1] - medians[0]


def graph(samples: list[Sample], proxy: str) -> str:
    drawing = Drawing(900, f"{proxy} over {samples[-1].sessions} sessions")
    drawing.text(24, 34, f"{samples[-1].sessions:,} sessions, half of them TLS", size=15, weight=600)
    drawing.text(24, 52, f"{proxy}, its whole process tree, at rest after each part", colour=FAINT)
    memory = [(float(s.sessions), s.memory_kib / 1024) for s in samples]
    descriptors = [(float(s.sessions), float(s.held.descriptors)) for s in samples]
    pipes = [(float(s.sessions), float(s.held.pipes)) for s in samples]
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


def soak_sessions(soak: Soak) -> Verdict:
    samples = sampled(soak, soak.share(SESSIONS, least=2000))
    soak.graph.write_text(graph(samples, soak.proxy))
    first, last = samples[0], samples[-1]
    tenth = max(1, len(samples) // 10)
    grown = growth_kib(samples[1 : tenth + 1], samples[-tenth:])
    words = (
        f"{last.sessions:,} sessions, descriptors {first.held.descriptors} → {last.held.descriptors} "
        f"(up to {max(sample.busy.descriptors for sample in samples)} on the way), ends of pipes {first.held.pipes} → "
        f"{last.held.pipes}, memory {first.memory_kib / 1024:.1f} → {last.memory_kib / 1024:.1f} MiB "
        f"({grown:+.0f} KiB since the first tenth); {soak.graph}"
    )
    return Verdict("sessions", words, faults(samples))
