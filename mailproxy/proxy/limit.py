"""The bound on sessions of the whole process; over it, accepting waits."""

from __future__ import annotations

import trio
from attrs import Factory, define


@define(eq=False)
class SessionLimit:
    """Counts sessions. Connections over the bound stay in the kernel's queue, where they cost nothing."""

    limit: int
    sessions: int = 0
    _waiting: trio.lowlevel.ParkingLot = Factory(trio.lowlevel.ParkingLot)

    @property
    def is_reached(self) -> bool:
        """Must accepting wait?"""
        return self.sessions >= self.limit

    def enter(self) -> None:
        """A session begins."""
        self.sessions += 1

    def leave(self) -> None:
        """A session is over; those that wait to accept look again."""
        self.sessions -= 1
        self._waiting.unpark_all()  # a single one might be that of a bind where nobody waits

    async def room(self) -> None:
        """Wait until there may be room; ask again, others wait too."""
        await self._waiting.park()
