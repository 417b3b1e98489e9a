"""Counts the instructions that a session and a round trip cost mailproxy, under valgrind.

The counts depend on the work, the code and the builds of Python and OpenSSL, and hardly on the machine and what
else it does. So they show a regression of a percent, where processor times need an hour on a quiet machine.
They say nothing about the processor's caches and the kernel. Whether a change is faster is for processor times
to say.

Each case runs through one process in slices of equal work, after half a slice that warms up. The figure is
the median of the slices. The counts of the last run that was saved are in ``instruction_counts.json``, one set for
each build of Python.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from callgrind import Callgrind, compile_clock
from cases import Case, Row
from command import Parser, run_command
from compare import check_programs, write
from configurations import variant_of
from counts import STORED, Counts, Stored, load_stored, saved, table
from environment import Environment, limit_open_files, open_environment
from errors import MeasurementError, UsageError
from machine import about
from meter import Meter
from programs import Programs, ask, find_haproxy, find_python, output_of
from proxies import Proxy, running
from revision import check_revision, find_commit
from runner import clients
from tables import as_markdown, as_text

TRIPS, BUSY = 200, 64
WARM_UP_PART = 2  # of a slice
LOG_BATCH_SECONDS = 0.1  # mailproxy writes lines 50 ms after the first of them, or sooner


def sessions(name: str, bind: str, title: str, count: int, *flags: str) -> Case:
    return Case(
        name, "sessions", bind, (Row("instructions", f"session, {title}"),), ("--count", str(count)), flags
    )


def trips(name: str, bind: str, title: str, busy: int, each: int) -> Case:
    row = Row("instructions", f"round trip, {title}, {busy} busy")
    return Case(name, "trips", bind, (row,), ("--count", str(busy), "--trips", str(each)))


# A slice takes about a second.
CASES = [
    sessions("sessions-clear", "clear", "clear", 200),
    sessions("sessions-ec", "ec", "TLS EC", 64),
    sessions("sessions-resumed", "ec", "TLS resumed", 64, "--resume"),
    trips("trips-clear", "clear", "clear", 1, TRIPS),
    trips("trips-tls", "ec", "TLS", 1, TRIPS),
    trips(f"trips-clear-{BUSY}", "clear", "clear", BUSY, 10),
    trips(f"trips-tls-{BUSY}", "ec", "TLS", BUSY, 10),
]


def settle(meter: Meter) -> None:
    """Wait until the proxy has done everything that belongs to the work so far, such as log lines."""
    time.sleep(LOG_BATCH_SECONDS)
    meter.wait_until_idle()


def count_once(case: Case, load: Path, proxy: Proxy, tool: Callgrind) -> float:
    """Return the instructions of one slice, per session or round trip."""
    meter, pid = Meter(proxy.process.pid), proxy.process.pid
    with clients(case, load, proxy.setup) as running_load:
        running_load.wait_for_stage("ready")
        settle(meter)
        tool.zero(pid)
        running_load.proceed()
        report = running_load.wait_for_stage("worked")
        settle(meter)
        instructions = tool.read(pid)
        running_load.proceed()
        running_load.wait_for_stage("closed")
    proxy.check_alive()
    return instructions / int(report["samples"])


def count(case: Case, rounds: int, load: Path, proxy: Proxy, tool: Callgrind) -> list[float]:
    """Return the instructions of each slice, after a shorter one."""
    warm_up = case.part(WARM_UP_PART) if case.count >= WARM_UP_PART else case
    count_once(warm_up, load, proxy, tool)
    return [count_once(case, load, proxy, tool) for _ in range(rounds)]


@contextlib.contextmanager
def counted(name: str, environment: Environment, clock: Path) -> Iterator[tuple[Proxy, Callgrind]]:
    """Start a proxy under callgrind."""
    setup = environment.setup(f"instructions-{name}")
    tool = Callgrind(clock, setup.folder / "callgrind.out")
    try:
        with running(name, setup, tool=tool) as proxy:
            tool.start(proxy.process.pid)
            yield proxy, tool
    except MeasurementError as error:
        environment.check_server()
        error.add_note("\n".join(setup.log_tail()))
        raise


def run(arguments: argparse.Namespace, environment: Environment, counts: Counts) -> None:
    clock = compile_clock(environment.folder)
    for name in counts.proxies:
        with counted(name, environment, clock) as (proxy, tool):
            for case in counts.cases:
                values = count(case, arguments.rounds, environment.program, proxy, tool)
                counts.values[case.name, name] = values
                print(f"{case.name:16} {name:10}", *(f"{value:.0f}" for value in values), file=sys.stderr)
                if arguments.top:
                    print(f"{case.name}, {name}: instructions of a slice\n{tool.top()}\n")


def select_proxies(arguments: argparse.Namespace) -> list[str]:
    names = list(dict.fromkeys(arguments.proxies.split(",")))
    if arguments.compare and "revision" not in names:
        names.insert(0, "revision")
    for name in names:
        if variant_of(name).workers > 1:
            raise UsageError(f"--proxies {name}: only one process can be counted")
    return names


def select_cases(arguments: argparse.Namespace) -> list[Case]:
    if arguments.cases is None:
        return CASES
    by_name = {case.name: case for case in CASES}
    names = arguments.cases.split(",")
    for name in names:
        if name not in by_name:
            raise UsageError(f"no case {name!r}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def read_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="scripts/bench --instructions", description="Count instructions per session and round trip."
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="counted slices; default 5")
    parser.add_argument("--cases", metavar="A,B", help=f"of {', '.join(case.name for case in CASES)}")
    parser.add_argument("--proxies", default="mailproxy", metavar="A,B", help="default mailproxy")
    parser.add_argument("--haproxy", metavar="PATH", help="the program; default: the installed one")
    parser.add_argument(
        "--python", metavar="PATH", help="the interpreter, which must have mailproxy's dependencies"
    )
    parser.add_argument("--compare", metavar="REV", help="count the mailproxy of a revision of Git as well")
    parser.add_argument("--save", action="store_true", help=f"store the counts in {STORED.name}")
    parser.add_argument("--top", action="store_true", help="also print the functions that cost most")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and callgrind's files")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise UsageError("--rounds must be at least 1")
    return arguments


def valgrind_version() -> str:
    code, output = output_of(["valgrind", "--version"])
    if code:
        raise UsageError("valgrind is not installed")
    return output.strip().replace("-", " ")


def stored_lines(stored: Stored | None, build: str) -> list[str]:
    if stored is None:
        return [f"no counts are stored for {build}: --save stores these"]
    return [f"stored: {stored.about}"]


def main() -> int:
    arguments = read_arguments()
    counts = Counts(select_proxies(arguments), select_cases(arguments))
    valgrind = valgrind_version()
    programs = Programs(find_haproxy(arguments.haproxy), find_python(arguments.python))
    check_programs(counts.proxies, programs)
    if arguments.compare:
        find_commit(arguments.compare)
    limit_open_files(max(case.concurrent_sessions for case in counts.cases))
    build = ask(programs.python).build
    try:
        with open_environment(
            keep=arguments.keep, programs=programs, revision=arguments.compare
        ) as environment:
            if arguments.compare:
                check_revision(environment.setup("revision"))
            run(arguments, environment, counts)
            description = f"{valgrind}, {about(counts.proxies, arguments.rounds, environment.programs)}"
    except MeasurementError as error:
        print(f"bench: {error}", *error.__notes__, sep="\n", file=sys.stderr)
        return 1
    stored = load_stored().get(build)
    rows = table(counts, stored)
    print(as_markdown(rows) if arguments.markdown else as_text(rows), end="\n\n")
    print(description, *stored_lines(stored, build), sep="\n")
    if arguments.save:
        write(STORED, saved(counts, build, description))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
