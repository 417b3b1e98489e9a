"""Counts a proxy's instructions with valgrind's tool callgrind.

Only the proxy's own instructions are counted, not those of the kernel. The proxy starts uncounted, ten times
faster.
"""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from environment import SOURCES, make
from errors import MeasurementError

DUMP_SECONDS = 10.0
TOP_LINES = 30


def compile_clock(folder: Path) -> Path:
    library = folder / "counted_clock.so"
    make(
        "the library counted_clock",
        ["gcc", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", library, SOURCES / "counted_clock.c"],
    )
    return library


@dataclass(slots=True)
class Callgrind:
    """A run of one proxy under callgrind.

    Attributes:
        clock: The library with the proxy's clock.
        output: The path of the tool's files, without their number.
        dumps: The number of files so far.
    """

    clock: Path
    output: Path
    dumps: int = field(default=0, init=False)
    start_seconds: float = field(default=100.0, init=False)

    @property
    def environment(self) -> dict[str, str]:
        # With another seed, dictionaries would have other collisions.
        return {"PYTHONHASHSEED": "0", "LD_PRELOAD": str(self.clock)}

    def command(self, proxy: list[str]) -> list[str]:
        """Return the command that runs a proxy under callgrind, uncounted at first."""
        if proxy[1:3] == ["-m", "mailproxy"]:
            proxy = [proxy[0], "-P", str(SOURCES / "under_valgrind.py"), *proxy[3:]]
        options = ["--instr-atstart=no", f"--callgrind-out-file={self.output}"]
        return ["valgrind", "--tool=callgrind", *options, *proxy]

    def start(self, pid: int) -> None:
        """Start to count."""
        self._control(pid, "--instr=on")

    def zero(self, pid: int) -> None:
        """Forget what was counted so far."""
        self._control(pid, "--zero")

    def read(self, pid: int) -> int:
        """Return the number of instructions that were counted, and forget them."""
        self._control(pid, "--dump")
        self.dumps += 1
        deadline = time.monotonic() + DUMP_SECONDS
        while time.monotonic() < deadline:
            if (total := self._total()) is not None:
                return total
            time.sleep(0.02)
        raise MeasurementError(f"callgrind wrote no file in {DUMP_SECONDS:.0f} s")

    def top(self) -> str:
        """Return the functions that most of the last number was spent in."""
        done = subprocess.run(
            ["callgrind_annotate", self._file], capture_output=True, text=True, check=False, errors="replace"
        )
        _, _, listing = done.stdout.partition("file:function\n")
        lines = [re.sub(r"(?<=[\s\[])/?\S*/", "", line) for line in listing.splitlines()]
        return "\n".join(lines[1 : TOP_LINES + 1]) or done.stderr

    @property
    def _file(self) -> Path:
        return self.output.with_name(f"{self.output.name}.{self.dumps}")

    def _total(self) -> int | None:
        try:
            match = re.search(r"^totals: (\d+)", self._file.read_text(errors="replace"), re.MULTILINE)
        except FileNotFoundError:
            return None
        return int(match[1]) if match else None

    def _control(self, pid: int, option: str) -> None:
        done = subprocess.run(
            ["callgrind_control", option, str(pid)], capture_output=True, text=True, check=False
        )
        if done.returncode or "OK" not in done.stdout:
            lines = (done.stdout + done.stderr).split("\n")
            raise MeasurementError(f"callgrind_control {option}: {' / '.join(filter(None, lines))}")
