"""Watches: a socket while a task deals with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import trio

from mailproxy.net.poller.events import ERR, GONE, IN, OUT


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

    async def readable(self) -> int:
        """Wait for the next report, after a read found nothing.

        Returns:
            The noted events.

        Cancellation:
            The watch stays registered and can be waited at again.
        """

    async def writable(self) -> int:
        """Wait until a write, or connect(2), may make progress; otherwise like ``readable``."""


class WatchPoller(Protocol):
    """What a watch uses of its poller."""

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

    async def writable(self) -> int:
        if not self._armed_events & OUT:
            self._armed_events |= OUT
            self._poller.rearm(self.fd, self._armed_events)
        return await self.readable()

    async def readable(self) -> int:
        self.pending_events &= GONE  # epoll reports these once, and they stay true
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort_wait)
        return self.pending_events

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

    async def readable(self) -> int:
        await trio.lowlevel.wait_readable(self.fd)
        return IN

    async def writable(self) -> int:
        await trio.lowlevel.wait_writable(self.fd)
        return ERR  # trio does not say whether there was an error: the caller has to ask the socket
