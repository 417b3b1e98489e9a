"""Writes results into the documentation: the chart, and tables between marks in pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chart import speed_chart
from errors import UsageError
from results import Results
from tables import as_markdown, floor_table, growth_table, table, workers_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/speed.md",)
CHART = "docs/speed.svg"
MARKED = re.compile(r"(<!-- speed: (\w+) -->\n).*?(<!-- /speed -->)", re.DOTALL)


MISSING = "(not measured in this run)"


def report_blocks(runs: Sequence[Results]) -> dict[str, str]:
    """Return the text for each mark: of the first run that measured it."""
    results = runs[0]
    blocks = _report_blocks(results)
    for other in runs[1:]:
        for name, text in _report_blocks(other).items():
            if blocks[name] == MISSING and text != MISSING:
                blocks[name] = f"{text}\n\n{other.about}"
    beside = [f"{as_markdown(table(other))}\n\n{other.about}" for other in runs[1:]]
    return blocks | {"beside": "\n\n".join(beside) or MISSING}


def _report_blocks(results: Results) -> dict[str, str]:
    tables = {
        "brief": table(results, in_summary=True),
        "table": table(results),
        "workers": workers_table(results),
        "growth": growth_table(results),
        "floor": floor_table(results),
    }
    return {name: as_markdown(rows) if rows else MISSING for name, rows in tables.items()} | {
        "about": results.about
    }


def with_report_blocks(page: str, blocks: dict[str, str]) -> str:
    """Return the page with these blocks. Raises UsageError for a mark with an unknown name."""

    def block(match: re.Match[str]) -> str:
        if match[2] not in blocks:
            raise UsageError(f"no block {match[2]!r}; there are {', '.join(blocks)}")
        return f"{match[1]}{blocks[match[2]]}\n{match[3]}"

    return MARKED.sub(block, page)


def write_report(runs: Sequence[Results], root: Path = ROOT) -> None:
    """Write the figures of the first run, and those that only the others have, into the pages."""
    blocks = report_blocks(runs)
    for name in PAGES:
        page = root / name
        page.write_text(with_report_blocks(page.read_text(), blocks))
    (root / CHART).write_text(speed_chart(runs[0]))
