"""Measures what ``show stat`` costs: 200 servers, 2 workers, over the admin socket.

The figure is the processor time of the proxy's whole process tree for each answer, in milliseconds. Exit code 1
if it is over the bound.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from meter import Meter

BOUND_MS = 20.0
READY_S = 30.0


def configuration(path: Path, servers: int, workers: int) -> str:
    """Return a configuration whose servers nothing connects to."""
    entries = ", ".join(f'"127.0.0.1:{2000 + number}"' for number in range(servers))
    return (
        f'[process]\nworkers = {workers}\n[admin]\nsocket = "{path}"\n[log]\nlevel = "warning"\n'
        '[frontends.f]\nbackend = "b"\nprotocol = "imap"\nbind = ["127.0.0.1:0"]\n'
        f'[backends.b]\ncheck = "none"\nservers = [{entries}]\n'
    )


def ask(path: Path, command: str) -> bytes:
    """Return the answer to one command."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(command.encode() + b"\n")
        answer = bytearray()
        while data := sock.recv(65536):
            answer += data
        return bytes(answer)


def wait_for_rows(path: Path, rows: int) -> None:
    """Wait until the answer has as many rows."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        try:
            if ask(path, "show stat").count(b"\nb,") >= rows:
                return
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit(f"bench: no answer with {rows} rows within {READY_S:g} s")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench --scrapes", description="Measure what show stat costs."
    )
    parser.add_argument("--servers", type=int, default=200, metavar="N", help="default 200")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument(
        "--scrapes", type=int, default=50, metavar="N", help="in each of five rounds; default 50"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mailproxy-scrapes-") as name:
        path, file = Path(name) / "admin.sock", Path(name) / "mailproxy.toml"
        file.write_text(configuration(path, arguments.servers, arguments.workers))
        with subprocess.Popen([sys.executable, "-m", "mailproxy", "run", file]) as process:
            try:
                wait_for_rows(path, arguments.servers + 1)
                meter = Meter(process.pid)
                costs: list[float] = []
                for _ in range(5):
                    before = meter.cpu_ns()
                    for _ in range(arguments.scrapes):
                        ask(path, "show stat")
                    costs.append((meter.cpu_ns() - before) / 1e6 / arguments.scrapes)
            finally:
                process.terminate()
    cost = statistics.median(costs)
    print(
        f"{arguments.servers} servers, {arguments.workers} workers: {cost:.1f} ms for each show stat, {BOUND_MS:g} at most"
    )
    return cost > BOUND_MS


if __name__ == "__main__":
    sys.exit(main())
