"""What a reload comes to: the answer, the line in the log, and the last reload for ``show reload``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from attrs import define, field, frozen

from mailproxy.errors import ConfigError
from mailproxy.log import Log
from mailproxy.log.events import RELOAD_FAILED, RELOADED

_LOGGED_CHANGES_MAX = 100  # a line of the log has a length that syslog and people can take

Trigger = Literal["SIGHUP", "admin socket", "Python"]
"""By what a reload was started."""


@frozen(kw_only=True)
class Reload:
    """A reload that was made.

    Attributes:
        changes: One line for each change.
        needs_restart: One line for each change that was not made, since it needs a restart.
        ms: How long it took, in milliseconds.
    """

    changes: tuple[str, ...]
    needs_restart: tuple[str, ...]
    ms: int

    @property
    def answer(self) -> tuple[str, ...]:
        """The lines for the operator."""
        restart = (f"! {line.removeprefix('~ ')} (needs a restart)" for line in self.needs_restart)
        return (*self.changes, *restart, f"reloaded in {self.ms} ms")


@frozen(kw_only=True)
class LastReload:
    """The last reload, for people.

    Attributes:
        at: When it ended, in seconds since 1970.
        trigger: By what it was started.
        is_made: Whether the configuration is in use. If not, nothing has changed.
        lines: The answer, or every fault.
    """

    at: float
    trigger: Trigger
    is_made: bool
    lines: tuple[str, ...]


@define(eq=False)
class ReloadHistory:
    """The reloads of a running proxy.

    Attributes:
        made: The number of reloads so far that were made.
        failed: The number of those that have changed nothing.
        last: The last one, None before the first.
    """

    log: Log
    made: int = 0
    failed: int = 0
    last: LastReload | None = field(default=None)
    _clock: Callable[[], float] = time.time

    def succeed(self, reloaded: Reload, trigger: Trigger) -> None:
        """Log a reload that was made."""
        self.made += 1
        self.last = LastReload(at=self._clock(), trigger=trigger, is_made=True, lines=reloaded.answer)
        lines = reloaded.answer[:-1]
        shown = lines[:_LOGGED_CHANGES_MAX]
        more = f"; and {len(lines) - len(shown)} more" if len(lines) > len(shown) else ""
        self.log.event(
            RELOADED,
            f"reloaded in {reloaded.ms} ms: {'; '.join(shown) or 'nothing has changed'}{more}",
            changes=reloaded.changes[:_LOGGED_CHANGES_MAX],
            needs_restart=reloaded.needs_restart,
            ms=reloaded.ms,
        )

    def fail(self, error: ConfigError, trigger: Trigger) -> None:
        """Log a reload that has changed nothing."""
        self.failed += 1
        faults = fault_lines(error)
        self.last = LastReload(at=self._clock(), trigger=trigger, is_made=False, lines=faults)
        self.log.event(
            RELOAD_FAILED,
            f"reload failed, the configuration stays as it was: {'; '.join(faults)}",
            faults=faults,
        )


def fault_lines(error: ConfigError) -> tuple[str, ...]:
    """Return a line for each fault, with its place in the file."""
    return tuple(f"{fault.location(error.source)}{fault}" for fault in error.faults)
