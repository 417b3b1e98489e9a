"""A bound on the sessions of several workers: over it, accepting waits everywhere, and nobody waits for ever."""

from __future__ import annotations

import time

import pytest
import trio
import trio.testing

from mailproxy.pool import LimitCounters, SharedCounter
from mailproxy.proxy.limits import SessionLimit
from mailproxy.workers.limits import SharedLimit, WorkerLimits
from tests.support.timeouts import wait_until


def limits(workers: int, most: int) -> list[SharedLimit]:
    columns = [[0] * workers for _ in range(3)]
    return [
        SharedLimit(most, LimitCounters(*(SharedCounter(column, slot) for column in columns)))
        for slot in range(workers)
    ]


async def accept(limit: SharedLimit, accepted: list[SharedLimit]) -> None:
    """As a bind does that has somebody in its queue."""
    while limit.is_reached:
        await limit.wait()
    limit.enter()
    accepted.append(limit)


async def all_wait(nursery: trio.Nursery, accepted: list[SharedLimit], *waiting: SharedLimit) -> None:
    """One after the other."""
    for each in waiting:
        nursery.start_soon(accept, each, accepted)
        await trio.testing.wait_all_tasks_blocked()


def test_the_bound_is_over_all() -> None:
    one, other = limits(2, 2)
    one.enter()
    assert not other.is_reached
    other.enter()
    assert one.sessions == other.sessions == 2
    assert one.is_reached
    assert other.is_reached


def test_without_a_bound_nobody_waits() -> None:
    (one,) = limits(1, 0)
    one.enter()
    assert not one.is_reached


async def test_who_has_waited_longest_has_the_next_place(nursery: trio.Nursery) -> None:
    """And not whoever's session has just ended."""
    busy, patient, late = limits(3, 1)
    accepted: list[SharedLimit] = []
    busy.enter()
    await all_wait(nursery, accepted, patient, late)
    busy.leave()
    assert [busy.is_reached, late.is_reached, patient.is_reached] == [True, True, False]
    assert not patient.is_reached, "asking changes nothing"
    await wait_until(lambda: accepted == [patient])
    patient.leave()
    assert [busy.is_reached, patient.is_reached, late.is_reached] == [True, True, False]
    await wait_until(lambda: accepted == [patient, late])
    late.leave()
    assert not busy.is_reached


async def test_as_many_as_there_is_room_for_need_not_wait_for_each_other(nursery: trio.Nursery) -> None:
    one, other, third = limits(3, 2)
    accepted: list[SharedLimit] = []
    one.enter()
    one.enter()
    await all_wait(nursery, accepted, other, third)
    one.leave()
    one.leave()
    assert [one.is_reached, third.is_reached, other.is_reached] == [True, False, False]
    await wait_until(lambda: set(accepted) == {other, third})


async def test_those_of_one_worker_wait_for_each_other_only(nursery: trio.Nursery) -> None:
    busy, patient = limits(2, 1)
    accepted: list[SharedLimit] = []
    busy.enter()
    await all_wait(nursery, accepted, patient, patient)
    for count in (1, 2):
        (busy if count == 1 else patient).leave()
        await wait_until(lambda: len(accepted) == count)  # noqa: B023 - it is over before the next one
        assert patient.sessions == 1


async def test_who_has_nobody_to_accept_is_not_waited_for(nursery: trio.Nursery) -> None:
    busy, empty = limits(2, 1)
    busy.enter()
    with trio.move_on_after(0.01):  # it drains, say
        await empty.wait()
    await trio.testing.wait_all_tasks_blocked()
    busy.leave()
    assert not busy.is_reached
    busy.enter()
    await empty.wait()  # and accepts nobody
    await trio.testing.wait_all_tasks_blocked()
    busy.leave()
    assert not busy.is_reached


async def test_who_hangs_is_not_waited_for(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    busy, hanging = limits(2, 1)
    busy.enter()
    await all_wait(nursery, [], hanging)
    busy.leave()
    assert busy.is_reached
    later = time.monotonic_ns() + 5_000_000_000
    monkeypatch.setattr("time.monotonic_ns", lambda: later)
    assert not busy.is_reached


def test_a_worker_takes_no_more_than_its_descriptors_hold() -> None:
    (own, _), (process, _) = limits(2, 0), limits(2, 9)
    worker = SessionLimit(1)
    bounds = WorkerLimits(own, process, worker)
    assert bounds.reached_limit is None
    bounds.enter()
    assert bounds.reached_limit is worker
    bounds.leave()
    assert (own.sessions, process.sessions, worker.sessions) == (0, 0, 0)
