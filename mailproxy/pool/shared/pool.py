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
from mailproxy.pool.shared.counters import BackendShare
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
        share: BackendShare,
        clock: Callable[[], int],
        ring: Callable[[int], None],
        patience: float,
        max_queue: int = 0,
        stick: StickTable | None = None,
    ) -> None:
        self._share = share
        self._shares = dict(zip(servers, share.servers, strict=True))
        self._clock = clock
        self._ring = ring
        self._patience_ns = int((patience + _LATE_S) * _NS)
        super().__init__(servers, balance, max_queue=max_queue, stick=stick)

    @property
    def waiting(self) -> int:
        """How many wait, in all workers."""
        return self._share.waiting.total

    @property
    def has_waiters(self) -> bool:
        """Does anybody wait here?"""
        return self._waiting > 0

    def enter(
        self, key: bytes | None = None, *, wanted: S | None = None, avoiding: Collection[S] = ()
    ) -> S | None:
        """As in Pool. A place that somebody waits for, in whichever worker, is none."""
        share = self._share
        if not share.waiting.total:
            return super().enter(key, wanted=wanted, avoiding=avoiding)
        any_wait = share.first.own or share.first.earliest_elsewhere(self._oldest())
        if wanted is not None:
            is_due = self._shares[wanted].waiting.total or (any_wait and wanted in self._in_service)
            return None if is_due else super().enter(key, wanted=wanted, avoiding=avoiding)
        if any_wait:
            return None
        due = {server for server, own in self._shares.items() if own.waiting.total}
        server: S | None = self._balance.choose(key, {*avoiding, *due})  # type: ignore[assignment]  # as in Pool
        if server is None or server in due:
            return None
        server.enter()
        return server

    def leave(self, server: S) -> None:
        """As in Pool; who waits longest has the place, here or elsewhere."""
        super().leave(server)
        if self._share.waiting.total and not server.is_full:
            self._ring_for(server)

    def join(self, waiter: Waiter[S]) -> bool:
        """As in Pool; ``look`` is called from time to time from now on."""
        is_first = not self._waiting
        joined = super().join(waiter)
        if joined and is_first:
            self._ring(self._share.waiting.slot)
        return joined

    def look(self) -> None:
        """Give places to those here whose turn it is; to be called every now and then while anybody waits here."""
        self._admit_all()

    def _admit_all(self, changed: S | None = None) -> int:
        before = self._waiting
        given = super()._admit_all(changed)
        if self._waiting < before and self._share.waiting.total > self._waiting:
            self._ring_for(None)  # there may be more places, for those who come next
        return given

    def _ring_for(self, server: S | None) -> None:
        """Wake the worker whose waiter waits longest, for this server or for any."""
        lines = [self._share.first]
        lines += (
            [self._shares[server].first] if server is not None else [s.first for s in self._shares.values()]
        )
        oldest = self._oldest()
        turns = [turn for line in lines if (turn := line.earliest_elsewhere(oldest)) is not None]
        if turns:
            self._ring(min(turns)[1])

    def _oldest(self) -> int:
        return self._clock() - self._patience_ns

    # Turns

    def _next_number(self) -> int:
        return self._clock()

    def _is_due(self, waiter: Waiter[S], server: S) -> bool:
        oldest = self._oldest()
        lines = [self._shares[server].first]
        if server in self._in_service:
            lines.append(self._share.first)
        turns = [turn for line in lines if (turn := line.earliest_elsewhere(oldest)) is not None]
        # Two of the same nanosecond take turns by their slots.
        return not turns or (waiter.came, self._share.first.slot) < min(turns)

    def _due_elsewhere(self, waiter: Waiter[S]) -> Collection[S]:
        oldest = self._oldest()
        firsts = {server: share.first.earliest_elsewhere(oldest) for server, share in self._shares.items()}
        return {server for server, turn in firsts.items() if turn is not None and turn[0] < waiter.came}

    def _line_changed(self, server: S | None) -> None:
        line: Queue[Waiter[S]] = self._line if server is None else self._lines[server]
        first = next(iter(line), None)
        came = first.came if first is not None else 0
        if server is None:
            self._share.first.own = came
        else:
            share = self._shares[server]
            share.first.own, share.waiting.own = came, len(line)
        self._share.waiting.own = self._waiting
