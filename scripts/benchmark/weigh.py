"""The scale: what the same mail sessions cost each proxy, on this machine, in one run.

Every weighing starts one fresh proxy in front of one stub server, warms it up, and lets load.c do one case through it.
The proxies take turns within each case, and their order turns round with every round, so that whatever else the machine
does meets them alike. A figure is the median over the rounds.

Processor time is the proxy's own, of its whole process tree, in nanoseconds from schedstat. It is read while the proxy
rests: once every session is logged in, and again after the work. Memory is the tree's Pss (shared pages count once),
without the kernel's socket buffers. Every proxy writes a line per session to a file.

All of it happens on the loopback interface and in a temporary folder.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = Path(__file__).with_name("load.c")
OPEN_FILES = 20_000  # for every process here: each proxy has to do with the same
IDLE_SESSIONS = 4_000
WARM_UP_SESSIONS = 64
START_SECONDS = 20.0
STOP_SECONDS = 5.0
STAGE_SECONDS = 150.0  # load.c itself gives up after 120
REST_SECONDS = 5.0
TAIL_LINES = 6


class Mistake(Exception):  # noqa: N818 - the user's: one line, exit code 2
    """What was asked for cannot be done."""


class Fault(Exception):  # noqa: N818 - of a proxy or of the load: no figure, exit code 1
    """A weighing came to nothing."""


class ServerEndedError(Exception):
    """The stub server is gone, and with it every further figure; exit code 1."""


class NotStartedFault(Fault):
    """The proxy never listened; no use in trying it again."""


# ---------------------------------------------------------------- cases


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work, and the rows of the table that it fills: figure -> words."""

    name: str
    mode: str  # of load.c
    bind: str  # clear, ec or rsa
    rows: dict[str, str]
    options: tuple[str, ...] = ()

    def command(self, load: Path, port: int) -> list[str | Path]:
        tls = () if self.bind == "clear" else ("--tls",)
        return [load, self.mode, str(port), *self.options, *tls]


def sessions(name: str, bind: str, words: str, count: int) -> Case:
    return Case(name, "sessions", bind, {"cpu_us": f"CPU µs per session, {words}"}, ("--count", str(count)))


def bulk(name: str, bind: str, words: str, direction: str, gigabytes: float) -> Case:
    mode, way = ("bulk-down", "download") if direction == "down" else ("bulk-up", "upload")
    rows = {"cpu_s_per_gb": f"CPU s per GB, {words}, {way}"}
    return Case(name, mode, bind, rows, ("--count", "1", "--bytes", str(int(gigabytes * 1e9))))


def trips(name: str, bind: str, words: str, busy: int) -> Case:
    rows = {"cpu_us": f"CPU µs per round trip, {words}, {busy} busy"}
    if busy == 1:
        rows = {f"{p}_us": f"lone round trip {p} µs, {words}" for p in ("p50", "p99")} | rows
    return Case(name, "trips", bind, rows, ("--count", str(busy), "--seconds", "2.5"))


def idle(name: str, bind: str, words: str) -> Case:
    rows = {"kib": f"KiB per idle session, {words}"}
    return Case(name, "idle", bind, rows, ("--count", str(IDLE_SESSIONS)))


CASES = {
    case.name: case
    for case in (
        sessions("sessions-clear", "clear", "clear", 8000),
        sessions("sessions-ec", "ec", "TLS EC", 4000),
        sessions("sessions-rsa", "rsa", "TLS RSA", 3000),
        bulk("down-clear", "clear", "clear", "down", 2),
        bulk("up-clear", "clear", "clear", "up", 2),
        bulk("down-tls", "ec", "TLS", "down", 1.5),
        bulk("up-tls", "ec", "TLS", "up", 1.5),
        trips("trips-clear", "clear", "clear", 1),
        trips("trips-tls", "ec", "TLS", 1),
        trips("trips-clear-64", "clear", "clear", 64),
        trips("trips-tls-64", "ec", "TLS", 64),
        idle("idle-clear", "clear", "clear"),
        idle("idle-tls", "ec", "TLS"),
    )
}


# ---------------------------------------------------------------- the proxies


@dataclass(frozen=True, slots=True)
class Place:
    """Where a proxy is to stand: its folder, its ports by bind, the stub server's port."""

    folder: Path
    certificates: Path
    ports: dict[str, int]
    server: int

    @property
    def max_sessions(self) -> int:
        """What mailproxy takes by itself, for those that want to be told."""
        return (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2

    def write(self, name: str, text: str) -> str:
        file = self.folder / name
        file.write_text(text)
        return str(file)

    def log_tail(self) -> list[str]:
        lines = []
        for file in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.sessions")]):
            tail = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"    {file.name}: {line}" for line in tail]
        return lines or ["    (nothing was logged)"]


def haproxy(place: Place) -> list[str]:
    file = place.write(
        "haproxy.cfg",
        f"""
global
    maxconn {place.max_sessions}
    nbthread 1
    log stdout format raw local0
defaults
    mode tcp
    log global
    option tcplog
    timeout connect 5s
    timeout client 31m
    timeout server 31m
frontend clear
    bind 127.0.0.1:{place.ports["clear"]}
    default_backend servers
frontend ec
    bind 127.0.0.1:{place.ports["ec"]} ssl crt {place.certificates}/ec.pem
    default_backend servers
frontend rsa
    bind 127.0.0.1:{place.ports["rsa"]} ssl crt {place.certificates}/rsa.pem
    default_backend servers
backend servers
    balance leastconn
    server s1 127.0.0.1:{place.server}
""",
    )
    return ["haproxy", "-db", "-f", file]


def nginx(place: Place) -> list[str]:
    tls = "".join(
        f"""
    server {{
        listen 127.0.0.1:{place.ports[key]} ssl;
        ssl_certificate {place.certificates}/{key}.pem;
        ssl_certificate_key {place.certificates}/{key}.pem;
        ssl_protocols TLSv1.2 TLSv1.3;
        proxy_pass servers;
    }}"""
        for key in ("ec", "rsa")
    )
    file = place.write(
        "nginx.conf",
        f"""
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections {2 * place.max_sessions}; }}
stream {{
    log_format sessions '$remote_addr:$remote_port [$time_local] $upstream_addr $session_time $bytes_sent $status';
    access_log {place.folder}/nginx.sessions sessions;
    upstream servers {{ least_conn; server 127.0.0.1:{place.server}; }}
    proxy_connect_timeout 5s;
    proxy_timeout 31m;
    server {{ listen 127.0.0.1:{place.ports["clear"]}; proxy_pass servers; }}{tls}
}}
""",
    )
    return ["nginx", "-e", "stderr", "-p", str(place.folder), "-c", file]


def mailproxy(place: Place) -> list[str]:
    file = place.write(
        "mailproxy.toml",
        f"""
[log]
format = "tcplog"
to = "{place.folder}/mailproxy.sessions"

[defaults.frontend]
protocol = "tcp"
backend = "servers"

[[frontends.clear.bind]]
address = "127.0.0.1:{place.ports["clear"]}"

[frontends.ec]
tls = {{ certificates = ["{place.certificates}/ec.pem"] }}
[[frontends.ec.bind]]
address = "127.0.0.1:{place.ports["ec"]}"
mode = "tls"

[frontends.rsa]
tls = {{ certificates = ["{place.certificates}/rsa.pem"] }}
[[frontends.rsa.bind]]
address = "127.0.0.1:{place.ports["rsa"]}"
mode = "tls"

[backends.servers]
balance = "leastconn"
check = {{ type = "none" }}
servers = ["127.0.0.1:{place.server}"]
""",
    )
    return [sys.executable, "-m", "mailproxy", "run", file]


BINDS = ("clear", "ec", "rsa")
PROXIES: dict[str, Callable[[Place], list[str]]] = {
    "haproxy": haproxy,
    "mailproxy": mailproxy,
    "nginx": nginx,
}
TITLES = {"haproxy": "HAProxy", "mailproxy": "mailproxy", "nginx": "nginx"}


def free_ports() -> Iterator[int]:
    """Below the range that outgoing connections take theirs from, so that none is taken between here and the proxy."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    end = (
        first_outgoing if first_outgoing > 12_000 else 32_000
    )  # some machines give nearly all to connections
    for port in range(10_000, end):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
    raise Mistake("no free ports are left on 127.0.0.1")


def listening_ports() -> set[int]:
    """Seen without connecting: that would be a session for the proxy."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return {int(words[1].rpartition(":")[2], 16) for words in rows if words[3] == "0A"}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that was started here."""

    name: str
    place: Place
    process: subprocess.Popen[bytes]

    def check_alive(self, patience: float = 0) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise Fault(f"the proxy ended by itself with code {self.process.wait(patience)}")

    def await_ports(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not listening_ports().issuperset(self.place.ports.values()):
            if self.process.poll() is not None:
                raise NotStartedFault(f"it ended with code {self.process.returncode} before it listened")
            if time.monotonic() > deadline:
                raise NotStartedFault(f"it does not listen after {START_SECONDS:.0f} s")
            time.sleep(0.02)

    def stop(self) -> None:
        """Politely, then with its process group: that holds nothing but what it started itself."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(name: str, place: Place) -> Iterator[Proxy]:
    """A fresh proxy that listens. What it says goes to a file; it is gone afterwards."""
    # setpriv becomes the proxy, which then ends with this process even if that is killed
    command = ["setpriv", "--pdeathsig", "TERM", *PROXIES[name](place)]
    with (place.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=place.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    proxy = Proxy(name, place, process)
    try:
        proxy.await_ports()
        yield proxy
    except NotStartedFault:
        raise
    except Fault:
        proxy.check_alive(patience=0.5)  # its end comes a moment after that of its sessions, and says more
        raise
    finally:
        proxy.stop()


# ---------------------------------------------------------------- the meter


@dataclass(slots=True)
class Meter:
    """Reads what a process tree has used."""

    root: int
    threads: dict[tuple[int, int], int] = field(default_factory=dict)  # (process, thread) -> ns

    def processes(self) -> list[int]:
        found = [self.root]
        for pid in found:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (thread / "children").read_text().split()]
        return found

    def cpu_ns(self) -> int:
        """Processor time so far. A thread that has ended keeps the time that was last seen."""
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    self.threads[pid, int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
        return sum(self.threads.values())

    def memory_kib(self) -> int:
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError as error:
                raise Fault(f"the memory of process {pid} cannot be read: {error.strerror}") from None
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total

    def await_rest(self) -> int:
        """Until what the last stage left behind is done: under half a millisecond used in 50. The time used so far."""
        deadline = time.monotonic() + REST_SECONDS
        used = self.cpu_ns()
        while time.monotonic() < deadline:
            time.sleep(0.05)
            before, used = used, self.cpu_ns()
            if used - before < 500_000:
                return used
        raise Fault(f"it does not come to rest within {REST_SECONDS:.0f} s of the last byte")


# ---------------------------------------------------------------- one weighing


@dataclass(frozen=True, slots=True)
class Worked:
    """What the work cost the proxy, and how long it took the clients."""

    cpu_ns: int
    memory_kib: int
    seconds: float
    samples: int  # sessions or round trips
    p50: float  # seconds of one sample
    p99: float
    negotiated: str


@dataclass(slots=True)
class Load:
    """The clients of one case, stage by stage."""

    process: subprocess.Popen[str]
    errors: Path

    def stage(self, name: str) -> dict[str, str | float]:
        """Wait for the end of a stage and for every session to have survived it."""
        output = cast("IO[str]", self.process.stdout)
        if not select.select([output], [], [], STAGE_SECONDS)[0]:
            raise Fault(f"the clients hang before {name!r}")
        line = output.readline()
        if not line:
            raise Fault(f"the clients ended before {name!r}: {self.complaint()}")
        report: dict[str, str | float] = json.loads(line)
        if report["failed"]:
            raise Fault(f"{report['failed']} sessions failed before {name!r}; the first: {self.complaint()}")
        return report

    def go_on(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the next stage says why they have ended
            tell = cast("IO[str]", self.process.stdin)
            tell.write("\n")
            tell.flush()

    def complaint(self) -> str:
        return self.errors.read_text(errors="replace").strip() or "no reason given"


@contextlib.contextmanager
def clients(case: Case, program: Path, place: Place) -> Iterator[Load]:
    errors = place.folder / "clients.errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            case.command(program, place.ports[case.bind]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            start_new_session=True,
        )
    try:
        yield Load(process, errors)
    finally:
        process.kill()
        process.communicate()


def figures(case: Case, worked: Worked) -> dict[str, float]:
    """What a weighing came to: the rows of the table, and some more for the JSON."""
    options = dict(zip(case.options[::2], case.options[1::2], strict=True))
    count, seconds = int(options["--count"]), worked.seconds
    if case.mode == "idle":
        return {"kib": worked.memory_kib / count}
    if case.mode.startswith("bulk"):
        gigabytes = count * float(options["--bytes"]) / 1e9
        return {"cpu_s_per_gb": worked.cpu_ns / 1e9 / gigabytes, "mb_per_s": gigabytes * 1e3 / seconds}
    return {
        "cpu_us": worked.cpu_ns / 1e3 / worked.samples,
        "p50_us": worked.p50 * 1e6,
        "p99_us": worked.p99 * 1e6,
        "per_s": worked.samples / seconds,
    }


def warm_up(case: Case, program: Path, place: Place) -> None:
    few = Case("warm-up", "sessions", case.bind, {}, ("--count", str(WARM_UP_SESSIONS)))
    with clients(few, program, place) as load:
        load.stage("ready")
        load.go_on()
        load.stage("worked")


def work(case: Case, program: Path, proxy: Proxy) -> Worked:
    meter = Meter(proxy.process.pid)
    warm_up(case, program, proxy.place)
    meter.await_rest()
    memory = meter.memory_kib()
    with clients(case, program, proxy.place) as load:
        load.stage("ready")
        cpu = meter.await_rest()
        load.go_on()
        report = load.stage("worked")
        cpu = meter.await_rest() - cpu
        memory = meter.memory_kib() - memory
        load.go_on()
        load.stage("closed")
    proxy.check_alive()
    return Worked(
        cpu_ns=cpu,
        memory_kib=memory,
        seconds=float(report["seconds"]),
        samples=int(report["samples"]),
        p50=float(report["p50"]),
        p99=float(report["p99"]),
        negotiated=str(report["negotiated"]),
    )


# ---------------------------------------------------------------- the run


@dataclass(frozen=True, slots=True)
class Bench:
    """What all weighings of a run share: the folder, the compiled load, the stub server, the supply of ports."""

    folder: Path
    program: Path
    server: subprocess.Popen[str]
    server_port: int
    ports: Iterator[int]

    def weigh(self, case: Case, name: str) -> Worked:
        folder = Path(tempfile.mkdtemp(prefix=f"{case.name}-{name}-", dir=self.folder))
        place = Place(folder, self.folder, {bind: next(self.ports) for bind in BINDS}, self.server_port)
        try:
            with running(name, place) as proxy:
                return work(case, self.program, proxy)
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
            port = cast("IO[str]", server.stdout).readline()
            if not port:
                raise ServerEndedError("the stub server did not start")
            yield Bench(folder, program, server, int(port), free_ports())
    finally:
        if keep:
            print(f"logs and configurations are in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Results:
    """Every figure of every round, and every weighing that came to nothing."""

    proxies: list[str]
    cases: list[Case]
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    negotiated: dict[str, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, case: Case, proxy: str, worked: Worked) -> None:
        for figure, value in figures(case, worked).items():
            self.values[case.name, proxy, figure].append(value)
        self.negotiated[case.name][proxy] = worked.negotiated

    def median(self, case: Case, proxy: str, figure: str) -> float | None:
        values = self.values.get((case.name, proxy, figure))
        return statistics.median(values) if values else None

    def unlike(self) -> list[str]:
        """Cases in which the proxies had different cryptography to do."""
        return [f"{case}: {by}" for case, by in self.negotiated.items() if len(set(by.values())) > 1]


def run(scale: Bench, results: Results, rounds: int) -> None:
    given_up: set[str] = set()
    for number in range(1, rounds + 1):
        order = results.proxies if number % 2 else results.proxies[::-1]
        for case in results.cases:
            for proxy in order:
                what = f"round {number}/{rounds}  {case.name:15} {proxy:10}"
                if proxy in given_up:
                    results.faults[case.name, proxy].append("not tried again")
                    continue
                try:
                    worked = scale.weigh(case, proxy)
                except Fault as fault:
                    results.faults[case.name, proxy].append(str(fault))
                    print(f"{what} FAILED: {fault}", *fault.__notes__, sep="\n", file=sys.stderr)
                    if isinstance(fault, NotStartedFault):
                        given_up.add(proxy)
                    continue
                results.add(case, proxy, worked)
                found = figures(case, worked).items()
                print(
                    what,
                    *(f"{figure} {rounded(value)}" for figure, value in found),
                    sep="  ",
                    file=sys.stderr,
                )


# ---------------------------------------------------------------- the table


def rounded(value: float) -> str:
    """To three digits or the unit: no more can be had from such a run."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def cell(results: Results, case: Case, proxy: str, figure: str) -> str:
    median, faults = results.median(case, proxy, figure), len(results.faults.get((case.name, proxy), ()))
    if median is None:
        return "failed"
    return rounded(median) + (f" ({faults} failed)" if faults else "")


def compared(proxies: list[str]) -> tuple[str, str] | None:
    """Which proxy is divided by which."""
    rest = [name for name in proxies if name != "haproxy"] or proxies
    over = "mailproxy" if "mailproxy" in proxies else rest[-1]
    under = "haproxy" if "haproxy" in proxies else proxies[0]
    return (over, under) if over != under else None


def ratio(results: Results, case: Case, figure: str, pair: tuple[str, str]) -> str:
    over, under = (results.median(case, proxy, figure) for proxy in pair)
    return f"{over / under:.2f}" if over is not None and under else "-"


def table(results: Results) -> list[list[str]]:
    pair = compared(results.proxies)
    head = ["medians", *(TITLES[name] for name in results.proxies)]
    rows = [head + ([f"{TITLES[pair[0]]} / {TITLES[pair[1]]}"] if pair else [])]
    for case in results.cases:
        for figure, words in case.rows.items():
            row = [words, *(cell(results, case, proxy, figure) for proxy in results.proxies)]
            rows.append(row + ([ratio(results, case, figure, pair)] if pair else []))
    return rows


def as_text(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]])


def version(name: str) -> str:
    command = {"haproxy": ["haproxy", "-v"], "nginx": ["nginx", "-v"]}.get(
        name, [sys.executable, "-m", name, "--version"]
    )
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+\S*", said.stdout + said.stderr)
    return f"{TITLES[name]} {found[0] if found else '(no version)'}"


def about(proxies: list[str], rounds: int) -> str:
    """What the figures were taken with."""
    cores = len(os.sched_getaffinity(0))
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    python = f"Python {platform.python_version()}, {' '.join(ssl.OPENSSL_VERSION.split()[:2])}"
    system = f"Linux {'.'.join(platform.release().split('.')[:2])}"
    machine = f"{cores} cores ({model[1].strip() if model else platform.machine()})"
    turns = "1 round" if rounds == 1 else f"medians of {rounds} rounds"
    return ", ".join([turns, *map(version, proxies), python, system, machine])


def as_json(results: Results, caption: str) -> str:
    values: dict[str, dict[str, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for (case, proxy, figure), rounds in results.values.items():
        values[case][figure][proxy] = rounds
    faults = [
        {"case": case, "proxy": proxy, "faults": said} for (case, proxy), said in results.faults.items()
    ]
    return json.dumps(
        {"about": caption, "figures": values, "faults": faults, "tls": results.negotiated}, indent=1
    )


# ---------------------------------------------------------------- command line


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
