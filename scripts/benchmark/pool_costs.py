"""Measures the pool's decisions: choosing a server, a large stick table, limits per client.

The code has no sockets, so the figures are processor times of calls: medians of several runs, in
microseconds.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

from mailproxy.pool import (
    RATE_CLIENTS_MAX,
    Balance,
    ClientLimits,
    CountTable,
    First,
    LeastConn,
    Pool,
    Published,
    Random,
    RateCounts,
    RoundRobin,
    Server,
    SessionCounts,
    Source,
    StickTable,
    client_hash,
    client_key,
    words_for,
)

SERVERS, ENTRIES = 100, 200_000
RUNS, CALLS = 7, 20_000
ADDRESS = (("192.0.2.1", 143),)


def busy_pool(balance: Balance, max_sessions: int = 0) -> Pool[Server]:
    """Return a pool in which every server has sessions."""
    servers = [
        Server(f"s{number}", weight=1 + number % 7, addresses=ADDRESS, max_sessions=max_sessions)
        for number in range(SERVERS)
    ]
    pool = Pool(servers, balance)
    random_source = random.Random(1)  # noqa: S311 - no secrets here
    for server in servers:
        server.sessions = random_source.randrange(1, 20)
    return pool


def microseconds(call: Callable[[int], object], calls: int = CALLS) -> float:
    """Return the processor time of one call: the median of several runs."""
    times = []
    for run in range(RUNS):
        started = time.process_time()
        for number in range(calls):
            call(run * calls + number)
        times.append((time.process_time() - started) / calls * 1e6)
    return statistics.median(times)


def measure_balance(name: str, balance: Balance) -> None:
    pool = busy_pool(balance)

    def acquire_and_release(number: int) -> None:
        if (server := pool.acquire(number.to_bytes(17, "big"))) is not None:
            pool.release(server)

    print(
        f"a slot among {SERVERS} servers, acquired and released, {name:10} "
        f"{microseconds(acquire_and_release):6.1f} µs"
    )


def measure_stick_table() -> None:
    hosts = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(2 * ENTRIES)]
    keys = [client_key(host) for host in hosts]
    tracemalloc.start()
    table = StickTable(ENTRIES, 1800.0)
    for key in keys[:ENTRIES]:
        table.store(key, 7, 0.0)
    mebibytes = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    print(f"a stick table with {len(table)} entries: {mebibytes:.0f} MiB")
    lookup = microseconds(lambda number: table.lookup(keys[number * 7919 % ENTRIES], 1.0))
    store = microseconds(lambda number: table.store(keys[ENTRIES + number], 7, 2.0))
    print(f"looking a client up {lookup:.2f} µs; storing one in place of the oldest {store:.2f} µs")
    print(f"the key of an address {microseconds(lambda number: client_key(hosts[number])):.2f} µs")


def measure_client_limits(workers: int) -> None:
    """Measure one worker. The tables of the others are empty."""
    hosts = [f"10.0.{number >> 8 & 255}.{number & 255}" for number in range(CALLS)]
    sessions, rates = (_published(workers) if workers > 1 else None for _ in range(2))
    limits = ClientLimits(
        max_sessions=1000, max_rate=65_535,
        sessions=SessionCounts(sessions), rates=RateCounts(60.0, published=rates),
    )  # fmt: skip

    def start_and_end(number: int) -> None:
        client = client_key(hosts[number % CALLS], prefix_v6=64)
        if workers > 1:
            client = client_hash(client, b"secret")
        if limits.add(client, number / 1000) is None:
            limits.remove(client)

    print(f"a session under both limits per client, workers: {workers} {microseconds(start_and_end):6.1f} µs")


def _published(workers: int) -> Published:
    own, *others = (
        CountTable(memoryview(bytearray(8 * words_for(RATE_CLIENTS_MAX))).cast("Q")) for _ in range(workers)
    )
    return Published(own, others)


def main() -> int:
    random_source = random.Random(1)  # noqa: S311 - no secrets here
    for name, balance in (
        ("leastconn", LeastConn()),
        ("roundrobin", RoundRobin()),
        ("source", Source(mean_weight=4.0)),
        ("first", First()),
        ("random", Random(random_source)),
    ):
        measure_balance(name, balance)
    measure_stick_table()
    for workers in (1, 2, 4):
        measure_client_limits(workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
