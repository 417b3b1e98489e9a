"""One worker, as the control process sees it, and acknowledgements of messages to several of them."""

from __future__ import annotations

import trio
from attrs import define, field

from mailproxy.ipc.channel import Channel
from mailproxy.log import Record
from mailproxy.proxy.session.summary import SessionSummary
from mailproxy.workers.messages import Message


@define(eq=False)
class WorkerHandle:
    """A connected worker.

    Attributes:
        channel: The channel to it.
        slot: Its slot, from 0.
        pid: Its process id.
        is_new: Whether it knows nothing of the servers yet.
        is_registered: Whether it has sent Register.
        is_ready: Whether it listens on all binds.
        is_leaving: Whether a reload has made the workers fewer, and it drains.
        generation: The number of the configuration that it uses.
        is_unresponsive: Whether it has missed an acknowledgement and has sent nothing since.
    """

    channel: Channel[Message] = field(repr=False)
    slot: int
    pid: int
    is_new: bool = True
    is_registered: bool = False
    is_ready: bool = False
    is_leaving: bool = False
    generation: int = 1
    is_unresponsive: bool = False

    @property
    def name(self) -> str:
        """The helper that serves its channel, as the log names it."""
        return f"channel to worker {self.slot + 1}"


@define(eq=False)
class PendingAcks:
    """The acknowledgements that are still missing for one message.

    Attributes:
        waiting_for: The workers that have not acknowledged it yet.
        requeued: The sum of the sessions that the acknowledgements name.
        sessions: The sessions that workers have sent before they acknowledged.
        records: What they have logged last, likewise.
    """

    waiting_for: set[WorkerHandle]
    requeued: int = 0
    sessions: list[SessionSummary] = field(factory=list)
    records: list[Record] = field(factory=list)
    _complete: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._check_complete()

    def ack(self, worker: WorkerHandle, requeued: int = 0) -> None:
        """Note that a worker has acknowledged, or that it is gone."""
        self.waiting_for.discard(worker)
        self.requeued += requeued
        self._check_complete()

    def _check_complete(self) -> None:
        if not self.waiting_for:
            self._complete.set()

    async def wait(self, seconds: float) -> None:
        """Wait for all acknowledgements, up to a timeout. Workers that miss it count as unresponsive."""
        with trio.move_on_after(seconds):
            await self._complete.wait()
        for worker in self.waiting_for:
            worker.is_unresponsive = True
