"""The queue: first come, first served, and each waiter is served once."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailproxy.pool.queue import Queue


class QueueMachine(RuleBasedStateMachine):
    """A queue and its model: a plain list, with each waiter's position as in HAProxy's log."""

    @initialize()
    def begin(self) -> None:
        self.queue: Queue[int] = Queue()
        self.model: list[int] = []
        self.served_before: dict[int, int] = {}
        self.tickets = 0
        self.ended: list[int] = []  # popped or removed
        self.elsewhere: list[int] = []  # in another queue so far

    @rule()
    def join(self) -> None:
        self.tickets += 1
        self.queue.join(self.tickets)
        self.model.append(self.tickets)
        self.served_before[self.tickets] = 0

    @rule()
    def join_another_queue(self) -> None:
        self.tickets += 1
        self.elsewhere.append(self.tickets)

    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        """Merge waiters of another queue by their tickets. Their positions count from now on."""
        self.queue.merge(data.draw(st.permutations(self.elsewhere)), key=lambda ticket: ticket)
        self.served_before.update(dict.fromkeys(self.elsewhere, 0))
        self.model = sorted(self.model + self.elsewhere)
        self.elsewhere = []

    @rule()
    def pop(self) -> None:
        assert self.queue.pop() == (self.model[0] if self.model else None)
        if self.model:
            self.ended.append(self.model.pop(0))
            for waiter in self.model:
                self.served_before[waiter] += 1

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.model))
        assert self.queue.remove(waiter)
        self.model.remove(waiter)
        self.ended.append(waiter)

    @precondition(lambda self: self.ended)
    @rule(data=st.data())
    def remove_again(self, data: st.DataObject) -> None:
        assert not self.queue.remove(data.draw(st.sampled_from(self.ended)))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def join_twice(self, data: st.DataObject) -> None:
        with pytest.raises(ValueError, match="in the queue already"):
            self.queue.join(data.draw(st.sampled_from(self.model)))

    @invariant()
    def queue_matches_model(self) -> None:
        assert list(self.queue) == self.model
        assert len(self.queue) == len(self.model)
        assert sorted(self.model + self.ended + self.elsewhere) == list(range(1, self.tickets + 1))
        for waiter in self.model:
            assert waiter in self.queue
            assert self.queue.position(waiter) == self.served_before[waiter] + 1


TestQueue = QueueMachine.TestCase


def test_positions_match_haproxy() -> None:
    """Observed with HAProxy 2.6.12: of four waiters for one slot the third gives up, the others are served."""
    queue: Queue[str] = Queue()
    for waiter in "abcd":
        queue.join(waiter)
    logged = {"c": queue.position("c")}
    queue.remove("c")
    for waiter in "abd":
        logged[waiter] = queue.position(waiter)
        assert queue.pop() == waiter
    assert logged == {"a": 1, "b": 2, "c": 1, "d": 3}


def test_merged_waiters_are_ordered_by_key() -> None:
    queue: Queue[str] = Queue()
    queue.join("b")
    queue.join("d")
    queue.merge(["e", "a", "c"], key=ord)
    assert [queue.pop() for _ in range(6)] == ["a", "b", "c", "d", "e", None]


def test_position_of_absent_waiter_raises_key_error() -> None:
    queue: Queue[str] = Queue()
    with pytest.raises(KeyError):
        queue.position("a")


def test_served_waiter_may_join_again() -> None:
    queue: Queue[str] = Queue()
    queue.join("a")
    assert queue.pop() == "a"
    queue.join("a")
    assert queue.position("a") == 1
