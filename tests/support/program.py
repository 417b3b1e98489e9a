"""mailproxy as a process: started, controlled by signals, its output read."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_S = 30.0


def descendants(pid: int) -> Iterator[int]:
    """Yield the ids of a process's children, of their children, and so on."""
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from descendants(child)


class Program:
    """``python -m mailproxy run FILE``, ended at the end of the `with` block.

    Args:
        descriptors: the limit on open files, or the soft and the hard limit.
        processes: the limit on processes and threads of its user.
        wrapper: a command that executes mailproxy.
    """

    def __init__(
        self,
        text: str,
        folder: Path,
        *,
        descriptors: int | tuple[int, int] | None = None,
        processes: int | None = None,
        wrapper: Sequence[str] = (),
        **options: object,
    ) -> None:
        self.file = folder / "mailproxy.toml"
        self.file.write_text(text)
        self.output = folder / "output"
        self.command = [*wrapper, sys.executable, "-m", "mailproxy", "run", str(self.file)]
        self._limits = {resource.RLIMIT_NOFILE: descriptors, resource.RLIMIT_NPROC: processes}
        self._options = options

    def __enter__(self) -> Self:
        with self.output.open("wb") as output:
            self.process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=self._limit if any(self._limits.values()) else None,  # noqa: PLW1509 - no threads here
                **self._options,
            )
        return self

    def _limit(self) -> None:
        for limit, value in self._limits.items():
            if isinstance(value, tuple):
                resource.setrlimit(limit, value)
            elif value is not None:
                hard_limit = value if limit == resource.RLIMIT_NOFILE else resource.getrlimit(limit)[1]
                resource.setrlimit(limit, (value, hard_limit))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            children = list(descendants(self.process.pid))
            self.process.kill()
            for pid in children:  # or a worker that is paused would keep its sockets
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def text(self) -> str:
        return self.output.read_text()

    def edit(self, text: str) -> None:
        """Replace the configuration file in one step: mailproxy may be reading it because of an earlier signal."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.replace(self.file)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait_for(self, pattern: str, *, where: Path | None = None) -> str:
        """Return the first match of a regular expression in the output, or in a file, as soon as there is one."""
        end = time.monotonic() + TIMEOUT_S
        text = ""
        while time.monotonic() < end:
            has_ended = self.process.poll() is not None  # checked before its last output is read
            file = where or self.output
            text = file.read_text() if file.exists() else ""
            if not has_ended:
                text = text[: text.rfind("\n") + 1]  # the last line may be written just now
            if match := re.search(pattern, text):
                return match[0]
            assert not has_ended, f"mailproxy exited with {self.process.returncode}:\n{text}"
            time.sleep(0.01)
        raise AssertionError(f"no match of {pattern!r}:\n{text}")

    def wait(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return self.process.wait(TIMEOUT_S)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Return the addresses that mailproxy listens on, as soon as it is ready."""
        self.wait_for("mailproxy is ready")
        return [(host, int(port)) for host, port in re.findall(r"listens on ([\d.]+):(\d+)", self.text)]
