"""Timers: what is called when its time has come, in one task for all of them.

Nearly all timers are removed before they are due, and what is relayed meanwhile moves none of them. So adding
and removing have to be cheap. A cancel scope for each session, entered and left, takes 5 µs (Python 3.11, two
cores), 45 calls and 0.7 KiB. A timer takes a tenth of that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import trio

_MAX_REMOVED = 100  # timers that may stay in the heap; more only up to half the number of the others


class Expiring(Protocol):
    """What has a deadline. ``on_deadline`` is synchronous."""

    def on_deadline(self, now: float) -> None: ...


class Timer(float):
    """A deadline in trio's clock, which the heap compares in C.

    Attributes:
        expiring: What is called then; None once it was called, or removed.
    """

    __slots__ = ("expiring",)
    expiring: Expiring | None


class Timers:
    """The timers of one trio loop, in a heap. Timers with the same deadline are due in any order."""

    def __init__(self, on_earlier: Callable[[], None] = lambda: None) -> None:
        """Make them without a timer.

        Args:
            on_earlier: Called when trio has to wake the task of ``serve`` earlier than before.
        """
        self._on_earlier = on_earlier
        self._heap: list[Timer] = []
        self._removed = 0
        self._sleep: trio.CancelScope | None = None  # of ``serve``, until the next one is due
        self._wakes_at = math.inf  # when that ends; reading it from the scope takes a call

    async def serve(self) -> None:
        """Call what is due, until cancelled. An exception of ``on_deadline`` ends it. It may be started again."""
        while True:
            now = trio.current_time()
            for expiring in self.take_due(now):
                expiring.on_deadline(now)
            self._wakes_at = self.next
            with trio.CancelScope(deadline=self._wakes_at) as self._sleep:
                await trio.sleep_forever()

    def add(self, deadline: float, expiring: Expiring) -> Timer:
        """Have ``on_deadline`` called at this time of trio's clock, and return the timer for ``remove``."""
        if deadline < self._wakes_at and self._sleep is not None:
            self._sleep.deadline = self._wakes_at = deadline
            self._on_earlier()
        timer = Timer(deadline)
        timer.expiring = expiring
        heapq.heappush(self._heap, timer)
        return timer

    def remove(self, timer: Timer) -> bool:
        """Remove a timer. Return False if it was due or removed before."""
        if timer.expiring is None:
            return False
        timer.expiring = None
        self._removed += 1
        if self._removed > _MAX_REMOVED and self._removed > len(self._heap) // 3:
            self._heap = [each for each in self._heap if each.expiring is not None]
            heapq.heapify(self._heap)
            self._removed = 0
        return True

    def take_due(self, now: float) -> Iterator[Expiring]:
        """Yield what is due, and remove it. Removed timers in front go as well: nothing has to wake up for them."""
        while self._heap and (self._heap[0] <= now or self._heap[0].expiring is None):
            timer = heapq.heappop(self._heap)
            expiring, timer.expiring = timer.expiring, None
            if expiring is None:
                self._removed -= 1
            else:
                yield expiring

    @property
    def next(self) -> float:
        """The earliest deadline, infinity without any. Right after ``take_due`` no removed timer counts."""
        return float(self._heap[0]) if self._heap else math.inf
