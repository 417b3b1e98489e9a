"""The order of waiters in a pool that one process has for itself."""

from __future__ import annotations

from typing import Any

from mailproxy.pool.queue import Queue, Waiter
from mailproxy.pool.server import Server

NEWCOMER = 2**63
"""The ticket of a session that does not wait yet. It comes after every waiter's."""


class TurnOrder:
    """The order of waiters over all queues, and over all processes that share them.

    This one is for a single process. Tickets come from a counter. There are no waiters elsewhere, so the
    pool's own queues decide. ``SharedTurnOrder`` adds the waiters of other processes.

    Attributes:
        is_shared: Whether a free slot can be reserved for a waiter of another process.
        waiting: Number of waiters in all processes.
    """

    is_shared = False
    waiting: int

    def __init__(self) -> None:
        self.waiting = 0
        self._last_ticket = 0

    def next_ticket(self) -> int:
        """Return a ticket that comes after those of all waiters."""
        self._last_ticket += 1
        return self._last_ticket

    def is_behind(self, ticket: int, server: Server | None) -> bool:  # noqa: ARG002 - no other process has waiters
        """Return True if an earlier waiter than ``ticket`` is in the queue of ``server`` in some process.

        ``server`` None is the queue for any server. The caller has compared the tickets of its own waiters.
        """
        return False

    def waiting_for(self, server: Server, waiting: int) -> int:  # noqa: ARG002 - no other process has waiters
        """Return the number of waiters in all processes that require ``server``; ``waiting`` is that of this one."""
        return waiting

    def queue_changed(self, server: Server | None, queue: Queue[Waiter[Any]], waiting: int) -> None:  # noqa: ARG002 - the count is enough
        """Take note of a queue of this process that has changed.

        Args:
            server: The server that the queue belongs to, None for the queue for any server.
            queue: The queue as it is now.
            waiting: Number of waiters in all queues of this process.
        """
        self.waiting = waiting

    def wake_next(self, server: Server | None) -> None:
        """Wake the process whose waiter is next: at ``server``, or at any server if None."""
