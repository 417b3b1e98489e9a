"""A change of a server's state, and what it did to the backend."""

from __future__ import annotations

from typing import Generic

from attrs import frozen

from mailproxy.pool.queue import S
from mailproxy.pool.server import ServerState


@frozen(kw_only=True)
class StateChange(Generic[S]):
    """A change of a server's state, and what it did to the backend.

    Attributes:
        server: The server.
        before: Its state before the change.
        after: Its state now.
        requeued: Number of waiters that required the server and moved to the queue for any, or that got a
            slot of it.
        active: Number of active servers that are usable now.
        backup: Number of backup servers that are usable now.
        backend_went_down: Whether the backend had a usable server before and has none now.
    """

    server: S
    before: ServerState
    after: ServerState
    requeued: int
    active: int
    backup: int
    backend_went_down: bool

    @property
    def went_down(self) -> bool:
        """Whether the server went down or into maintenance."""
        return self.before.is_serving and not self.after.is_serving
