"""A worker as control sees it: its line, what it has counted, and what it was asked and has not answered yet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import trio
from attrs import asdict, define, field, fields

from mailproxy.ipc.channel import Channel, Message, batch_by_size
from mailproxy.pool import Counts
from mailproxy.proxy.backend.backend import Backend


@define(eq=False)
class WorkerHandle:
    """``is_fresh``: it was forked for this control, and knows nothing; ``is_late``: it left a question open for too long."""

    channel: Channel = field(repr=False)
    slot: int
    pid: int
    is_new: bool = True
    is_registered: bool = False
    is_ready: bool = False
    is_unresponsive: bool = False
    counts: dict[tuple[str, int], Counts] = field(factory=dict, repr=False)

    @property
    def name(self) -> str:
        """As a helper in the log."""
        return f"line to worker {self.slot + 1}"


@define(eq=False)
class PendingAcks:
    """A question to workers: who has not answered yet, and what the answers come to."""

    asked: set[WorkerHandle]
    requeued: int = 0
    _over: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._check_complete()

    def ack(self, link: WorkerHandle, requeued: int = 0) -> None:
        """A worker has answered, or is gone."""
        self.asked.discard(link)
        self.requeued += requeued
        self._check_complete()

    def _check_complete(self) -> None:
        if not self.asked:
            self._over.set()

    async def wait(self, seconds: float) -> None:
        """Wait for all answers; who gives none in that time is not waited for the next time."""
        with trio.move_on_after(seconds):
            await self._over.wait()
        for link in self.asked:
            link.is_unresponsive = True


_OF_SESSIONS = ("sessions", "connect_errors", "retries", "redispatches")  # the others are counted in control


def changed_counters(backends: Iterable[Backend], told: dict[tuple[str, int], Counts]) -> Iterable[Message]:
    """What a worker has counted, in messages, as far as it is not as it was ``told`` before."""
    for backend in backends:
        news: list[tuple[int, dict[str, object]]] = []
        for number, server in enumerate(backend.servers):
            if told.get((backend.name, number)) != server.counts:
                values = asdict(server.counts)
                told[backend.name, number] = Counts(**values)
                news.append((number, values))
        for some in batch_by_size(news):
            yield {"counts": backend.name, "servers": some}


def apply_counters(link: WorkerHandle, message: Message) -> None:
    """What ``counts_of`` gave."""
    for number, values in message["servers"]:
        link.counts[message["counts"], number] = Counts(**values)


def add_counts(total: Counts, more: Counts) -> None:
    """What several processes have counted of a server; the most at once was over all of them already."""
    for name in _OF_SESSIONS:
        setattr(total, name, getattr(total, name) + getattr(more, name))
    total.most_sessions = max(total.most_sessions, more.most_sessions)


class Totals:
    """What all workers have counted, those that are gone included, and control itself."""

    def __init__(self, backends: Mapping[str, Backend]) -> None:
        self._backends = backends
        self._gone: dict[tuple[str, int], Counts] = {}

    def absorb(self, link: WorkerHandle) -> None:
        """A worker is gone; what it counted stays."""
        for server, counts in link.counts.items():
            add_counts(self._gone.setdefault(server, Counts()), counts)

    def of(self, backend: str, number: int, links: Iterable[WorkerHandle]) -> Counts:
        """What happened at a server so far."""
        own = self._backends[backend].servers[number].counts
        total = Counts(**{each.name: getattr(own, each.name) for each in fields(Counts)})
        for found in (self._gone, *(link.counts for link in links)):
            if (counts := found.get((backend, number))) is not None:
                add_counts(total, counts)
        return total

    def sessions(self, links: Iterable[WorkerHandle]) -> int:
        """How many sessions servers have had."""
        links = list(links)
        return sum(
            self.of(name, number, links).sessions
            for name, backend in self._backends.items()
            for number in range(len(backend.servers))
        )
