"""The log: lines are formatted where they arise and written in batches by a task of its own, so that nobody waits.

The loop must never block on a full pipe or a slow disk: a thread writes, and what does not fit the bound while it is
busy is counted as lost instead of kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from mailproxy.log.events import LEVELS, LINES_LOST, LOG_NOT_REOPENED, LOG_REOPENED, Event
from mailproxy.log.lines import FORMATS
from mailproxy.log.record import SessionRecord
from mailproxy.log.targets import Line, Target

_LINES_MAX = 50_000  # about 10 MB of lines, some seconds of a busy proxy
_BATCH_S = 0.02  # lines of so long go out in one write; nobody reads a log faster
_LAST_WORDS_S = 2.0  # a target that blocks must not keep the proxy from ending


class Log:
    """Takes sessions and events. Nothing here blocks or raises; ``run`` must be running for lines to be written."""

    def __init__(self, target: Target, *, form: str = "text", level: str = "info") -> None:
        self._target = target
        self._session_line, self._event_line = FORMATS[form]
        self._threshold = LEVELS.index(level)
        self._lines: list[Line] = []
        self._wake = trio.Event()
        self._reopen = False
        self._writing = False
        self.lost = 0

    def session(self, record: SessionRecord) -> None:
        """Write the line of a session that has ended."""
        if self._threshold <= 1:
            self._put("info", self._session_line(record))

    def event(self, event: Event, message: str, **data: object) -> None:
        """Write an event, unless the configured level is above it."""
        if LEVELS.index(event.level) >= self._threshold:
            self._put(event.level, self._event_line(event, message, data))

    def reopen(self) -> None:
        """Open the target anew before the next line, as log rotation wants it."""
        self._reopen = True
        self._wake.set()

    def _put(self, level: str, line: str) -> None:
        if len(self._lines) >= _LINES_MAX:
            self.lost += 1
            return
        self._lines.append((level, line))
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; ``finish`` writes what is left."""
        task_status.started()
        while True:
            await self._wake.wait()
            await trio.sleep(_BATCH_S)
            self._wake = trio.Event()
            await self._flush()

    async def finish(self) -> None:
        """Write what is left, within two seconds even when cancelled, and close the target. After the last session."""
        with trio.move_on_after(_LAST_WORDS_S, shield=True):
            while self._writing:  # noqa: ASYNC110 - a cancelled write goes on in its thread, which sets no event
                await trio.sleep(_BATCH_S)
            await self._flush()
            self._target.close()

    async def _flush(self) -> None:
        if self._reopen:
            self._reopen = False
            await self._reopen_target()
        lines, self._lines = self._lines, []
        lost, self.lost = self.lost, 0
        if lost:
            lines.append(
                ("error", self._event_line(LINES_LOST, f"{lost} log lines were lost", {"lost": lost}))
            )
        if lines and not await self._in_thread(lines):
            self.lost += len(lines) + lost

    async def _in_thread(self, lines: Sequence[Line]) -> bool:
        self._writing = True
        try:
            await trio.to_thread.run_sync(self._write, lines, abandon_on_cancel=True, limiter=_limiter())
        except OSError:
            return False  # a full disk or a closed pipe; counted, and said when writing works again
        return True

    def _write(self, lines: Sequence[Line]) -> None:
        try:
            self._target.write(lines)
        finally:
            self._writing = False

    async def _reopen_target(self) -> None:
        try:
            await trio.to_thread.run_sync(self._target.reopen, limiter=_limiter())
        except OSError as error:
            self.event(
                LOG_NOT_REOPENED,
                f"the log cannot be reopened: {error}; the old file is kept",
                reason=str(error),
            )
        else:
            self.event(LOG_REOPENED, "the log was reopened")


def _limiter() -> trio.CapacityLimiter:
    # not trio's common one: name look-ups may have taken all of its places
    return trio.CapacityLimiter(math.inf)
