"""Results written into the documentation: the chart beside its page, tables between the marks of pages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from chart import speed_chart
from faults import Mistake
from results import Results
from tables import as_markdown, floor_table, growth_table, table, workers_table

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("docs/speed.md",)
CHART = "docs/speed.svg"
MARKED = re.compile(r"(<!-- speed: (\w+) -->\n).*?(<!-- /speed -->)", re.DOTALL)


MISSING = "(not weighed in this run)"


def blocks(runs: Sequence[Results]) -> dict[str, str]:
    """What stands between the marks, by their word; the first run's, where it has them, and the others' figures beside."""
    results = runs[0]
    made = _blocks(results)
    for other in runs[1:]:
        for word, text in _blocks(other).items():
            if made[word] == MISSING and text != MISSING:
                made[word] = f"{text}\n\n{other.about}"
    beside = [f"{as_markdown(table(other))}\n\n{other.about}" for other in runs[1:]]
    return made | {"beside": "\n\n".join(beside) or MISSING}


def _blocks(results: Results) -> dict[str, str]:
    tables = {
        "brief": table(results, brief=True),
        "table": table(results),
        "workers": workers_table(results),
        "growth": growth_table(results),
        "floor": floor_table(results),
    }
    return {word: as_markdown(rows) if rows else MISSING for word, rows in tables.items()} | {
        "about": results.about
    }


def with_blocks(page: str, made: dict[str, str]) -> str:
    """The page with these blocks. Raises Mistake for a mark that means nothing."""

    def block(found: re.Match[str]) -> str:
        if found[2] not in made:
            raise Mistake(f"no block {found[2]!r}; there are {', '.join(made)}")
        return f"{found[1]}{made[found[2]]}\n{found[3]}"

    return MARKED.sub(block, page)


def document(runs: Sequence[Results], root: Path = ROOT) -> None:
    """The first run's figures, and beside them what the others have that it has not."""
    made = blocks(runs)
    for name in PAGES:
        page = root / name
        page.write_text(with_blocks(page.read_text(), made))
    (root / CHART).write_text(speed_chart(runs[0]))
