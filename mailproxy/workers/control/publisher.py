"""Publishes what the control process finds out about servers: to the workers first, then in the log."""

from __future__ import annotations

from collections import deque
from weakref import WeakKeyDictionary

import trio
from attrs import frozen

from mailproxy.log import Log
from mailproxy.log.events import Event
from mailproxy.pool import StateChange
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.supervise import contained
from mailproxy.workers.backend import ControlBackend
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.control.worker_handle import PendingAcks
from mailproxy.workers.messages import ServerUpdates

_ACK_TIMEOUT_S = 0.2  # for workers to act on a change of a server before it is logged
_QUEUE_TURNS_S = 0.05  # for workers to serve their queues in turns, which they do after the acknowledgement
PUBLISHER_HELPER = "log of server changes"


@frozen(kw_only=True)
class _PendingChange:
    """A change that the workers have been sent, and what its log lines need."""

    acks: PendingAcks
    backend: ControlBackend
    change: StateChange[BackendServer]
    event: Event
    outcome: CheckOutcome | None
    sessions: int
    waiting: int


class ChangePublisher:
    """Sends news of servers to all workers, and logs changes with what the workers made of them.

    A change happens inside the step that records a check. `publish_change` does at once what must not wait,
    and `run` does the rest. So a worker that is slow to acknowledge one change never delays the next one.
    """

    def __init__(self, registry: WorkerRegistry, log: Log) -> None:
        self._registry = registry
        self._log = log
        self._published: WeakKeyDictionary[BackendServer, object] = WeakKeyDictionary()
        self._changes: deque[_PendingChange] = deque()
        self._has_changes = trio.Event()

    def mark_published(self, server: BackendServer) -> bool:
        """Note that the workers know the present state of a server; False if they knew it before."""
        state = ServerSnapshot.capture(server, trio.current_time()).comparable
        if self._published.get(server) == state:
            return False
        self._published[server] = state
        return True

    def publish_update(self, backend: ControlBackend, server: BackendServer) -> None:
        """Send the workers what is known of a server, unless they know it."""
        if self.mark_published(server):
            update = ServerUpdates((backend.snapshot(server),))
            self._registry.broadcast(update, replaces=backend.key(server))

    def publish_change(
        self,
        backend: ControlBackend,
        change: StateChange[BackendServer],
        event: Event,
        outcome: CheckOutcome | None,
    ) -> None:
        """Take a snapshot and broadcast it. `run` awaits the acknowledgements and logs the change."""
        server = change.server
        self.mark_published(server)
        # Counted before workers close the server's sessions and serve their queues.
        sessions, waiting = server.sessions, backend.pool.waiting
        update = ServerUpdates((backend.snapshot(server),))
        acks = self._registry.broadcast_acked(update, replaces=backend.key(server))
        self._changes.append(
            _PendingChange(
                acks=acks, backend=backend, change=change, event=event, outcome=outcome, sessions=sessions, waiting=waiting,
            )
        )  # fmt: skip
        self._has_changes.set()

    async def run(self) -> None:
        """Log changes in their order, until cancelled."""
        while True:
            if not self._changes:
                await self._has_changes.wait()
            self._has_changes = trio.Event()
            while self._changes:  # also those that are left when a failure has restarted this helper
                await self._log_when_acknowledged(self._changes.popleft())

    async def _log_when_acknowledged(self, pending: _PendingChange) -> None:
        requeued = 0
        # After a failure the change is logged without this figure.
        with contained(self._log, PUBLISHER_HELPER):
            await self._registry.wait_for_acks(pending.acks, _ACK_TIMEOUT_S)
            requeued = pending.acks.requeued
            if pending.waiting and pending.change.server.accepts_persistent:
                await trio.sleep(_QUEUE_TURNS_S)
                requeued = max(requeued, pending.waiting - pending.backend.pool.waiting)
        pending.backend.log_change(
            pending.change, pending.event, pending.outcome, sessions=pending.sessions, requeued=requeued
        )
