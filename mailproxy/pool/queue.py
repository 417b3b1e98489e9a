"""A queue: who waits for a server to have room, first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

from attrs import define, field

Waiter = TypeVar("Waiter", bound=Hashable)


@define(eq=False)
class Queue(Generic[Waiter]):
    """Whoever joined is popped or leaves, once and not both.

    An ``OrderedDict``, because a plain one that loses its first entries takes ever longer to find the first that is left.
    """

    _waiters: OrderedDict[Waiter, int] = field(
        factory=OrderedDict, init=False
    )  # with the pops before it joined
    _popped: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._waiters

    def __iter__(self) -> Iterator[Waiter]:
        """Go through them in the order in which they will be popped."""
        return iter(self._waiters)

    def join(self, waiter: Waiter) -> None:
        """Stand in line, at the end. Raises ValueError for one that stands there already."""
        if waiter in self._waiters:
            raise ValueError(f"{waiter!r} is in the queue already")
        self._waiters[waiter] = self._popped

    def merge(self, waiters: Iterable[Waiter], key: Callable[[Waiter], int]) -> None:
        """Let these stand among the others where the key puts them all; O(n log n)."""
        for waiter in waiters:
            self._waiters[waiter] = self._popped
        for waiter in sorted(self._waiters, key=key):
            self._waiters.move_to_end(waiter)

    def remove(self, waiter: Waiter) -> bool:
        """Wait no longer; False if it does not wait.

        That is so for one that was popped in the very moment it gave up: the room that it was given goes to the next then.
        """
        return self._waiters.pop(waiter, None) is not None

    def pop(self) -> Waiter | None:
        """Take out who waits for the longest time; None if nobody does."""
        if not self._waiters:
            return None
        waiter, _ = self._waiters.popitem(last=False)
        self._popped += 1
        return waiter

    def position(self, waiter: Waiter) -> int:
        """What ``srv_queue`` or ``backend_queue`` in HAProxy's log line is for it now, before it is popped or leaves.

        It counts those who were served from the queue since it joined, and the waiter itself: 1 for who had nobody
        before it, and for who gives up before anybody was served; the log has 0 for sessions that never queued.
        Raises KeyError if it does not wait.
        """
        return self._popped - self._waiters[waiter] + 1
