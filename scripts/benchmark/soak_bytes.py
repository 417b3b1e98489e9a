"""The soak's bytes: 10 GB in both directions at once, in clear and under TLS, compared with what was sent."""

from __future__ import annotations

import json
import select
import subprocess
from pathlib import Path
from typing import IO, cast

from environment import compile_load
from errors import MeasurementError
from meter import Meter
from proxies import running
from soak_result import SoakResult, SoakRun

BYTES = 10e9
CONCURRENT = 64
MAX_WAIT_SECONDS = 5.0  # a direction that waits longer, with both ends ready, is starved
MIN_BYTES_PER_SECOND = 5e6  # a slower run hangs
START_SECONDS = 60.0
REPORT = dict[str, float]


def read_line(process: subprocess.Popen[str], seconds: float) -> str:
    """Return the next line of output, empty after a timeout."""
    output = cast("IO[str]", process.stdout)
    return output.readline() if select.select([output], [], [], seconds)[0] else ""


def start(program: Path, size: int, errors: IO[bytes]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program, "--bytes", str(size), "--at-once", str(CONCURRENT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
    )


def transfer(process: subprocess.Popen[str], clear: int, tls: int, size: int, errors: Path) -> REPORT:
    """Start the traffic through the proxy's two ports, and wait for the report."""
    stdin = cast("IO[str]", process.stdin)
    stdin.write(f"{clear} {tls}\n")
    stdin.flush()
    line = read_line(process, START_SECONDS + size / MIN_BYTES_PER_SECOND)
    if not line:
        raise MeasurementError(f"no report: {errors.read_text().strip() or 'timed out'}")
    report: REPORT = json.loads(line)
    return report


def find_faults(report: REPORT, size: int, first_error: str) -> list[str]:
    faults = [f"{report['failed']:.0f} sessions failed, the first: {first_error}"] if report["failed"] else []
    if not faults and report["bytes_up"] + report["bytes_down"] < size:
        faults.append("bytes are missing")
    if report["longest_wait"] > MAX_WAIT_SECONDS:
        faults.append("starvation")
    return faults


def soak_bytes(soak: SoakRun) -> SoakResult:
    size = soak.scaled(BYTES, least=1_000_000)
    program = compile_load(soak.environment.folder, "mixed")
    errors = soak.environment.folder / "mixed.errors"
    with errors.open("wb") as file, start(program, size, file) as process:
        try:
            setup = soak.environment.setup("bytes", server_port=int(read_line(process, START_SECONDS)))
            with running(soak.proxy, setup) as proxy:
                meter = Meter(proxy.process.pid)
                before = meter.wait_until_idle()
                report = transfer(process, setup.ports["clear"], setup.ports["ec"], size, errors)
                cpu = (meter.cpu_ns() - before) / 1e9
                proxy.check_alive()
        finally:
            process.kill()
    moved = report["bytes_up"] + report["bytes_down"]
    summary = (
        f"{moved / 1e9:.2f} GB compared byte by byte in {report['sessions']:.0f} sessions ({report['tls']:.0f} TLS), "
        f"{report['half_closed']:.0f} half-closed, {report['stalls']:.0f} stalls, "
        f"longest wait {report['longest_wait'] * 1e3:.0f} ms, {moved / 1e6 / report['seconds']:.0f} MB/s, "
        f"{cpu / moved * 1e9:.2f} CPU s per GB"
    )
    return SoakResult("bytes", summary, find_faults(report, size, errors.read_text().strip()))
