"""Bounds on sessions, of the whole process and of a frontend; over one of them, accepting waits."""

from __future__ import annotations

import time

import trio
from attrs import Factory, define, frozen

from mailproxy.pool import LimitCounters

_RECHECK_INTERVAL_S = 0.05  # whether a session of another worker has made room
_STALE_NS = 2_000_000_000  # who has not looked for so long does not, soon


@define(eq=False)
class SessionLimit:
    """Counts sessions; ``limit`` 0 is no bound. Connections over it stay in the kernel's queue, where they cost nothing.

    ``waits``: somebody waits for room.
    """

    limit: int
    sessions: int = 0
    has_waiters: bool = False
    _waiting: trio.lowlevel.ParkingLot = Factory(trio.lowlevel.ParkingLot)

    @property
    def is_reached(self) -> bool:
        """Must accepting wait?"""
        return 0 < self.limit <= self.sessions

    def enter(self) -> None:
        """A session begins."""
        self.sessions += 1

    def leave(self) -> None:
        """A session is over; those that wait to accept look again."""
        self.sessions -= 1
        if self.has_waiters:
            self.notify()

    def notify(self) -> None:
        """There may be room."""
        self.has_waiters = False
        self._waiting.unpark_all()  # a single one might be that of a bind where nobody waits

    async def wait(self) -> None:
        """Wait until there may be room; ask again, others wait too."""
        self.has_waiters = True
        await self._waiting.park()


class SharedLimit(SessionLimit):
    """A bound on the sessions of several workers; each counts its own.

    Who waits for room shows since when: the last places are for the workers that have waited longest, or one whose own
    sessions come and go would take each place that it frees, and those in the queue of another one would never be accepted.
    Who hangs, or has nobody any more who waits, is not waited for.
    """

    def __init__(self, limit: int, share: LimitCounters) -> None:
        self._share = share
        self._local_waiters = 0  # tasks that wait for room
        super().__init__(limit)

    @property
    def sessions(self) -> int:
        """Those of all workers."""
        return self._share.sessions.total

    @sessions.setter
    def sessions(self, value: int) -> None:
        """Nobody sets what several count; there are none at first."""

    @property
    def is_reached(self) -> bool:
        """Must accepting wait here?"""
        if not self.limit:
            return False
        free, workers = self.limit - self._share.sessions.total, len(self._share.waiting.cells)
        return free < workers and (free <= 0 or self._workers_ahead() >= free)

    def _workers_ahead(self) -> int:
        """How many other workers have waited for longer."""
        own, alive = self._share.waiting.local, time.monotonic_ns() - _STALE_NS
        both = zip(self._share.waiting.cells, self._share.looked.cells, strict=True)
        return sum(since > 0 and (not own or since < own) and looked > alive for since, looked in both)

    def enter(self) -> None:
        """A session begins here; who waits on has the last place in the line."""
        self._share.sessions.add(1)
        self._share.waiting.local = 0

    def leave(self) -> None:
        """A session is over here; those that wait to accept elsewhere look again by themselves."""
        self._share.sessions.add(-1)
        if self.has_waiters:
            self.notify()

    async def wait(self) -> None:
        """Wait until there may be room; ask again, others wait too. The place in the line is kept for who does that at once."""
        waiting, now = self._share.waiting, time.monotonic_ns()
        waiting.local, self._share.looked.local = waiting.local or now, now
        self._local_waiters += 1
        try:
            with trio.move_on_after(_RECHECK_INTERVAL_S):
                await super().wait()
        finally:
            self._local_waiters -= 1
            trio.lowlevel.current_trio_token().run_sync_soon(self._clear_wait_mark, idempotent=True)

    def _clear_wait_mark(self) -> None:
        """When the step of those that have waited is over: there may have been nobody to accept."""
        if not self._local_waiters:
            self._share.waiting.local = 0


@frozen
class SessionLimits:
    """The bounds that a frontend's sessions are under: its own and the process's.

    Of one process, that is, and written out, since every session is counted here twice; see WorkerLimits.
    """

    frontend: SessionLimit
    process: SessionLimit

    @property
    def reached_limit(self) -> SessionLimit | None:
        """The bound that accepting must wait for; None if there is room."""
        for each in (self.process, self.frontend):
            if 0 < each.limit <= each.sessions:
                return each
        return None

    def enter(self) -> None:
        """A session begins."""
        self.frontend.sessions += 1
        self.process.sessions += 1

    def leave(self) -> None:
        """A session has written its line; those that wait to accept look again."""
        own, process = self.frontend, self.process
        own.sessions -= 1
        process.sessions -= 1
        if own.has_waiters:
            own.notify()
        if process.has_waiters:
            process.notify()


@frozen
class WorkerLimits(SessionLimits):
    """Those of a worker, which is also under what its own descriptors hold; the others are shared."""

    worker: SessionLimit

    @property
    def reached_limit(self) -> SessionLimit | None:
        """As in SessionLimits."""
        return next((each for each in (self.worker, self.process, self.frontend) if each.is_reached), None)

    def enter(self) -> None:
        """A session begins."""
        for each in (self.frontend, self.process, self.worker):
            each.enter()

    def leave(self) -> None:
        """A session has written its line."""
        for each in (self.frontend, self.process, self.worker):
            each.leave()
