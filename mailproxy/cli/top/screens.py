"""The dialogs of ``mailproxy top``: help, a question with yes or no, and a line to type."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

HELP = """\
Tab, Shift+Tab   next and previous view; 1 to 4 select one
arrows, Page     select a row
/                filter by client, server or name; Escape clears
s                sort sessions by age, bytes or idle

d                drain the server or frontend
c                cancel the drain
k                end the session, or the sessions of the server
w                change the weight of the server
m, r             set the server into maintenance, or ready

?                this help; Escape closes it
q                quit"""


class HelpScreen(ModalScreen[None]):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,question_mark,q", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        """Show the keys."""
        with Vertical(classes="dialog"):
            yield Static(HELP, markup=False)
            yield Static("Escape closes", classes="hint")


class Confirm(ModalScreen[bool]):
    """A question that only ``y`` affirms."""

    BINDINGS: ClassVar[list[BindingType]] = [
        ("y", "answer(True)", "yes"),
        ("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        """Show the question."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Static("y: yes    n, Escape: no", classes="hint")

    def action_answer(self, answer: bool) -> None:
        """Close with the answer."""
        self.dismiss(answer)


class Prompt(ModalScreen[str | None]):
    """A line to type; Escape gives None."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "cancel", "cancel")]

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question = question
        self._value = value

    def compose(self) -> ComposeResult:
        """Show the question and the line."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Input(self._value, compact=True)
            yield Static("Enter: done    Escape: cancel", classes="hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the line."""
        self.dismiss(event.value.strip())

    def action_cancel(self) -> None:
        """Close without a line."""
        self.dismiss(None)
