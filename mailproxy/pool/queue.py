"""The queue of sessions that wait for a slot: first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from attrs import define, field

from mailproxy.pool.server import Server

S = TypeVar("S", bound=Server)
W = TypeVar("W", bound=Hashable)


@define(eq=False)
class Waiter(Generic[S]):
    """A session that waits for a slot (HAProxy's ``pendconn``).

    Attributes:
        wake: Called once, when ``server`` has been set. The slot is counted already.
        required: The only server that will do, or None for any.
        server_queue: Position in the queue of ``required``, HAProxy's ``srv_queue``. 0 if it never waited
            there.
        backend_queue: Position in the queue for any server, HAProxy's ``backend_queue``. 0 if it never waited
            there.
        ticket: Position over all queues of the backend. The smaller ticket is served first.
        server: The server that it has got a slot of.
    """

    wake: Callable[[], None]
    required: S | None = None
    server_queue: int = field(default=0, init=False)
    backend_queue: int = field(default=0, init=False)
    ticket: int = field(default=0, init=False)
    server: S | None = field(default=None, init=False)


@define(eq=False)
class Queue(Generic[W]):
    """A FIFO queue from which any waiter can be removed.

    It is an ``OrderedDict``. A plain dict from which the first entries are removed needs more and more time
    to find the first one left.
    """

    # Each waiter with the number of waiters that had been popped when it joined.
    _waiters: OrderedDict[W, int] = field(factory=OrderedDict, init=False)
    _popped: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, waiter: W) -> bool:
        return waiter in self._waiters

    def __iter__(self) -> Iterator[W]:
        """Iterate in the order in which the waiters will be popped."""
        return iter(self._waiters)

    @property
    def first(self) -> W | None:
        """The waiter that will be popped next, None if the queue is empty."""
        return next(iter(self._waiters), None)

    def join(self, waiter: W) -> None:
        """Add a waiter at the end.

        Raises:
            ValueError: The waiter is in the queue already.
        """
        if waiter in self._waiters:
            raise ValueError(f"{waiter!r} is in the queue already")
        self._waiters[waiter] = self._popped

    def merge(self, waiters: Iterable[W], key: Callable[[W], int]) -> None:
        """Add waiters and sort the queue by ``key``, in O(n log n)."""
        for waiter in waiters:
            self._waiters[waiter] = self._popped
        for waiter in sorted(self._waiters, key=key):
            self._waiters.move_to_end(waiter)

    def remove(self, waiter: W) -> bool:
        """Remove a waiter. Return False if it is not in the queue."""
        return self._waiters.pop(waiter, None) is not None

    def pop(self) -> W | None:
        """Remove and return the waiter that has waited longest, None if the queue is empty."""
        if not self._waiters:
            return None
        waiter, _ = self._waiters.popitem(last=False)
        self._popped += 1
        return waiter

    def position(self, waiter: W) -> int:
        """Return HAProxy's ``srv_queue`` or ``backend_queue`` of a waiter that is popped or removed now.

        It is the number of waiters that were popped since this one joined, and the waiter itself. So it is 1
        for a waiter that joined an empty queue, and for one that gives up before any other was popped. The
        log has 0 for sessions that never waited.

        Raises:
            KeyError: The waiter is not in the queue.
        """
        return self._popped - self._waiters[waiter] + 1
