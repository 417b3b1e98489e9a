"""The soak's idle sessions: 9,000 TLS sessions in one process, all open after ten minutes."""

from __future__ import annotations

import time

from cases import Case
from meter import Meter
from proxies import running
from runner import clients, warm_up
from soak_result import SoakResult, SoakRun

SESSIONS, SECONDS = 9000, 600.0
MAX_GROWTH_KIB = 4096  # idle sessions allocate nothing


def soak_idle(soak: SoakRun) -> SoakResult:
    count, seconds = soak.scaled(SESSIONS, least=50), SECONDS * soak.scale
    case = Case("idle", "idle", "ec", options=("--count", str(count)))
    with running(soak.proxy, soak.environment.setup("idle")) as proxy:
        meter = Meter(proxy.process.pid)
        warm_up(case, soak.environment.program, proxy.setup)
        meter.wait_until_idle()
        empty = meter.memory_kib()
        with clients(case, soak.environment.program, proxy.setup) as load:
            load.wait_for_stage("ready")
            used, memory, started = meter.wait_until_idle(), meter.memory_kib(), time.monotonic()
            time.sleep(seconds)
            used, passed = meter.cpu_ns() - used, time.monotonic() - started
            grown = meter.memory_kib() - memory
            load.proceed()
            load.wait_for_stage("worked")  # no session has received anything
            load.proceed()
            load.wait_for_stage("closed")  # each LOGOUT was answered
        proxy.check_alive()
    summary = (
        f"{count:,} idle TLS sessions for {passed:.0f} s, all open at the end, {(memory - empty) / count:.1f} KiB each "
        f"({grown:+d} KiB altogether meanwhile), {used / 1e6:.0f} ms of processor time ({used / 1e7 / passed:.2f} % of one)"
    )
    return SoakResult("idle", summary, [f"{grown} KiB grown"] if grown > MAX_GROWTH_KIB else [])
