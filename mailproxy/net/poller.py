"""Readiness of the sessions' sockets: one epoll object for all of them, served by one task of trio's loop.

A session registers each of its sockets once, edge-triggered, for the socket's whole life. What happens at a
socket goes to one of two registries, by descriptor:

* A *watch* serves the task of a session: it wakes the task that waits at the socket, and reports a client
  that closes.
* An *event handler* gets every event as a plain call. The relay sets one when the session becomes a tunnel.

``set_handler`` moves a descriptor from the first registry to the second. That costs no system call, while
``trio.lowlevel.wait_readable`` takes one or two system calls and a task switch for every wait.

Edge-triggered means that epoll reports each change once (epoll(7)). So a task waits only after it has found
the socket drained (or full), and a new handler looks at the events that the watch has noted, or tries the
socket.

Without epoll, ``TrioPoller`` does the same with trio's own waits. It does not notice a client that closes.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from mailproxy.errors import ProxyError

_EVENTS_PER_POLL = 256
_POLLS_PER_TURN = 8  # of a busy proxy, before trio's other tasks run
# A turn ends about here. Health checks, signals and new connections wait until then.
_MAX_TURN_S = 0.005
_EVENTS_PER_CLOCK_READ = 16
_BUSY_EVENTS = 2  # with this many events in one poll, more are likely to be ready at once

IN, PRI, OUT, RDHUP, ERR, HUP, _ET = (
    getattr(select, name, 0) for name in ("EPOLLIN", "EPOLLPRI", "EPOLLOUT", "EPOLLRDHUP", "EPOLLERR", "EPOLLHUP", "EPOLLET")
)  # fmt: skip
READING = IN | PRI | RDHUP | _ET
BOTH_WAYS = READING | OUT
GONE = RDHUP | ERR | HUP


class EventHandler(Protocol):
    """Gets the events of a descriptor. ``on_events`` is synchronous and raises nothing."""

    def on_events(self, events: int) -> None: ...


class Deferred(Protocol):
    """Work that waits for the other sessions' turn. ``run`` is synchronous and raises nothing."""

    def run(self) -> None: ...


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


class EpollWatch:
    """A watch of ``Poller``. At most one task waits at it."""

    __slots__ = ("_armed_events", "_poller", "_task", "fd", "on_hangup", "pending_events")

    def __init__(self, poller: Poller, fd: int, events: int) -> None:
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


class Poller:
    """The sockets of all sessions of one trio loop.

    Attributes:
        now: Trio's clock when the last events arrived, in seconds.
        turns: Turns so far.
        clock: Reads trio's clock. Faster than ``trio.current_time`` while ``serve`` runs.
    """

    def __init__(self, on_fault: Callable[[Exception], None] | None = None) -> None:
        """Make the epoll object.

        Args:
            on_fault: Gets each exception that a handler or a deferred ``run`` raises although it must not.
                Without it, ``serve`` raises the exception.
        """
        self._epoll = select.epoll()
        self._on_fault = on_fault or _reraise
        # A descriptor is in one of the two at most.
        self._watches: dict[int, EpollWatch] = {}
        self._handlers: dict[int, EventHandler] = {}
        self._deferred: deque[Deferred] = deque()
        self._undelivered: dict[int, int] = {}  # events by descriptor that the last turn had no time for
        self._has_woken_task = False
        # An eventfd that ends the wait of ``serve``; None while it does not wait.
        self._wakeup_fd: int | None = None
        self.now = 0.0
        self.turns = 0
        self.clock = trio.current_time

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver events until cancelled.

        Closes:
            The epoll object. Sockets that are added afterwards are not watched.
        """
        # One call, where trio.current_time takes three.
        self.clock = trio.lowlevel.current_clock().current_time
        wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._epoll.register(wakeup_fd, IN | _ET)
            task_status.started()
            while True:
                if self._deferred or self._undelivered:
                    await trio.lowlevel.checkpoint()
                else:
                    self._wakeup_fd = wakeup_fd
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._wakeup_fd = None
                self._deliver()
        finally:
            self._wakeup_fd = None
            self._epoll.close()
            os.close(wakeup_fd)

    def _deliver(self) -> None:
        """Take one turn: poll and deliver until nothing is ready, the time is up, or a task was woken."""
        deferred, poll = self._deferred, self._epoll.poll
        self.turns += 1
        self._has_woken_task = False
        deadline = self.clock() + _MAX_TURN_S
        # A poll costs one system call. Another round through trio's loop costs ten times that. But tasks that
        # were woken meanwhile run first.
        for _ in range(_POLLS_PER_TURN):
            reports = poll(0, _EVENTS_PER_POLL)
            if self._undelivered:
                reports = self._with_undelivered(reports)
            self.now = self.clock()
            if not self._deliver_each(reports, deadline):
                return
            for _ in range(len(deferred)):
                try:
                    deferred.popleft().run()
                except Exception as fault:  # noqa: BLE001 - the border of one session: the others go on
                    self._on_fault(fault)
                if self.clock() > deadline:
                    return
            if self._has_woken_task or (len(reports) < _BUSY_EVENTS and not deferred):
                return

    def _deliver_each(self, reports: list[tuple[int, int]], deadline: float) -> bool:
        """Return True if all reports were delivered in time; the next turn delivers the rest."""
        handlers, watches = self._handlers, self._watches
        number = fd = 0
        try:
            for number, (fd, events) in enumerate(reports, 1):
                handler = handlers.get(fd) or watches.get(fd)
                if handler is not None:
                    handler.on_events(events)
                if not number % _EVENTS_PER_CLOCK_READ and self.clock() > deadline:
                    self._undelivered = dict(reports[number:])
                    return False
        except Exception as fault:  # noqa: BLE001 - the border of one session, which its timeouts end
            self.forget(fd)
            self._undelivered = dict(reports[number:])  # epoll reports them once only
            self._on_fault(fault)
            return False
        return True

    def _with_undelivered(self, reports: list[tuple[int, int]]) -> list[tuple[int, int]]:
        merged, self._undelivered = self._undelivered, {}
        for fd, events in reports:
            merged[fd] = merged.get(fd, 0) | events
        return list(merged.items())

    def add(self, fd: int, events: int = READING) -> Watch:
        """Register a socket, and return its watch. It leaves epoll when it is closed (epoll(7)).

        Args:
            fd: Descriptor of a nonblocking socket.
            events: ``READING``, or ``BOTH_WAYS`` for a socket that connects.

        Raises:
            ProxyError: The epoll objects of the user or the machine hold no more sockets
                (/proc/sys/fs/epoll/max_user_watches).
        """
        watch = EpollWatch(self, fd, events)
        self._handlers.pop(fd, None)
        self._watches[fd] = watch
        if self._undelivered:
            self._undelivered.pop(fd, None)  # of an earlier socket with this descriptor
        epoll = self._epoll
        try:
            if not epoll.closed:  # closed: the proxy is stopping, and so is the session
                epoll.register(fd, events)
        except FileExistsError:  # forgotten, but not closed
            epoll.modify(fd, events)
        except OSError as error:
            del self._watches[fd]
            raise ProxyError(f"epoll takes no more sockets: {error.strerror}") from None
        return watch

    def watch(self, fd: int) -> Watch:
        """Return the watch of a socket that was added and has no handler yet."""
        return self._watches[fd]

    def add_handler(self, fd: int, handler: EventHandler, events: int = READING) -> None:
        """Register a socket with an event handler; like ``add``, without a watch."""
        self.add(fd, events)
        self.set_handler(fd, handler)

    def set_handler(self, fd: int, handler: EventHandler) -> int | None:
        """Send the events of a registered socket to this handler from now on.

        Returns:
            The events that the socket's watch has noted, 0 without a watch. None: the socket is not
            registered, and the handler was not set.
        """
        watch = self._watches.pop(fd, None)
        if watch is None and fd not in self._handlers:
            return None
        self._handlers[fd] = handler
        return 0 if watch is None else watch.pending_events

    def rearm(self, fd: int, events: int) -> None:
        """Have epoll report these events from now on, and those that hold already once more."""
        if not self._epoll.closed:
            self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Drop the watch or handler of a socket, before or after it is closed. May be called twice."""
        if self._handlers.pop(fd, None) is None:
            self._watches.pop(fd, None)

    def unregister(self, fd: int) -> None:
        """Take a socket out of epoll, so that something else can wait at it."""
        is_registered = fd in self._handlers or fd in self._watches
        self.forget(fd)
        if is_registered and not self._epoll.closed:
            self._epoll.unregister(fd)

    def defer(self, work: Deferred) -> None:
        """Run this work once the other sessions had their turn."""
        self._deferred.append(work)
        # Deferred by a task, not by a handler: ``serve`` waits, and no event may ever end its wait.
        if self._wakeup_fd is not None:
            os.eventfd_write(self._wakeup_fd, 1)
            self._wakeup_fd = None

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Reschedule a task, and end this turn soon so that it runs."""
        self._has_woken_task = True
        trio.lowlevel.reschedule(task)

    @property
    def registered(self) -> int:
        """The number of sockets that have a watch or a handler."""
        return len(self._watches) + len(self._handlers)


def _reraise(fault: Exception) -> None:
    raise fault


class TrioPoller:
    """Replaces ``Poller`` where there is no epoll. It has no registry, and uses trio's own waits."""

    clock = staticmethod(trio.current_time)
    turns = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Return at once: there is nothing to serve."""
        task_status.started()

    def add(self, fd: int, events: int = READING) -> Watch:  # noqa: ARG002 - the signature of Poller.add
        """Return a watch; nothing is registered."""
        return TrioWatch(fd)

    def watch(self, fd: int) -> Watch:
        """Return a watch; it does not matter which."""
        return TrioWatch(fd)

    def forget(self, fd: int) -> None:
        """Do nothing: nothing was registered."""

    unregister = forget


AnyPoller = Poller | TrioPoller

TRIO = TrioPoller()


def open_poller(on_fault: Callable[[Exception], None] | None = None) -> AnyPoller:
    """Return the poller for this platform; ``on_fault`` as for ``Poller``."""
    return Poller(on_fault) if hasattr(select, "epoll") else TRIO
