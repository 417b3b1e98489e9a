"""The bound on sessions of the whole process; over it, accepting waits."""

from __future__ import annotations

import trio
from attrs import Factory, define

_CLEARLY_FALLEN = 0.9


@define(eq=False)
class SessionLimit:
    """Counts sessions. Connections over the bound stay in the kernel's queue, where they cost nothing."""

    limit: int
    sessions: int = 0
    _said: bool = False
    _waiting: trio.lowlevel.ParkingLot = Factory(trio.lowlevel.ParkingLot)

    @property
    def is_reached(self) -> bool:
        """Must accepting wait?"""
        return self.sessions >= self.limit

    def say_once(self) -> bool:
        """Is it to be said that the bound is reached? Once, until the number has clearly fallen."""
        news, self._said = not self._said, True
        return news

    def enter(self) -> None:
        """A session begins."""
        self.sessions += 1

    def leave(self) -> None:
        """A session is over; one that waits to accept goes on."""
        self.sessions -= 1
        if self.sessions < self.limit * _CLEARLY_FALLEN:
            self._said = False
        self._waiting.unpark()

    async def room(self) -> None:
        """Wait until there may be room; ask again, others wait too."""
        await self._waiting.park()
