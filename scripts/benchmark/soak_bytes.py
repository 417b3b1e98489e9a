"""The soak's bytes: 10 GB in both directions at once, in clear and under TLS, each compared with what was sent."""

from __future__ import annotations

import json
import select
import subprocess
from pathlib import Path
from typing import IO, cast

from faults import Fault
from meter import Meter
from proxies import running
from stand import compile_load
from verdict import Soak, Verdict

BYTES = 10e9
AT_ONCE = 64
LONGEST_WAIT_SECONDS = 5.0  # of a direction whose receiver and whose sender are there: longer is starvation
SLOWEST_BYTES_PER_SECOND = 5e6  # slower is a hang
START_SECONDS = 60.0
REPORT = dict[str, float]


def answered(process: subprocess.Popen[str], seconds: float) -> str:
    output = cast("IO[str]", process.stdout)
    return output.readline() if select.select([output], [], [], seconds)[0] else ""


def started(program: Path, size: int, errors: IO[bytes]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program, "--bytes", str(size), "--at-once", str(AT_ONCE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )


def through(process: subprocess.Popen[str], clear: int, tls: int, size: int, errors: Path) -> REPORT:
    """Tell both ends the proxy's ports, and wait until everything has gone through it."""
    tell = cast("IO[str]", process.stdin)
    tell.write(f"{clear} {tls}\n")
    tell.flush()
    line = answered(process, START_SECONDS + size / SLOWEST_BYTES_PER_SECOND)
    if not line:
        raise Fault(f"no end of it: {errors.read_text().strip() or 'it hangs'}")
    report: REPORT = json.loads(line)
    return report


def faults(report: REPORT, size: int, said: str) -> list[str]:
    found = [f"{report['failed']:.0f} sessions failed, the first: {said}"] if report["failed"] else []
    if not found and report["bytes_up"] + report["bytes_down"] < size:
        found.append("bytes are missing")
    if report["longest_wait"] > LONGEST_WAIT_SECONDS:
        found.append("starvation")
    return found


def soak_bytes(soak: Soak) -> Verdict:
    size = soak.share(BYTES, least=1_000_000)
    program = compile_load(soak.stand.folder, "mixed")
    errors = soak.stand.folder / "mixed.errors"
    with errors.open("wb") as file, started(program, size, file) as process:
        try:
            place = soak.stand.place("bytes", server_port=int(answered(process, START_SECONDS)))
            with running(soak.proxy, place) as proxy:
                meter = Meter(proxy.process.pid)
                before = meter.await_rest()
                report = through(process, place.ports["clear"], place.ports["ec"], size, errors)
                cpu = (meter.cpu_ns() - before) / 1e9
                proxy.check_alive()
        finally:
            process.kill()
    moved = report["bytes_up"] + report["bytes_down"]
    words = (
        f"{moved / 1e9:.2f} GB compared byte by byte in {report['sessions']:.0f} sessions ({report['tls']:.0f} TLS), "
        f"{report['half_closed']:.0f} half-closed, {report['stalls']:.0f} stalls, "
        f"longest wait {report['longest_wait'] * 1e3:.0f} ms, {moved / 1e6 / report['seconds']:.0f} MB/s, "
        f"{cpu / moved * 1e9:.2f} CPU s per GB"
    )
    return Verdict("bytes", words, faults(report, size, errors.read_text().strip()))
