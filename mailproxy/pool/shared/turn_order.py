"""The order of waiters in a pool that several workers share.

Each worker has queues of its own and publishes the ticket of the first waiter in each. Tickets are
nanoseconds of a clock that all workers share, so they can be compared. A worker assigns free slots to its own
waiters only. It leaves a slot free while a waiter of another worker has an earlier ticket, and wakes that
worker.

Nothing is locked. Two workers that read in the same moment may both take the last slot: a limit can be
exceeded by at most the number of other workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mailproxy.pool.queue import Queue, Waiter
from mailproxy.pool.server import Server
from mailproxy.pool.shared.counters import BackendCounters, ServerCounters, SharedCounter
from mailproxy.pool.turn_order import TurnOrder

_NS_PER_S = 1_000_000_000
_LATE_S = 1.0  # how long a waiter may take to leave its queue after its timeout


class SharedTurnOrder(TurnOrder):
    """One worker's view of the order over all workers."""

    is_shared = True

    def __init__(
        self,
        servers: Sequence[Server],
        counters: BackendCounters,
        *,
        clock: Callable[[], int],
        wake_worker: Callable[[int], None],
        queue_timeout: float,
    ) -> None:
        """Publish in ``counters`` and read the other workers' there.

        Args:
            servers: The pool's servers, each with its ``counters``.
            counters: The counters of the backend in shared memory.
            clock: Gives nanoseconds that all workers have in common.
            wake_worker: Takes the slot of a worker, which then calls ``Pool.serve_queues``.
            queue_timeout: Seconds that a waiter waits at most. A worker that publishes an older one hangs,
                and its waiters are passed over.
        """
        self._clock = clock
        self._wake_worker = wake_worker
        self.reconfigure(servers, counters, queue_timeout=queue_timeout)

    def reconfigure(
        self, servers: Sequence[Server], counters: BackendCounters, *, queue_timeout: float
    ) -> None:
        """Order the waiters for other servers from now on. Arguments as for the class."""
        self._counters = counters
        self._servers = tuple(servers)
        self._stale_ns = int((queue_timeout + _LATE_S) * _NS_PER_S)

    @property
    def waiting(self) -> int:  # type: ignore[override]  # counted by all workers
        """The number of waiters in all workers."""
        return self._counters.waiting.total

    def next_ticket(self) -> int:
        """Return the time now, in nanoseconds."""
        return self._clock()

    def is_behind(self, ticket: int, server: Server | None) -> bool:
        """Return True if a worker, this one included, has an earlier waiter in the queue of ``server``."""
        first = self._first(server)
        if not first.total:
            return False
        if 0 < first.local < ticket:
            return True
        # Workers with equal tickets take turns by their slots.
        elsewhere = first.oldest_elsewhere(self._oldest_ticket())
        return elsewhere is not None and elsewhere < (ticket, first.slot)

    def waiting_for(self, server: Server, waiting: int) -> int:  # noqa: ARG002 - the sum has it
        """Return the number of waiters in all workers that require ``server``."""
        return _counters_of(server).waiting.total

    def queue_changed(self, server: Server | None, queue: Queue[Waiter[Any]], waiting: int) -> None:
        """Publish the first ticket of the queue and the numbers of waiters.

        The first waiter of all wakes this worker, which looks at its queues from time to time until the last
        one has gone.
        """
        first, counters = queue.first, self._counters
        self._first(server).local = first.ticket if first is not None else 0
        if server is not None:
            _counters_of(server).waiting.local = len(queue)
        is_first = waiting and not counters.waiting.local
        counters.waiting.local = waiting
        if is_first:
            self._wake_worker(counters.waiting.slot)

    def wake_next(self, server: Server | None) -> None:
        """Wake the worker whose waiter is next."""
        counters = self._counters
        if counters.waiting.total == counters.waiting.local:
            return
        queues = [None, server] if server is not None else [None, *self._servers]
        oldest = self._oldest_ticket()
        turns = [turn for each in queues if (turn := self._first(each).oldest_elsewhere(oldest)) is not None]
        if turns:
            self._wake_worker(min(turns)[1])

    def _first(self, server: Server | None) -> SharedCounter:
        return self._counters.first if server is None else _counters_of(server).first

    def _oldest_ticket(self) -> int:
        return self._clock() - self._stale_ns


def _counters_of(server: Server) -> ServerCounters:
    """Return the counters of a server, also of one that a reload has removed."""
    return server.counters  # type: ignore[attr-defined,no-any-return]  # of SharedSessions
