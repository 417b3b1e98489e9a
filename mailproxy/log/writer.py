"""The log: lines are formatted where they arise and written in batches by a task for each target, so that nothing waits.

The loop must never block on a full pipe or a slow disk: a thread writes, and what does not fit the bound while it is
busy is counted as lost instead of kept. A target that hangs or fails does so alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Sequence

import trio
from attrs import frozen

from mailproxy.log.events import LEVELS, LINES_LOST, LOG_NOT_REOPENED, LOG_NOT_WRITTEN, LOG_REOPENED, Event
from mailproxy.log.formats import FORMATS, SYSLOG_FORMATS, EventLine, SessionLine
from mailproxy.log.line_writer import LinesLostError
from mailproxy.log.record import SessionRecord
from mailproxy.log.targets import Line, StreamTarget, Target
from mailproxy.log.thread import LogThread

_LINES_MAX = 50_000  # about 10 MB of lines, some seconds of a busy proxy
_BATCH_S = (
    0.05  # lines of so long go out in one write; nobody reads a log faster, and a thread is asked each time
)
_INFO = LEVELS.index("info")  # that of sessions
_STDERR = 2
_RETRY_S = 1.0  # after a failure that is not the target's
_PATIENCE_S = 2.0  # a target that blocks must not keep the proxy from ending


@frozen
class Output:
    """A target with what is written to it; ``name`` is what other targets call it where it fails."""

    target: Target
    format: str = "text"
    level: str = "info"
    name: str = "log"


class Log:
    """Takes sessions and events. Nothing here blocks or raises; ``run`` must be running for lines to be written."""

    def __init__(self, outputs: Sequence[Output], *, without: Collection[Event] = ()) -> None:
        """``without``: events that another process logs."""
        # Where standard error is a target, it gets complaints about the others as events.
        complains = not any(
            isinstance(each.target, StreamTarget) and each.target.fd == _STDERR for each in outputs
        )
        self._writers = [LogWriter(each, complains=complains, log=self) for each in outputs]
        self._without = frozenset(without)
        self._reopens_quietly = False
        self._has_failed_to_reopen = False
        # A session is formatted once for each format, however many targets have it.
        by_format: dict[SessionLine, list[LogWriter]] = {}
        for writer in self._writers:
            if writer.threshold <= _INFO:
                by_format.setdefault(writer.session_line, []).append(writer)
        self._session_lines = tuple((line, tuple(writers)) for line, writers in by_format.items())

    @property
    def lost(self) -> int:
        """Lines that targets lost and have not been told of yet."""
        return sum(writer.lost for writer in self._writers)

    def session(self, record: SessionRecord) -> None:
        """Write the line of a session that has ended."""
        for format_line, writers in self._session_lines:
            line = format_line(record)
            for writer in writers:
                writer.put("info", line)

    def event(self, event: Event, message: str, **data: object) -> None:
        """Write an event to every target whose level it reaches."""
        if event not in self._without:
            self._write_event(self._writers, event, message, data)

    def _write_event(
        self, writers: Sequence[LogWriter], event: Event, message: str, data: dict[str, object]
    ) -> None:
        level = LEVELS.index(event.level)
        lines: dict[EventLine, str] = {}
        for writer in writers:
            if level >= writer.threshold:
                format_line = writer.event_line
                if format_line not in lines:
                    lines[format_line] = format_line(event, message, data)
                writer.put(event.level, lines[format_line])

    def reopen(self, *, quietly: bool = False) -> None:
        """Open the targets again before the next line, as log rotation wants it. ``quietly``: log only what fails."""
        if not any(writer.is_reopening for writer in self._writers):
            self._reopens_quietly, self._has_failed_to_reopen = quietly, False
        self._reopens_quietly &= quietly
        for writer in self._writers:
            writer.reopen()

    async def reopened(self) -> None:
        """Wait until that is done; it may take for ever where a target hangs."""
        for writer in self._writers:
            await writer.reopened()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled; ``finish`` writes what is left."""
        async with trio.open_nursery() as nursery:
            for writer in self._writers:
                await nursery.start(writer.run)
            task_status.started()

    async def finish(self) -> None:
        """Write what is left, within two seconds even when cancelled, and close the targets. After the last session."""
        with trio.move_on_after(2 * _PATIENCE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for writer in self._writers:
                    nursery.start_soon(writer.finish)

    # What writers report

    def has_reopened(self, fault: str) -> None:
        """A target was opened again, or could not be: ``fault`` says why."""
        if fault:
            self._has_failed_to_reopen = True
            self.event(
                LOG_NOT_REOPENED,
                f"the log cannot be reopened: {fault}; the old file is kept",
                reason=fault,
            )
        is_done = not any(writer.is_reopening for writer in self._writers)
        if is_done and not self._has_failed_to_reopen and not self._reopens_quietly:
            self.event(LOG_REOPENED, "the log was reopened")

    def has_failed(self, failed: LogWriter, reason: str) -> None:
        """A target takes no lines any more: the other ones say so."""
        others = [writer for writer in self._writers if writer is not failed]
        message = f"the log {failed.name} cannot be written: {reason}"
        self._write_event(others, LOG_NOT_WRITTEN, message, {"to": failed.name, "reason": reason})


class LogWriter:
    """Writes the lines of one output; ``log`` hears how that goes, from trio's thread only.

    ``complains``: standard error is told when the target fails, once until it works again.
    """

    def __init__(self, output: Output, *, complains: bool, log: Log) -> None:
        self._target = output.target
        self.name = output.name
        formats = SYSLOG_FORMATS if output.target.has_own_date else FORMATS
        self.session_line, self.event_line = formats[output.format]
        self.threshold = LEVELS.index(output.level)
        self._log = log
        self._complains = complains
        self._lines: list[Line] = []
        self._wake = trio.Event()
        self._reopen = False
        self._reopened = trio.Event()
        self._reopened.set()
        self._thread = LogThread()
        self._complained = False
        self._failure = ""  # what the log has not been told of yet
        self._not_reopened = ""
        self._unwritten = 0
        self.lost = 0

    @property
    def is_reopening(self) -> bool:
        """Is the target to be opened again, and has not been yet?"""
        return not self._reopened.is_set()

    def reopen(self) -> None:
        """Open the target again before the next line."""
        if not self._reopen:
            self._reopened = trio.Event()
        self._reopen = True
        self._wake.set()

    async def reopened(self) -> None:
        """Wait until that is done."""
        await self._reopened.wait()

    def put(self, level: str, line: str) -> None:
        """Take a line; it is lost where the target has too many to write already."""
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
            reopened = self._reopened
            try:
                await self._in_thread(self._reopen_target)
                if not self._thread.is_busy:  # or it hangs in there; the lines wait
                    reopened.set()
                    self._log.has_reopened(self._not_reopened)
            finally:
                reopened.set()
        if self._lines and not self._thread.is_busy:
            self._count_unwritten()  # of a write that had been left to itself
            lines, self._lines = self._lines, []
            lost, self.lost = self.lost, 0
            self._unwritten = lost + len(lines)  # until the target has taken them
            await self._in_thread(lambda: self._write(lines, lost))
            self._count_unwritten()
            self._report_failure()

    def _count_unwritten(self) -> None:
        if not self._thread.is_busy:
            self.lost += self._unwritten
            self._unwritten = 0

    def _report_failure(self) -> None:
        if self._failure and not self._thread.is_busy:
            self._log.has_failed(self, self._failure)
            self._failure = ""

    async def _in_thread(self, job: Callable[[], None]) -> None:
        """Have the thread do what may block. What blocks for long is left to itself."""
        await self._thread.run(job, patience=_PATIENCE_S)

    def _write(self, lines: list[Line], lost: int) -> None:
        news = (
            [("error", self.event_line(LINES_LOST, f"{lost} log lines were lost", {"lost": lost}))]
            if lost
            else []
        )
        try:
            self._target.write([*lines, *news])
        except LinesLostError as error:
            # Not added to lost from here: the loop may be counting, too.
            self._unwritten = lost + max(len(lines) - error.arrived, 0)
            self._complain(error)
        else:
            self._unwritten = 0
            self._complained = False

    def _complain(self, error: Exception) -> None:
        """Where the log itself fails, the other targets say so, and standard error; once until it works again."""
        if self._complained:
            return
        self._complained = True
        self._failure = str(error)
        if self._complains:
            with contextlib.suppress(OSError):
                os.write(
                    _STDERR,
                    f"mailproxy: the log cannot be written: {error}\n".encode("utf-8", "backslashreplace"),
                )

    def _reopen_target(self) -> None:
        try:
            self._target.reopen()
        except OSError as error:
            self._not_reopened = str(error)
        else:
            self._not_reopened = ""
