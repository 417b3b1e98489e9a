"""Counters that several workers keep together: each worker writes its own cell, and all read the sum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from attrs import define, field, frozen


class Cells(Protocol):
    """Whole numbers in shared memory, one for each worker."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int]: ...

    def __getitem__(self, slot: int, /) -> int: ...

    def __setitem__(self, slot: int, value: int, /) -> None: ...


@define(eq=False)
class SharedCounter:
    """One counter.

    Attributes:
        cells: One number for each worker.
        slot: The worker slot of this process. No other process writes its cell, so nothing is locked.
    """

    cells: Cells
    slot: int

    @property
    def local(self) -> int:
        """The number of this worker."""
        return self.cells[self.slot]

    @local.setter
    def local(self, value: int) -> None:
        self.cells[self.slot] = value

    @property
    def total(self) -> int:
        """The sum over all workers."""
        return sum(self.cells)

    def add(self, number: int) -> None:
        """Add to this worker's number; a negative one subtracts."""
        self.cells[self.slot] += number

    def oldest_elsewhere(self, earliest: int = 0) -> tuple[int, int] | None:
        """Return the earliest moment of another worker, for cells that hold moments or 0.

        Args:
            earliest: Moments before this one do not count.

        Returns:
            The moment and the worker's slot, or None if no other worker has one.
        """
        moments = [
            (moment, slot)
            for slot, moment in enumerate(self.cells)
            if moment and moment >= earliest and slot != self.slot
        ]
        return min(moments, default=None)


@frozen(eq=False)
class LimitCounters:
    """What workers count together for a limit on sessions.

    Attributes:
        sessions: The sessions under the limit.
        waiting: Since when each worker has waited to accept, 0 if it does not wait.
        checked_at: When each worker last checked for room. A worker that has not checked for long hangs, and
            the others do not wait for it.
    """

    sessions: SharedCounter
    waiting: SharedCounter
    checked_at: SharedCounter


@frozen(eq=False)
class ServerCounters:
    """What workers count together for a server.

    Attributes:
        sessions: The sessions that hold a slot.
        connected: The sessions that were connected so far. Counted with passive health only.
        waiting: The waiters that require this server.
        first: The ticket of the first of them in each worker, 0 if it has none.
        number: What identifies the server between processes. It stays with its name and address.
    """

    sessions: SharedCounter
    connected: SharedCounter
    waiting: SharedCounter
    first: SharedCounter
    number: int = field(default=0, kw_only=True)


@frozen(eq=False)
class BackendCounters:
    """What workers count together for a backend.

    Attributes:
        sessions: The sessions that have a server or wait for one.
        waiting: The waiters in all queues.
        first: The ticket of the first waiter that takes any server in each worker, 0 if it has none.
        servers: The counters of each server.
    """

    sessions: SharedCounter
    waiting: SharedCounter
    first: SharedCounter
    servers: tuple[ServerCounters, ...]


class SharedSessions:
    """Mixed into a server, it counts the sessions of all workers.

    Attributes:
        counters: The counters of the server in shared memory. Set them before the server is used.
    """

    __slots__ = ()
    counters: ServerCounters

    @property
    def sessions(self) -> int:
        """The sessions that hold a slot now, in all workers."""
        return self.counters.sessions.total

    @sessions.setter
    def sessions(self, value: int) -> None:
        """Ignore the value: servers begin with no sessions, and each worker writes its own cell only."""

    def add_session(self) -> None:
        """Count a session of this worker that takes a slot."""
        sessions = self.counters.sessions
        sessions.add(1)
        self.counts.add_session(sessions.total)  # type: ignore[attr-defined]  # the server has it

    def remove_session(self) -> None:
        """Count a session of this worker that gives its slot back."""
        self.counters.sessions.add(-1)
