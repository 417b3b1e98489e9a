"""The soak's lack of descriptors: more clients than a proxy holds, and a proxy that cannot open one more."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from cases import Case
from configurations import kind_of
from faults import Fault
from meter import Meter
from proxies import Proxy, running
from verdict import Soak, Verdict
from weighing import Load, clients, warm_up

OPEN_FILES = 300  # of which mailproxy keeps 200 for other things: room for 50 sessions
HELD, CROWD, AT_ONCE = 40, 400, 200
LATE = 5  # come when not one descriptor is left
PATIENCE_SECONDS = 10.0
RECOVERED_SECONDS = (
    2.5  # after its last failure the frontend says that it accepts again, with the next client
)
FULL, PAUSED, RESUMED = "sessions, as many as ", "cannot accept: ", "accepts again"


def held_ones() -> Case:
    return Case("held", "trips", "clear", options=("--count", str(HELD), "--seconds", "1.5"))


def crowd(count: int) -> Case:
    return Case(
        f"crowd-{count}",
        "sessions",
        "clear",
        options=("--count", str(count), "--at-once", str(min(count, AT_ONCE))),
    )


def lines(proxy: Proxy, words: str) -> int:
    """How often that stands in its log."""
    files = [*proxy.place.folder.glob("*.log"), *proxy.place.folder.glob("*.sessions")]
    return sum(file.read_text(errors="replace").count(words) for file in files)


def await_line(proxy: Proxy, words: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not lines(proxy, words):
        if time.monotonic() > deadline:
            raise Fault(f"it does not say {words!r}")
        time.sleep(0.05)


def served(load: Load) -> None:
    load.go_on()
    load.stage("worked")


def lowest_free(pid: int) -> int:
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


def limit(meter: Meter, number: int | None) -> None:
    """None: not one descriptor more than there are."""
    for pid in meter.processes():
        _, most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (number or lowest_free(pid), most))


def too_many(soak: Soak, proxy: Proxy, held: Load) -> None:
    """A crowd for the few places that are left, while those that are there talk."""
    with clients(crowd(CROWD), soak.stand.program, proxy.place) as load:
        load.stage("ready")
        held.go_on()
        served(load)
        held.stage("worked")


def none_left(soak: Soak, proxy: Proxy, meter: Meter) -> None:
    """Accepting fails until there are descriptors again; then those that waited are served."""
    with clients(crowd(LATE), soak.stand.program, proxy.place) as load:
        load.stage("ready")
        limit(meter, None)
        load.go_on()
        await_line(proxy, PAUSED)
        if load.has_said(1.0):
            raise Fault("clients were served without descriptors")
        limit(meter, OPEN_FILES)
        load.stage("worked")
    time.sleep(RECOVERED_SECONDS)
    with clients(crowd(1), soak.stand.program, proxy.place) as load:
        load.stage("ready")
        served(load)
    await_line(proxy, RESUMED)


def soak_descriptors(soak: Soak) -> Verdict:
    program = soak.stand.program
    with running(soak.proxy, soak.stand.place("descriptors"), open_files=OPEN_FILES) as proxy:
        meter = Meter(proxy.process.pid)
        warm_up(held_ones(), program, proxy.place)
        meter.await_rest()
        before = meter.held()
        with clients(held_ones(), program, proxy.place) as held:
            held.stage("ready")
            too_many(soak, proxy, held)
            meter.await_rest()
            none_left(soak, proxy, meter)
            held.go_on()
            held.stage("closed")  # they have lived through all of it
        meter.await_rest()
        after = meter.held()
        proxy.check_alive()
        said = {words: lines(proxy, words) for words in (FULL, PAUSED, RESUMED)}
    workers = kind_of(soak.proxy).workers  # each logs for itself
    # Accepting resumes twice: after the limit, and after the want of descriptors.
    most = {FULL: workers, PAUSED: workers, RESUMED: 2 * workers}
    faults = [
        f"{words!r} was said {times} times" for words, times in said.items() if not 1 <= times <= most[words]
    ]
    if after.descriptors != before.descriptors:
        faults.append(f"descriptors {before.descriptors} → {after.descriptors}")
    words = (
        f"{HELD} sessions talked while {CROWD} clients, {AT_ONCE} at once, were served in {OPEN_FILES} open files; "
        f"{LATE} came when no descriptor was left and were served when there were some; each said once in the log"
    )
    return Verdict("descriptors", words, faults)
