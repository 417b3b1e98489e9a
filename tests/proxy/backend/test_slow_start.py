"""A server that comes back gets its sessions little by little: under a clock that jumps, with a backend and nobody else."""

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
STEP_S = 1.0  # it grows by steps, a twentieth of the time each


@asynccontextmanager
async def growing(
    *changes: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[Backend, BackendServer, BackendServer]]:
    """A backend whose servers ``s1``, which starts slowly, and ``s2`` are known to be well; with these changes to them."""
    tables = [
        {"name": name, "address": "127.0.0.1:143", **change}
        for name, change in zip(("s1", "s2"), changes or ({}, {}), strict=True)
    ]
    tables[0].setdefault("slow_start", f"{SLOW_S}s")
    backend = make_backend(*tables, check={"type": "tcp", "rise": 1, "fall": 1}, **settings)
    one, two = backend.servers
    for server in (one, two):
        backend.record_check(server, CheckOutcome(PASSED, 0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(backend.run_timers)
        await trio.lowlevel.checkpoint()
        yield backend, one, two
        nursery.cancel_scope.cancel()


def down_and_up(backend: Backend, server: BackendServer) -> None:
    backend.record_check(server, CheckOutcome(REFUSED, 0))
    assert not server.is_usable
    backend.record_check(server, CheckOutcome(PASSED, 0))


def in_maintenance_and_out(backend: Backend, server: BackendServer) -> None:
    backend.set_state(server, AdminState.MAINT)
    assert not server.is_usable
    backend.set_state(server, AdminState.READY)


each_way_back = pytest.mark.parametrize("come_back", [down_and_up, in_maintenance_and_out])


def share(backend: Backend, server: BackendServer, count: int = 200) -> float:
    """How much of so many sessions this server gets now."""
    entered = [backend.acquire(None) for _ in range(count)]
    for each in entered:
        assert each is not None
        backend.pool.release(each)
    return entered.count(server) / count


def places(backend: Backend, server: BackendServer) -> int:
    """How many sessions it takes now."""
    count = 0
    while backend.acquire(None, required=server) is not None:
        count += 1
    for _ in range(count):
        backend.pool.release(server)
    return count


@each_way_back
@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "random"])
async def test_its_share_of_the_sessions_grows(
    autojump_clock: MockClock, come_back: Any, balance: str
) -> None:
    async with growing(balance=balance) as (backend, one, _):
        come_back(backend, one)
        shares = []
        for _ in range(5):
            shares.append(share(backend, one))
            await trio.sleep(SLOW_S / 4)
        assert shares[0] <= 0.05
        assert all(later > earlier - 0.06 for earlier, later in pairwise(shares))
        halfway = 0.5 / 1.5  # half the weight of the other
        assert shares[2] == pytest.approx(halfway, abs=0.09)
        await trio.sleep(STEP_S)
        assert share(backend, one) == pytest.approx(0.5, abs=0.09)
        assert one.throttle == 1.0


@each_way_back
async def test_its_places_grow_from_one_to_all(autojump_clock: MockClock, come_back: Any) -> None:
    async with growing({"max_sessions": 40}, {}) as (backend, one, _):
        assert places(backend, one) == 40
        come_back(backend, one)
        seen = []
        for _ in range(int(SLOW_S) + 2):
            seen.append(places(backend, one))
            await trio.sleep(STEP_S)
        assert seen[0] == 1
        assert seen == sorted(seen)
        assert seen[-1] == 40
        for second, count in enumerate(seen[: int(SLOW_S)]):
            assert abs(count - 40 * second / SLOW_S) <= 40 * (STEP_S / SLOW_S) + 1


async def test_the_start_of_the_proxy_is_no_slow_start(autojump_clock: MockClock) -> None:
    async with growing({"max_sessions": 40}, {}) as (backend, one, _):
        assert share(backend, one, 20) == 0.5
        assert places(backend, one) == 40


async def test_leaving_drain_is_no_slow_start(autojump_clock: MockClock) -> None:
    async with growing() as (backend, one, _):
        backend.set_state(one, AdminState.DRAIN)
        assert share(backend, one) == 0
        backend.set_state(one, AdminState.READY)
        assert share(backend, one) == 0.5


async def test_others_are_not_slowed(autojump_clock: MockClock) -> None:
    async with growing() as (backend, _, two):
        down_and_up(backend, two)
        assert share(backend, two) == 0.5


@each_way_back
async def test_those_who_wait_are_served_as_it_grows(autojump_clock: MockClock, come_back: Any) -> None:
    """First come, first served, and nobody has to leave for that."""
    async with growing({"max_sessions": 20}, {"weight": 0}) as (backend, one, _):
        come_back(backend, one)
        assert backend.acquire(None) is one
        served: list[tuple[int, float]] = []
        start = trio.current_time()

        def wait(number: int) -> None:
            waiter: Waiter[BackendServer] = Waiter(
                lambda: served.append((number, trio.current_time() - start))
            )
            assert backend.pool.enqueue(waiter)

        for number in range(30):
            assert backend.acquire(None) is None
            wait(number)
        await trio.sleep(SLOW_S + 2 * STEP_S)
        numbers, times = zip(*served, strict=True)
        assert list(numbers) == list(range(19)), "with the first one there are 20"
        for number, time in served:
            due = SLOW_S * (number + 2) / 20
            assert due - STEP_S <= time <= due + STEP_S
        assert max(later - earlier for earlier, later in pairwise(times)) <= 2 * STEP_S
        assert backend.pool.waiting == 11


async def test_going_down_again_in_between_begins_anew(autojump_clock: MockClock) -> None:
    async with growing({"max_sessions": 40}, {}) as (backend, one, _):
        down_and_up(backend, one)
        await trio.sleep(SLOW_S * 0.75)
        assert places(backend, one) > 25
        down_and_up(backend, one)
        assert places(backend, one) == 1
        await trio.sleep(SLOW_S / 2)
        assert 15 <= places(backend, one) <= 25
        await trio.sleep(SLOW_S)
        assert places(backend, one) == 40


async def test_a_second_time_is_as_slow_as_the_first(autojump_clock: MockClock) -> None:
    async with growing({"max_sessions": 40}, {}) as (backend, one, _):
        for _ in range(3):
            down_and_up(backend, one)
            assert places(backend, one) == 1
            await trio.sleep(SLOW_S / 2)
            assert 15 <= places(backend, one) <= 25
            await trio.sleep(SLOW_S)
            assert places(backend, one) == 40
            await trio.sleep(1000)


async def test_two_that_come_back_at_different_times(autojump_clock: MockClock) -> None:
    slow = {"slow_start": "20s", "max_sessions": 40}
    async with growing(slow, slow) as (backend, one, two):
        down_and_up(backend, one)
        await trio.sleep(10)
        down_and_up(backend, two)
        await trio.sleep(5)
        assert places(backend, one) > places(backend, two) > 5
        await trio.sleep(SLOW_S)
        assert (places(backend, one), places(backend, two)) == (40, 40)


async def test_a_short_slow_start_is_over_in_time(autojump_clock: MockClock) -> None:
    async with growing({"slow_start": "300ms", "max_sessions": 40}, {}) as (backend, one, _):
        down_and_up(backend, one)
        assert places(backend, one) == 1
        await trio.sleep(0.31)
        assert places(backend, one) == 40


async def test_a_server_alone_takes_sessions_however_slowly_it_starts(autojump_clock: MockClock) -> None:
    async with growing({}, {"weight": 0}) as (backend, one, _):
        down_and_up(backend, one)
        assert share(backend, one) == 1


async def test_another_process_goes_on_with_it(autojump_clock: MockClock) -> None:
    """Also where nothing else is news of the server."""
    async with (
        growing({"max_sessions": 40}, {}) as (backend, one, _),
        growing({"max_sessions": 40}, {}) as (other, same, _),
    ):
        down_and_up(backend, one)
        await trio.sleep(SLOW_S / 2)
        other.apply_snapshot(same, ServerSnapshot.capture(one, trio.current_time()))
        assert 15 <= places(other, same) <= 25
        await trio.sleep(SLOW_S / 2 + 2 * STEP_S)
        assert places(other, same) == 40


async def test_another_process_knows_that_it_is_over(autojump_clock: MockClock) -> None:
    async with (
        growing({"max_sessions": 40}, {}) as (_, one, _),
        growing({"max_sessions": 40}, {}) as (other, same, _),
    ):
        other.record_check(same, CheckOutcome(REFUSED, 0))
        other.apply_snapshot(same, ServerSnapshot.capture(one, trio.current_time()))
        assert places(other, same) == 40
        assert share(other, same, 20) == 0.5
