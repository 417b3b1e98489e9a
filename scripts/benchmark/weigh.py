"""The scale: what the same mail sessions cost each proxy, on this machine, in one run.

Every weighing starts one fresh proxy in front of one stub server, warms it up, and lets load.c do one case through it.
The proxies take turns within each case, and their order turns round with every round, so that whatever else the machine
does meets them alike. A figure is the median over the rounds.

Some cases come in pairs, which differ in one thing. If both are weighed, one process does both, in short slices by turns.
What that thing costs is the median difference of neighbouring slices, and of those of the rounds the median again: so it
can be told where it is far less than a figure moves from one round to the next.

Processor time is the proxy's own, of its whole process tree, in nanoseconds from schedstat. It is read while the proxy
rests: once every session is logged in, and again after the work. Memory is the tree's Pss (shared pages count once),
without the kernel's socket buffers. Every proxy writes a line per session to a file.

All of it happens on the loopback interface and in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn, cast

from cases import BINDS, CASES, IDLE_SESSIONS, Case, in_turns
from faults import Fault, Mistake, NotStartedFault, ServerEndedError
from proxies import PROXIES, Place, free_ports, running
from results import Results, about, as_json, as_markdown, as_text, rounded, table
from weighing import Worked, figures, work

SOURCE = Path(__file__).with_name("load.c")
OPEN_FILES = 20_000  # for every process here: each proxy has to do with the same


@dataclass(frozen=True, slots=True)
class Bench:
    """What all weighings of a run share: the folder, the compiled load, the stub server, the supply of ports."""

    folder: Path
    program: Path
    server: subprocess.Popen[str]
    server_ports: tuple[int, int, int]  # the others for sessions that begin with one preamble, or two
    ports: Iterator[int]

    def weigh(self, cases: list[Case], name: str) -> list[Worked]:
        folder = Path(tempfile.mkdtemp(prefix=f"{cases[0].name}-{name}-", dir=self.folder))
        place = Place(folder, self.folder, {bind: next(self.ports) for bind in BINDS}, *self.server_ports)
        try:
            with running(name, place) as proxy:
                return work(cases, self.program, proxy)
        except Fault as fault:
            if self.server.poll() is not None:
                raise ServerEndedError(f"the stub server ended with code {self.server.returncode}") from None
            fault.add_note("\n".join(place.log_tail()))
            raise


def make(what: str, command: list[str | Path]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Mistake(f"cannot make {what}: {' / '.join(done.stderr.split(chr(10))[:3])}")


def make_certificate(folder: Path, name: str, kind: list[str | Path]) -> None:
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    names: list[str | Path] = [
        "-subj",
        "/CN=imap.example.com",
        "-addext",
        "subjectAltName=DNS:imap.example.com",
    ]
    fresh: list[str | Path] = ["openssl", "req", "-x509", "-nodes", "-days", "30", *kind, *names]
    make("a certificate", [*fresh, "-keyout", key, "-out", certificate])
    (folder / f"{name}.pem").write_text(certificate.read_text() + key.read_text())


@contextlib.contextmanager
def bench(*, keep: bool) -> Iterator[Bench]:
    folder = Path(tempfile.mkdtemp(prefix="mailproxy-bench-"))
    program = folder / "load"
    try:
        make("the load", ["gcc", "-O2", "-Wall", "-Wextra", "-o", program, SOURCE, "-lssl", "-lcrypto"])
        make_certificate(folder, "ec", ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        make_certificate(folder, "rsa", ["-newkey", "rsa:2048"])
        # the server ends with the pipe to it, so even if this process is killed
        with subprocess.Popen(
            [program, "server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as server:
            line = cast("IO[str]", server.stdout).readline()
            if not line:
                raise ServerEndedError("the stub server did not start")
            plain, preambled, twice = map(int, line.split())
            yield Bench(folder, program, server, (plain, preambled, twice), free_ports())
    finally:
        if keep:
            print(f"logs and configurations are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run(scale: Bench, results: Results, rounds: int) -> None:
    given_up: set[str] = set()
    for number in range(1, rounds + 1):
        order = results.proxies if number % 2 else results.proxies[::-1]
        for cases in in_turns(results.cases):
            for proxy in order:
                what = [f"round {number}/{rounds}  {case.name:15} {proxy:10}" for case in cases]
                if proxy in given_up:
                    results.fail(cases, proxy, "not tried again")
                    continue
                try:
                    weighed = scale.weigh(cases, proxy)
                except Fault as fault:
                    results.fail(cases, proxy, str(fault))
                    print(f"{what[0]} FAILED: {fault}", *fault.__notes__, sep="\n", file=sys.stderr)
                    if isinstance(fault, NotStartedFault):
                        given_up.add(proxy)
                    continue
                for case, worked, words in zip(cases, weighed, what, strict=True):
                    results.add(number, case, proxy, worked)
                    found = figures(case, worked).items()
                    print(
                        words,
                        *(f"{figure} {rounded(value)}" for figure, value in found),
                        sep="  ",
                        file=sys.stderr,
                    )


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(message)


def chosen_cases(text: str) -> list[Case]:
    """Names of cases, or what several begin with: trips, sessions-ec."""
    found: list[Case] = []
    for word in text.split(","):
        cases = (
            [CASES[word]] if word in CASES else [c for c in CASES.values() if c.name.startswith(f"{word}-")]
        )
        if not cases:
            raise Mistake(f"no case {word!r}; there are {', '.join(CASES)}")
        found += [case for case in cases if case not in found]
    return found


def chosen_proxies(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in PROXIES:
            raise Mistake(f"no proxy {name!r}; there are {', '.join(PROXIES)}")
    return names


def check_programs(proxies: list[str]) -> None:
    for program in ["gcc", "openssl", "setpriv", *(name for name in proxies if name != "mailproxy")]:
        if not shutil.which(program):
            raise Mistake(f"{program} is not installed")


def limit_open_files(cases: list[Case]) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if limit < 2 * IDLE_SESSIONS + 500 and any(case.mode == "idle" for case in cases):
        raise Mistake(f"{limit} open files are too few for {IDLE_SESSIONS} idle sessions; raise ulimit -Hn")


def read_arguments() -> argparse.Namespace:
    parser = Parser(prog="scripts/bench", description="Weigh mailproxy against HAProxy on this machine.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    parser.add_argument(
        "--cases",
        default=",".join(CASES),
        metavar="A,B",
        help=f"of {', '.join(CASES)}; or what they begin with",
    )
    parser.add_argument(
        "--proxies", default="haproxy,mailproxy", metavar="A,B", help=f"of {', '.join(PROXIES)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="every figure of every round, too")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and configurations")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        raise Mistake("--rounds must be at least 1")
    return arguments


def weigh_all(arguments: argparse.Namespace) -> int:
    results = Results(chosen_proxies(arguments.proxies), chosen_cases(arguments.cases))
    check_programs(results.proxies)
    limit_open_files(results.cases)
    if arguments.json:
        try:
            arguments.json.touch()
        except OSError as error:
            raise Mistake(f"{arguments.json}: {error.strerror}") from None
    with bench(keep=arguments.keep) as scale:
        run(scale, results, arguments.rounds)
    caption = about(results.proxies, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(as_json(results, caption) + "\n")
    rows = table(results)
    print(as_markdown(rows) if arguments.markdown else as_text(rows), caption, sep="\n\n")
    for unlike in results.unlike():
        print(f"not the same TLS: {unlike}", file=sys.stderr)
    failed = sum(map(len, results.faults.values()))
    if failed:
        print(f"failed weighings: {failed}", file=sys.stderr)
    return 1 if failed or results.unlike() else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    try:
        return weigh_all(read_arguments())
    except Mistake as mistake:
        print(f"bench: {mistake}", file=sys.stderr)
        return 2
    except ServerEndedError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
