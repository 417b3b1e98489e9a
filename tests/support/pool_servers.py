"""Servers for the tests of the pool, and what they were chosen for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from random import Random as Dice

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
BALANCES = 5  # kinds


def seeded_random(seed: int) -> RandomSource:
    """The same throws each time."""
    return Dice(seed)  # noqa: S311 - nothing is to be kept secret


def make_servers(*weights: int, max_sessions: int = 0) -> list[Server]:
    """Servers s0, s1 and so on, of these weights."""
    return [
        Server(f"s{number}", weight=weight, addresses=ADDRESS, max_sessions=max_sessions)
        for number, weight in enumerate(weights)
    ]


def balances(servers: Sequence[Server]) -> list[Balance]:
    """One of each kind, for these servers."""
    mean = sum(server.weight for server in servers) / max(1, len(servers)) or 1.0
    kinds = [LeastConn(), RoundRobin(), Source(mean_weight=mean), First(), Random(seeded_random(1))]
    for balance in kinds:
        balance.set_servers(servers)
    return kinds


def names(chosen: Iterable[Server | None]) -> list[str]:
    return ["nobody" if server is None else server.name for server in chosen]


def counts(chosen: Iterable[Server | None]) -> Counter[str]:
    return Counter(names(chosen))


def clients(number: int) -> list[bytes]:
    """Keys as of so many clients with addresses that follow each other."""
    return [(0x0A000000 + client).to_bytes(4, "big") for client in range(number)]


def make_pool(*servers: Server, max_queue: int = 0, stick: StickTable | None = None) -> Pool[Server]:
    """Where each server has its turn."""
    return Pool(servers, RoundRobin(), max_queue=max_queue, stick=stick)


def eligible_servers(pool: Pool[Server]) -> list[Server]:
    """Who takes the sessions that come, as far as that has room."""
    entered: list[Server] = []
    while (server := pool.acquire(excluded=entered)) is not None:
        entered.append(server)
        if server in entered[:-1]:
            break
    for server in entered:
        pool.release(server)
    return list(dict.fromkeys(entered))
