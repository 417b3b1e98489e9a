"""What a part of the soak came to, in one line, and what the parts have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stand import Stand


@dataclass(frozen=True, slots=True)
class Soak:
    """What is soaked, how long compared with the whole, and where the graph goes."""

    stand: Stand
    proxy: str
    scale: float
    graph: Path

    def share(self, whole: float, *, least: int) -> int:
        return max(least, round(whole * self.scale))


@dataclass(frozen=True, slots=True)
class Verdict:
    """``faults``: what was not as it should be; none is a pass."""

    part: str
    words: str
    faults: list[str]

    def __str__(self) -> str:
        said = f"FAILED, {'; '.join(self.faults)}" if self.faults else "passed"
        return f"{self.part:12}{said}: {self.words}"
