"""The meter: what a process tree has used, and what it holds open."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults import Fault

REST_SECONDS = 5.0
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Held:
    """Descriptors of a process tree, and how many of them are ends of pipes."""

    descriptors: int
    pipes: int


@dataclass(slots=True)
class Meter:
    """Reads what a process tree has used. A process or thread that has ended keeps what was last seen of it."""

    root: int
    threads: dict[tuple[int, int], int] = field(default_factory=dict)  # (process, thread) -> ns
    ticks: dict[int, tuple[int, int]] = field(default_factory=dict)  # process -> in user mode, in the system

    def processes(self) -> list[int]:
        found = [self.root]
        for pid in found:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    found += [int(child) for child in (thread / "children").read_text().split()]
        return found

    def cpu_ns(self) -> int:
        """Processor time so far."""
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    self.threads[pid, int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
        return sum(self.threads.values())

    def system_ns(self) -> int:
        """How much of it was spent in system calls. The kernel tells that by samples: good for a second, not for a call."""
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self.ticks[pid] = (int(words[11]), int(words[12]))
        return sum(system for _, system in self.ticks.values()) * TICK_NS

    def memory_kib(self) -> int:
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError as error:
                raise Fault(f"the memory of process {pid} cannot be read: {error.strerror}") from None
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total

    def held(self) -> Held:
        descriptors = pipes = 0
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):  # closed since
                        pipes += str(entry.readlink()).startswith("pipe:")
                        descriptors += 1
        return Held(descriptors, pipes)

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


def idle_ns() -> int:
    """Time that the machine's processors have had nothing to do, all together."""
    words = Path("/proc/stat").read_text().split(maxsplit=6)
    return (int(words[4]) + int(words[5])) * TICK_NS
