"""Readiness of the sessions' sockets: one epoll object for all of them, watched by one task of trio's loop.

Every socket of a session is registered once, for good and edge-triggered, when the session gets it, and is known here by
its descriptor. What shall happen next at it may change as the session goes on (a handshake waits, a client is watched for
its leaving, the relay takes over) and costs no system call: only who is told is another one then. Waiting with
``trio.lowlevel.wait_readable`` takes one or two calls and a task switch for every wait.

Edge-triggered means: what came is told once. So whoever waits has found the socket drained (or full) before, and whoever
takes over asks what was told meanwhile (``Watch.seen``) or tries it.

Where the platform has no epoll, ``TrioPoller`` does the same by trio's own means, and notices no clients that leave.
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
_POLLS_PER_TURN = 8  # of a busy proxy before trio's other tasks have their turn
_TURN_S = 0.005  # and not longer than that, or so: health checks, signals and those who come wait meanwhile
_EVENTS_PER_LOOK = 16  # at the clock
_BUSY = 2  # so many events at once: there will be more right away

IN, PRI, OUT, RDHUP, ERR, HUP, _ET = (
    getattr(select, name, 0) for name in ("EPOLLIN", "EPOLLPRI", "EPOLLOUT", "EPOLLRDHUP", "EPOLLERR", "EPOLLHUP", "EPOLLET")
)  # fmt: skip
READING = IN | PRI | RDHUP | _ET
BOTH_WAYS = READING | OUT
GONE = RDHUP | ERR | HUP


class EventHandler(Protocol):
    """Who is told what happens at a descriptor. Synchronous, raises nothing."""

    def on_events(self, events: int) -> None: ...


class Deferred(Protocol):
    """Who has left something to be done, so that others have their turn first. Synchronous, raises nothing."""

    def run(self) -> None: ...


class Watch(Protocol):
    """A descriptor while a session's task deals with it.

    ``seen`` are events that were told and that nobody may have acted upon; ``leaves`` is called with what is told from
    now on (None: nobody is).
    """

    fd: int
    pending_events: int
    on_hangup: Callable[[int], None] | None

    async def readable(self) -> int:
        """Wait until it may be worth reading; the caller has found that there is nothing now. Returns the events."""

    async def writable(self) -> int:
        """The same for writing, and for being connected."""


class EpollWatch:
    """See Watch."""

    __slots__ = ("_events", "_poller", "_task", "fd", "on_hangup", "pending_events")

    def __init__(self, poller: Poller, fd: int, events: int) -> None:
        self._poller = poller
        self._events = events
        self._task: trio.lowlevel.Task | None = None
        self.fd = fd
        self.pending_events = 0
        self.on_hangup: Callable[[int], None] | None = None

    def on_events(self, events: int) -> None:
        """See Ready."""
        self.pending_events |= events
        if self.on_hangup is not None:
            self.on_hangup(events)
        task, self._task = self._task, None
        if task is not None:
            self._poller.wake(task)

    async def writable(self) -> int:
        """See Watch."""
        if not self._events & OUT:
            self._events |= OUT
            self._poller.rearm(self.fd, self._events)
        return await self.readable()

    async def readable(self) -> int:
        """See Watch."""
        self.pending_events &= GONE  # which is told once, and holds for ever
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._give_up)
        return self.pending_events

    def _give_up(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


class TrioWatch:
    """Waiting by trio's own means: for sockets that no poller knows, and where there is no epoll. ``seen`` stays empty."""

    __slots__ = ("fd", "on_hangup", "pending_events")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.pending_events = 0
        self.on_hangup: Callable[[int], None] | None = None

    async def readable(self) -> int:
        """See Watch."""
        await trio.lowlevel.wait_readable(self.fd)
        return IN

    async def writable(self) -> int:
        """See Watch."""
        await trio.lowlevel.wait_writable(self.fd)
        return ERR  # nothing is known: have the socket asked


class Poller:
    """The sockets of all sessions of one trio loop. ``now`` is trio's clock when the last events were told."""

    def __init__(self, on_fault: Callable[[Exception], None] | None = None) -> None:
        """``on_fault`` gets what an ``on_events`` or a deferred ``run`` raised against its promise. Without it, ``serve`` raises that."""
        self._epoll = select.epoll()
        self._on_fault = on_fault or _reraise
        self._handlers: dict[int, EventHandler] = {}
        self._turns: deque[Deferred] = deque()
        self._undelivered: dict[int, int] = {}  # what could not be told in its turn
        self._has_woken = False
        self._wakeup_fd: int | None = None  # what it is woken with, while it waits
        self.now = 0.0
        self.clock = trio.current_time

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tell what happens until cancelled. Closes the epoll object; sockets that are added afterwards are not watched."""
        self.clock = trio.lowlevel.current_clock().current_time  # the same, one call instead of three
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._epoll.register(bell, IN | _ET)
            task_status.started()
            while True:
                if self._turns or self._undelivered:
                    await trio.lowlevel.checkpoint()
                else:
                    self._wakeup_fd = bell
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._wakeup_fd = None
                self._deliver()
        finally:
            self._wakeup_fd = None
            self._epoll.close()
            os.close(bell)

    def _deliver(self) -> None:
        turns, poll = self._turns, self._epoll.poll
        self._has_woken = False
        until = self.clock() + _TURN_S
        # Asking once more costs a call, going through trio's loop to be asked again ten times that. But tasks that were
        # woken meanwhile have their turn first.
        for _ in range(_POLLS_PER_TURN):
            found = poll(0, _EVENTS_PER_POLL)
            if self._undelivered:
                found = self._with_undelivered(found)
            self.now = self.clock()
            if not self._deliver_each(found, until):
                return
            for _ in range(len(turns)):
                try:
                    turns.popleft().run()
                except Exception as fault:  # noqa: BLE001 - the border of one session: the others go on
                    self._on_fault(fault)
                if self.clock() > until:
                    return
            if self._has_woken or (len(found) < _BUSY and not turns):
                return

    def _deliver_each(self, found: list[tuple[int, int]], until: float) -> bool:
        """Was there time for all of them? The others are told in the next turn."""
        told = self._handlers
        number = fd = 0
        try:
            for number, (fd, events) in enumerate(found, 1):
                who = told.get(fd)
                if who is not None:
                    who.on_events(events)
                if not number % _EVENTS_PER_LOOK and self.clock() > until:
                    self._undelivered = dict(found[number:])
                    return False
        except Exception as fault:  # noqa: BLE001 - the border of one session, which its timeouts end
            self.forget(fd)
            self._undelivered = dict(found[number:])  # they were told once
            self._on_fault(fault)
            return False
        return True

    def _with_undelivered(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        late, self._undelivered = self._undelivered, {}
        for fd, events in found:
            late[fd] = late.get(fd, 0) | events
        return list(late.items())

    def add(self, fd: int, events: int = READING) -> Watch:
        """Register a socket that a session has got. It leaves epoll by itself when it is closed (epoll(7)).

        Raises ProxyError where the user's or the machine's epoll is full.
        """
        watch = EpollWatch(self, fd, events)
        self._handlers[fd] = watch
        if self._undelivered:
            self._undelivered.pop(fd, None)  # that was of another socket
        epoll = self._epoll
        try:
            if not epoll.closed:  # or the proxy is being stopped, and the session with it
                epoll.register(fd, events)
        except FileExistsError:  # it was forgotten and not closed
            epoll.modify(fd, events)
        except OSError as error:
            del self._handlers[fd]
            raise ProxyError(f"epoll takes no more sockets: {error.strerror}") from None
        return watch

    def add_handler(self, fd: int, who: EventHandler, events: int = READING) -> None:
        """As ``add``, with somebody else to tell."""
        self.add(fd, events)
        self._handlers[fd] = who

    def set_handler(self, fd: int, who: EventHandler) -> EventHandler | None:
        """From now on tell another one; returns who was told before, None for a socket that has to be added."""
        before = self._handlers.get(fd)
        if before is not None:
            self._handlers[fd] = who
        return before

    def rearm(self, fd: int, events: int) -> None:
        """Have all that holds at this moment told once more, and from now on these events."""
        if not self._epoll.closed:
            self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Tell nobody any more; for a socket that is closed, before or after. Twice is no fault."""
        self._handlers.pop(fd, None)

    def unregister(self, fd: int) -> None:
        """Let somebody else watch a socket."""
        if self._handlers.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def defer(self, turn: Deferred) -> None:
        """Let somebody go on when all others had their turn."""
        self._turns.append(turn)
        if self._wakeup_fd is not None:  # left by a task, not by who was told: nothing else may ever happen
            os.eventfd_write(self._wakeup_fd, 1)
            self._wakeup_fd = None

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Reschedule a task that waits for this."""
        self._has_woken = True
        trio.lowlevel.reschedule(task)

    @property
    def registered(self) -> int:
        """How many sockets somebody is told of."""
        return len(self._handlers)

    def watch(self, fd: int) -> Watch:
        """The watch of a socket that was added."""
        return self._handlers[fd]  # type: ignore[return-value]  # the relay has it only later


def _reraise(fault: Exception) -> None:
    raise fault


class TrioPoller:
    """See the module."""

    clock = staticmethod(trio.current_time)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing is to be done for all sessions together."""
        task_status.started()

    def add(self, fd: int, events: int = READING) -> Watch:  # noqa: ARG002 - as Poller has it
        """Nothing is registered."""
        return TrioWatch(fd)

    def watch(self, fd: int) -> Watch:
        """One is as good as another."""
        return TrioWatch(fd)

    def forget(self, fd: int) -> None:
        """Nothing was registered."""

    unregister = forget


AnyPoller = Poller | TrioPoller

TRIO = TrioPoller()


def open_poller(on_fault: Callable[[Exception], None] | None = None) -> AnyPoller:
    """The one for this platform. ``on_fault``: see Poller."""
    return Poller(on_fault) if hasattr(select, "epoll") else TRIO
