"""``mailproxy ctl tail``: its options, which become words of the command ``tail``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

_FILTERS = ("frontend", "server", "end")


@click.command("tail", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("words", nargs=-1)
@click.option("--frontend", metavar="F", help="Sessions and events of this frontend.")
@click.option("--server", metavar="B/S", help="Sessions and events of this server.")
@click.option("--end", metavar="E", help="Sessions with this end reason.")
@click.option(
    "--format", "form", type=click.Choice(["text", "json", "tcplog"]), default="text", show_default=True,
    help="The format of the lines, as in the log.",
)  # fmt: skip
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
    help="Colours; auto: on a terminal, unless NO_COLOR is set.",
)  # fmt: skip
@click.pass_context
def _tail(
    context: click.Context, /, words: tuple[str, ...], form: str, color: str, **filters: str | None
) -> None:
    """Follow the ends of sessions, and events, of the running proxy."""
    context.obj += [
        "tail",
        *words,
        *(f"{key}={filters[key]}" for key in _FILTERS if filters[key] is not None),
    ]
    if form != "text":
        context.obj.append(f"format={form}")
    if color == "always" or (color == "auto" and form != "json" and _shows_colors()):
        context.obj.append("color=on")


def _shows_colors() -> bool:
    """Whether standard output is a terminal that is to have colours (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def tail_command(arguments: Sequence[str]) -> str:
    """Return the command of the admin socket for these arguments of ``mailproxy ctl tail``, empty after ``--help``.

    Raises:
        UsageError: An option is unknown or has no value.
    """
    words: list[str] = []
    _tail.main(list(arguments), prog_name="mailproxy ctl tail", obj=words, standalone_mode=False)
    return " ".join(words)
