"""The log: formats lines at once, and writes them in batches with a task for each target.

The event loop must never block on a full pipe or a slow disk, so a thread writes. While it is busy, up to
50,000 lines wait for it. Lines beyond that are lost, and counted. A target that hangs or fails does not
affect the others.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

import trio
from attrs import frozen

from mailproxy.log.events import (
    LEVELS,
    LINES_LOST,
    LOG_NOT_REOPENED,
    LOG_NOT_WRITTEN,
    LOG_REOPENED,
    SESSION_STARTED,
    SESSION_STEPS,
    Event,
)
from mailproxy.log.feed import EventRecord, Record, Subscriber
from mailproxy.log.formats import FORMATS, SYSLOG_FORMATS, EventLine, SessionLine
from mailproxy.log.line_writer import LinesLostError
from mailproxy.log.record import SessionRecord
from mailproxy.log.targets import Line, StreamTarget, Target
from mailproxy.log.thread import LogThread

_LINES_MAX = 50_000  # about 10 MB of lines, some seconds of a busy proxy
# Lines of this period go out in one write, because each write takes a round trip to the thread.
_BATCH_S = 0.05
_SESSION_LEVEL = LEVELS.index("info")
_STDERR = 2
_RECENT_MAX = 1000
_RECENT_CHARACTERS = 1000  # of the message of one of them
# A busy proxy would have no other events among the recent ones.
_OF_SESSIONS = (SESSION_STARTED, SESSION_STEPS)
_RETRY_S = 1.0  # after a failure that is not the target's
_FLUSH_TIMEOUT_S = 2.0  # a target that blocks must not keep the proxy from ending


@frozen
class Output:
    """A target, and what is written to it.

    Attributes:
        target: Where lines go.
        format: One of ``FORMATS``.
        level: The least important level that is written, one of ``LEVELS``.
        name: How other targets call it if it fails.
    """

    target: Target
    format: str = "text"
    level: str = "info"
    name: str = "log"


class Log:
    """Takes sessions and events, which never blocks or raises. ``run`` writes them.

    Args:
        outputs: The targets.
        suppressed: Events that another process logs.

    Attributes:
        recent: The last 1000 events, whatever the targets take: without their data, and without those of one session.
        wants_phases: Whether all sessions have a `TimedRecord`. Sessions of a frontend look at its start.
    """

    def __init__(self, outputs: Sequence[Output], *, suppressed: Collection[Event] = ()) -> None:
        self._suppressed = frozenset(suppressed)
        self.recent: deque[EventRecord] = deque(maxlen=_RECENT_MAX)
        self._reopens_quietly = False
        self._has_failed_to_reopen = False
        self._nursery: trio.Nursery | None = None
        self._lost_before = self._most_lost = 0
        self._subscribers: tuple[Subscriber, ...] = ()
        self.wants_phases = False
        self._use(outputs)

    def _use(self, outputs: Sequence[Output]) -> None:
        # If standard error is a target, it gets the failures of the others as events.
        reports_to_stderr = not any(
            isinstance(each.target, StreamTarget) and each.target.fd == _STDERR for each in outputs
        )
        self._writers = [LogWriter(each, reports_to_stderr=reports_to_stderr, log=self) for each in outputs]
        # A session is formatted once for each format, however many targets use that format.
        by_format: dict[SessionLine, list[LogWriter]] = {}
        for writer in self._writers:
            if writer.threshold <= _SESSION_LEVEL:
                by_format.setdefault(writer.session_line, []).append(writer)
        self._session_lines = tuple((line, tuple(writers)) for line, writers in by_format.items())

    def reconfigure(self, outputs: Sequence[Output]) -> None:
        """Write to these outputs from now on.

        The lines so far go to the outputs before. ``run`` then closes their targets.
        """
        before = self._writers
        self._lost_before += sum(writer.lost + writer.reported for writer in before)
        self._use(outputs)
        if self._nursery is not None:
            for writer in self._writers:
                self._nursery.start_soon(writer.run_until_retired)
            for writer in before:
                writer.retired.cancel()

    @property
    def lost(self) -> int:
        """The number of lost lines that are not logged yet."""
        return sum(writer.lost for writer in self._writers)

    @property
    def lost_so_far(self) -> int:
        """The number of lost lines since the start. It never goes back."""
        # While a target is written, its lines are neither lost nor reported.
        lost = self._lost_before + sum(writer.lost + writer.reported for writer in self._writers)
        self._most_lost = max(self._most_lost, lost)
        return self._most_lost

    def session(self, record: SessionRecord) -> None:
        """Log a session that has ended."""
        for format_line, writers in self._session_lines:
            line = format_line(record)
            for writer in writers:
                writer.put("info", line)
        if self._subscribers:
            self._publish(record)

    def event(self, event: Event, message: str, **data: object) -> None:
        """Log an event to each target whose level it reaches: the message for people, the data for JSON."""
        if event not in self._suppressed:
            self._write_event(self._writers, event, message, data)
            now = time.time()
            if event not in _OF_SESSIONS:
                self.recent.append(EventRecord(event, message[:_RECENT_CHARACTERS], {}, now))
            if self._subscribers:
                self._publish(EventRecord(event, message, data, now))

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call ``subscriber`` with each session and event from now on, whatever the targets get of them.

        It is called on the session's path: it must neither block nor raise.
        """
        self._subscribers = (*self._subscribers, subscriber)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Undo ``subscribe``."""
        self._subscribers = tuple(each for each in self._subscribers if each != subscriber)

    def _publish(self, record: Record) -> None:
        for subscriber in self._subscribers:
            subscriber(record)

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
        """Open the targets again before the next line, as after log rotation. If quietly, log only failures."""
        if not any(writer.is_reopening for writer in self._writers):
            self._reopens_quietly, self._has_failed_to_reopen = quietly, False
        self._reopens_quietly &= quietly
        for writer in self._writers:
            writer.reopen()

    async def wait_reopened(self) -> None:
        """Wait until the targets are open again. Never returns while a target hangs."""
        for writer in self._writers:
            await writer.wait_reopened()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write lines until cancelled. Then call ``finish``."""
        async with trio.open_nursery() as nursery:
            for writer in self._writers:
                await nursery.start(writer.run_until_retired)
            self._nursery = nursery
            task_status.started()

    async def finish(self) -> None:
        """Write the remaining lines and close the targets. Call it after the last session.

        Cancellation:
            Shielded, for about two seconds at most.
        """
        with trio.CancelScope(shield=True):  # each writer has its deadline
            async with trio.open_nursery() as nursery:
                for writer in self._writers:
                    nursery.start_soon(writer.finish)

    # Called by writers

    def on_reopened(self, fault: str) -> None:
        """Log that a target was opened again, or with a ``fault`` that it could not be."""
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

    def on_failed(self, failed: LogWriter, reason: str) -> None:
        """Log to the other targets that a target cannot be written."""
        others = [writer for writer in self._writers if writer is not failed]
        message = f"the log {failed.name} cannot be written: {reason}"
        self._write_event(others, LOG_NOT_WRITTEN, message, {"to": failed.name, "reason": reason})


class LogWriter:
    """Writes the lines of one output.

    Args:
        output: The target, format and level.
        reports_to_stderr: Whether to report a failing target on standard error, once until it works again.
        log: Gets the results of writing and reopening, in trio's thread only.

    Attributes:
        lost: The number of lost lines that are not logged yet.
        reported: The number of those that are.
        retired: Cancelled when a reload has replaced the output.
    """

    def __init__(self, output: Output, *, reports_to_stderr: bool, log: Log) -> None:
        self._target = output.target
        self.name = output.name
        formats = SYSLOG_FORMATS if output.target.has_own_date else FORMATS
        self.session_line, self.event_line = formats[output.format]
        self.threshold = LEVELS.index(output.level)
        self._log = log
        self._reports_to_stderr = reports_to_stderr
        self._lines: list[Line] = []
        self._wake = trio.Event()
        self._reopen_requested = False
        self._reopened = trio.Event()
        self._reopened.set()
        self._thread = LogThread()
        self._is_failing = False
        self._failure = ""  # not reported to the log yet
        self._reopen_fault = ""
        self._unwritten = 0  # lines of a write that has not finished
        self._deadline = math.inf  # in trio's clock, set by ``finish``
        self.lost = self.reported = 0
        self.retired = trio.CancelScope()

    @property
    def is_reopening(self) -> bool:
        """Whether a reopening was requested and is not done yet."""
        return not self._reopened.is_set()

    def reopen(self) -> None:
        """Open the target again before the next line."""
        if not self._reopen_requested:
            self._reopened = trio.Event()
        self._reopen_requested = True
        self._wake.set()

    async def wait_reopened(self) -> None:
        """Wait until the target is open again."""
        await self._reopened.wait()

    def put(self, level: str, line: str) -> None:
        """Take a line. It is lost if too many lines wait already."""
        if len(self._lines) >= _LINES_MAX:
            self.lost += 1
            return
        if not self._lines:  # otherwise the task is awake already
            self._wake.set()
        self._lines.append((level, line))

    async def run_until_retired(  # noqa: ASYNC128 - run calls started()
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Write lines until cancelled, or until ``retired`` is. Only then the target is closed, too."""
        with self.retired:
            await self.run(task_status)
        await self.finish()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write lines until cancelled. Then call ``finish``."""
        with contextlib.suppress(RuntimeError):
            self._thread.start()  # early: later there may be no thread left, while lines wait
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
            if self._lines:  # they arrived meanwhile
                self._wake.set()

    async def finish(self) -> None:
        """Write the remaining lines and close the target.

        Cancellation:
            Shielded, for two seconds at most.
        """
        self._deadline = trio.current_time() + _FLUSH_TIMEOUT_S
        with trio.CancelScope(deadline=self._deadline, shield=True):
            while self._thread.is_busy:  # noqa: ASYNC110 - as above
                await trio.sleep(_BATCH_S)
            await self._try_flush()
        if not self._thread.is_busy:
            self._target.close()
        self._thread.stop()

    async def _try_flush(self) -> bool:
        """Write the lines. Return False if no thread can be started, or the target has a fault."""
        try:
            self._thread.start()
            await self._flush()
        except Exception as error:  # noqa: BLE001 - the border: no log is left for a failure of the log
            self._record_failure(error)
            return False
        return True

    async def _flush(self) -> None:
        if self._reopen_requested:
            self._reopen_requested = False
            reopened = self._reopened
            try:
                await self._in_thread(self._reopen_target)
                if not self._thread.is_busy:  # otherwise it hangs, and the lines wait
                    reopened.set()
                    self._log.on_reopened(self._reopen_fault)
            finally:
                reopened.set()
        if self._lines and not self._thread.is_busy:
            self._count_unwritten()  # of an earlier write that was left running
            lines, self._lines = self._lines, []
            lost, self.lost = self.lost, 0
            self._unwritten = lost + len(lines)  # until they are written
            await self._in_thread(lambda: self._write(lines, lost))
            self._count_unwritten()
            self._log_failure()

    def _count_unwritten(self) -> None:
        if not self._thread.is_busy:
            self.lost += self._unwritten
            self._unwritten = 0

    def _log_failure(self) -> None:
        if self._failure and not self._thread.is_busy:
            self._log.on_failed(self, self._failure)
            self._failure = ""

    async def _in_thread(self, job: Callable[[], None]) -> None:
        """Run what may block in the thread. After two seconds, or at the deadline, it is left running."""
        deadline = min(self._deadline, trio.current_time() + _FLUSH_TIMEOUT_S)
        await self._thread.run(job, deadline=deadline)

    def _write(self, lines: list[Line], lost: int) -> None:
        count = len(lines)
        if lost:
            message = self.event_line(LINES_LOST, f"{lost} log lines were lost", {"lost": lost})
            lines = [*lines, ("error", message)]
        try:
            self._target.write(lines)
        except LinesLostError as error:
            # Not added to ``lost`` in this thread: the event loop may be counting, too.
            self._unwritten = lost + max(count - error.arrived, 0)
            self._record_failure(error)
        else:
            self._unwritten = 0
            self.reported += lost  # only this thread writes it
            self._is_failing = False

    def _record_failure(self, error: Exception) -> None:
        """Report a failure of the log to the other targets and standard error, once until it works again."""
        if self._is_failing:
            return
        self._is_failing = True
        self._failure = str(error)
        if self._reports_to_stderr:
            with contextlib.suppress(OSError):
                os.write(
                    _STDERR,
                    f"mailproxy: the log cannot be written: {error}\n".encode("utf-8", "backslashreplace"),
                )

    def _reopen_target(self) -> None:
        try:
            self._target.reopen()
        except OSError as error:
            self._reopen_fault = str(error)
        else:
            self._reopen_fault = ""
