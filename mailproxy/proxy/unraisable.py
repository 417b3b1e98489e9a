"""Errors that nobody can catch, in the log instead of a traceback on standard error."""

from __future__ import annotations

import sys

from mailproxy.log import Log
from mailproxy.log.events import UNRAISABLE


def unraisable(log: Log, error: sys.UnraisableHookArgs) -> None:
    """What Python would print with a traceback although it goes on."""
    log.event(UNRAISABLE, f"ignored: {error.exc_value!r} in {error.object!r}")
