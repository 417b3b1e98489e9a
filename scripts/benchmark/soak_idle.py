"""The soak's idle sessions: 9,000 TLS sessions in one process for ten minutes, all of them there at the end."""

from __future__ import annotations

import time

from cases import Case
from meter import Meter
from proxies import running
from verdict import Soak, Verdict
from weighing import clients, warm_up

SESSIONS, SECONDS = 9000, 600.0
GROWTH_KIB = 4096  # silent sessions need nothing new


def soak_idle(soak: Soak) -> Verdict:
    count, seconds = soak.share(SESSIONS, least=50), SECONDS * soak.scale
    case = Case("idle", "idle", "ec", options=("--count", str(count)))
    with running(soak.proxy, soak.stand.place("idle")) as proxy:
        meter = Meter(proxy.process.pid)
        warm_up(case, soak.stand.program, proxy.place)
        meter.await_rest()
        empty = meter.memory_kib()
        with clients(case, soak.stand.program, proxy.place) as load:
            load.stage("ready")
            used, memory, began = meter.await_rest(), meter.memory_kib(), time.monotonic()
            time.sleep(seconds)
            used, passed = meter.cpu_ns() - used, time.monotonic() - began
            grown = meter.memory_kib() - memory
            load.go_on()
            load.stage("worked")  # none has heard anything
            load.go_on()
            load.stage("closed")  # and each has its LOGOUT answered
        proxy.check_alive()
    words = (
        f"{count:,} silent TLS sessions for {passed:.0f} s, all there at the end, {(memory - empty) / count:.1f} KiB each "
        f"({grown:+d} KiB altogether meanwhile), {used / 1e6:.0f} ms of processor time ({used / 1e7 / passed:.2f} % of one)"
    )
    return Verdict("idle", words, [f"{grown} KiB grown"] if grown > GROWTH_KIB else [])
