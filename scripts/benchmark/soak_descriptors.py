"""The soak's lack of descriptors: too many clients, and a proxy that cannot open a single file."""

from __future__ import annotations

import resource
import time
from pathlib import Path

from cases import Case
from configurations import variant_of
from errors import MeasurementError
from meter import Meter
from proxies import Proxy, running
from runner import Load, clients, warm_up
from soak_result import SoakResult, SoakRun

OPEN_FILES = 300  # mailproxy reserves 200 of them for other uses, so 50 sessions fit
HELD, CROWD, CONCURRENT = 40, 400, 200
LATE_CLIENTS = 5  # connect when no descriptor is left
TIMEOUT_SECONDS = 10.0
# This long after the last failure the frontend logs that it accepts again, with the next client.
RECOVERY_SECONDS = 2.5
FULL, PAUSED, RESUMED = "sessions, as many as ", "cannot accept: ", "accepts again"


def held_sessions() -> Case:
    return Case("held", "trips", "clear", options=("--count", str(HELD), "--seconds", "1.5"))


def crowd(count: int) -> Case:
    return Case(
        f"crowd-{count}",
        "sessions",
        "clear",
        options=("--count", str(count), "--at-once", str(min(count, CONCURRENT))),
    )


def count_in_log(proxy: Proxy, text: str) -> int:
    """Return how often a text is in the proxy's logs."""
    files = [*proxy.setup.folder.glob("*.log"), *proxy.setup.folder.glob("*.sessions")]
    return sum(file.read_text(errors="replace").count(text) for file in files)


def wait_for_log_line(proxy: Proxy, text: str) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not count_in_log(proxy, text):
        if time.monotonic() > deadline:
            raise MeasurementError(f"the proxy does not log {text!r}")
        time.sleep(0.05)


def finish(load: Load) -> None:
    """Start the clients' work, and wait for its end."""
    load.proceed()
    load.wait_for_stage("worked")


def lowest_free(pid: int) -> int:
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in range(len(used) + 1) if number not in used)


def limit_descriptors(meter: Meter, number: int | None) -> None:
    """Set the limit of the proxy's processes. None: no more descriptors than are open now."""
    for pid in meter.processes():
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (number or lowest_free(pid), hard))


def exceed_session_limit(soak: SoakRun, proxy: Proxy, held: Load) -> None:
    """Connect more clients than fit, while the first ones exchange data."""
    with clients(crowd(CROWD), soak.environment.program, proxy.setup) as load:
        load.wait_for_stage("ready")
        held.proceed()
        finish(load)
        held.wait_for_stage("worked")


def exhaust_descriptors(soak: SoakRun, proxy: Proxy, meter: Meter) -> None:
    """Connect clients while accepting fails. They are served once there are descriptors again."""
    with clients(crowd(LATE_CLIENTS), soak.environment.program, proxy.setup) as load:
        load.wait_for_stage("ready")
        limit_descriptors(meter, None)
        load.proceed()
        wait_for_log_line(proxy, PAUSED)
        if load.has_output(1.0):
            raise MeasurementError("clients were served without descriptors")
        limit_descriptors(meter, OPEN_FILES)
        load.wait_for_stage("worked")
    time.sleep(RECOVERY_SECONDS)
    with clients(crowd(1), soak.environment.program, proxy.setup) as load:
        load.wait_for_stage("ready")
        finish(load)
    wait_for_log_line(proxy, RESUMED)


def soak_descriptors(soak: SoakRun) -> SoakResult:
    program = soak.environment.program
    with running(soak.proxy, soak.environment.setup("descriptors"), open_files=OPEN_FILES) as proxy:
        meter = Meter(proxy.process.pid)
        warm_up(held_sessions(), program, proxy.setup)
        meter.wait_until_idle()
        before = meter.open_descriptors()
        with clients(held_sessions(), program, proxy.setup) as held:
            held.wait_for_stage("ready")
            exceed_session_limit(soak, proxy, held)
            meter.wait_until_idle()
            exhaust_descriptors(soak, proxy, meter)
            held.proceed()
            held.wait_for_stage("closed")  # none of them was cut off
        meter.wait_until_idle()
        after = meter.open_descriptors()
        proxy.check_alive()
        counts = {text: count_in_log(proxy, text) for text in (FULL, PAUSED, RESUMED)}
    workers = variant_of(soak.proxy).workers  # each worker logs
    # Accepting resumes twice: after the session limit, and after the lack of descriptors.
    max_counts = {FULL: workers, PAUSED: workers, RESUMED: 2 * workers}
    faults = [
        f"{text!r} was logged {count} times"
        for text, count in counts.items()
        if not 1 <= count <= max_counts[text]
    ]
    if after.descriptors != before.descriptors:
        faults.append(f"descriptors {before.descriptors} → {after.descriptors}")
    summary = (
        f"{HELD} sessions were served while {CROWD} clients, {CONCURRENT} at once, were served in {OPEN_FILES} open files; "
        f"{LATE_CLIENTS} connected when no descriptor was left and were served when there were some; each was logged once"
    )
    return SoakResult("descriptors", summary, faults)
