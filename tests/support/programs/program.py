"""One real program in its own process: found, started, ready, stopped by its process id."""

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

TIMEOUT_S = 20.0  # long, because the machine may be busy
# Folders of daemons are not in the path of ordinary users.
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"


def find(program: str) -> str:
    """Return the full path of a program. A missing one is a failure, because --peers demands all of them."""
    path = shutil.which(program, path=SEARCH_PATH)
    assert path, f"{program} is not installed (scripts/test --peers installs it)"
    return path


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Return as soon as the condition holds. It is evaluated every 10 ms."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.01)


def processes_of_group(group: int) -> Iterator[tuple[int, str]]:
    """Yield id and state of each process of a group, without zombies, whose parent is another process."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has exited
            stat = file.read_text(encoding="utf-8", errors="replace")
            state, _, process_group, *_ = stat.rpartition(")")[2].split()
            if process_group == str(group) and state not in "ZX":
                yield int(file.parent.name), state


_DATE = re.compile(r"\A\[\d\d/[A-Z][a-z]{2}/\d{4}(:\d\d){3}\.\d{3}\] ")


class LogFile:
    """The file that a program writes its log to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"")

    def __repr__(self) -> str:
        return f"{self.path}:\n{self.text()}"

    def text(self) -> str:
        return self.path.read_text(encoding="utf-8", errors="replace")

    def lines(self) -> list[str]:
        """Return complete lines, because a line without its end is still being written.

        The date of mailproxy's events is removed, because HAProxy leaves it to syslog.
        """
        return [_DATE.sub("", line) for line in self.text().rpartition("\n")[0].splitlines()]

    def wait_for(
        self, pattern: re.Pattern[str], timeout_s: float = TIMEOUT_S, *, after: int = 0
    ) -> re.Match[str]:
        """Return the first line that matches, after ``after`` other lines: ports of clients repeat."""
        matches: list[re.Match[str]] = []

        def has_matched() -> bool:
            matches.extend(match for match in map(pattern.fullmatch, self.lines()[after:]) if match)
            return bool(matches)

        try:
            wait_until(has_matched, "the line", timeout_s)
        except AssertionError:
            raise AssertionError(f"no line like {pattern.pattern} in {self!r}") from None
        return matches[0]


class Program:
    """A process in the foreground whose output goes to a file. It is stopped at the end of the `with` block."""

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
    def paused(self) -> Iterator[None]:
        """Stop the process with SIGSTOP for the block. Afterwards it finds all events at once."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)  # the signal alone leaves it running for a moment
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def stop_gracefully(self) -> None:
        """Ask the program to exit after its sessions. The end of the `with` block waits for that."""
        self.process.send_signal(self.soft_stop)
        self._is_stopping = True

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the program and return its exit code, which is negative after a signal.

        A program that does not exit by itself is killed.
        """
        if self.process.poll() is None and not self._is_stopping:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class HAProxy(Program):
    """HAProxy in the foreground with one thread, which logs to its output."""

    soft_stop = signal.SIGUSR1  # sessions continue until hard-stop-after

    def __init__(self, configuration: str, folder: Path, listens: Sequence[tuple[str, int]]) -> None:
        file = folder / "haproxy.cfg"
        file.write_text(configuration, encoding="utf-8")
        super().__init__([find("haproxy"), "-db", "-f", str(file)], folder, listens)

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGINT)  # at once, as its SIGTERM would be, too


class Mailproxy(Program):
    """mailproxy as a user runs it."""

    soft_stop = signal.SIGTERM  # sessions continue until drain_timeout

    def __init__(self, configuration: str, folder: Path, listens: Sequence[tuple[str, int]]) -> None:
        file = folder / "mailproxy.toml"
        file.write_text(configuration, encoding="utf-8")
        super().__init__([sys.executable, "-m", "mailproxy", "run", str(file)], folder, listens)

    def __exit__(self, *_: object) -> None:
        code = self.stop(signal.SIGINT)  # at once, without waiting for sessions
        assert code == 0, f"exit code {code}\n{self.log!r}"
        assert "Traceback" not in self.log.text(), repr(self.log)
