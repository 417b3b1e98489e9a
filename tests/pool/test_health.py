"""rise and fall: a server goes up and down as HAProxy's would, and says so in the same words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import Health

few = st.integers(1, 5)
results = st.lists(st.booleans(), max_size=40)


def walk(rise: int, fall: int, word: str) -> list[str]:
    """The words of a new server before the first result and after each: ``+`` passed, ``-`` failed."""
    return walk_on(Health(rise, fall), word)


def walk_on(health: Health, word: str) -> list[str]:
    seen = [str(health)]
    for result in word:
        _ = health.record_pass() if result == "+" else health.record_fail()
        seen.append(str(health))
    return seen


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ("-", ["UP 1/3", "DOWN"]),
        ("+", ["UP 1/3", "UP"]),
        ("+--+", ["UP 1/3", "UP", "UP 2/3", "UP 1/3", "UP"]),
        ("+---", ["UP 1/3", "UP", "UP 2/3", "UP 1/3", "DOWN"]),
        ("-++", ["UP 1/3", "DOWN", "DOWN 1/2", "UP"]),
        ("-+-++", ["UP 1/3", "DOWN", "DOWN 1/2", "DOWN", "DOWN 1/2", "UP"]),
        ("---", ["UP 1/3", "DOWN", "DOWN", "DOWN"]),
    ],
)
def test_the_words_are_haproxys(results: str, words: list[str]) -> None:
    assert walk(2, 3, results) == words


def test_with_one_each_there_is_nothing_between_up_and_down() -> None:
    assert walk(1, 1, "+-+--+") == ["UP", "UP", "DOWN", "UP", "DOWN", "DOWN", "UP"]


@given(few, few, results)
def test_any_walk_is_haproxys(rise: int, fall: int, walked: list[bool]) -> None:
    """The model is what HAProxy's manual says, in consecutive results and not in a counter."""
    health = Health(rise, fall)
    is_up, streak, is_new = True, 0, True  # streak: results in a row against what the server is
    for passed in walked:
        changed = health.record_pass() if passed else health.record_fail()
        was_up = is_up
        streak = 0 if passed == is_up else streak + 1
        if (is_new and not passed) or streak == (fall if is_up else rise):
            is_up, streak = passed, 0
        is_new = False
        assert health.is_up == is_up
        assert changed == (is_up != was_up)
        assert health.is_settled == (streak == 0)
        if is_up:
            assert health.progress == f"{fall - streak}/{fall} UP"
        else:
            assert health.progress == f"{streak}/{rise} DOWN"
        if streak:
            assert str(health).split() == health.progress.split()[::-1]
        else:
            assert str(health) == ("UP" if is_up else "DOWN")


def test_checks_hurry_while_it_is_not_known_whether_the_server_is_up_or_down() -> None:
    health = Health(2, 3)
    pauses = [health.interval(10, 2, 5)]
    for passed in (True, False, True, False, False, False, True, True):
        _ = health.record_pass() if passed else health.record_fail()
        pauses.append(health.interval(10, 2, 5))
    assert pauses == [2, 10, 2, 10, 2, 2, 5, 2, 10]


@given(few, few, results)
def test_however_it_stands_it_is_down_after_fall_failures_and_up_after_rise_passes(
    rise: int, fall: int, walked: list[bool]
) -> None:
    health = Health(rise, fall)
    for passed in walked:
        _ = health.record_pass() if passed else health.record_fail()
    for _ in range(fall):
        health.record_fail()
    assert str(health) == "DOWN"
    for _ in range(rise):
        assert not health.is_up
        health.record_pass()
    assert str(health) == "UP"


@given(few, few, results, results)
def test_over_a_reload_that_leaves_rise_and_fall_alone_it_counts_on_as_if_there_was_none(
    rise: int, fall: int, before: list[bool], after: list[bool]
) -> None:
    old, new = Health(rise, fall), Health(rise, fall)
    for passed in before:
        _ = old.record_pass() if passed else old.record_fail()
    new.take_over(old)
    for passed in after:
        assert str(new) == str(old)
        changed = {counter.record_pass() if passed else counter.record_fail() for counter in (new, old)}
        assert len(changed) == 1


@pytest.mark.parametrize(
    ("before", "was", "then", "words"),
    [
        ("", "UP 1/3", "-", ["UP 1/2", "DOWN"]),
        ("+", "UP", "--", ["UP", "UP 1/2", "DOWN"]),
        ("+-", "UP 2/3", "-", ["UP 1/2", "DOWN"]),
        ("+-", "UP 2/3", "+", ["UP 1/2", "UP"]),
        ("-", "DOWN", "++++", ["DOWN", "DOWN 1/4", "DOWN 2/4", "DOWN 3/4", "UP"]),
        ("-+", "DOWN 1/2", "++++", ["DOWN", "DOWN 1/4", "DOWN 2/4", "DOWN 3/4", "UP"]),
    ],
)
def test_over_a_reload_with_another_rise_and_fall_it_stays_up_or_down_and_is_settled_as_far_as_it_was(
    before: str, was: str, then: str, words: list[str]
) -> None:
    """With rise 2 and fall 3, and then 4 and 2; what was on its way up begins that way again."""
    old, new = Health(2, 3), Health(4, 2)
    assert walk_on(old, before)[-1] == was
    new.take_over(old)
    assert walk_on(new, then) == words
