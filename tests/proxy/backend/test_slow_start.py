"""Slow start: a server that comes up gets its sessions gradually. A backend alone, with a simulated clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from mailproxy.pool import AdminState, Waiter
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from tests.support.proxy.check_harness import PASSED, REFUSED, make_backend

SLOW_S = 20.0
STEP_S = 1.0  # the weight grows in steps of a twentieth of the time


@asynccontextmanager
async def slow_backend(
    *changes: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[Backend, BackendServer, BackendServer]]:
    """Yield a backend and its servers ``s1``, with slow start, and ``s2``. Both have passed a check.

    ``changes`` are merged into the tables of the servers.
    """
    tables = [
        {"name": name, "address": "127.0.0.1:143", **change}
        for name, change in zip(("s1", "s2"), changes or ({}, {}), strict=True)
    ]
    tables[0].setdefault("slow_start", f"{SLOW_S}s")
    backend = make_backend(*tables, check={"type": "tcp", "rise": 1, "fall": 1}, **settings)
    slow_server, other_server = backend.servers
    for server in (slow_server, other_server):
        backend.record_check(server, CheckOutcome(PASSED, 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.run_timers)
        await trio.lowlevel.checkpoint()
        yield backend, slow_server, other_server
        nursery.cancel_scope.cancel()


def down_and_up(backend: Backend, server: BackendServer) -> None:
    backend.record_check(server, CheckOutcome(REFUSED, 0))
    assert not server.is_usable
    backend.record_check(server, CheckOutcome(PASSED, 0))


def maintenance_and_ready(backend: Backend, server: BackendServer) -> None:
    backend.set_state(server, AdminState.MAINT)
    assert not server.is_usable
    backend.set_state(server, AdminState.READY)


EACH_RETURN = pytest.mark.parametrize("come_back", [down_and_up, maintenance_and_ready])


def share(backend: Backend, server: BackendServer, count: int = 200) -> float:
    """Return the share of this number of sessions that the server gets now."""
    chosen = [backend.acquire(None) for _ in range(count)]
    for server_chosen in chosen:
        assert server_chosen is not None
        backend.pool.release(server_chosen)
    return chosen.count(server) / count


def free_slots(backend: Backend, server: BackendServer) -> int:
    """Return how many sessions the server takes now."""
    count = 0
    while backend.acquire(None, required=server) is not None:
        count += 1
    for _ in range(count):
        backend.pool.release(server)
    return count


@EACH_RETURN
@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "random"])
async def test_share_of_sessions_grows(autojump_clock: MockClock, come_back: Any, balance: str) -> None:
    async with slow_backend(balance=balance) as (backend, slow_server, _):
        come_back(backend, slow_server)
        shares = []
        for _ in range(5):
            shares.append(share(backend, slow_server))
            await trio.sleep(SLOW_S / 4)
        assert shares[0] <= 0.05
        assert all(later > earlier - 0.06 for earlier, later in pairwise(shares))
        halfway = 0.5 / 1.5  # half the weight of the other server
        assert shares[2] == pytest.approx(halfway, abs=0.09)
        await trio.sleep(STEP_S)
        assert share(backend, slow_server) == pytest.approx(0.5, abs=0.09)
        assert slow_server.throttle == 1.0


@EACH_RETURN
async def test_slots_grow_from_one_to_all(autojump_clock: MockClock, come_back: Any) -> None:
    async with slow_backend({"max_sessions": 40}, {}) as (backend, slow_server, _):
        assert free_slots(backend, slow_server) == 40
        come_back(backend, slow_server)
        counts = []
        for _ in range(int(SLOW_S) + 2):
            counts.append(free_slots(backend, slow_server))
            await trio.sleep(STEP_S)
        assert counts[0] == 1
        assert counts == sorted(counts)
        assert counts[-1] == 40
        for second, count in enumerate(counts[: int(SLOW_S)]):
            assert abs(count - 40 * second / SLOW_S) <= 40 * (STEP_S / SLOW_S) + 1


async def test_proxy_start_is_not_slow(autojump_clock: MockClock) -> None:
    async with slow_backend({"max_sessions": 40}, {}) as (backend, slow_server, _):
        assert share(backend, slow_server, 20) == 0.5
        assert free_slots(backend, slow_server) == 40


async def test_leaving_drain_is_not_slow(autojump_clock: MockClock) -> None:
    async with slow_backend() as (backend, slow_server, _):
        backend.set_state(slow_server, AdminState.DRAIN)
        assert share(backend, slow_server) == 0
        backend.set_state(slow_server, AdminState.READY)
        assert share(backend, slow_server) == 0.5


async def test_server_without_slow_start_is_not_slow(autojump_clock: MockClock) -> None:
    async with slow_backend() as (backend, _, other_server):
        down_and_up(backend, other_server)
        assert share(backend, other_server) == 0.5


@EACH_RETURN
async def test_queued_sessions_are_served_gradually(autojump_clock: MockClock, come_back: Any) -> None:
    """First come, first served. No queued session has to leave."""
    async with slow_backend({"max_sessions": 20}, {"weight": 0}) as (backend, slow_server, _):
        come_back(backend, slow_server)
        assert backend.acquire(None) is slow_server
        served: list[tuple[int, float]] = []
        start = trio.current_time()

        def enqueue(number: int) -> None:
            waiter: Waiter[BackendServer] = Waiter(
                lambda: served.append((number, trio.current_time() - start))
            )
            assert backend.pool.enqueue(waiter)

        for number in range(30):
            assert backend.acquire(None) is None
            enqueue(number)
        await trio.sleep(SLOW_S + 2 * STEP_S)
        numbers, times = zip(*served, strict=True)
        assert list(numbers) == list(range(19)), "20 with the first session"
        for number, time in served:
            expected_time = SLOW_S * (number + 2) / 20
            assert expected_time - STEP_S <= time <= expected_time + STEP_S
        assert max(later - earlier for earlier, later in pairwise(times)) <= 2 * STEP_S
        assert backend.pool.waiting == 11


async def test_down_during_slow_start_restarts_growth(autojump_clock: MockClock) -> None:
    async with slow_backend({"max_sessions": 40}, {}) as (backend, slow_server, _):
        down_and_up(backend, slow_server)
        await trio.sleep(SLOW_S * 0.75)
        assert free_slots(backend, slow_server) > 25
        down_and_up(backend, slow_server)
        assert free_slots(backend, slow_server) == 1
        await trio.sleep(SLOW_S / 2)
        assert 15 <= free_slots(backend, slow_server) <= 25
        await trio.sleep(SLOW_S)
        assert free_slots(backend, slow_server) == 40


async def test_each_slow_start_takes_full_time(autojump_clock: MockClock) -> None:
    async with slow_backend({"max_sessions": 40}, {}) as (backend, slow_server, _):
        for _ in range(3):
            down_and_up(backend, slow_server)
            assert free_slots(backend, slow_server) == 1
            await trio.sleep(SLOW_S / 2)
            assert 15 <= free_slots(backend, slow_server) <= 25
            await trio.sleep(SLOW_S)
            assert free_slots(backend, slow_server) == 40
            await trio.sleep(1000)


async def test_two_servers_start_slowly_independently(autojump_clock: MockClock) -> None:
    slow = {"slow_start": "20s", "max_sessions": 40}
    async with slow_backend(slow, slow) as (backend, slow_server, other_server):
        down_and_up(backend, slow_server)
        await trio.sleep(10)
        down_and_up(backend, other_server)
        await trio.sleep(5)
        assert free_slots(backend, slow_server) > free_slots(backend, other_server) > 5
        await trio.sleep(SLOW_S)
        assert (free_slots(backend, slow_server), free_slots(backend, other_server)) == (40, 40)


async def test_short_slow_start_ends_in_time(autojump_clock: MockClock) -> None:
    async with slow_backend({"slow_start": "300ms", "max_sessions": 40}, {}) as (backend, slow_server, _):
        down_and_up(backend, slow_server)
        assert free_slots(backend, slow_server) == 1
        await trio.sleep(0.31)
        assert free_slots(backend, slow_server) == 40


async def test_only_server_takes_sessions_during_slow_start(autojump_clock: MockClock) -> None:
    async with slow_backend({}, {"weight": 0}) as (backend, slow_server, _):
        down_and_up(backend, slow_server)
        assert share(backend, slow_server) == 1


async def test_snapshot_continues_slow_start(autojump_clock: MockClock) -> None:
    """Also when the snapshot contains no other change of the server."""
    async with (
        slow_backend({"max_sessions": 40}, {}) as (backend, slow_server, _),
        slow_backend({"max_sessions": 40}, {}) as (other, other_copy, _),
    ):
        down_and_up(backend, slow_server)
        await trio.sleep(SLOW_S / 2)
        other.apply_snapshot(other_copy, ServerSnapshot.capture(slow_server, trio.current_time()))
        assert 15 <= free_slots(other, other_copy) <= 25
        await trio.sleep(SLOW_S / 2 + 2 * STEP_S)
        assert free_slots(other, other_copy) == 40


async def test_snapshot_ends_slow_start(autojump_clock: MockClock) -> None:
    async with (
        slow_backend({"max_sessions": 40}, {}) as (_, slow_server, _),
        slow_backend({"max_sessions": 40}, {}) as (other, other_copy, _),
    ):
        other.record_check(other_copy, CheckOutcome(REFUSED, 0))
        other.apply_snapshot(other_copy, ServerSnapshot.capture(slow_server, trio.current_time()))
        assert free_slots(other, other_copy) == 40
        assert share(other, other_copy, 20) == 0.5
