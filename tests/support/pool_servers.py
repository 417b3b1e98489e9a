"""Servers, balances and pools for the tests of `mailproxy.pool`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random as SeededRandom

from mailproxy.pool import (
    Balance,
    First,
    LeastConn,
    Pool,
    Random,
    RandomSource,
    RoundRobin,
    Server,
    Source,
    StickTable,
)

ADDRESS = (("192.0.2.1", 143),)
BALANCES = 5  # kinds of balance


def seeded_random(seed: int) -> RandomSource:
    """Return a source of the same numbers in each run."""
    return SeededRandom(seed)  # noqa: S311 - no secret depends on it


def make_servers(*weights: int, max_sessions: int = 0) -> list[Server]:
    """Return servers s0, s1 and so on, with these weights."""
    return [
        Server(f"s{number}", weight=weight, addresses=ADDRESS, max_sessions=max_sessions)
        for number, weight in enumerate(weights)
    ]


def balances(servers: Sequence[Server]) -> list[Balance]:
    """Return one balance of each kind, for these servers."""
    mean = sum(server.weight for server in servers) / max(1, len(servers)) or 1.0
    kinds = [LeastConn(), RoundRobin(), Source(mean_weight=mean), First(), Random(seeded_random(1))]
    for balance in kinds:
        balance.set_servers(servers)
    return kinds


def names(chosen: Iterable[Server | None]) -> list[str]:
    """Return the servers' names, with `none` where no server was chosen."""
    return ["none" if server is None else server.name for server in chosen]


def counts(chosen: Iterable[Server | None]) -> Counter[str]:
    return Counter(names(chosen))


def clients(number: int) -> list[bytes]:
    """Return the keys of as many clients with consecutive addresses."""
    return [(0x0A000000 + client).to_bytes(4, "big") for client in range(number)]


def make_pool(*servers: Server, max_queue: int = 0, stick: StickTable | None = None) -> Pool[Server]:
    """Return a pool with the balance roundrobin."""
    return Pool(servers, RoundRobin(), max_queue=max_queue, stick=stick)


def eligible_servers(pool: Pool[Server]) -> list[Server]:
    """Return the servers that get new sessions, if they have free slots."""
    acquired: list[Server] = []
    while (server := pool.acquire(excluded=acquired)) is not None:
        acquired.append(server)
        if server in acquired[:-1]:
            break
    for server in acquired:
        pool.release(server)
    return list(dict.fromkeys(acquired))
