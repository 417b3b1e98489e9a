"""A bound on the sessions of several workers: over it, accepting waits everywhere, and nobody waits for ever."""

from __future__ import annotations

from mailproxy.pool import LimitShare, Tally
from mailproxy.proxy.limit import SessionLimit, SharedLimit, WorkerLimits


def limits(workers: int, most: int) -> list[SharedLimit]:
    sessions, waiting = [0] * workers, [0] * workers
    return [
        SharedLimit(most, LimitShare(Tally(sessions, slot), Tally(waiting, slot))) for slot in range(workers)
    ]


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


async def test_who_has_waited_longest_has_the_next_place() -> None:
    """And not whoever's session has just ended."""
    busy, patient, late = limits(3, 1)
    busy.enter()
    for each in (patient, late):
        assert each.is_reached
        await each.room()  # looks again after a while
    busy.leave()
    assert [busy.is_reached, late.is_reached, patient.is_reached] == [True, True, False]
    assert not patient.is_reached, "it is asked twice before it accepts"
    patient.enter()
    patient.leave()
    assert [busy.is_reached, patient.is_reached, late.is_reached] == [True, True, False]
    late.enter()
    late.leave()
    assert not busy.is_reached


async def test_as_many_as_there_is_room_for_need_not_wait_for_each_other() -> None:
    one, other, third = limits(3, 2)
    one.enter()
    one.enter()
    for each in (other, third):
        await each.room()
    one.leave()
    one.leave()
    assert [one.is_reached, third.is_reached, other.is_reached] == [True, False, False]


def test_a_worker_takes_no_more_than_its_descriptors_hold() -> None:
    (own, _), (process, _) = limits(2, 0), limits(2, 9)
    worker = SessionLimit(1)
    bounds = WorkerLimits(own, process, worker)
    assert bounds.reached is None
    bounds.enter()
    assert bounds.reached is worker
    bounds.leave()
    assert (own.sessions, process.sessions, worker.sessions) == (0, 0, 0)
