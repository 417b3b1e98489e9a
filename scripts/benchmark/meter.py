"""The meter: what a process tree has used."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults import Fault

REST_SECONDS = 5.0


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
