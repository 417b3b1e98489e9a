"""A session limit for several workers: at the limit all stop accepting, and no worker waits for ever."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from mailproxy.pool import LimitCounters, SharedCounter
from mailproxy.proxy.limits import SessionLimit
from mailproxy.workers.limits import SharedLimit, WorkerLimits
from tests.support.timeouts import wait_until


def make_limits(workers: int, max_sessions: int) -> list[SharedLimit]:
    columns = [[0] * workers for _ in range(3)]
    return [
        SharedLimit(max_sessions, LimitCounters(*(SharedCounter(column, slot) for column in columns)))
        for slot in range(workers)
    ]


async def accept(limit: SharedLimit, accepted: list[SharedLimit]) -> None:
    """Accept as a bind does that has a connection in its queue."""
    while limit.is_reached:
        await limit.wait()
    limit.add_session()
    accepted.append(limit)


async def start_waiting(nursery: trio.Nursery, accepted: list[SharedLimit], *waiting: SharedLimit) -> None:
    """Start the waits one after another."""
    for limit in waiting:
        nursery.start_soon(accept, limit, accepted)
        await trio.testing.wait_all_tasks_blocked()


def test_limit_covers_all_workers() -> None:
    first, second = make_limits(2, 2)
    first.add_session()
    assert not second.is_reached
    second.add_session()
    assert first.sessions == second.sessions == 2
    assert first.is_reached
    assert second.is_reached


def test_limit_zero_never_waits() -> None:
    (first,) = make_limits(1, 0)
    first.add_session()
    assert not first.is_reached


async def test_longest_waiting_worker_gets_next_slot(nursery: trio.Nursery) -> None:
    """The worker whose session has just ended does not get it."""
    busy, waiting_worker, late = make_limits(3, 1)
    accepted: list[SharedLimit] = []
    busy.add_session()
    await start_waiting(nursery, accepted, waiting_worker, late)
    busy.remove_session()
    assert [busy.is_reached, late.is_reached, waiting_worker.is_reached] == [True, True, False]
    assert not waiting_worker.is_reached, "reading the property changes nothing"
    await wait_until(lambda: accepted == [waiting_worker])
    waiting_worker.remove_session()
    assert [busy.is_reached, waiting_worker.is_reached, late.is_reached] == [True, True, False]
    await wait_until(lambda: accepted == [waiting_worker, late])
    late.remove_session()
    assert not busy.is_reached


async def test_two_free_slots_serve_two_workers(nursery: trio.Nursery) -> None:
    busy, second, third = make_limits(3, 2)
    accepted: list[SharedLimit] = []
    busy.add_session()
    busy.add_session()
    await start_waiting(nursery, accepted, second, third)
    busy.remove_session()
    busy.remove_session()
    assert [busy.is_reached, third.is_reached, second.is_reached] == [True, False, False]
    await wait_until(lambda: set(accepted) == {second, third})


async def test_waits_of_one_worker_are_served_in_turn(nursery: trio.Nursery) -> None:
    busy, waiting_worker = make_limits(2, 1)
    accepted: list[SharedLimit] = []
    busy.add_session()
    await start_waiting(nursery, accepted, waiting_worker, waiting_worker)
    for count in (1, 2):
        (busy if count == 1 else waiting_worker).remove_session()
        await wait_until(lambda: len(accepted) == count)  # noqa: B023 - the loop waits before it changes the variable
        assert waiting_worker.sessions == 1


async def test_worker_with_empty_queue_is_skipped(nursery: trio.Nursery) -> None:
    busy, empty = make_limits(2, 1)
    busy.add_session()
    with trio.move_on_after(0.01):  # it drains, for example
        await empty.wait()
    await trio.testing.wait_all_tasks_blocked()
    busy.remove_session()
    assert not busy.is_reached
    busy.add_session()
    await empty.wait()  # and accepts nothing
    await trio.testing.wait_all_tasks_blocked()
    busy.remove_session()
    assert not busy.is_reached


async def test_hanging_worker_is_skipped(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, hanging = make_limits(2, 1)
    busy.add_session()
    await start_waiting(nursery, [], hanging)
    busy.remove_session()
    assert busy.is_reached
    later = time.monotonic_ns() + 5_000_000_000
    monkeypatch.setattr("time.monotonic_ns", lambda: later)
    assert not busy.is_reached


def test_worker_limit_depends_on_descriptors() -> None:
    (frontend, _), (process, _) = make_limits(2, 0), make_limits(2, 9)
    worker = SessionLimit(1)
    worker_limits = WorkerLimits(frontend, process, worker)
    assert worker_limits.reached_limit is None
    worker_limits.add_session()
    assert worker_limits.reached_limit is worker
    worker_limits.remove_session()
    assert (frontend.sessions, process.sessions, worker.sessions) == (0, 0, 0)
