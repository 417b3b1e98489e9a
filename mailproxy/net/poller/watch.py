"""Watches: a socket while a task deals with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from ssl import SSLWantReadError, SSLWantWriteError
from typing import Protocol

import trio

from mailproxy.net.poller.events import ERR, GONE, IN, OUT, Deferred
from mailproxy.net.poller.timers import Timers

Step = Callable[[], object]
"""Makes progress with a handshake. It raises SSLWantReadError or SSLWantWriteError until the handshake is done."""


class Watch(Protocol):
    """A socket while the task of a session deals with it.

    Attributes:
        fd: The descriptor.
        pending_events: Events that were noted, and that the task may not have acted on.
        on_hangup: Called with the events of each report. None: no callback.
    """

    fd: int
    pending_events: int
    on_hangup: Callable[[int], None] | None

    async def readable(self, deadline: float = math.inf) -> int:
        """Wait for the next report, after a read found nothing.

        Args:
            deadline: In trio's clock. A timer costs a tenth of a cancel scope.

        Returns:
            The noted events.

        Raises:
            trio.TooSlowError: After the deadline.

        Cancellation:
            The watch stays registered and can be waited at again.
        """

    async def writable(self, deadline: float = math.inf) -> int:
        """Wait until a write, or connect(2), may make progress; otherwise like ``readable``."""

    async def repeat(self, step: Step, deadline: float = math.inf) -> None:
        """Call ``step`` until the handshake is done: now, and after each report.

        With epoll the poller calls it, outside this task (``Poller.queue_step``).

        Raises:
            trio.TooSlowError: After the deadline.
            Exception: What ``step`` raises.

        Cancellation:
            ``step`` is not called again.
        """


class WatchPoller(Protocol):
    """What a watch uses of its poller."""

    timers: Timers

    def rearm(self, fd: int, events: int) -> None: ...
    def wake(self, task: trio.lowlevel.Task) -> None: ...
    def queue_step(self, work: Deferred) -> None: ...
    def end_turn(self) -> None: ...


class EpollWatch:
    """A watch of ``Poller``. At most one task waits at it."""

    __slots__ = (
        "_armed_events",
        "_failure",
        "_is_queued",
        "_poller",
        "_step",
        "_task",
        "fd",
        "on_hangup",
        "pending_events",
    )

    def __init__(self, poller: WatchPoller, fd: int, events: int) -> None:
        self._poller = poller
        self._armed_events = events
        self._task: trio.lowlevel.Task | None = None
        self._step: Step | None = None  # of the task, while it waits in ``repeat``
        self._is_queued = False  # in the poller
        self._failure: Exception | None = None  # of the last step
        self.fd = fd
        self.pending_events = 0
        self.on_hangup: Callable[[int], None] | None = None

    def on_events(self, events: int) -> None:
        """Note the events, call ``on_hangup``, and wake the task that waits, or queue its step."""
        self.pending_events |= events
        if self.on_hangup is not None:
            self.on_hangup(events)
            self._poller.end_turn()  # it may have set a deadline, which trio has to look at
        if self._step is not None:
            self._queue_step()
            return
        task, self._task = self._task, None
        if task is not None:
            self._poller.wake(task)

    def _queue_step(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._poller.queue_step(self)

    def run(self) -> None:
        """Make the step of the task that waits in ``repeat``."""
        self._is_queued = False
        step, task = self._step, self._task
        if step is None or task is None:
            return
        self.pending_events &= GONE
        try:
            try:
                step()
            except SSLWantReadError:
                return
            except SSLWantWriteError:
                self._arm_writing()
                return
        except Exception as error:  # noqa: BLE001 - the task raises it
            self._failure = error
        self._step = self._task = None
        self._poller.wake(task)

    async def repeat(self, step: Step, deadline: float = math.inf) -> None:
        self._step, self._failure = step, None
        self._queue_step()
        try:
            await self._wait(deadline)
        except trio.TooSlowError:
            if self._step is not None:  # otherwise the last step was made before the task could run
                raise
        finally:
            self._step = None
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                self._failure = None  # its traceback refers to this watch's task, which would be a cycle

    async def writable(self, deadline: float = math.inf) -> int:
        self._arm_writing()
        return await self.readable(deadline)

    def _arm_writing(self) -> None:
        if not self._armed_events & OUT:
            self._armed_events |= OUT
            self._poller.rearm(self.fd, self._armed_events)

    async def readable(self, deadline: float = math.inf) -> int:
        self.pending_events &= GONE  # epoll reports these once, and they stay true
        await self._wait(deadline)
        return self.pending_events

    async def _wait(self, deadline: float) -> None:
        self._task = trio.lowlevel.current_task()
        if deadline == math.inf:
            await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
            return
        timer = self._poller.timers.add(deadline, self)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
        finally:
            is_late = not self._poller.timers.remove(timer)
        if is_late:
            raise trio.TooSlowError

    def on_deadline(self, now: float) -> None:  # noqa: ARG002 - called by the timers
        """Wake the task that waits."""
        task, self._task = self._task, None
        if task is not None:
            self._poller.wake(task)

    def _abort_wait(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class ListenerWatch(EpollWatch):
    """The watch of a listening socket. It outlives a fault, because no timeout ends the wait there."""

    __slots__ = ()


class TrioWatch:
    """A watch that uses trio's own waits: for sockets outside a poller, and without epoll.

    ``pending_events`` stays 0, and ``on_hangup`` is never called.
    """

    __slots__ = ("fd", "on_hangup", "pending_events")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pending_events = 0
        self.on_hangup: Callable[[int], None] | None = None

    async def readable(self, deadline: float = math.inf) -> int:
        with trio.fail_at(deadline):
            await trio.lowlevel.wait_readable(self.fd)
        return IN

    async def repeat(self, step: Step, deadline: float = math.inf) -> None:
        while True:
            try:
                step()
            except SSLWantReadError:
                await self.readable(deadline)
            except SSLWantWriteError:
                await self.writable(deadline)
            else:
                return

    async def writable(self, deadline: float = math.inf) -> int:
        with trio.fail_at(deadline):
            await trio.lowlevel.wait_writable(self.fd)
        return ERR  # trio does not say whether there was an error: the caller has to ask the socket
