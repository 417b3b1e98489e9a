"""The connected workers: what is sent to all of them, and what they acknowledge."""

from __future__ import annotations

from collections.abc import Hashable

from attrs import evolve

from mailproxy.workers.control.worker_handle import PendingAcks, WorkerHandle
from mailproxy.workers.messages import (
    Ack,
    AckedMessage,
    Message,
    RecentRecords,
    Sessions,
)
from mailproxy.workers.records import unpack


class WorkerRegistry:
    """All connected workers.

    Attributes:
        workers: The workers, in the order in which they connected.
    """

    def __init__(self) -> None:
        self.workers: list[WorkerHandle] = []
        self._pending: dict[int, PendingAcks] = {}
        self._last_number = 0

    def add(self, worker: WorkerHandle) -> None:
        """Add a worker."""
        self.workers.append(worker)

    def remove(self, worker: WorkerHandle) -> None:
        """Remove a worker that is gone. Its acknowledgements are not waited for."""
        self.workers.remove(worker)
        for acks in self._pending.values():
            acks.ack(worker)

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

    def add_records(self, message: RecentRecords) -> None:
        """Take records that were asked for, likewise."""
        if (acks := self._pending.get(message.request)) is not None:
            acks.records.extend(map(unpack, message.records))

    async def wait_for_acks(self, acks: PendingAcks, seconds: float) -> None:
        """Wait for acknowledgements, up to a timeout."""
        await acks.wait(seconds)
        self._pending = {number: each for number, each in self._pending.items() if each is not acks}
