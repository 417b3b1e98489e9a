"""The connected workers: what is sent to all of them, and what they acknowledge."""

from __future__ import annotations

from collections.abc import Hashable

from attrs import evolve

from mailproxy.config import Config
from mailproxy.pool import Counts
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.stats import Traffic
from mailproxy.workers.admin_messages import (
    Sessions,
)
from mailproxy.workers.control.worker_handle import PendingAcks, WorkerHandle
from mailproxy.workers.counters import Totals, TrafficTotals
from mailproxy.workers.messages import (
    Ack,
    AckedMessage,
    Message,
)


class WorkerRegistry:
    """All connected workers.

    Attributes:
        workers: The workers, in the order in which they connected.
    """

    def __init__(self) -> None:
        self.workers: list[WorkerHandle] = []
        self._totals = Totals()
        self._traffic = TrafficTotals()
        self._pending: dict[int, PendingAcks] = {}
        self._last_number = 0

    def add(self, worker: WorkerHandle) -> None:
        """Add a worker."""
        self.workers.append(worker)

    def remove(self, worker: WorkerHandle) -> None:
        """Remove a worker that is gone. Its counters stay, and its acknowledgements are not waited for."""
        self.workers.remove(worker)
        self._totals.absorb(worker.counts)
        self._traffic.absorb(worker.traffic)
        for acks in self._pending.values():
            acks.ack(worker)

    @property
    def total_sessions(self) -> int:
        """The number of sessions that servers have had, over all workers that this control process knew."""
        return self._totals.sessions(worker.counts for worker in self.workers)

    def counts(self, backend: str, server: BackendServer) -> Counts:
        """Return what has happened at a server, over all workers that this control process knew."""
        return self._totals.of(backend, server, [worker.counts for worker in self.workers])

    def retire_absent(self, config: Config) -> None:
        """Forget the counters of what a configuration has no longer. It counts from 0 if it comes back."""
        servers = {(name, each.name) for name, table in config.backends.items() for each in table.servers}
        self._totals.retire(servers, [worker.counts for worker in self.workers])
        traffic = {
            *(("frontend", "", name) for name in config.frontends),
            *(("backend", "", name) for name in config.backends),
            *(("server", backend, name) for backend, name in servers),
        }
        self._traffic.retire(traffic, [worker.traffic for worker in self.workers])

    def traffic(self, kind: str, owner: str, name: str) -> Traffic:
        """Return what sessions have come to, over all workers that this control process knew."""
        return self._traffic.of((kind, owner, name), [worker.traffic for worker in self.workers])

    def broadcast(self, message: Message, *, replaces: Hashable = None) -> None:
        """Queue a message for every worker. ``replaces`` as in `Channel.send_nowait`."""
        for worker in self.workers:
            worker.channel.send_nowait(message, replaces=replaces)

    def broadcast_acked(self, message: AckedMessage, *, replaces: Hashable) -> PendingAcks:
        """Queue a message for every worker, and ask for acknowledgements.

        Workers that have not registered, or are unresponsive, get the message and are not waited for. If the
        queue of a worker is full, it gets the latest message of this ``replaces`` key once it reads again,
        without an acknowledgement.

        Returns:
            What to give to `wait_for_acks`.
        """
        self._last_number += 1
        numbered, waiting_for = evolve(message, ack=self._last_number), set()
        for worker in self.workers:
            if not worker.channel.send_nowait(numbered):
                worker.channel.send_nowait(message, replaces=replaces)
            elif worker.is_registered and not worker.is_unresponsive:
                waiting_for.add(worker)
        acks = self._pending[self._last_number] = PendingAcks(waiting_for)
        return acks

    def acknowledge(self, ack: Ack, worker: WorkerHandle) -> None:
        """Take an acknowledgement. One that comes after the timeout is ignored."""
        if (acks := self._pending.get(ack.number)) is not None:
            acks.ack(worker, ack.requeued)

    def add_sessions(self, message: Sessions) -> None:
        """Take sessions that were asked for. Those that come after the timeout are ignored."""
        if (acks := self._pending.get(message.request)) is not None:
            acks.sessions.extend(message.sessions)

    async def wait_for_acks(self, acks: PendingAcks, seconds: float) -> None:
        """Wait for acknowledgements, up to a timeout."""
        await acks.wait(seconds)
        self._pending = {number: each for number, each in self._pending.items() if each is not acks}
