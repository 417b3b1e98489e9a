"""Limits on sessions, of the whole process and of a frontend. Over one of them, accepting waits."""

from __future__ import annotations

import trio
from attrs import Factory, define, frozen


@define(eq=False)
class SessionLimit:
    """Counts sessions. Connections over the limit stay in the kernel's accept queue, where they cost nothing.

    Attributes:
        limit: The number of sessions; 0 for no limit.
        sessions: The sessions there are now.
        has_waiters: Whether a task may be waiting in ``wait``.
    """

    limit: int
    sessions: int = 0
    has_waiters: bool = False
    _waiting: trio.lowlevel.ParkingLot = Factory(trio.lowlevel.ParkingLot)

    @property
    def is_reached(self) -> bool:
        """Whether accepting must wait."""
        return 0 < self.limit <= self.sessions

    def add_session(self) -> None:
        """Count a session that begins."""
        self.sessions += 1

    def remove_session(self) -> None:
        """Count a session out that has ended, and wake those that wait."""
        self.sessions -= 1
        if self.has_waiters:
            self.notify()

    def notify(self) -> None:
        """Wake all tasks in ``wait``: there may be room."""
        self.has_waiters = False
        # All of them: a single one might belong to a bind whose accept queue is empty.
        self._waiting.unpark_all()

    def change(self, limit: int) -> None:
        """Use another limit from now on. Sessions over it stay."""
        self.limit = limit
        if self.has_waiters:
            self.notify()

    async def wait(self) -> None:
        """Wait until there may be room. Check ``is_reached`` afterwards, since other tasks wait, too."""
        self.has_waiters = True
        await self._waiting.park()


@frozen
class SessionLimits:
    """The two limits that a frontend's sessions count against, in a single process.

    The counting is written out here without calls, since every session is counted twice. Workers have a
    subclass that calls the methods of their shared limits.
    """

    frontend: SessionLimit
    process: SessionLimit

    @property
    def reached_limit(self) -> SessionLimit | None:
        """The limit that accepting must wait for; None if there is room."""
        for each in (self.process, self.frontend):
            if 0 < each.limit <= each.sessions:
                return each
        return None

    def add_session(self) -> None:
        """Count a session that begins."""
        self.frontend.sessions += 1
        self.process.sessions += 1

    def remove_session(self) -> None:
        """Count a session out that has written its log line, and wake those that wait to accept."""
        own, process = self.frontend, self.process
        own.sessions -= 1
        process.sessions -= 1
        if own.has_waiters:
            own.notify()
        if process.has_waiters:
            process.notify()
