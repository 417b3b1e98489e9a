"""The meter: what a process tree has used, and the descriptors that it holds."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from errors import MeasurementError

IDLE_TIMEOUT_SECONDS = 5.0
# A tree counts as idle when it uses less than half a millisecond in 50.
IDLE_SAMPLE_SECONDS, IDLE_MAX_NS = 0.05, 500_000
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class OpenDescriptors:
    """The descriptors of a process tree, and how many of them are ends of pipes."""

    descriptors: int
    pipes: int


@dataclass(slots=True)
class Meter:
    """Reads what a process tree has used. Processes and threads that have ended keep their last value.

    Attributes:
        root: The id of the first process.
        threads: Processor time in nanoseconds, by process and thread.
        ticks: Ticks in user mode and in the system, by process.
    """

    root: int
    threads: dict[tuple[int, int], int] = field(default_factory=dict)
    ticks: dict[int, tuple[int, int]] = field(default_factory=dict)

    def processes(self) -> list[int]:
        pids = [self.root]
        for pid in pids:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    pids += [int(child) for child in (thread / "children").read_text().split()]
        return pids

    def cpu_ns(self) -> int:
        """Return the processor time so far."""
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for thread in Path(f"/proc/{pid}/task").iterdir():
                    self.threads[pid, int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
        return sum(self.threads.values())

    def system_ns(self) -> int:
        """Return the part of the processor time that was spent in system calls.

        The kernel estimates it by samples, so it is good for a second of work and not for a single call.
        """
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                self.ticks[pid] = (int(fields[11]), int(fields[12]))
        return sum(system for _, system in self.ticks.values()) * TICK_NS

    def memory_kib(self) -> int:
        """Return the proportional share of memory (Pss)."""
        total = 0
        for pid in self.processes():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError as error:
                raise MeasurementError(
                    f"the memory of process {pid} cannot be read: {error.strerror}"
                ) from None
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total

    def open_descriptors(self) -> OpenDescriptors:
        descriptors = pipes = 0
        for pid in self.processes():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for entry in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):  # closed in the meantime
                        pipes += str(entry.readlink()).startswith("pipe:")
                        descriptors += 1
        return OpenDescriptors(descriptors, pipes)

    def wait_until_idle(self) -> int:
        """Wait until the work of the last stage is finished, and return the processor time so far."""
        deadline = time.monotonic() + IDLE_TIMEOUT_SECONDS
        used = self.cpu_ns()
        while time.monotonic() < deadline:
            time.sleep(IDLE_SAMPLE_SECONDS)
            before, used = used, self.cpu_ns()
            if used - before < IDLE_MAX_NS:
                return used
        raise MeasurementError(
            f"the proxy is still busy {IDLE_TIMEOUT_SECONDS:.0f} s after the last byte of the load"
        )


def idle_ns() -> int:
    """Return how long the machine's processors have been idle, all together."""
    fields = Path("/proc/stat").read_text().split(maxsplit=6)
    return (int(fields[4]) + int(fields[5])) * TICK_NS
