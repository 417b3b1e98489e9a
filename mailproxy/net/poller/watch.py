"""Watches: a socket while a task deals with it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import trio

from mailproxy.net.poller.events import ERR, GONE, IN, OUT
from mailproxy.net.poller.timers import Timers


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


class WatchPoller(Protocol):
    """What a watch uses of its poller."""

    timers: Timers

    def rearm(self, fd: int, events: int) -> None: ...
    def wake(self, task: trio.lowlevel.Task) -> None: ...
    def end_turn(self) -> None: ...


class EpollWatch:
    """A watch of ``Poller``. At most one task waits at it."""

    __slots__ = ("_armed_events", "_poller", "_task", "fd", "on_hangup", "pending_events")

    def __init__(self, poller: WatchPoller, fd: int, events: int) -> None:
        self._poller = poller
        self._armed_events = events
        self._task: trio.lowlevel.Task | None = None
        self.fd = fd
        self.pending_events = 0
        self.on_hangup: Callable[[int], None] | None = None

    def on_events(self, events: int) -> None:
        """Note the events, call ``on_hangup``, and wake the task that waits."""
        self.pending_events |= events
        if self.on_hangup is not None:
            self.on_hangup(events)
            self._poller.end_turn()  # it may have set a deadline, which trio has to look at
        task, self._task = self._task, None
        if task is not None:
            self._poller.wake(task)

    async def writable(self, deadline: float = math.inf) -> int:
        if not self._armed_events & OUT:
            self._armed_events |= OUT
            self._poller.rearm(self.fd, self._armed_events)
        return await self.readable(deadline)

    async def readable(self, deadline: float = math.inf) -> int:
        self.pending_events &= GONE  # epoll reports these once, and they stay true
        self._task = trio.lowlevel.current_task()
        if deadline == math.inf:
            await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
            return self.pending_events
        timer = self._poller.timers.add(deadline, self)
        try:
            await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
        finally:
            is_late = not self._poller.timers.remove(timer)
        if is_late:
            raise trio.TooSlowError
        return self.pending_events

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

    async def writable(self, deadline: float = math.inf) -> int:
        with trio.fail_at(deadline):
            await trio.lowlevel.wait_writable(self.fd)
        return ERR  # trio does not say whether there was an error: the caller has to ask the socket
