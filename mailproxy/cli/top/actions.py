"""What keys do to what is selected: the commands of the admin socket, with the question that comes before."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from mailproxy.cli.top.tables import Table


@frozen
class Action:
    """A command for one selected row.

    Attributes:
        question: What the user is asked; ``{name}`` is what is selected.
        command: The command; ``{value}`` is what the user types.
        asks_value: Whether the user has to type a value, instead of a yes.
    """

    question: str
    command: str
    asks_value: bool = False

    def question_for(self, name: str) -> str:
        """Return the question about a row."""
        return self.question.format(name=name)

    def command_for(self, name: str, value: str = "") -> str:
        """Return the command about a row."""
        return self.command.format(name=_escape(name), value=_escape(value))


def _escape(text: str) -> str:
    """Return text as one word of a command."""
    return "".join(f"\\{character}" if character in "\\; \t" else character for character in text)


ACTIONS: Mapping[str, Mapping[str, Action]] = {
    "servers": {
        "d": Action("Drain server {name}: no new sessions, and end those it has?", "drain server {name}"),
        "c": Action("Cancel the drain of server {name}?", "cancel drain server {name}"),
        "k": Action("End all sessions of server {name}?", "shutdown sessions server {name}"),
        "w": Action(
            "Weight of server {name} (0 to 256, or N%)", "set server {name} weight {value}", asks_value=True
        ),
        "r": Action("Set server {name} ready?", "set server {name} state ready"),
        "m": Action("Set server {name} into maintenance?", "set server {name} state maint"),
    },
    "backends": {},
    "frontends": {
        "d": Action("Drain frontend {name}: refuse connections, end sessions?", "drain frontend {name}"),
        "c": Action("Cancel the drain of frontend {name}?", "cancel drain frontend {name}"),
    },
    "sessions": {
        "k": Action("End session {name}?", "shutdown session {name}"),
    },
}
"""The actions of each view, by key."""


def find_row(view: Table, index: int) -> str | None:
    """Return the key of a row, None if there is no such row."""
    return view.rows[index][0] if 0 <= index < len(view.rows) else None
