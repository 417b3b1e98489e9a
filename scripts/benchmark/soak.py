"""The soak: what is right for a moment must be so for long. Each part prints one line, and the code is 1 if one failed.

    bytes        10 GB of mixed traffic arrive as they were sent
    sessions     200,000 sessions leave nothing behind; a graph of it
    idle         9,000 TLS sessions are silent for ten minutes
    descriptors  too few of them: accepting waits and goes on

--scale 0.01 does a hundredth of each, in some seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from command import Parser, exit_code
from configurations import kind_of
from faults import Fault, Mistake
from soak_bytes import soak_bytes
from soak_descriptors import soak_descriptors
from soak_idle import SESSIONS, soak_idle
from soak_sessions import soak_sessions
from stand import limit_open_files, standing
from verdict import Soak, Verdict

PARTS: dict[str, Callable[[Soak], Verdict]] = {
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
    kind_of(arguments.proxy)
    if not 0 < arguments.scale <= 1:
        raise Mistake("--scale must be over 0 and at most 1")
    if not os.access(arguments.graph.absolute().parent, os.W_OK):
        raise Mistake(f"{arguments.graph}: its folder cannot be written to")
    return arguments


def soak_all(arguments: argparse.Namespace) -> int:
    for program in ("gcc", "openssl", "setpriv", "prlimit"):
        if not shutil.which(program):
            raise Mistake(f"{program} is not installed")
    parts = arguments.part or list(PARTS)
    limit_open_files(round(SESSIONS * arguments.scale) if "idle" in parts else 0)
    failed = False
    with standing(keep=arguments.keep) as stand:
        soak = Soak(stand, arguments.proxy, arguments.scale, arguments.graph)
        for part in parts:
            try:
                verdict = PARTS[part](soak)
            except Fault as fault:
                stand.check_server()
                verdict = Verdict(part, f"{arguments.proxy}, see its log with --keep", [str(fault)])
            print(verdict, flush=True)
            failed |= bool(verdict.faults)
    return int(failed)


def do() -> int:
    return soak_all(read_arguments())


if __name__ == "__main__":
    sys.exit(exit_code(do))
