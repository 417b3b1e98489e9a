"""The poller: one epoll object for the sockets of all sessions. The package's docstring explains it."""

from __future__ import annotations

import math
import os
import select
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress

import trio

from mailproxy.errors import ProxyError
from mailproxy.net.poller import io_wait
from mailproxy.net.poller.events import ET, IN, READING, Deferred, EventHandler
from mailproxy.net.poller.timers import Timers
from mailproxy.net.poller.watch import EpollWatch, ListenerWatch, Watch

_EVENTS_PER_POLL = 256
_POLLS_PER_ROUND = 8  # of the poller's task. Another round through trio's loop costs ten times a poll.
# A turn ends after this time, and what then goes on: a flow moves half a MiB at once, in a millisecond under
# TLS. Health checks, signals, new connections and deadlines wait for two turns at most: the one in which they
# become ready, and the one whose poll reports them.
_MAX_TURN_S = 0.001
_MAX_TURNS_S = 0.0025  # of the poller's task, since a round through trio's loop costs more than a poll
_MAX_STEPS_S = 0.0015  # Steps of handshakes may take this much longer, unless trio has to look at something.
_EVENTS_PER_CLOCK_READ = 16
_BUSY_EVENTS = 2  # with this many events in one poll, more are likely to be ready at once


class Poller:
    """The sockets of all sessions of one trio loop.

    Attributes:
        now: Trio's clock when the last events arrived, in seconds.
        turns: Turns so far that had something to do.
        is_trio_ready: Whether the last ``wait`` has seen that trio's descriptor is ready.
        timers: Their ``serve`` must be running as well.
        clock: Reads trio's clock. Faster than ``trio.current_time`` while ``serve`` runs.
    """

    def __init__(self, on_fault: Callable[[Exception], None] | None = None) -> None:
        """Make the epoll object.

        Args:
            on_fault: Gets each exception that a handler or a ``run`` raises although it must not.
                Without it, ``serve`` raises the exception.
        """
        self._epoll = select.epoll()
        self._on_fault = on_fault or _reraise
        # Indexed by descriptor. Descriptors are small, so a list takes a fifth of a dictionary's memory, and is faster.
        self._handlers: list[EventHandler | None] = []
        self._deferred: deque[Deferred] = deque()
        self._steps: deque[Deferred] = deque()
        self._undelivered: dict[int, int] = {}  # events by descriptor that the last turn had no time for
        self._must_end_turn = False
        # An eventfd that ends the wait of the poller's task; None while that does not wait.
        self._wakeup_fd: int | None = None
        self._trio_fd = -1
        self.is_trio_ready = False
        self.now = 0.0
        self.turns = 0
        self.timers = Timers(self.end_turn)
        self.clock = trio.current_time

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Deliver events until cancelled.

        Closes:
            The epoll object. Sockets that are added afterwards are not watched.
        """
        # One call, where trio.current_time takes three.
        self.clock = trio.lowlevel.current_clock().current_time
        try:
            wait = await io_wait.join(self)
            if wait is not None:
                task_status.started()
                await wait.run()
            else:
                await self._serve_in_task(task_status.started)
        finally:
            self._epoll.close()

    # Inside trio's wait

    def watch_trio(self, fd: int) -> None:
        # Level-triggered: as long as trio has not dealt with its events, each wait ends at once.
        self._epoll.register(fd, IN)
        self._set(fd, None)
        self._trio_fd = fd

    def unwatch_trio(self) -> None:
        if not self._epoll.closed:
            self._epoll.unregister(self._trio_fd)
        self._trio_fd = -1

    def wait(self, timeout: float, runnable: Collection[object]) -> bool:
        """Deliver events until trio has something to do, or for ``timeout`` seconds; as ``io_wait.Waiting``.

        Fairness: each turn begins with a poll. It ends after a millisecond, with handshakes after 2.5, and what then
        goes on. If its poll finds that trio is ready or late, it ends after a millisecond in any case. So a busy relay
        notices trio's descriptors and deadlines within 5 ms. And each time that busy tasks let trio wait, with a
        timeout of 0, there is one turn.
        """
        self.is_trio_ready = self._must_end_turn = False
        had_events = False
        now = self.clock()
        until = now + timeout
        trio_deadline = until if timeout > 0 else math.inf
        while True:
            # A negative timeout would have no end.
            pause = 0 if until < now or self._deferred or self._steps or self._undelivered else until - now
            if self._take_turn(pause, None, trio_deadline):
                had_events = True
            now = self.now
            if self.is_trio_ready or runnable or self._must_end_turn or now >= until:
                return had_events

    # In a task

    async def _serve_in_task(self, on_started: Callable[[], object]) -> None:
        wakeup_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            self._epoll.register(wakeup_fd, IN | ET)
            self._set(wakeup_fd, None)
            on_started()
            while True:
                if self._deferred or self._steps or self._undelivered:
                    await trio.lowlevel.checkpoint()
                else:
                    self._wakeup_fd = wakeup_fd
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self._wakeup_fd = None
                self._take_turns()
        finally:
            self._wakeup_fd = None
            os.close(wakeup_fd)

    def _take_turns(self) -> None:
        """Take turns until nothing is ready, the time is up, or trio has to look at something."""
        self._must_end_turn = False
        deadline = self.clock() + _MAX_TURNS_S
        for _ in range(_POLLS_PER_ROUND):
            reports = self._take_turn(0, deadline)
            is_idle = reports < _BUSY_EVENTS and not self._deferred
            if is_idle or self._must_end_turn or self._undelivered or self.clock() > deadline:
                return

    # Delivery

    def _take_turn(
        self, timeout: float, deadline: float | None = None, trio_deadline: float = math.inf
    ) -> int:
        """Wait for events, deliver them, run what was deferred, and make steps.

        Args:
            timeout: Seconds to wait.
            deadline: When the next turn gets what is left. The default is a millisecond after the first event.
            trio_deadline: That of trio's loop.

        Returns:
            The number of events. 1 if there were none but deferred work or steps, 0 if there was nothing to do.
        """
        reports = self._epoll.poll(timeout, _EVENTS_PER_POLL)
        if self._undelivered:
            reports = self._with_undelivered(reports)
        self.now = self.clock()
        if not (reports or self._deferred or self._steps):
            return 0
        self.turns += 1
        if deadline is None:
            deadline = self.now + _MAX_TURN_S
        if self._deliver_each(reports, deadline) and self._deferred:
            self._run_each(self._deferred, deadline)
        if self._steps:
            must_end = self.is_trio_ready or self.now >= trio_deadline
            self._run_each(self._steps, deadline if must_end else deadline + _MAX_STEPS_S)
        return len(reports) or 1

    def _run_each(self, work: deque[Deferred], deadline: float) -> None:
        for _ in range(len(work)):
            try:
                work.popleft().run()
            except Exception as fault:  # noqa: BLE001 - the border of one session: the others go on
                self._on_fault(fault)
            if self.clock() > deadline:
                return

    def _deliver_each(self, reports: list[tuple[int, int]], deadline: float) -> bool:
        """Return True if all reports were delivered in time; the next turn delivers the rest."""
        handlers, deferred = self._handlers, self._deferred
        handler: EventHandler | None = None
        events_to_clock = _EVENTS_PER_CLOCK_READ
        fd = 0
        try:
            for fd, events in reports:
                handler = handlers[fd]
                if handler is not None:
                    handler.on_events(events)
                elif fd == self._trio_fd:
                    self.is_trio_ready = True
                events_to_clock -= 1
                # With something deferred there is bulk: then one event may take as long as a hundred others.
                if not events_to_clock or deferred:
                    events_to_clock = _EVENTS_PER_CLOCK_READ
                    if self.clock() > deadline:
                        self._postpone_after(fd, reports)
                        return False
        except Exception as fault:  # noqa: BLE001 - the border of one session, which its timeouts end
            self._on_delivery_fault(fd, handler, fault)
            self._postpone_after(fd, reports)
            return False
        return True

    def _postpone_after(self, fd: int, reports: list[tuple[int, int]]) -> None:
        """Leave the reports behind that of ``fd`` to the next turn, except those that only wake a task.

        Epoll reports them once. In front of a new connection there may be hundreds of bulk transfers.
        """
        position = [each for each, _ in reports].index(fd)
        self._undelivered = {}
        for rest_fd, events in reports[position + 1 :]:
            watch = self._handlers[rest_fd]
            if rest_fd == self._trio_fd:
                self.is_trio_ready = True
            elif not isinstance(watch, EpollWatch):
                self._undelivered[rest_fd] = events
            else:
                try:
                    watch.on_events(events)
                except Exception as fault:  # noqa: BLE001 - as in _deliver_each
                    self._on_delivery_fault(rest_fd, watch, fault)

    def _on_delivery_fault(self, fd: int, handler: EventHandler | None, fault: Exception) -> None:
        if not isinstance(handler, ListenerWatch):
            self.forget(fd)
        self._on_fault(fault)

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
        return self._add(fd, EpollWatch(self, fd, events), events)

    def add_listener(self, fd: int) -> Watch:
        """Register a listening socket. ``unwatch`` takes it out. Otherwise like ``add``."""
        return self._add(fd, ListenerWatch(self, fd, READING), READING)

    def _add(self, fd: int, watch: EpollWatch, events: int) -> Watch:
        if self._undelivered:
            self._undelivered.pop(fd, None)  # of an earlier socket with this descriptor
        epoll = self._epoll
        try:
            if not epoll.closed:  # closed: the proxy is stopping, and so is the session
                epoll.register(fd, events)
        except FileExistsError:  # forgotten, but not closed
            epoll.modify(fd, events)
        except OSError as error:
            self.forget(fd)
            raise ProxyError(f"epoll takes no more sockets: {error.strerror}") from None
        self._set(fd, watch)
        return watch

    def _set(self, fd: int, handler: EventHandler | None) -> None:
        missing = fd + 1 - len(self._handlers)
        if missing > 0:
            self._handlers += [None] * missing
        self._handlers[fd] = handler

    def _get(self, fd: int) -> object:
        return self._handlers[fd] if 0 <= fd < len(self._handlers) else None

    def watch(self, fd: int) -> Watch:
        """Return the watch of a socket that was added and has no handler yet."""
        watch = self._get(fd)
        assert isinstance(watch, EpollWatch)  # noqa: S101 - the caller has added it
        return watch

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
        before = self._get(fd)
        if before is None:
            return None
        self._handlers[fd] = handler
        return before.pending_events if isinstance(before, EpollWatch) else 0

    def rearm(self, fd: int, events: int) -> None:
        """Have epoll report these events from now on, and those that hold already once more."""
        if not self._epoll.closed:
            self._epoll.modify(fd, events)

    def forget(self, fd: int) -> None:
        """Drop the watch or handler of a socket, before or after it is closed. May be called twice."""
        if 0 <= fd < len(self._handlers):
            self._handlers[fd] = None

    def unregister(self, fd: int) -> None:
        """Take a socket out of epoll, so that something else can wait at it."""
        is_registered = self._get(fd) is not None
        self.forget(fd)
        if is_registered and not self._epoll.closed:
            self._epoll.unregister(fd)

    def unwatch(self, watch: Watch) -> None:
        """Take the socket of a watch out of epoll, unless it is closed or has got another watch."""
        if self._get(watch.fd) is watch:
            with suppress(OSError):
                self.unregister(watch.fd)

    def defer(self, work: Deferred) -> None:
        """Run this work once the other sessions had their turn."""
        self._deferred.append(work)
        self._end_pause()

    def queue_step(self, work: Deferred) -> None:
        """Run this step of a handshake after the events of a turn, in a row with those of other sessions.

        After its arithmetic, nothing that the interpreter needs is in the processor's caches, and what follows takes
        two to three times as long. So the poller makes the steps of all sessions first. Then their tasks run.
        """
        self._steps.append(work)
        self._end_pause()

    def _end_pause(self) -> None:
        # Deferred by a task, not by a handler: the poller's task waits, and no event may ever end its wait.
        if self._wakeup_fd is not None:
            os.eventfd_write(self._wakeup_fd, 1)
            self._wakeup_fd = None

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Reschedule a task, and end this turn soon so that it runs."""
        self._must_end_turn = True
        trio.lowlevel.reschedule(task)

    def end_turn(self) -> None:
        """Have trio's loop look at its tasks and deadlines soon. For handlers that have changed those."""
        self._must_end_turn = True

    @property
    def registered(self) -> int:
        """The number of sockets that have a watch or a handler."""
        return sum(handler is not None for handler in self._handlers)


def _reraise(fault: Exception) -> None:
    raise fault
