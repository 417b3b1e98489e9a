"""The start of ``mailproxy top``: which output it has, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from mailproxy.cli.ctl import AdminAddress, NoAnswerError
from mailproxy.cli.top.picture import take_picture
from mailproxy.cli.top.text import snapshot

_MISSING = "mailproxy top needs the package textual: pip install 'mailproxy[top]'. Here is one snapshot.\n"


def run_top(address: AdminAddress, interval: float) -> int:
    """Show the proxy until the user quits, or once without a terminal. Return the exit code."""
    try:
        picture = take_picture(address, with_sessions=True)
    except NoAnswerError as error:
        click.echo(str(error), err=True)
        return 1
    if not _has_cursor():
        click.echo(snapshot(picture), nl=False)
        return 0
    if importlib.util.find_spec("textual") is None:
        click.echo(_MISSING, err=True)
        click.echo(snapshot(picture), nl=False)
        return 1
    from mailproxy.cli.top.app import TopApp

    TopApp(address, picture, interval=interval).run()
    return 0


def _has_cursor() -> bool:
    """Whether this is a terminal on which the cursor can be moved."""
    return (
        sys.stdin is not None
        and sys.stdin.isatty()
        and sys.stdout.isatty()
        and os.environ.get("TERM", "dumb") != "dumb"
    )
