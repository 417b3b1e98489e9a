"""What all parts of one import share: the draft, the report, and an account of what was read."""

from __future__ import annotations

from attrs import define, field

from mailproxy.importers.draft import Table
from mailproxy.importers.place import Place
from mailproxy.importers.report import Report


@define
class Context:
    """One import.

    Attributes:
        program: The name of the source's program, for messages.
        report: What is not translated as it is.
        draft: The configuration in the making.
        profiles: The section of shared values that each frontend and backend belongs to, by kind and name.
        read: Every directive that was read, by its place, with its name.
        done: The places of directives whose meaning mailproxy has without a key.
        lost: The places of directives that no part of the importer has translated or reported.
    """

    program: str
    report: Report = field(factory=Report)
    draft: Table = field(factory=Table)
    profiles: dict[tuple[str, str], str] = field(factory=dict)
    read: dict[Place, str] = field(factory=dict)
    done: set[Place] = field(factory=set)
    lost: list[Place] = field(factory=list)

    def register(self, place: Place, name: str) -> None:
        """Take note of a directive that was read."""
        self.read.setdefault(place, name)

    def settle(self, place: Place) -> None:
        """Take note that a directive's meaning is that of mailproxy, so that there is nothing to write."""
        self.done.add(place)

    def settle_table(self, table: Table) -> None:
        """Take note of all directives that a table comes from, because another table has the same meaning."""
        for place in table.places():
            self.settle(place)

    def name_of(self, place: Place | None) -> str:
        """Return the directive at a place, for messages; empty if there is none."""
        return "" if place is None else self.read.get(place, "")

    def unaccounted(self) -> list[Place]:
        """Return the places that were read, and are neither translated nor reported."""
        accounted = {*self.done, *self.report.places, *self.draft.places()}
        return [place for place in self.read if place not in accounted]

    def report_unaccounted(self) -> None:
        """Report what has no report yet, so that nothing is lost silently."""
        self.lost = self.unaccounted()
        for place in self.lost:
            self.report.loss(place, self.read[place], "is not translated")
