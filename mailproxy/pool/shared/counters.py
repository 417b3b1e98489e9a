"""Counts that several workers keep together: each writes its own cell, everybody reads the sum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from attrs import define, frozen


class Cells(Protocol):
    """Whole numbers, one for each worker, that all of them see."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[int]: ...

    def __getitem__(self, place: int, /) -> int: ...

    def __setitem__(self, place: int, value: int, /) -> None: ...


@define(eq=False)
class SharedCounter:
    """One count. ``slot``: whose cell is written here; nobody else writes it, so that nothing need be locked."""

    cells: Cells
    slot: int

    @property
    def local(self) -> int:
        """What this worker has of it."""
        return self.cells[self.slot]

    @local.setter
    def local(self, value: int) -> None:
        self.cells[self.slot] = value

    @property
    def total(self) -> int:
        """What all have."""
        return sum(self.cells)

    def add(self, number: int) -> None:
        """So many more here, or fewer."""
        self.cells[self.slot] += number

    def oldest_elsewhere(self, since: int = 0) -> tuple[int, int] | None:
        """Of cells that hold moments, 0 for none: the earliest of the others that is not before ``since``, and whose it is."""
        moments = [
            (moment, slot)
            for slot, moment in enumerate(self.cells)
            if moment and moment >= since and slot != self.slot
        ]
        return min(moments, default=None)


@frozen(eq=False)
class LimitCounters:
    """What workers count together of what a bound is on: sessions, since when each of them has waited for room, and when it
    looked last, since one that hangs does not.
    """

    sessions: SharedCounter
    waiting: SharedCounter
    looked: SharedCounter


@frozen(eq=False)
class ServerCounters:
    """What workers count together of a server: its sessions, those that were connected to it so far where that is observed,
    those that wait for it alone, and since when the first of them does.
    """

    sessions: SharedCounter
    connected: SharedCounter
    waiting: SharedCounter
    first: SharedCounter


@frozen(eq=False)
class BackendCounters:
    """What workers count together of a backend: its sessions, those that wait for any of its places, and since when the first
    of those does that any server will do for.
    """

    sessions: SharedCounter
    waiting: SharedCounter
    first: SharedCounter
    servers: tuple[ServerCounters, ...]


class SharedSessions:
    """Mixed into a server: its sessions are those of all workers, ``share`` has them."""

    __slots__ = ()
    share: ServerCounters

    @property
    def sessions(self) -> int:
        """Sessions that it has now, in all workers."""
        return self.share.sessions.total

    @sessions.setter
    def sessions(self, value: int) -> None:
        """Nobody sets what several count; servers begin with none."""

    def add_session(self) -> None:
        """A session begins here."""
        sessions, counts = self.share.sessions, self.counts  # type: ignore[attr-defined]  # the server has it
        sessions.add(1)
        counts.sessions += 1
        counts.most_sessions = max(counts.most_sessions, sessions.total)

    def remove_session(self) -> None:
        """A session that began here is over."""
        self.share.sessions.add(-1)
