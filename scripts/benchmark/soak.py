"""The soak: long runs that must leave no trace.

Each part prints one line, and the exit code is 1 if one failed.

    bytes        10 GB of mixed traffic arrive as they were sent
    sessions     200,000 sessions leak nothing; writes a graph
    idle         9,000 TLS sessions are idle for ten minutes
    descriptors  with too few descriptors, accepting pauses and resumes

--scale 0.01 does a hundredth of each, in some seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from command import Parser, run_command
from configurations import variant_of
from environment import limit_open_files, open_environment
from errors import MeasurementError, UsageError
from soak_bytes import soak_bytes
from soak_descriptors import soak_descriptors
from soak_idle import SESSIONS, soak_idle
from soak_result import SoakResult, SoakRun
from soak_sessions import soak_sessions

PARTS: dict[str, Callable[[SoakRun], SoakResult]] = {
    "bytes": soak_bytes,
    "sessions": soak_sessions,
    "idle": soak_idle,
    "descriptors": soak_descriptors,
}


def read_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="scripts/bench --soak", description="Soak mailproxy: long runs that must leave no trace."
    )
    parser.add_argument(
        "--part", action="append", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}; else all"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="0.01: a hundredth of everything"
    )
    parser.add_argument(
        "--proxy", default="mailproxy", metavar="NAME", help="mailproxy, portable, mailproxy-2…"
    )
    parser.add_argument(
        "--graph", type=Path, default=Path("soak.svg"), metavar="FILE", help="default soak.svg"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and configurations")
    arguments = parser.parse_args()
    variant_of(arguments.proxy)
    if not 0 < arguments.scale <= 1:
        raise UsageError("--scale must be over 0 and at most 1")
    if not os.access(arguments.graph.absolute().parent, os.W_OK):
        raise UsageError(f"{arguments.graph}: its folder cannot be written to")
    return arguments


def soak_all(arguments: argparse.Namespace) -> int:
    for program in ("gcc", "openssl", "setpriv", "prlimit"):
        if not shutil.which(program):
            raise UsageError(f"{program} is not installed")
    parts = arguments.part or list(PARTS)
    limit_open_files(round(SESSIONS * arguments.scale) if "idle" in parts else 0)
    failed = False
    with open_environment(keep=arguments.keep) as environment:
        soak = SoakRun(environment, arguments.proxy, arguments.scale, arguments.graph)
        for part in parts:
            try:
                result = PARTS[part](soak)
            except MeasurementError as error:
                environment.check_server()
                result = SoakResult(part, f"{arguments.proxy}, see its log with --keep", [str(error)])
            print(result, flush=True)
            failed |= bool(result.faults)
    return int(failed)


def main() -> int:
    return soak_all(read_arguments())


if __name__ == "__main__":
    sys.exit(run_command(main))
