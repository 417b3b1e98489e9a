"""Limits on sessions that several workers share."""

from __future__ import annotations

import time

import trio
from attrs import frozen

from mailproxy.pool import LimitCounters
from mailproxy.proxy.limits import SessionLimit, SessionLimits

_RECHECK_INTERVAL_S = 0.05  # between two checks whether a session of another worker has ended
_STALE_NS = 2_000_000_000  # a worker that has not checked for 2 s hangs, or does not wait


class SharedLimit(SessionLimit):
    """A limit on the sessions of all workers together. Each worker counts its own.

    Each worker publishes since when it has been waiting for room. The last free slots go to the workers that
    have waited longest. Otherwise a busy worker would take back every slot that it frees, and the accept
    queues of the others would starve. Workers that hang, or whose accept queues are empty, are skipped.
    """

    def __init__(self, limit: int, counters: LimitCounters) -> None:
        self._counters = counters
        self._local_waiters = 0  # tasks in ``wait``
        super().__init__(limit)

    def use_counters(self, counters: LimitCounters) -> None:
        """Count there from now on: in the same columns, with rows for more workers."""
        self._counters = counters

    @property
    def sessions(self) -> int:
        """The sessions of all workers."""
        return self._counters.sessions.total

    @sessions.setter
    def sessions(self, value: int) -> None:
        """Ignore the initial value that the base class sets. The shared counters begin at 0."""

    @property
    def is_reached(self) -> bool:
        """Whether accepting must wait in this worker."""
        if not self.limit:
            return False
        free, workers = self.limit - self._counters.sessions.total, len(self._counters.waiting.cells)
        return free < workers and (free <= 0 or self._workers_ahead() >= free)

    def _workers_ahead(self) -> int:
        """Count the other workers that have waited longer."""
        own, stale = self._counters.waiting.local, time.monotonic_ns() - _STALE_NS
        cells = zip(self._counters.waiting.cells, self._counters.checked_at.cells, strict=True)
        return sum(
            since > 0 and (not own or since < own) and checked_at > stale for since, checked_at in cells
        )

    def add_session(self) -> None:
        """Count a session that begins here. If this worker waits on, it waits behind all others."""
        self._counters.sessions.add(1)
        self._counters.waiting.local = 0

    def remove_session(self) -> None:
        """Count a session out that has ended here. Other workers notice at their next check."""
        self._counters.sessions.add(-1)
        if self.has_waiters:
            self.notify()

    async def wait(self) -> None:
        """Wait until there may be room, 0.05 s at most.

        Check ``is_reached`` afterwards. A caller that waits again at once keeps the worker's position.
        """
        waiting, now = self._counters.waiting, time.monotonic_ns()
        waiting.local, self._counters.checked_at.local = waiting.local or now, now
        self._local_waiters += 1
        try:
            with trio.move_on_after(_RECHECK_INTERVAL_S):
                await super().wait()
        finally:
            self._local_waiters -= 1
            trio.lowlevel.current_trio_token().run_sync_soon(self._clear_wait_mark, idempotent=True)

    def _clear_wait_mark(self) -> None:
        """Give up the worker's position if no task waits again. Runs after the tasks that were woken."""
        if not self._local_waiters:
            self._counters.waiting.local = 0


@frozen
class WorkerLimits(SessionLimits):
    """The limits of a worker's sessions: two shared ones, and one for the descriptors of this process."""

    worker: SessionLimit

    @property
    def reached_limit(self) -> SessionLimit | None:
        """The limit that accepting must wait for; None if there is room."""
        return next((each for each in (self.worker, self.process, self.frontend) if each.is_reached), None)

    def add_session(self) -> None:
        """Count a session that begins."""
        for each in (self.frontend, self.process, self.worker):
            each.add_session()

    def remove_session(self) -> None:
        """Count a session out that has written its log line."""
        for each in (self.frontend, self.process, self.worker):
            each.remove_session()
