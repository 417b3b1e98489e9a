"""Each line of the source beside what it became, in two columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mailproxy.importers.draft import Path, Value
from mailproxy.importers.report import by_line
from mailproxy.importers.run import Result
from mailproxy.importers.writer import to_toml

_COLUMN_MIN, _GAP = 20, " | "


def side_by_side(result: Result, width: int) -> str:
    """Return the source's lines on the left, and the keys or reports that they became on the right.

    Args:
        result: The import.
        width: The number of columns of the terminal.
    """
    left = max(_COLUMN_MIN, (width - len(_GAP)) * 2 // 5)
    right = max(_COLUMN_MIN, width - len(_GAP) - left)
    made = _made(result)
    reported = by_line(result.entries)
    read = {(place.file, place.line) for place in result.context.read}
    lines: list[str] = []
    for name, text in result.sources:
        lines.append(f"=== {name}")
        for number, source in enumerate(text.splitlines(), 1):
            became = [
                *made.get((name, number), ()),
                *(f"({entry.kind}) {entry.fact}" for entry in reported.get((name, number), ())),
            ]
            if not became and (name, number) in read:
                became = ["(the same without a key)"]
            lines += _rows(source.expandtabs(4), became, left, right)
    return "\n".join(lines)


def _made(result: Result) -> dict[tuple[str, int], list[str]]:
    """Return the keys that each line became."""
    made: dict[tuple[str, int], list[str]] = {}
    for path, value in result.values:
        if value.place is not None:
            made.setdefault((value.place.file, value.place.line), []).append(_describe(path, value))
    return made


def _describe(path: Path, value: Value) -> str:
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    return f"{name} = {to_toml(value.value)}"


def _rows(source: str, became: list[str], left: int, right: int) -> Iterator[str]:
    lefts = textwrap.wrap(
        source, left, subsequent_indent="    ", drop_whitespace=False, replace_whitespace=False
    ) or [""]
    rights = [line for text in became for line in textwrap.wrap(text, right, subsequent_indent="  ")]
    for index in range(max(len(lefts), len(rights))):
        one = _printable(lefts[index]) if index < len(lefts) else ""
        other = _printable(rights[index]) if index < len(rights) else ""
        yield f"{one.rstrip().ljust(left)}{_GAP}{other}".rstrip()


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
