"""The queue: first come, first served, nobody lost and nobody served twice."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailproxy.pool.queue import Queue


class AnyQueue(RuleBasedStateMachine):
    """A queue beside a plain list, and what each waiter would have in HAProxy's log."""

    @initialize()
    def begin(self) -> None:
        self.queue: Queue[int] = Queue()
        self.line: list[int] = []
        self.served_before: dict[int, int] = {}
        self.came = 0
        self.ended: list[int] = []  # popped or left
        self.aside: list[int] = []  # came, and wait for something else

    @rule()
    def join(self) -> None:
        self.came += 1
        self.queue.join(self.came)
        self.line.append(self.came)
        self.served_before[self.came] = 0

    @rule()
    def come_and_stand_aside(self) -> None:
        self.came += 1
        self.aside.append(self.came)

    @rule(data=st.data())
    def let_those_aside_stand_where_they_would_have(self, data: st.DataObject) -> None:
        """They stand in this line from now on, so their positions count from here."""
        self.queue.merge(data.draw(st.permutations(self.aside)), key=lambda came: came)
        self.served_before.update(dict.fromkeys(self.aside, 0))
        self.line = sorted(self.line + self.aside)
        self.aside = []

    @rule()
    def pop(self) -> None:
        assert self.queue.pop() == (self.line[0] if self.line else None)
        if self.line:
            self.ended.append(self.line.pop(0))
            for waiter in self.line:
                self.served_before[waiter] += 1

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.line))
        assert self.queue.remove(waiter)
        self.line.remove(waiter)
        self.ended.append(waiter)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def leave_once_more(self, data: st.DataObject) -> None:
        assert not self.queue.remove(data.draw(st.sampled_from(self.ended)))

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def join_twice(self, data: st.DataObject) -> None:
        with pytest.raises(ValueError, match="in the queue already"):
            self.queue.join(data.draw(st.sampled_from(self.line)))

    @invariant()
    def agrees(self) -> None:
        assert list(self.queue) == self.line
        assert len(self.queue) == len(self.line)
        assert sorted(self.line + self.ended + self.aside) == list(range(1, self.came + 1))
        for waiter in self.line:
            assert waiter in self.queue
            assert self.queue.position(waiter) == self.served_before[waiter] + 1


TestAnyQueue = AnyQueue.TestCase


def test_positions_are_haproxys() -> None:
    """Seen at HAProxy 2.6.12 with one place: four wait, the third gives up, the others are served in turn."""
    queue: Queue[str] = Queue()
    for waiter in "abcd":
        queue.join(waiter)
    logged = {"c": queue.position("c")}
    queue.remove("c")
    for waiter in "abd":
        logged[waiter] = queue.position(waiter)
        assert queue.pop() == waiter
    assert logged == {"a": 1, "b": 2, "c": 1, "d": 3}


def test_those_who_are_let_in_later_stand_where_they_would_have_stood() -> None:
    queue: Queue[str] = Queue()
    queue.join("b")
    queue.join("d")
    queue.merge(["e", "a", "c"], key=ord)
    assert [queue.pop() for _ in range(6)] == ["a", "b", "c", "d", "e", None]


def test_who_is_not_in_it_has_no_place() -> None:
    queue: Queue[str] = Queue()
    with pytest.raises(KeyError):
        queue.position("a")


def test_one_that_was_served_may_come_again() -> None:
    queue: Queue[str] = Queue()
    queue.join("a")
    assert queue.pop() == "a"
    queue.join("a")
    assert queue.position("a") == 1
