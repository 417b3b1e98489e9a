"""One real program in a process of its own: found, started, ready, stopped by its process id."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.ports import are_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TIMEOUT_S = 20.0  # for anything that is only late because the machine is busy
SEARCH_PATH = (
    f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"  # where daemons hide from ordinary users
)


def find(program: str) -> str:
    """The program's full path. A missing one is a failure: --peers means that they are all wanted."""
    path = shutil.which(program, path=SEARCH_PATH)
    assert path, f"{program} is not installed (scripts/test --peers installs it)"
    return path


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = TIMEOUT_S) -> None:
    """Return as soon as the condition holds; it is looked at every 10 ms."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.01)


def processes_of_group(group: int) -> Iterator[tuple[int, str]]:
    """Id and state of each process but those that are dead and only wait to be asked for: nobody here is their parent."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            stat = file.read_text(encoding="utf-8", errors="replace")
            state, _, its_group, *_ = stat.rpartition(")")[2].split()
            if its_group == str(group) and state not in "ZX":
                yield int(file.parent.name), state


_DATE = re.compile(r"\A\[\d\d/[A-Z][a-z]{2}/\d{4}(:\d\d){3}\.\d{3}\] ")


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
        """Whole lines only: one without its end is still being written. Less the date of mailproxy's events, which HAProxy's
        have from syslog.
        """
        return [_DATE.sub("", line) for line in self.text().rpartition("\n")[0].splitlines()]

    def wait_for(
        self, pattern: re.Pattern[str], limit_s: float = TIMEOUT_S, *, behind: int = 0
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
        return are_listening(self._listens)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """It does nothing meanwhile, and finds all that happened at once afterwards."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop_gracefully(self) -> None:
        """Ask it to go when its sessions are over; leaving the `with` waits for that."""
        self.process.send_signal(self.soft_stop)
        self._is_stopping = True

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """The exit code; negative if a signal ended it. A program that does not go by itself is killed."""
        if self.process.poll() is None and not self._is_stopping:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
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
