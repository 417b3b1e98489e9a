"""What is counted of each server: workers send it, the control process adds it up."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

from attrs import evolve

from mailproxy.pool import Counts, Server
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.stats import LiveBytes, Traffic, TrafficKey
from mailproxy.workers.admin_messages import (
    TrafficUpdates,
)
from mailproxy.workers.messages import (
    CounterUpdates,
    batch_by_size,
)

ServerKey = tuple[str, str]
"""A server: the name of its backend, and its own. Over a reload its counters stay with them."""

# The other counters are the control process's own.
_SUMMED = ("sessions", "connect_errors", "retries", "redispatches")


def changed_counters(backends: Iterable[Backend], sent: dict[ServerKey, Counts]) -> Iterator[CounterUpdates]:
    """Yield the counters of this worker that differ from those in ``sent``, and note them there."""
    for backend in backends:
        changed: list[tuple[str, Counts]] = []
        for server in backend.servers:
            if sent.get((backend.name, server.name)) != server.counts:
                sent[backend.name, server.name] = counts = evolve(server.counts)
                changed.append((server.name, counts))
        for part in batch_by_size(changed):
            yield CounterUpdates(backend.name, part)


def changed_traffic(
    frontends: Mapping[str, Traffic],
    backends: Iterable[Backend],
    sent: dict[TrafficKey, Traffic],
    live: LiveBytes,
) -> Iterator[TrafficUpdates]:
    """Yield the traffic of this worker that differs from that in ``sent``, and note it there.

    ``live`` are the bytes of sessions that have not ended.
    """
    backends = list(backends)
    groups: list[tuple[str, str, Iterable[tuple[str, Traffic]]]] = [
        ("frontend", "", frontends.items()),
        ("backend", "", [(backend.name, backend.traffic) for backend in backends]),
        *(
            (
                "server",
                backend.name,
                [(server.name, server.traffic) for server in backend.servers],
            )
            for backend in backends
        ),
    ]
    for kind, owner, all_traffic in groups:
        changed: list[tuple[str, Traffic]] = []
        for name, ended in all_traffic:
            traffic = live.add_to(ended, (kind, owner, name))
            if sent.get((kind, owner, name)) != traffic:
                sent[kind, owner, name] = copy = traffic.copy()
                changed.append((name, copy))
        for part in batch_by_size(changed):
            yield TrafficUpdates(kind, owner, part)


def apply_traffic(traffic: dict[TrafficKey, Traffic], message: TrafficUpdates) -> None:
    """Store what a worker has sent in ``traffic``."""
    for name, each in message.entries:
        traffic[message.kind, message.owner, name] = each


class TrafficTotals:
    """The traffic of all processes, including workers that have exited."""

    def __init__(self) -> None:
        self._exited: dict[TrafficKey, Traffic] = {}

    def absorb(self, traffic: Mapping[TrafficKey, Traffic]) -> None:
        """Keep what a worker has counted that has exited."""
        for key, each in traffic.items():
            self._exited.setdefault(key, Traffic()).add(each)

    def retire(self, present: Container[TrafficKey], workers: Iterable[dict[TrafficKey, Traffic]]) -> None:
        """Forget what a reload has removed. It counts from 0 if it comes back."""
        for traffic in (self._exited, *workers):
            for key in [key for key in traffic if key not in present]:
                del traffic[key]

    def of(self, key: TrafficKey, workers: Iterable[Mapping[TrafficKey, Traffic]]) -> Traffic:
        """Return the sum; ``workers`` has the traffic of each connected worker."""
        total = Traffic()
        for traffic in (self._exited, *workers):
            if (each := traffic.get(key)) is not None:
                total.add(each)
        return total


def apply_counters(counts: dict[ServerKey, Counts], message: CounterUpdates) -> None:
    """Store what a worker has counted in ``counts``."""
    for name, counted in message.servers:
        counts[message.backend, name] = counted


def add_counts(total: Counts, more: Counts) -> None:
    """Add what another process has counted of a server.

    ``most_sessions`` is the maximum and not the sum: each worker compares it with the sessions of all of
    them.
    """
    for name in _SUMMED:
        setattr(total, name, getattr(total, name) + getattr(more, name))
    total.most_sessions = max(total.most_sessions, more.most_sessions)


class Totals:
    """The counters of all servers over all processes, including workers that have exited."""

    def __init__(self) -> None:
        self._exited: dict[ServerKey, Counts] = {}
        self._retired_sessions = 0  # of servers that a reload has removed

    def absorb(self, counts: Mapping[ServerKey, Counts]) -> None:
        """Keep what a worker has counted that has exited."""
        for server, counted in counts.items():
            add_counts(self._exited.setdefault(server, Counts()), counted)

    def of(self, backend: str, server: Server, workers: Iterable[Mapping[ServerKey, Counts]]) -> Counts:
        """Return the counters of a server; ``workers`` has those of each connected worker."""
        total = evolve(server.counts)
        for counts in (self._exited, *workers):
            if (counted := counts.get((backend, server.name))) is not None:
                add_counts(total, counted)
        return total

    def sessions(self, workers: Iterable[Mapping[ServerKey, Counts]]) -> int:
        """Return the number of sessions that servers have had."""
        counted = (each.sessions for counts in (self._exited, *workers) for each in counts.values())
        return self._retired_sessions + sum(counted)

    def retire(self, present: Container[ServerKey], workers: Iterable[dict[ServerKey, Counts]]) -> None:
        """Forget the servers that a reload has removed. They count from 0 if they come back."""
        for counts in (self._exited, *workers):
            for key in [key for key in counts if key not in present]:
                self._retired_sessions += counts.pop(key).sessions
