"""Counted instructions: their table, and the stored counts of each build of Python."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from cases import Case
from configurations import variant_of
from errors import UsageError
from tables import comparisons, format_ratio

STORED = Path(__file__).with_name("instruction_counts.json")


@dataclass(slots=True)
class Counts:
    """Counted instructions.

    Attributes:
        proxies: Names of variants.
        cases: The cases.
        values: Instructions per session or round trip in each slice, by case and proxy.
    """

    proxies: list[str]
    cases: list[Case]
    values: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def median(self, case: Case, proxy: str) -> float:
        return statistics.median(self.values[case.name, proxy])

    def spread(self, case: Case, proxy: str) -> float:
        """Return how far the slices are from the median at most, as a fraction of it."""
        median = self.median(case, proxy)
        return max(abs(value - median) for value in self.values[case.name, proxy]) / median


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored counts of one build of Python. ``about`` describes the run."""

    about: str
    counts: dict[str, int]


def load_stored(file: Path = STORED) -> dict[str, Stored]:
    """Read the stored counts, by build of Python. Raises UsageError for another file."""
    try:
        return {build: Stored(**entry) for build, entry in json.loads(file.read_text()).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} has no counts: {error!r}") from None


def saved(counts: Counts, build: str, about: str, file: Path = STORED) -> str:
    """Return the text of the file with these counts of mailproxy for a build of Python."""
    stored = load_stored(file)
    known = stored[build].counts if build in stored else {}
    own = {case.name: round(counts.median(case, "mailproxy")) for case in counts.cases}
    stored[build] = Stored(about, known | own)
    entries = {name: {"about": entry.about, "counts": entry.counts} for name, entry in sorted(stored.items())}
    return json.dumps(entries, indent=1) + "\n"


def table(counts: Counts, stored: Stored | None) -> list[list[str]]:
    """Return the table: thousands of instructions, and the change since the stored counts of mailproxy."""
    columns = comparisons(counts.proxies)
    is_stored = stored is not None and "mailproxy" in counts.proxies
    head = ["thousand instructions per"]
    for name in counts.proxies:
        head += [variant_of(name).title, "±"]
    rows = [head + [column.title for column in columns] + (["stored", "change"] if is_stored else [])]
    for case in counts.cases:
        cells = [case.rows[0].title]
        for name in counts.proxies:
            cells += [thousands(counts.median(case, name)), f"{counts.spread(case, name):.1%}"]
        cells += [
            format_ratio(counts.median(case, column.over) / counts.median(case, column.under))
            for column in columns
        ]
        if stored is not None and is_stored:
            cells += stored_cells(counts.median(case, "mailproxy"), stored.counts.get(case.name))
        rows.append(cells)
    return rows


def stored_cells(median: float, stored: int | None) -> list[str]:
    return ["-", "-"] if not stored else [thousands(stored), f"{median / stored - 1:+.1%}"]


def thousands(count: float) -> str:
    return f"{count / 1e3:,.1f}"
