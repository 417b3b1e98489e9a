"""What the parts of the soak share: how they are run, and the line that each of them prints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from environment import Environment


@dataclass(frozen=True, slots=True)
class SoakRun:
    """How to run the soak.

    Attributes:
        environment: The stub server and the load.
        proxy: The proxy's name.
        scale: The part of the full work, over 0 and at most 1.
        graph: Where to write the SVG of the sessions.
    """

    environment: Environment
    proxy: str
    scale: float
    graph: Path

    def scaled(self, full: float, *, least: int) -> int:
        """Return this part of a number, at least ``least``."""
        return max(least, round(full * self.scale))


@dataclass(frozen=True, slots=True)
class SoakResult:
    """The result of one part. It has passed if there are no faults."""

    part: str
    summary: str
    faults: list[str]

    def __str__(self) -> str:
        outcome = f"FAILED, {'; '.join(self.faults)}" if self.faults else "passed"
        return f"{self.part:12}{outcome}: {self.summary}"
