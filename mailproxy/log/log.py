"""The log: lines are formatted where they arise and written in batches by a task of its own, so that nobody waits.

The loop must never block on a full pipe or a slow disk: a thread writes, and what does not fit the bound while it is
busy is counted as lost instead of kept.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection

import trio

from mailproxy.log.events import LEVELS, LINES_LOST, LOG_NOT_REOPENED, LOG_REOPENED, Event
from mailproxy.log.lines import FORMATS
from mailproxy.log.record import SessionRecord
from mailproxy.log.targets import Line, StreamTarget, Target
from mailproxy.log.thread import LogThread

_LINES_MAX = 50_000  # about 10 MB of lines, some seconds of a busy proxy
_BATCH_S = (
    0.05  # lines of so long go out in one write; nobody reads a log faster, and a thread is asked each time
)
_RETRY_S = 1.0  # after a failure that is not the target's
_PATIENCE_S = 2.0  # a target that blocks must not keep the proxy from ending


class Log:
    """Takes sessions and events. Nothing here blocks or raises; ``run`` must be running for lines to be written."""

    def __init__(
        self, target: Target, *, form: str = "text", level: str = "info", without: Collection[Event] = ()
    ) -> None:
        """``without``: events that are said elsewhere."""
        self._target = target
        self._session_line, self._event_line = FORMATS[form]
        self._threshold = LEVELS.index(level)
        self._lines: list[Line] = []
        self._wake = trio.Event()
        self._reopen = False
        self._reopened = trio.Event()
        self._reopens_quietly = False
        self._without = frozenset(without)
        self._thread = LogThread()
        self._complained = False
        self._not_reopened = ""
        self._unwritten = 0
        self.lost = 0

    def session(self, record: SessionRecord) -> None:
        """Write the line of a session that has ended."""
        if self._threshold <= 1:
            self._put("info", self._session_line(record))

    def event(self, event: Event, message: str, **data: object) -> None:
        """Write an event, unless the configured level is above it."""
        if LEVELS.index(event.level) >= self._threshold and event not in self._without:
            self._put(event.level, self._event_line(event, message, data))

    def reopen(self, *, quietly: bool = False) -> None:
        """Open the target anew before the next line, as log rotation wants it. ``quietly``: say so only if it fails."""
        if not self._reopen:
            self._reopened = trio.Event()
            self._reopens_quietly = quietly
        self._reopens_quietly &= quietly
        self._reopen = True
        self._wake.set()

    async def reopened(self) -> None:
        """Wait until that is done; it may take for ever where the target hangs."""
        await self._reopened.wait()

    def _put(self, level: str, line: str) -> None:
        if len(self._lines) >= _LINES_MAX:
            self.lost += 1
            return
        if not self._lines:  # or it has been
            self._wake.set()
        self._lines.append((level, line))

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; ``finish`` writes what is left."""
        with contextlib.suppress(RuntimeError):
            self._thread.start()  # now, and not when lines wait for it
        task_status.started()
        while True:
            await self._wake.wait()
            await trio.sleep(_BATCH_S)
            self._wake = trio.Event()
            if not await self._try_flush():
                await trio.sleep(_RETRY_S)
                self._wake.set()
            while self._thread.is_busy:  # noqa: ASYNC110 - the target blocks its thread, which sets no event
                await trio.sleep(_BATCH_S)
            if self._lines:  # they came while it did
                self._wake.set()

    async def finish(self) -> None:
        """Write what is left, within two seconds even when cancelled, and close the target. After the last session."""
        with trio.move_on_after(_PATIENCE_S, shield=True):
            while self._thread.is_busy:  # noqa: ASYNC110 - as above
                await trio.sleep(_BATCH_S)
            await self._try_flush()
        if not self._thread.is_busy:
            self._target.close()
        self._thread.stop()

    async def _try_flush(self) -> bool:
        """Write, whatever may fail: no thread can be started, or a target has a fault. False if it has failed."""
        try:
            self._thread.start()
            await self._flush()
        except Exception as error:  # noqa: BLE001 - the border: the log is what others write their failures to
            self._complain(error)
            return False
        return True

    async def _flush(self) -> None:
        if self._reopen:
            self._reopen = False
            try:
                await self._in_thread(self._reopen_target)
                self._say_reopened()
            finally:
                self._reopened.set()
        if self._lines and not self._thread.is_busy:
            self._count_unwritten()  # of a write that had been left to itself
            lines, self._lines = self._lines, []
            lost, self.lost = self.lost, 0
            self._unwritten = lost + len(lines)  # until the target has taken them
            await self._in_thread(lambda: self._write(lines, lost))
            self._count_unwritten()

    def _count_unwritten(self) -> None:
        if not self._thread.is_busy:
            self.lost += self._unwritten
            self._unwritten = 0

    async def _in_thread(self, job: Callable[[], None]) -> None:
        """Have the thread do what may block. What blocks for long is left to itself."""
        await self._thread.run(job, patience=_PATIENCE_S)

    def _write(self, lines: list[Line], lost: int) -> None:
        news = (
            [("error", self._event_line(LINES_LOST, f"{lost} log lines were lost", {"lost": lost}))]
            if lost
            else []
        )
        try:
            self._target.write([*lines, *news])
        except (OSError, ValueError) as error:
            # a full disk, a closed pipe, no syslog; ValueError: a name that cannot be one
            self._complain(error)
        else:
            self._unwritten = 0
            self._complained = False

    def _complain(self, error: Exception) -> None:
        """Where the log itself fails, standard error is the last to hear it, once until it works again."""
        if not self._complained and not isinstance(self._target, StreamTarget):
            self._complained = True
            with contextlib.suppress(OSError):
                os.write(
                    2, f"mailproxy: the log cannot be written: {error}\n".encode("utf-8", "backslashreplace")
                )

    def _reopen_target(self) -> None:
        try:
            self._target.reopen()
        except OSError as error:
            self._not_reopened = str(error)
        else:
            self._not_reopened = ""

    def _say_reopened(self) -> None:
        if self._thread.is_busy:
            return  # it hangs in there; the lines wait
        if self._not_reopened:
            self.event(
                LOG_NOT_REOPENED,
                f"the log cannot be reopened: {self._not_reopened}; the old file is kept",
                reason=self._not_reopened,
            )
        elif not self._reopens_quietly:
            self.event(LOG_REOPENED, "the log was reopened")
