"""One real program in a process of its own: found, started, ready, stopped by its process id."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from itertools import count, islice, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Sequence

PATIENCE_S = 20.0  # for anything that is only late because the machine is busy
PORTS = range(20_000, 32_000)  # under Linux's ephemeral ports: no client socket can take one in between
SEARCH_PATH = (
    f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"  # where daemons hide from ordinary users
)


def find(program: str) -> str:
    """The program's full path. A missing one is a failure: --peers means that they are all wanted."""
    path = shutil.which(program, path=SEARCH_PATH)
    assert path, f"{program} is not installed (scripts/test --peers installs it)"
    return path


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds; it is looked at every 10 ms."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


_asked = count(os.getpid() * 7 + int(time.monotonic() * 1000))


def free_port(hosts: Iterable[str] = ("127.0.0.1",)) -> int:
    """A port that nobody has on any of these addresses; another one each time, until all were given."""
    hosts = tuple(hosts)
    for n in islice(_asked, len(PORTS)):
        port = PORTS[n * 13 % len(PORTS)]  # far from those of who began a little later
        if all(_is_free(host, port) for host in hosts):
            return port
    raise AssertionError("no free port")


def free_ports(number: int, hosts: Iterable[str]) -> list[int]:
    """Different ones."""
    hosts = tuple(hosts)
    return [free_port(hosts) for _ in range(number)]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return not is_listening(host, port)


def is_listening(host: str, port: int) -> bool:
    """Asked of the kernel: a connection to try it would be a session, with a line in the log that is looked at."""
    return _kernels(host, port) in _listening()


def attempts_to_connect(host: str, port: int) -> int:
    """How many sockets have asked for a connection there and had no answer yet."""
    return sum(remote == _kernels(host, port) and state == "02" for _, remote, state in _kernel_sockets())


def _kernels(host: str, port: int) -> str:
    return f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"


def _listening() -> set[str]:
    """Where anybody listens. The kernel lists these first, and all others, which may be thousands, need not be read."""
    with Path("/proc/net/tcp").open(encoding="ascii") as table:
        rows = (line.split() for line in islice(table, 1, None))
        return {local for _, local, _, *_ in takewhile(lambda row: row[3] == "0A", rows)}


def _kernel_sockets() -> Iterator[tuple[str, str, str]]:
    """Local address, remote address and state, in proc(5)'s figures."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, remote, state, *_ = line.split()
        yield local, remote, state


def processes_of_group(group: int) -> Iterator[tuple[int, str]]:
    """Id and state of each process but those that are dead and only wait to be asked for: nobody here is their parent."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            stat = file.read_text(encoding="utf-8", errors="replace")
            state, _, its_group, *_ = stat.rpartition(")")[2].split()
            if its_group == str(group) and state not in "ZX":
                yield int(file.parent.name), state


class LogFile:
    """What a program has written so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")

    def __repr__(self) -> str:
        return f"{self.path}:\n{self.text()}"

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    def lines(self) -> list[str]:
        """Whole lines only: one without its end is still being written."""
        return self.text().rpartition("\n")[0].splitlines()

    def wait_for(
        self, pattern: re.Pattern[str], limit_s: float = PATIENCE_S, *, behind: int = 0
    ) -> re.Match[str]:
        """The first whole line that matches, ``behind`` so many: ports of clients come again."""
        found: list[re.Match[str]] = []

        def is_there() -> bool:
            found.extend(match for match in map(pattern.fullmatch, self.lines()[behind:]) if match)
            return bool(found)

        try:
            wait_until(is_there, "the line", limit_s)
        except AssertionError:
            raise AssertionError(f"no line like {pattern.pattern} in {self!r}") from None
        return found[0]


class Program:
    """A process in the foreground whose output goes to a file; leaving the `with` stops it."""

    soft_stop = signal.SIGTERM

    def __init__(self, command: Sequence[str], folder: Path, listens: Sequence[tuple[str, int]]) -> None:
        self.folder = folder
        self.log = LogFile(folder / f"{type(self).__name__.lower()}.log")
        self._command = command
        self._listens = listens
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopping = False

    def __enter__(self) -> Self:
        with self.log.path.open("ab") as output:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
        try:
            wait_until(self._is_ready, f"{self._command} listens\n{self.log!r}")
        except BaseException:
            self.stop(signal.SIGKILL)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process, "not started"
        return self._process

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, f"{self._command} ended\n{self.log!r}"
        listening = _listening()
        return all(_kernels(host, port) in listening for host, port in self._listens)

    @contextmanager
    def held(self) -> Iterator[None]:
        """It does nothing meanwhile, and finds all that happened at once afterwards."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop_softly(self) -> None:
        """Ask it to go when its sessions are over; leaving the `with` waits for that."""
        self.process.send_signal(self.soft_stop)
        self._is_stopping = True

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code; negative if a signal ended it. A program that does not go by itself is killed."""
        if self.process.poll() is None and not self._is_stopping:
            self.process.send_signal(number)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class HAProxy(Program):
    """HAProxy in the foreground with one thread, its log lines as they are on its output."""

    soft_stop = signal.SIGUSR1  # sessions live on until hard-stop-after

    def __init__(self, configuration: str, folder: Path, listens: Sequence[tuple[str, int]]) -> None:
        file = folder / "haproxy.cfg"
        file.write_text(configuration, encoding="utf-8")
        super().__init__([find("haproxy"), "-db", "-f", str(file)], folder, listens)

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGINT)  # at once: its SIGTERM is no softer


class Mailproxy(Program):
    """The program that all this is about, as a user runs it."""

    soft_stop = signal.SIGTERM  # sessions live on until drain_timeout

    def __init__(self, configuration: str, folder: Path, listens: Sequence[tuple[str, int]]) -> None:
        file = folder / "mailproxy.toml"
        file.write_text(configuration, encoding="utf-8")
        super().__init__([sys.executable, "-m", "mailproxy", "run", str(file)], folder, listens)

    def __exit__(self, *_: object) -> None:
        code = self.stop(signal.SIGINT)  # at once, without waiting for sessions
        assert code == 0, f"exit code {code}\n{self.log!r}"
        assert "Traceback" not in self.log.text(), repr(self.log)
