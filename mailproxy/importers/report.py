"""The report: what was not translated as it is, one line for each cause."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from attrs import define, field, frozen

from mailproxy.importers.place import Place, show

Kind = Literal["loss", "note", "advice"]
"""loss: something is not as in the source. note: nothing is lost. advice: it is kept, and probably a mistake."""

_PLACES_MAX = 12  # places that a line names


@frozen
class Entry:
    """One cause, with every place at which it occurs.

    Attributes:
        kind: What kind of entry.
        directive: The directive, as it is written in the source.
        fact: What there is, and what was done.
        places: The places, in order.
    """

    kind: Kind
    directive: str
    fact: str
    places: tuple[Place, ...]

    @property
    def place(self) -> Place:
        """The first place."""
        return self.places[0]

    def __str__(self) -> str:
        mark = "" if self.kind == "loss" else f"{self.kind}: "
        directive = f"{self.directive}: " if self.directive else ""
        return f"{self.place}: {mark}{directive}{self.fact}{self._others()}"

    def _others(self) -> str:
        lines = list(dict.fromkeys(_line(place, self.place.file) for place in self.places[1:]))
        lines = [line for line in lines if line != str(self.place.line)]
        if not lines:
            return ""
        shown = ", ".join(lines[:_PLACES_MAX])
        more = f" and {len(lines) - _PLACES_MAX} more" if len(lines) > _PLACES_MAX else ""
        return f", also line{'s' if len(lines) > 1 else ''} {shown}{more}"


def _line(place: Place, file: str) -> str:
    return str(place.line) if place.file == file else f"{place.file}:{place.line}"


@define
class Report:
    """Collects entries while files are imported.

    Attributes:
        files: The files, in the order in which they were read; entries are in that order, too.
    """

    files: list[str] = field(factory=list)
    _places: dict[tuple[Kind, str, str], dict[Place, None]] = field(factory=dict)

    def loss(self, place: Place, directive: str, fact: str) -> None:
        """Report something that is not as in the source."""
        self._add("loss", place, directive, fact)

    def note(self, place: Place, directive: str, fact: str) -> None:
        """Report something that needs no translation, or that was understood although the program refuses it."""
        self._add("note", place, directive, fact)

    def advise(self, place: Place, directive: str, fact: str) -> None:
        """Report something that was translated as it is, and is probably a mistake."""
        self._add("advice", place, directive, fact)

    def _add(self, kind: Kind, place: Place, directive: str, fact: str) -> None:
        self._places.setdefault((kind, show(directive), fact), {})[place] = None

    @property
    def places(self) -> Iterable[Place]:
        """Every place that is reported."""
        return (place for places in self._places.values() for place in places)

    def entries(self) -> list[Entry]:
        """Return the entries, in the order of their first places."""
        order = {file: number for number, file in enumerate(self.files)}

        def position(place: Place) -> tuple[int, str, int, int]:
            return order.get(place.file, len(order)), place.file, place.line, place.column

        entries = [
            Entry(*cause, tuple(sorted(places, key=position))) for cause, places in self._places.items()
        ]
        return sorted(entries, key=lambda entry: position(entry.place))


def table(entries: Iterable[Entry]) -> str:
    """Return entries as a table: file, line, kind, directive, what was done."""
    rows = [("file", "line", "kind", "directive", "what was done")]
    rows += [
        (entry.place.file, str(entry.place.line), entry.kind, entry.directive, entry.fact + entry._others())  # noqa: SLF001 - the same module
        for entry in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]])
        for row in rows
    )


def by_line(entries: Iterable[Entry]) -> Mapping[tuple[str, int], list[Entry]]:
    """Return the entries of each line of each file."""
    lines: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        for place in dict.fromkeys((place.file, place.line) for place in entry.places):
            lines.setdefault(place, []).append(entry)
    return lines
