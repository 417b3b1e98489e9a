"""What the decisions cost: choosing among a hundred servers, a stick table of 200,000 clients, limits per client.

Pure code without sockets, so the figures are processor times of calls: medians of several runs, in microseconds.
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


def pool(balance: Balance, most: int = 0) -> Pool[Server]:
    servers = [
        Server(f"s{number}", weight=1 + number % 7, addresses=ADDRESS, max_sessions=most)
        for number in range(SERVERS)
    ]
    made = Pool(servers, balance)
    dice = random.Random(1)  # noqa: S311 - nothing is to be kept secret
    for server in servers:  # a busy pool: nobody is idle
        server.sessions = dice.randrange(1, 20)
    return made


def microseconds(call: Callable[[int], object], calls: int = CALLS) -> float:
    """The processor time of one call: the median of several runs."""
    times = []
    for run in range(RUNS):
        began = time.process_time()
        for number in range(calls):
            call(run * calls + number)
        times.append((time.process_time() - began) / calls * 1e6)
    return statistics.median(times)


def choosing(name: str, balance: Balance) -> None:
    chosen_from = pool(balance)

    def come_and_go(number: int) -> None:
        if (server := chosen_from.acquire(number.to_bytes(17, "big"))) is not None:
            chosen_from.release(server)

    print(
        f"a place among {SERVERS} servers, taken and given back, {name:10} {microseconds(come_and_go):6.1f} µs"
    )


def sticking() -> None:
    hosts = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(2 * ENTRIES)]
    keys = [client_key(host) for host in hosts]
    tracemalloc.start()
    table = StickTable(ENTRIES, 1800.0)
    for key in keys[:ENTRIES]:
        table.store(key, 7, 0.0)
    mebibytes = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    print(f"a stick table with {len(table)} entries: {mebibytes:.0f} MiB")
    found = microseconds(lambda number: table.lookup(keys[number * 7919 % ENTRIES], 1.0))
    full = microseconds(lambda number: table.store(keys[ENTRIES + number], 7, 2.0))
    print(f"looking a client up {found:.2f} µs; learning one in place of the oldest {full:.2f} µs")
    print(f"the key of an address {microseconds(lambda number: client_key(hosts[number])):.2f} µs")


def limiting(workers: int) -> None:
    """One worker among others, whose tables are empty."""
    hosts = [f"10.0.{number >> 8 & 255}.{number & 255}" for number in range(CALLS)]
    sessions, rates = (_published(workers) if workers > 1 else None for _ in range(2))
    limits = ClientLimits(
        max_sessions=1000, max_rate=65_535,
        sessions=SessionCounts(sessions), rates=RateCounts(60.0, published=rates),
    )  # fmt: skip

    def come_and_go(number: int) -> None:
        client = client_key(hosts[number % CALLS], prefix_v6=64)
        if workers > 1:
            client = client_hash(client, b"secret")
        if limits.add(client, number / 1000) is None:
            limits.remove(client)

    print(f"a session under both limits per client, workers: {workers} {microseconds(come_and_go):6.1f} µs")


def _published(workers: int) -> Published:
    own, *others = (
        CountTable(memoryview(bytearray(8 * words_for(RATE_CLIENTS_MAX))).cast("Q")) for _ in range(workers)
    )
    return Published(own, others)


def main() -> int:
    dice = random.Random(1)  # noqa: S311 - nothing is to be kept secret
    for name, balance in (
        ("leastconn", LeastConn()),
        ("roundrobin", RoundRobin()),
        ("source", Source(mean_weight=4.0)),
        ("first", First()),
        ("random", Random(dice)),
    ):
        choosing(name, balance)
    sticking()
    for workers in (1, 2, 4):
        limiting(workers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
