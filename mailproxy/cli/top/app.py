"""The program on the screen: one table at a time, refreshed every two seconds."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from attrs import evolve
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Static

from mailproxy.cli.ctl import AdminAddress, NoAnswerError
from mailproxy.cli.top.actions import ACTIONS, Action, find_row
from mailproxy.cli.top.picture import Picture, take_picture
from mailproxy.cli.top.screens import Confirm, HelpScreen, Prompt
from mailproxy.cli.top.tables import LEFT_COLUMNS, SORTS, VIEWS, Choice, Table, summary, table

_STYLES = {
    "UP": "green",
    "OPEN": "green",
    "DOWN": "bold red",
    "MAINT": "yellow",
    "DRAIN": "yellow",
    "PAUSED": "yellow",
    "STOP": "red",
}


_ACTIONS_OF_VIEWS = {"help", "view", "open", "filter", "clear_filter", "sort", "act"}


class TopApp(App[None]):
    """The live view.

    Args:
        address: The admin socket.
        picture: The first picture.
        interval: Seconds between two pictures.
    """

    CSS = """
    #summary, #views, #message { height: 1; padding: 0 1; }
    #summary { background: $panel; text-style: bold; }
    #message { dock: bottom; background: $panel; }
    DataTable { height: 1fr; scrollbar-size-horizontal: 1; scrollbar-size-vertical: 1; }
    HelpScreen, Confirm, Prompt { align: center middle; }
    .dialog { width: 70; max-width: 95%; height: auto; border: solid $primary; padding: 0 1; background: $surface; }
    .hint { color: $text-muted; padding-top: 1; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "quit"),
        Binding("question_mark", "help", "help"),
        Binding("tab", "view(1)", "next view", priority=True),
        Binding("shift+tab", "view(-1)", "previous view", priority=True),
        *(Binding(str(number), f"open({name!r})", name) for number, name in enumerate(VIEWS, 1)),
        Binding("slash", "filter", "filter"),
        Binding("escape", "clear_filter", "clear filter"),
        Binding("s", "sort", "sort"),
        *(Binding(key, f"act({key!r})", "") for key in "dckwrm"),
    ]

    def __init__(self, address: AdminAddress, picture: Picture, *, interval: float) -> None:
        super().__init__()
        self._address = address
        self._picture = picture
        self._interval = interval
        self._view = next(iter(VIEWS))
        self._choice = Choice()
        self._table = Table((), ())
        self._message = ""
        self._is_asking = False

    def compose(self) -> ComposeResult:
        """Lay the screen out."""
        yield Static(id="summary", markup=False)
        yield Static(id="views")
        yield DataTable(cursor_type="row", zebra_stripes=False, cell_padding=1)
        yield Static(id="message", markup=False)

    def on_mount(self) -> None:
        """Show the first picture, and ask for the next ones."""
        self._show()
        self.set_interval(self._interval, self._ask_again)

    # Pictures

    def _ask_again(self) -> None:
        if not self._is_asking:  # an answer that takes longer than the interval is waited for
            self._ask()

    @work(exclusive=False)
    async def _ask(self) -> None:
        self._is_asking = True
        try:
            with_sessions = self._view == "sessions"
            picture = await asyncio.to_thread(take_picture, self._address, with_sessions=with_sessions)
        except NoAnswerError as error:
            self._tell(str(error))
        else:
            self._picture = picture
            if self._message.startswith(str(self._address)):
                self._message = ""
            self._show()
        finally:
            self._is_asking = False

    def _show(self) -> None:
        """Draw the picture. The selected row stays the same one, wherever it is now."""
        if not self.query("#summary"):  # the program ends
            return
        self.query_one("#summary", Static).update(summary(self._picture))
        names = [f"[reverse] {name} [/]" if name == self._view else f" {name} " for name in VIEWS]
        self.query_one("#views", Static).update(" ".join(names) + self._about_rows())
        widget = self.query_one(DataTable)
        selected = find_row(self._table, widget.cursor_row)
        columns, self._table = self._table.columns, table(self._view, self._picture, self._choice)
        widget.clear(columns=columns != self._table.columns)
        if columns != self._table.columns:
            widget.add_columns(*map(_aligned, self._table.columns, self._table.columns))
        for key, cells in self._table.rows:
            widget.add_row(*map(_aligned, cells, self._table.columns), key=key)
        keys = [key for key, _ in self._table.rows]
        if selected in keys:
            widget.move_cursor(row=keys.index(selected), animate=False)
        self._show_message()

    def _about_rows(self) -> str:
        words = [f"sorted by {self._choice.sort}"] if self._view == "sessions" else []
        if self._choice.text:
            words.append(f"with {self._choice.text!r}".replace("[", r"\["))
        return f"   {', '.join(words)}" if words else ""

    def _tell(self, message: str) -> None:
        self._message = message
        self._show_message()

    def _show_message(self) -> None:
        if not self.query("#message"):  # as above
            return
        text = (
            self._message
            or self._table.note
            or (f"{self._table.hidden} more rows" if self._table.hidden else "")
        )
        keys = " ".join(ACTIONS[self._view])
        self.query_one("#message", Static).update(
            text or f"? help  Tab view  / filter  q quit  actions: {keys or 'none'}"
        )

    # Keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - textual's
        """Return whether an action may be done now: those of the views not behind a dialog."""
        # The Tab key has priority, so it would change the view behind a dialog.
        return action not in _ACTIONS_OF_VIEWS or len(self.screen_stack) == 1

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(HelpScreen())

    def action_view(self, step: int) -> None:
        """Show the next view, or the previous one."""
        names = list(VIEWS)
        self.action_open(names[(names.index(self._view) + step) % len(names)])

    def action_open(self, name: str) -> None:
        """Show a view."""
        self._view = name
        self._message = ""
        self._show()
        self._ask_again()

    def action_sort(self) -> None:
        """Sort sessions by the next of age, bytes and idle."""
        names = list(SORTS)
        self._choice = evolve(self._choice, sort=names[(names.index(self._choice.sort) + 1) % len(names)])
        self._show()

    @work
    async def action_filter(self) -> None:
        """Ask what rows must contain."""
        text = await self.push_screen_wait(Prompt("Rows that contain", self._choice.text))
        if text is not None:
            self._choice = evolve(self._choice, text=text)
            self._show()

    def action_clear_filter(self) -> None:
        """Show all rows."""
        self._choice, self._message = evolve(self._choice, text=""), ""
        self._show()

    @work
    async def action_act(self, key: str) -> None:
        """Do what the key does to the selected row, after a question."""
        action = ACTIONS[self._view].get(key)
        name = find_row(self._table, self.query_one(DataTable).cursor_row)
        if action is None or name is None:
            return
        if (command := await self._confirmed(action, name)) is None:
            return
        try:
            answer = await asyncio.to_thread(self._address.ask, command)
        except NoAnswerError as error:
            self._tell(str(error))
            return
        self._tell(answer.text.strip().replace("\n", " ") or f"done: {command}")
        self._ask_again()

    async def _confirmed(self, action: Action, name: str) -> str | None:
        """Return the command, None if the user does not want it."""
        question = action.question_for(name)
        if action.asks_value:
            value = await self.push_screen_wait(Prompt(question))
            return action.command_for(name, value) if value else None
        return action.command_for(name) if await self.push_screen_wait(Confirm(question)) else None


def _aligned(cell: str, column: str) -> Text:
    style = _STYLES.get(cell.split(" ", maxsplit=1)[0], "") if column == "status" else ""
    return Text(cell, style=style, justify="left" if column in LEFT_COLUMNS else "right")
