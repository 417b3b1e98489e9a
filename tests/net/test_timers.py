"""Timers: each is due once, in order, unless it was removed, and removed ones do not pile up."""

from __future__ import annotations

import math

import trio
from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.net.poller.timers import Timer, Timers

times = st.integers(0, 20)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "take"]), times), max_size=60)


@define(eq=False)
class Due:
    """Notes when it was due."""

    number: int = 0
    at: float = math.inf

    def on_deadline(self, now: float) -> None:
        self.at = now


@given(steps)
def test_due_are_those_that_were_added_and_not_removed(steps: list[tuple[str, int]]) -> None:
    timers = Timers()
    live: dict[int, tuple[int, Due, Timer]] = {}
    for number, (action, time) in enumerate(steps, 1):
        if action == "add":
            due = Due(number)
            live[number] = time, due, timers.add(time, due)
        elif action == "remove" and live:
            _, _, timer = live.pop(sorted(live)[time % len(live)])
            assert timers.remove(timer)
            assert not timers.remove(timer)
        elif action == "take":
            taken = [due.number for due in timers.take_due(time) if isinstance(due, Due)]
            assert [live[key][0] for key in taken] == sorted(at for at, _, _ in live.values() if at <= time)
            for key in taken:
                assert not timers.remove(live.pop(key)[2])
            assert timers.next == min((at for at, _, _ in live.values()), default=math.inf)
        assert timers.next <= min((at for at, _, _ in live.values()), default=math.inf)


def test_what_is_due_may_add_another_timer() -> None:
    timers, first, second, third = Timers(), Due(), Due(), Due()
    timers.add(1, first)
    taken = []
    for each in timers.take_due(1):
        taken.append(each)
        if each is first:
            timers.add(1, second)
            timers.add(2, third)
    assert taken == [first, second]
    assert timers.next == 2


def test_removed_timers_are_dropped() -> None:
    """Sessions that end after a second have had a deadline in half an hour."""
    timers = Timers()
    kept = [Due(number) for number in range(100)]
    for due in kept:
        timers.add(1800 + due.number, due)
    for _ in range(100_000):
        timers.remove(timers.add(1800, kept[0]))
        assert len(timers._heap) <= 2 * len(kept) + 1
    assert list(timers.take_due(3000)) == kept


async def test_timers_are_called_when_they_are_due(mock_clock: MockClock, nursery: trio.Nursery) -> None:
    """Also one that is added later and due earlier, and one that was added before ``serve`` has begun."""
    timers, early, late, removed = Timers(), Due(), Due(), Due()
    timers.add(2, late)
    nursery.start_soon(timers.serve)
    await wait_all_tasks_blocked()
    timers.add(1, early)
    timers.remove(timers.add(1.5, removed))
    for _ in range(10):
        mock_clock.jump(0.25)
        await wait_all_tasks_blocked()
    assert (early.at, late.at, removed.at) == (1, 2, math.inf)
