"""The scale: what the same mail sessions cost each proxy, on this machine, in one run.

Every weighing starts one fresh proxy in front of one stub server, warms it up, and lets load.c do one case through it.
The proxies take turns within each case, and their order turns round with every round, so that whatever else the machine
does meets them alike. A figure is the median over the rounds.

Some cases come in pairs, which differ in one thing. If both are weighed, one process does both, in short slices by turns.
What that thing costs is the median difference of neighbouring slices, and of those of the rounds the median again: so it
can be told where it is far less than a figure moves from one round to the next.

Processor time is the proxy's own, of its whole process tree, in nanoseconds from schedstat. It is read while the proxy
rests: once every session is logged in, and again after the work. How much of it was system calls is what the kernel
estimates. Memory is the tree's Pss (shared pages count once),
without the kernel's socket buffers. Every proxy writes a line per session to a file.

All of it happens on the loopback interface and in a temporary folder.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from cases import CASES, PRINCIPAL, WORKERS, Case, chosen_pairs, in_turns
from chart import speed_chart
from command import Parser, exit_code
from configurations import PROGRAMS, kind_of
from documenting import document
from faults import Fault, Mistake, NotStartedFault
from proxies import running
from results import Results, about, as_json, from_json
from stand import Stand, limit_open_files, standing
from tables import as_markdown, as_text, floor_table, growth_table, rounded, table, workers_table
from weighing import Worked, figures, work

EVERYTHING = ["haproxy", "haproxy-2", "nginx", "nginx-2", "mailproxy", "mailproxy-2", "portable"]


def weigh(stand: Stand, cases: list[Case], name: str) -> list[Worked]:
    place = stand.place(f"{cases[0].name}-{name}")
    try:
        with running(name, place) as proxy:
            return work(cases, stand.program, proxy)
    except Fault as fault:
        stand.check_server()
        fault.add_note("\n".join(place.log_tail()))
        raise


def take(results: Results, cases: list[Case], proxy: str, weighed: list[Worked], what: str) -> None:
    for case, worked in zip(cases, weighed, strict=True):
        results.add(case, proxy, worked)
        found = (f"{figure} {rounded(value)}" for figure, value in figures(case, worked).items())
        print(f"{what}  {case.name:16} {proxy:11}", *found, sep="  ", file=sys.stderr)
    for pair in chosen_pairs(cases):
        results.add_difference(pair, proxy, dict(zip((case.name for case in cases), weighed, strict=True)))


def run(stand: Stand, results: Results, rounds: int) -> None:
    given_up: set[str] = set()
    for number in range(1, rounds + 1):
        order = results.proxies if number % 2 else results.proxies[::-1]
        for cases in in_turns(results.cases):
            for proxy in order:
                if proxy in given_up:
                    results.fail(cases, proxy, "not tried again")
                    continue
                what = f"round {number}/{rounds}"
                try:
                    take(results, cases, proxy, weigh(stand, cases, proxy), what)
                except Fault as fault:
                    results.fail(cases, proxy, str(fault))
                    said = f"{what}  {cases[0].name:16} {proxy:11} FAILED: {fault}"
                    print(said, *fault.__notes__, sep="\n", file=sys.stderr)
                    if isinstance(fault, NotStartedFault):
                        given_up.add(proxy)


def chosen_cases(arguments: argparse.Namespace) -> list[Case]:
    """Names of cases, or what several begin with: trips, sessions-ec."""
    if arguments.cases is None:
        return list(CASES.values()) if arguments.all else WORKERS if arguments.workers else PRINCIPAL
    found: list[Case] = []
    for word in arguments.cases.split(","):
        cases = (
            [CASES[word]] if word in CASES else [c for c in CASES.values() if c.name.startswith(f"{word}-")]
        )
        if not cases:
            raise Mistake(f"no case {word!r}; there are {', '.join(CASES)}")
        found += [case for case in cases if case not in found]
    return found


def chosen_proxies(arguments: argparse.Namespace) -> list[str]:
    if arguments.proxies is None:
        if arguments.all:
            return EVERYTHING
        several = arguments.workers
        names = [f"{name}{more}" for name in ("haproxy", "mailproxy") for more in ("", f"-{several}")]
        return names if several else ["haproxy", "mailproxy"]
    names = list(dict.fromkeys(arguments.proxies.split(",")))
    for name in names:
        kind_of(name)
    return names


def check_programs(proxies: list[str]) -> None:
    others = {kind_of(name).program for name in proxies} - {"mailproxy", "portable", "limited"}
    for program in ["gcc", "openssl", "setpriv", *sorted(others)]:
        if not shutil.which(program):
            raise Mistake(f"{program} is not installed")


def read_arguments() -> argparse.Namespace:
    parser = Parser(prog="scripts/bench", description="Weigh mailproxy against HAProxy on this machine.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument("--all", action="store_true", help="every case and every proxy, about an hour")
    parser.add_argument(
        "--workers", type=int, nargs="?", const=2, metavar="N", help="one worker beside N (2), whole sessions"
    )
    parser.add_argument(
        "--cases",
        metavar="A,B",
        help=f"of {', '.join(CASES)}; or what they begin with; else the principal ones",
    )
    parser.add_argument(
        "--proxies", metavar="A,B", help=f"of {', '.join(PROGRAMS)}, each also as NAME-N with N workers"
    )
    parser.add_argument("--floor", action="store_true", help="show the part of system calls, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round, too")
    parser.add_argument("--chart", type=Path, metavar="FILE", help="an SVG of it, too")
    parser.add_argument("--markdown", action="store_true", help="print the tables as markdown")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and configurations")
    parser.add_argument(
        "--draw", type=Path, nargs=2, metavar=("RESULTS", "FILE"), help="the SVG of a JSON; weighs nothing"
    )
    parser.add_argument(
        "--document",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="tables and chart of a JSON into the documentation; of further ones what they have more",
    )
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise Mistake("--rounds must be at least 1")
    if arguments.workers is not None and arguments.workers < 2:
        raise Mistake("--workers must be at least 2")
    return arguments


def write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise Mistake(f"{file}: {error.strerror}") from None


def show(results: Results, *, markdown: bool, floor: bool) -> None:
    form = as_markdown if markdown else as_text
    tables = [table(results), workers_table(results), growth_table(results)]
    for rows in [*tables, floor_table(results) if floor else []]:
        if rows:
            print(form(rows), end="\n\n")
    print(results.about)


def weigh_all(arguments: argparse.Namespace) -> int:
    results = Results(chosen_proxies(arguments), chosen_cases(arguments))
    check_programs(results.proxies)
    limit_open_files(max(case.held for case in results.cases))
    for file in (arguments.json, arguments.chart):
        if file:
            write(file, "")  # better now than when everything is done
    with standing(keep=arguments.keep) as stand:
        run(stand, results, arguments.rounds)
    results.about = about(results.proxies, arguments.rounds)
    if arguments.json:
        write(arguments.json, as_json(results) + "\n")
    if arguments.chart:
        write(arguments.chart, speed_chart(results))
    show(results, markdown=arguments.markdown, floor=arguments.floor)
    for unlike in results.unlike():
        print(f"not the same TLS: {unlike}", file=sys.stderr)
    failed = sum(map(len, results.faults.values()))
    if failed:
        print(f"failed weighings: {failed}", file=sys.stderr)
    return 1 if failed or results.unlike() else 0


def do() -> int:
    arguments = read_arguments()
    if arguments.draw:
        results, file = arguments.draw
        write(file, speed_chart(from_json(results)))
    elif arguments.document:
        document([from_json(file) for file in arguments.document])
    else:
        return weigh_all(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code(do))
