"""The scale: what the same mail sessions cost each proxy, on this machine, in one run.

Every weighing starts one fresh proxy in front of one stub server, warms it up, and lets load.c do one case through it.
The proxies take turns within each case, and the order turns round with each round, so that whatever else the machine
does meets them alike. A figure is the median over the rounds.

Processor time is the proxy's own, of its whole process tree, in nanoseconds from schedstat. It is read while the proxy
rests: before the work, once every session is logged in, and after it. Memory is the tree's Pss (shared pages count
once), without the kernel's socket buffers. Every proxy writes a line per session to a file.

All of it happens on the loopback interface, in a temporary folder, with ports outside the range of outgoing connections.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SOURCE = Path(__file__).with_name("load.c")
OPEN_FILES = 20_000  # soft limit for every process here: each proxy gets the same
IDLE_SESSIONS = 4_000
WARM_UP_SESSIONS = 64
START_SECONDS = 20.0
STOP_SECONDS = 5.0
STAGE_SECONDS = 150.0  # load.c gives up by itself after 120
REST_SECONDS = 5.0
TAIL_LINES = 8


class Mistake(Exception):  # noqa: N818 - the user's, not an error of the run
    """The user asked for what cannot be done; one line, exit code 2."""


class Fault(Exception):  # noqa: N818 - of a proxy or of the load
    """A weighing that gave no figure; the line says why."""


# ------------------------------------------------------------------------------------------------ what is weighed


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


# ------------------------------------------------------------------------------------------------ the proxies


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


PROXIES: dict[str, Callable[[Place], list[str]]] = {"haproxy": haproxy, "mailproxy": mailproxy, "nginx": nginx}
TITLES = {"haproxy": "HAProxy", "mailproxy": "mailproxy", "nginx": "nginx"}


def free_ports(names: tuple[str, ...]) -> dict[str, int]:
    """Below the range that outgoing connections take theirs from, so that none of these can be taken meanwhile."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: dict[str, int] = {}
    for port in random.sample(range(min(10_000, first_outgoing - 2000), first_outgoing), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports[names[len(ports)]] = port
            if len(ports) == len(names):
                return ports
    raise Mistake("no free ports on 127.0.0.1")


@dataclass(slots=True)
class Running:
    """A proxy that was started here."""

    name: str
    place: Place
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def check_alive(self) -> None:
        code = self.process.poll()
        if code is not None:
            raise Fault(f"{self.name} ended by itself with code {code}")

    def await_ports(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        for port in self.place.ports.values():
            while not listens(port):
                self.check_alive()
                if time.monotonic() > deadline:
                    raise Fault(f"{self.name} does not listen after {START_SECONDS:.0f} s")
                time.sleep(0.02)

    def log_tail(self) -> list[str]:
        lines = []
        for file in sorted(self.place.folder.glob("*.log")) + sorted(self.place.folder.glob("*.sessions")):
            tail = file.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            lines += [f"    {file.name}: {line}" for line in tail]
        return lines or ["    (it logged nothing)"]

    def stop(self) -> None:
        """Politely, then with its whole process group, which holds nothing but what it started itself."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def listens(port: int) -> bool:
    """Seen without connecting, which would be a session for the proxy."""
    wanted = f"0100007F:{port:04X}"
    lines = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines())
    return any(words[1] == wanted and words[3] == "0A" for words in lines)


@contextlib.contextmanager
def running(name: str, place: Place) -> Iterator[Running]:
    """A fresh proxy that listens. What it says goes to a file; it is gone afterwards."""
    command = PROXIES[name](place)
    with (place.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    proxy = Running(name, place, process)
    try:
        proxy.await_ports()
        yield proxy
    finally:
        proxy.stop()


# ------------------------------------------------------------------------------------------------ the meter


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


# ------------------------------------------------------------------------------------------------ one weighing


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
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], STAGE_SECONDS)[0]:
            raise Fault(f"the clients hang before {name!r}")
        line = self.process.stdout.readline()
        if not line:
            raise Fault(f"the clients ended before {name!r}: {self.complaint()}")
        report: dict[str, str | float] = json.loads(line)
        if report["failed"]:
            raise Fault(f"{report['failed']} sessions failed before {name!r}; the first: {self.complaint()}")
        return report

    def go_on(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the next stage says why it has ended
            self.process.stdin.write("\n")
            self.process.stdin.flush()

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


def warm_up(case: Case, program: Path, place: Place) -> None:
    few = Case("warm-up", "sessions", case.bind, {}, ("--count", str(WARM_UP_SESSIONS)))
    with clients(few, program, place) as load:
        load.stage("ready")
        load.go_on()
        load.stage("worked")


def work(case: Case, program: Path, proxy: Running) -> Worked:
    meter = Meter(proxy.pid)
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


# ------------------------------------------------------------------------------------------------ the whole run


@dataclass(slots=True)
class Results:
    """Every figure of every round, and everything that went wrong."""

    proxies: list[str]
    cases: list[Case]
    rounds: int
    values: dict[tuple[str, str, str], list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    negotiated: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, proxy: str, case: Case, worked: Worked) -> dict[str, float]:
        found = figures(case, worked)
        for figure, value in found.items():
            self.values[proxy, case.name, figure].append(value)
        self.negotiated[case.name].add(worked.negotiated)
        return found

    def median(self, proxy: str, case: Case, figure: str) -> float | None:
        values = self.values.get((proxy, case.name, figure))
        return statistics.median(values) if values else None

    def differing_tls(self) -> list[str]:
        """Cases in which the proxies did not do the same cryptographic work."""
        return [f"{case}: {', '.join(sorted(kinds))}" for case, kinds in self.negotiated.items() if len(kinds) > 1]


@dataclass(slots=True)
class Bench:
    """The folder, the compiled load, the certificates and the stub server of a run."""

    folder: Path
    program: Path
    server_port: int

    def weigh(self, name: str, case: Case, round_number: int) -> Worked:
        folder = self.folder / f"{round_number}-{case.name}-{name}"
        folder.mkdir()
        place = Place(folder, self.folder, free_ports(("clear", "ec", "rsa")), self.server_port)
        proxy = None
        try:
            with running(name, place) as proxy:
                return work(case, self.program, proxy)
        except Fault as fault:
            said = Running.log_tail(proxy) if proxy else tail_of(folder)
            raise Fault("\n".join([str(fault), *said])) from None
