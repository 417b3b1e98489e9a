"""Frontends, backends and listen sections with everything that they inherit from defaults sections."""

from __future__ import annotations

from attrs import define, field

from mailproxy.importers.haproxy.lexer import Line

FRONTEND, BACKEND = "F", "B"


@define
class Proxy:
    """A proxy section: its lines and those of its defaults, by directive.

    Attributes:
        kind: frontend, backend or listen.
        name: Its name.
        head: The line with its keyword.
        group: The name of its defaults section; empty if the files have one at most.
        single: The last line of each directive that counts once.
        lists: All lines of each directive that counts many times.
        options: The line of each option; None where it is switched off.
        rules: Rules of connections and of backends, in order.
    """

    kind: str
    name: str
    head: Line
    group: str = ""
    single: dict[str, Line] = field(factory=dict)
    lists: dict[str, list[Line]] = field(factory=dict)
    options: dict[str, Line | None] = field(factory=dict)
    rules: list[Line] = field(factory=list)
    is_defaults: bool = False

    @property
    def sides(self) -> str:
        """Whether it is a frontend, a backend, or both."""
        return {"frontend": FRONTEND, "backend": BACKEND}.get(self.kind, FRONTEND + BACKEND)

    @property
    def mode(self) -> str:
        """The mode: ``tcp``, ``http`` or another one."""
        line = self.single.get("mode")
        return line.arguments[0] if line is not None and line.arguments else "tcp"

    def option(self, name: str) -> Line | None:
        """Return the line of an option; None if it is not set, or switched off."""
        return self.options.get(name)

    def all(self, name: str) -> list[Line]:
        """Return all lines of a directive."""
        return self.lists.get(name, [])

    def add(self, name: str, line: Line) -> None:
        """Add a line to those of a directive."""
        self.lists.setdefault(name, []).append(line)

    def inherit(self, other: Proxy) -> None:
        """Take over what a defaults section has."""
        self.single.update(other.single)
        self.options.update(other.options)
        self.lists.update({name: list(lines) for name, lines in other.lists.items()})
        self.rules = list(other.rules)
