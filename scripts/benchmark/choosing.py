"""What the decisions cost: choosing among a hundred servers in each way, and a stick table of 200,000 clients.

Pure code without sockets, so the figures are times of calls: medians of several runs, in microseconds.
"""

from __future__ import annotations

import random
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable

from mailproxy.pool import (
    Balance,
    First,
    LeastConn,
    Pool,
    Random,
    RoundRobin,
    Server,
    Source,
    StickTable,
    key_of,
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
    """The time of one call: the median of several runs."""
    times = []
    for run in range(RUNS):
        began = time.perf_counter()
        for number in range(calls):
            call(run * calls + number)
        times.append((time.perf_counter() - began) / calls * 1e6)
    return statistics.median(times)


def choosing(name: str, balance: Balance) -> None:
    chosen_from = pool(balance)

    def come_and_go(number: int) -> None:
        if (server := chosen_from.enter(number.to_bytes(17, "big"))) is not None:
            chosen_from.leave(server)

    print(
        f"a place among {SERVERS} servers, taken and given back, {name:10} {microseconds(come_and_go):6.1f} µs"
    )


def sticking() -> None:
    hosts = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(2 * ENTRIES)]
    keys = [key_of(host) for host in hosts]
    tracemalloc.start()
    table = StickTable(ENTRIES, 1800.0)
    for key in keys[:ENTRIES]:
        table.learn(key, 7, 0.0)
    mebibytes = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    print(f"a stick table with {len(table)} entries: {mebibytes:.0f} MiB")
    found = microseconds(lambda number: table.find(keys[number * 7919 % ENTRIES], 1.0))
    full = microseconds(lambda number: table.learn(keys[ENTRIES + number], 7, 2.0))
    print(f"looking a client up {found:.2f} µs; learning one in place of the oldest {full:.2f} µs")
    print(f"the key of an address {microseconds(lambda number: key_of(hosts[number])):.2f} µs")


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
    return 0


if __name__ == "__main__":
    sys.exit(main())
