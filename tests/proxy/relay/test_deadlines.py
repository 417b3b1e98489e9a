"""The deadlines of sessions: each is due once, in order, unless it was removed, and removed ones do not pile up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mailproxy.net.relay.deadlines import Deadlines

times = st.integers(0, 20)
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "take"]), times), max_size=60)


@given(steps)
def test_due_are_those_that_were_added_and_not_removed(steps: list[tuple[str, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    entries: dict[int, tuple[int, list[object]]] = {}
    for number, (action, time) in enumerate(steps, 1):
        if action == "add":
            entries[number] = time, deadlines.add(time, number)
        elif action == "remove" and entries:
            key = sorted(entries)[time % len(entries)]
            _, entry = entries.pop(key)
            deadlines.remove(entry)
            deadlines.remove(entry)  # a second call is allowed
        elif action == "take":
            due = list(deadlines.take_due(time))
            expected = sorted((at, key) for key, (at, _) in entries.items() if at <= time)
            assert due == [key for _, key in expected]
            for key in due:
                deadlines.remove(entries.pop(key)[1])
        assert deadlines.next <= min((at for at, _ in entries.values()), default=math.inf)


def test_what_is_due_may_add_another_deadline() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.add(1, "first")
    taken = []
    for each in deadlines.take_due(1):
        taken.append(each)
        deadlines.add(1 if each == "first" else 2, each + "!")
    assert taken == ["first", "first!"]
    assert deadlines.next == 2


def test_removed_deadlines_are_dropped() -> None:
    """Sessions that end after a second have had a deadline in half an hour."""
    deadlines: Deadlines[int] = Deadlines()
    kept = [deadlines.add(1800 + number, number) for number in range(100)]
    for number in range(100_000):
        deadlines.remove(deadlines.add(1800, number))
        assert len(deadlines._heap) <= 2 * 1000 + len(kept) + 1
    assert list(deadlines.take_due(3000)) == list(range(100))
