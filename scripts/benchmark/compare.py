"""Compares what the same mail sessions cost each proxy, on this machine, in one run.

Each measurement starts a new proxy in front of one stub server, warms it up, and runs one case of load.c
through it. The proxies alternate within each case, and their order is reversed with every round, so that
other load of the machine affects all of them alike. A figure is the median of the rounds.

Some cases come in pairs that differ in one thing. If both are selected, one process does both, in short
alternating slices. The cost of that thing is the median difference of neighbouring slices, and the median of
that over the rounds. So it can be measured even where it is far smaller than the difference between two
rounds.

Processor time is that of the proxy's whole process tree, in nanoseconds from schedstat. It is read while the
proxy is idle: once every session is logged in, and again after the work. The part of system calls is the
kernel's estimate. Memory is the tree's Pss (a shared page is divided among its users), without the kernel's
socket buffers. Every proxy logs one line for each session to a file.

Everything happens on the loopback interface and in a temporary folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from cases import CASES, DEFAULT_CASES, WORKERS_CASES, Case, grouped_by_pair, is_offered, selected_pairs
from chart import speed_chart
from command import Parser, run_command
from configurations import PROGRAMS, variant_of
from environment import Environment, limit_open_files, open_environment
from errors import MeasurementError, ProxyNotStartedError, UsageError
from machine import about
from programs import Programs, find_haproxy, find_python
from proxies import running
from report import write_report
from results import Results, as_json, from_json
from revision import check_revision, find_commit
from runner import Measurement, figures, measure
from tables import as_markdown, as_text, floor_table, format_figure, growth_table, table, workers_table

ALL_PROXIES = ["haproxy", "haproxy-2", "nginx", "nginx-2", "mailproxy", "mailproxy-2", "portable"]


def measure_proxy(environment: Environment, cases: list[Case], name: str) -> list[Measurement]:
    """Start a proxy, and measure a case or the two of a pair."""
    setup = environment.setup(f"{cases[0].name}-{name}")
    try:
        with running(name, setup) as proxy:
            return measure(cases, environment.program, proxy)
    except MeasurementError as error:
        environment.check_server()
        error.add_note("\n".join(setup.log_tail()))
        raise


def record(
    results: Results, cases: list[Case], proxy: str, measurements: list[Measurement], label: str
) -> None:
    """Add measurements to the results, and print their figures."""
    for case, measurement in zip(cases, measurements, strict=True):
        results.add(case, proxy, measurement)
        columns = (f"{figure} {format_figure(value)}" for figure, value in figures(case, measurement).items())
        print(f"{label}  {case.name:16} {proxy:11}", *columns, sep="  ", file=sys.stderr)
    for pair in selected_pairs(cases):
        results.add_difference(
            pair, proxy, dict(zip((case.name for case in cases), measurements, strict=True))
        )


def run(environment: Environment, results: Results, rounds: int) -> None:
    """Measure every case with every proxy, in rounds."""
    not_started: set[str] = set()
    for number in range(1, rounds + 1):
        order = results.proxies if number % 2 else results.proxies[::-1]
        for cases in grouped_by_pair(results.cases):
            for proxy in order:
                if not all(is_offered(case.bind, variant_of(proxy).program) for case in cases):
                    continue
                if proxy in not_started:
                    results.add_fault(cases, proxy, "not tried again")
                    continue
                label = f"round {number}/{rounds}"
                try:
                    record(results, cases, proxy, measure_proxy(environment, cases, proxy), label)
                except MeasurementError as error:
                    results.add_fault(cases, proxy, str(error))
                    message = f"{label}  {cases[0].name:16} {proxy:11} FAILED: {error}"
                    print(message, *error.__notes__, sep="\n", file=sys.stderr)
                    if isinstance(error, ProxyNotStartedError):
                        not_started.add(proxy)


def select_cases(arguments: argparse.Namespace) -> list[Case]:
    """Return the cases of the command line: names, or the common prefix of several, such as ``trips``."""
    if arguments.cases is None:
        return (
            list(CASES.values()) if arguments.all else WORKERS_CASES if arguments.workers else DEFAULT_CASES
        )
    selected: list[Case] = []
    for name in arguments.cases.split(","):
        cases = (
            [CASES[name]] if name in CASES else [c for c in CASES.values() if c.name.startswith(f"{name}-")]
        )
        if not cases:
            raise UsageError(f"no case {name!r}; there are {', '.join(CASES)}")
        selected += [case for case in cases if case not in selected]
    return selected


def select_proxies(arguments: argparse.Namespace) -> list[str]:
    if arguments.proxies is None:
        if arguments.all:
            return ALL_PROXIES
        programs = ["revision" if arguments.compare else "haproxy", "mailproxy"]
        workers = arguments.workers
        return (
            [f"{name}{suffix}" for name in programs for suffix in ("", f"-{workers}")]
            if workers
            else programs
        )
    names = list(dict.fromkeys(arguments.proxies.split(",")))
    if arguments.compare and "revision" not in names:
        names.insert(0, "revision")
    if not arguments.compare and any(variant_of(name).program == "revision" for name in names):
        raise UsageError("the proxy 'revision' needs --compare REV")
    return names


def check_programs(proxies: list[str], programs: Programs) -> None:
    paths = {"haproxy": programs.haproxy, "nginx": "nginx"}
    others = {variant_of(name).program for name in proxies} & paths.keys()
    for program in ["gcc", "openssl", "setpriv", *sorted(paths[name] for name in others)]:
        if not shutil.which(program):
            raise UsageError(f"{program} is not installed")


def read_arguments() -> argparse.Namespace:
    parser = Parser(
        prog="scripts/bench", description="Compare what mailproxy and HAProxy cost on this machine."
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--all", action="store_true", help="every case and every proxy, about an hour")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="?",
        const=2,
        metavar="N",
        help="compare one worker with N (2), whole sessions",
    )
    parser.add_argument(
        "--cases",
        metavar="A,B",
        help=f"of {', '.join(CASES)}; or a common prefix; default: those with bounds",
    )
    parser.add_argument(
        "--proxies", metavar="A,B", help=f"of {', '.join(PROGRAMS)}, each also as NAME-N with N workers"
    )
    parser.add_argument("--haproxy", metavar="PATH", help="the program; default: the installed one")
    parser.add_argument(
        "--python", metavar="PATH", help="the interpreter, which must have mailproxy's dependencies"
    )
    parser.add_argument(
        "--compare", metavar="REV", help="compare the checked-out mailproxy with a revision of Git, in turns"
    )
    parser.add_argument("--floor", action="store_true", help="also show the part of system calls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every figure of every round")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="also write a chart")
    parser.add_argument("--markdown", action="store_true", help="print the tables as markdown")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and configurations")
    parser.add_argument(
        "--draw", type=Path, nargs=2, metavar=("RESULTS", "FILE"), help="only draw the chart of a JSON file"
    )
    parser.add_argument(
        "--document",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="only write tables and chart of a JSON file into the documentation, and what further files add",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise UsageError("--rounds must be at least 1")
    if arguments.workers is not None and arguments.workers < 2:
        raise UsageError("--workers must be at least 2")
    return arguments


def write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from None


def show(results: Results, *, markdown: bool, floor: bool) -> None:
    form = as_markdown if markdown else as_text
    tables = [table(results), workers_table(results), growth_table(results)]
    for rows in [*tables, floor_table(results) if floor else []]:
        if rows:
            print(form(rows), end="\n\n")
    print(results.about)


def compare(arguments: argparse.Namespace) -> int:
    results = Results(select_proxies(arguments), select_cases(arguments))
    programs = Programs(find_haproxy(arguments.haproxy), find_python(arguments.python))
    check_programs(results.proxies, programs)
    if arguments.compare:
        find_commit(arguments.compare)
    limit_open_files(max(case.concurrent_sessions for case in results.cases))
    for file in (arguments.json, arguments.chart):
        if file:
            write(file, "")  # fails now rather than after the run
    with open_environment(keep=arguments.keep, programs=programs, revision=arguments.compare) as environment:
        if arguments.compare:
            check_revision(environment.setup("revision"))
        run(environment, results, arguments.rounds)
        results.about = about(results.proxies, arguments.rounds, environment.programs)
    if arguments.json:
        write(arguments.json, as_json(results) + "\n")
    if arguments.chart:
        write(arguments.chart, speed_chart(results))
    show(results, markdown=arguments.markdown, floor=arguments.floor)
    for difference in results.different_cryptography():
        print(f"not the same TLS: {difference}", file=sys.stderr)
    failed = sum(map(len, results.faults.values()))
    if failed:
        print(f"failed measurements: {failed}", file=sys.stderr)
    return 1 if failed or results.different_cryptography() else 0


def main() -> int:
    arguments = read_arguments()
    if arguments.draw:
        results, file = arguments.draw
        write(file, speed_chart(from_json(results)))
    elif arguments.document:
        write_report([from_json(file) for file in arguments.document])
    else:
        return compare(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
