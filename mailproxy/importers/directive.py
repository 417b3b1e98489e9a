"""Tables of directives: what reads each directive, and what the documentation says about it.

Each importer has one such table for each kind of directive. The pages about moving from other programs are
generated from them (scripts/write-reference), so that they cannot differ from what the importers do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from attrs import field, frozen

from mailproxy.importers.report import Kind

Handler = TypeVar("Handler", bound=Callable[..., Any])


@frozen
class Directive(Generic[Handler]):
    """Directives with one meaning.

    Attributes:
        names: Their names. Of two words, the second is the first argument: ``timeout client``.
        meaning: The key of mailproxy, or why there is none, in Markdown.
        handle: The function that translates them; None if they are only reported.
        kind: How they are reported without a function.
        shown: How the documentation writes them; empty for the names.
        arguments: The number of arguments that follow, for parameters within a line.
    """

    names: tuple[str, ...]
    meaning: str
    handle: Handler | None = None
    kind: Kind = field(default="note", kw_only=True)
    shown: str = field(default="", kw_only=True)
    arguments: int = field(default=0, kw_only=True)

    @property
    def fact(self) -> str:
        """The meaning as a sentence of the report."""
        return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", self.meaning.replace("`", ""))

    @property
    def row(self) -> str:
        """The row of the documentation's table."""
        left = self.shown or ", ".join(f"`{name}`" for name in self.names)
        return f"| {left} | {self.meaning} |"


@frozen
class Group(Generic[Handler]):
    """Directives of one kind: a table of the documentation."""

    title: str
    directives: tuple[Directive[Handler], ...]


def note(*names: str, meaning: str, shown: str = "", arguments: int = 0) -> Directive[Any]:
    """Return directives that need no translation."""
    return Directive(names, meaning, kind="note", shown=shown, arguments=arguments)


def loss(*names: str, meaning: str, shown: str = "", arguments: int = 0) -> Directive[Any]:
    """Return directives that have no equivalent."""
    return Directive(names, meaning, kind="loss", shown=shown, arguments=arguments)


def index(*groups: Group[Handler]) -> Mapping[str, Directive[Handler]]:
    """Return the directives of some tables by name.

    Raises:
        ValueError: A name is in two directives.
    """
    found: dict[str, Directive[Handler]] = {}
    for group in groups:
        for directive in group.directives:
            for name in directive.names:
                if name in found:
                    raise ValueError(f"{name} is there twice")
                found[name] = directive
    return found


def pages(head: str, groups: Iterable[Group[Any]]) -> str:
    """Return the tables of a page of the documentation."""
    parts = []
    for group in groups:
        rows = "\n".join(directive.row for directive in group.directives if directive.meaning)
        parts.append(f"## {group.title}\n\n| {head} | mailproxy |\n|---|---|\n{rows}")
    return "\n\n".join(parts)
