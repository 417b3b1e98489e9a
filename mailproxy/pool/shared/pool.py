"""A pool that several workers have together: a place goes to whoever has waited longest, in whichever of them.

Each worker has a line of its own, in the order of moments, and shows since when the first in it waits. It gives places to
its own waiters, and only as long as nobody elsewhere has waited longer; then it leaves the place free and rings for the
worker whose turn it is. Two that look in the same moment may both take the last place: limits are passed by at most as
many as there are other workers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.pool import Pool, S, Waiter
from mailproxy.pool.queue import Queue
from mailproxy.pool.shared.counters import BackendCounters
from mailproxy.pool.stick_table import StickTable

_NS = 1_000_000_000
_LATE_S = 1.0  # that a waiter whose time is up may take to leave the line


class SharedPool(Pool[S]):
    """The part that one worker has in a pool.

    ``clock`` gives nanoseconds that all workers have in common; ``ring`` wakes a worker, by its slot, to call ``look``.
    ``patience``: seconds that a waiter stands in line at most; a line that shows more belongs to a worker that hangs.
    """

    def __init__(
        self,
        servers: Sequence[S],
        balance: Balance,
        *,
        share: BackendCounters,
        clock: Callable[[], int],
        ring: Callable[[int], None],
        patience: float,
        max_queue: int = 0,
        stick: StickTable | None = None,
    ) -> None:
        self._share = share
        self._shares = dict(zip(servers, share.servers, strict=True))
        self._clock = clock
        self._wake_worker = ring
        self._queue_timeout_ns = int((patience + _LATE_S) * _NS)
        super().__init__(servers, balance, max_queue=max_queue, stick=stick)

    @property
    def waiting(self) -> int:
        """How many wait, in all workers."""
        return self._share.waiting.total

    @property
    def has_waiters(self) -> bool:
        """Does anybody wait here?"""
        return self._waiting > 0

    def acquire(
        self, key: bytes | None = None, *, required: S | None = None, excluded: Collection[S] = ()
    ) -> S | None:
        """As in Pool. A place that somebody waits for, in whichever worker, is none."""
        share = self._share
        if not share.waiting.total:
            return super().acquire(key, required=required, excluded=excluded)
        any_wait = share.first.local or share.first.oldest_elsewhere(self._oldest())
        if required is not None:
            is_due = self._shares[required].waiting.total or (any_wait and required in self._eligible)
            return None if is_due else super().acquire(key, required=required, excluded=excluded)
        if any_wait:
            return None
        due = {server for server, own in self._shares.items() if own.waiting.total}
        server: S | None = self._balance.choose(key, {*excluded, *due})  # type: ignore[assignment]  # as in Pool
        if server is None or server in due:
            return None
        server.add_session()
        return server

    def release(self, server: S) -> None:
        """As in Pool; who waits longest has the place, here or elsewhere."""
        super().release(server)
        if self._share.waiting.total and not server.is_full:
            self._wake_worker_for(server)

    def enqueue(self, waiter: Waiter[S]) -> bool:
        """As in Pool; ``look`` is called from time to time from now on."""
        is_first = not self._waiting
        joined = super().enqueue(waiter)
        if joined and is_first:
            self._wake_worker(self._share.waiting.slot)
        return joined

    def serve_queue(self) -> None:
        """Give places to those here whose turn it is; to be called every now and then while anybody waits here."""
        self._serve_queues()

    def _serve_queues(self, changed: S | None = None) -> int:
        before = self._waiting
        given = super()._serve_queues(changed)
        if self._waiting < before and self._share.waiting.total > self._waiting:
            self._wake_worker_for(None)  # there may be more places, for those who come next
        return given

    def _wake_worker_for(self, server: S | None) -> None:
        """Wake the worker whose waiter waits longest, for this server or for any."""
        lines = [self._share.first]
        lines += (
            [self._shares[server].first] if server is not None else [s.first for s in self._shares.values()]
        )
        oldest = self._oldest()
        turns = [turn for line in lines if (turn := line.oldest_elsewhere(oldest)) is not None]
        if turns:
            self._wake_worker(min(turns)[1])

    def _oldest(self) -> int:
        return self._clock() - self._queue_timeout_ns

    # Turns

    def _next_ticket(self) -> int:
        return self._clock()

    def _is_first_overall(self, waiter: Waiter[S], server: S) -> bool:
        oldest = self._oldest()
        lines = [self._shares[server].first]
        if server in self._eligible:
            lines.append(self._share.first)
        turns = [turn for line in lines if (turn := line.oldest_elsewhere(oldest)) is not None]
        # Two of the same nanosecond take turns by their slots.
        return not turns or (waiter.ticket, self._share.first.slot) < min(turns)

    def _reserved_elsewhere(self, waiter: Waiter[S]) -> Collection[S]:
        oldest = self._oldest()
        firsts = {server: share.first.oldest_elsewhere(oldest) for server, share in self._shares.items()}
        return {server for server, turn in firsts.items() if turn is not None and turn[0] < waiter.ticket}

    def _queue_changed(self, server: S | None) -> None:
        line: Queue[Waiter[S]] = self._queue if server is None else self._server_queues[server]
        first = next(iter(line), None)
        addresses_changed = first.ticket if first is not None else 0
        if server is None:
            self._share.first.local = addresses_changed
        else:
            share = self._shares[server]
            share.first.local, share.waiting.local = addresses_changed, len(line)
        self._share.waiting.local = self._waiting
