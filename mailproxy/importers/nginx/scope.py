"""The directives that hold in a server block: its own, and those that it inherits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen

from mailproxy.importers.context import Context
from mailproxy.importers.directive import Directive as Row
from mailproxy.importers.nginx.reader import Directive
from mailproxy.importers.times import duration, number


@frozen
class Scope:
    """A block with the ones around it, from the inside out."""

    context: Context
    blocks: Sequence[Directive]
    _nearest: Mapping[str, list[Directive]] = field(init=False, eq=False, repr=False)

    @_nearest.default
    def _read_blocks(self) -> Mapping[str, list[Directive]]:
        """Return the directives of each name, in the innermost block that has some.

        Each server block asks for 20 names, most of which no block has.
        """
        nearest: dict[str, list[Directive]] = {}
        for block in reversed(self.blocks):
            nearest.update(block.by_name)
        return nearest

    @property
    def block(self) -> Directive:
        """The block itself."""
        return self.blocks[0]

    def all(self, *names: str) -> Sequence[Directive]:
        """Return the directives with one of these names, in the innermost block that has some."""
        found = self._nearest.get(names[0], ()) if len(names) == 1 else self._any_of(names)
        for each in found:
            self.context.settle(each.place)
        return found

    def _any_of(self, names: Sequence[str]) -> Sequence[Directive]:
        return next((found for block in self.blocks if (found := block.children(*names))), ())

    def last(self, name: str) -> Directive | None:
        """Return the last directive with a name in the innermost block that has one; None if none has arguments."""
        if name not in self._nearest:
            return None
        found = [each for each in self.all(name) if each.arguments]
        return found[-1] if found else None

    def is_on(self, name: str, *, default: bool = False) -> bool:
        """Whether a switch is on."""
        directive = self.last(name)
        return default if directive is None else directive.arguments[0] != "off"

    def duration(self, name: str) -> tuple[str, Directive] | None:
        """Return the time of a directive; None if it has none. A time that is none is reported."""
        directive = self.last(name)
        if directive is None:
            return None
        value = duration(directive.arguments[0])
        if value is None:
            self.context.report.loss(
                directive.place,
                name,
                f"{directive.arguments[0]} is no time that mailproxy can have: left out",
            )
            return None
        return value, directive

    def number(self, name: str) -> tuple[int | str, Directive] | None:
        """Return the number of a directive; None if it has none. Another value is reported."""
        directive = self.last(name)
        if directive is None:
            return None
        value = number(directive.arguments[0])
        if value is None:
            self.context.report.loss(
                directive.place, name, f"{directive.arguments[0]} is no number: left out"
            )
            return None
        return value, directive


def account(
    block: Directive, known: Mapping[str, Row[Callable[[], None]]], context: Context, where: str
) -> None:
    """Take note of every directive in a block, and report those that are not translated.

    Args:
        block: The block.
        known: The directives that it can have.
        context: The import.
        where: The block in words.
    """
    for directive in block.block or ():
        context.register(directive.place, directive.name)
        row = known.get(directive.name)
        if row is None:
            context.report.loss(
                directive.place, directive.name, f"is no directive of {where} that is known here: left out"
            )
        elif row.handle is None:
            report = context.report.note if row.kind == "note" else context.report.loss
            report(directive.place, directive.name, row.fact)
