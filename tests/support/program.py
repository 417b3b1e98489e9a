"""mailproxy as a program of its own: started, spoken to with signals, its output read."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_S = 15.0


class Program:
    """``python -m mailproxy run FILE``; leaving its block ends it. ``addresses`` are those that it listens on.

    ``descriptors``: its limit on open files, or the soft and the hard one. ``processes``: what its user may have, threads
    included. ``wrapper``: a command that executes it.
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
                most = value if limit == resource.RLIMIT_NOFILE else resource.getrlimit(limit)[1]
                resource.setrlimit(limit, (value, most))

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def text(self) -> str:
        return self.output.read_text()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait_for(self, words: str, *, where: Path | None = None) -> str:
        """Wait until these words (a regular expression) stand in the output, or in a file; gives the match."""
        end = time.monotonic() + TIMEOUT_S
        text = ""
        while time.monotonic() < end:
            has_ended = self.process.poll() is not None  # asked before its last words are read
            place = where or self.output
            text = place.read_text() if place.exists() else ""
            if found := re.search(words, text):
                return found[0]
            assert not has_ended, f"it ended with {self.process.returncode}:\n{text}"
            time.sleep(0.01)
        raise AssertionError(f"{words!r} never came:\n{text}")

    def wait(self) -> int:
        """Wait for its end; gives the exit code."""
        return self.process.wait(TIMEOUT_S)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        self.wait_for("mailproxy is ready")
        return [(host, int(port)) for host, port in re.findall(r"listens on ([\d.]+):(\d+)", self.text)]
