"""The counters rise and fall: a server goes up and down as in HAProxy, with the same status words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import Health

few = st.integers(1, 5)
results = st.lists(st.booleans(), max_size=40)


def statuses(rise: int, fall: int, checks: str) -> list[str]:
    """Return the status of a new server before the first check and after each one: `+` passed, `-` failed."""
    return record(Health(rise, fall), checks)


def record(health: Health, checks: str) -> list[str]:
    """Return the status before the first check and after each one."""
    result_words = [str(health)]
    for result in checks:
        _ = health.record_pass() if result == "+" else health.record_fail()
        result_words.append(str(health))
    return result_words


@pytest.mark.parametrize(
    ("results", "expected"),
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
def test_status_words_match_haproxy(results: str, expected: list[str]) -> None:
    assert statuses(2, 3, results) == expected


def test_rise_and_fall_one_have_no_intermediate_status() -> None:
    assert statuses(1, 1, "+-+--+") == ["UP", "UP", "DOWN", "UP", "DOWN", "DOWN", "UP"]


@given(few, few, results)
def test_any_sequence_of_checks_matches_haproxy(rise: int, fall: int, checks: list[bool]) -> None:
    """The model is HAProxy's manual, in consecutive results instead of a counter."""
    health = Health(rise, fall)
    is_up, streak, is_new = True, 0, True  # streak: results in a row against the server's state
    for passed in checks:
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


def test_interval_is_short_while_state_is_unsettled() -> None:
    health = Health(2, 3)
    pauses = [health.interval(10, 2, 5)]
    for passed in (True, False, True, False, False, False, True, True):
        _ = health.record_pass() if passed else health.record_fail()
        pauses.append(health.interval(10, 2, 5))
    assert pauses == [2, 10, 2, 10, 2, 2, 5, 2, 10]


@given(few, few, results)
def test_fall_failures_bring_down_and_rise_passes_up(rise: int, fall: int, checks: list[bool]) -> None:
    health = Health(rise, fall)
    for passed in checks:
        _ = health.record_pass() if passed else health.record_fail()
    for _ in range(fall):
        health.record_fail()
    assert str(health) == "DOWN"
    for _ in range(rise):
        assert not health.is_up
        health.record_pass()
    assert str(health) == "UP"


@given(few, few, results, results)
def test_reload_with_same_rise_and_fall_keeps_counting(
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
    ("before", "status_before", "checks_after", "expected"),
    [
        ("", "UP 1/3", "-", ["UP 1/2", "DOWN"]),
        ("+", "UP", "--", ["UP", "UP 1/2", "DOWN"]),
        ("+-", "UP 2/3", "-", ["UP 1/2", "DOWN"]),
        ("+-", "UP 2/3", "+", ["UP 1/2", "UP"]),
        ("-", "DOWN", "++++", ["DOWN", "DOWN 1/4", "DOWN 2/4", "DOWN 3/4", "UP"]),
        ("-+", "DOWN 1/2", "++++", ["DOWN", "DOWN 1/4", "DOWN 2/4", "DOWN 3/4", "UP"]),
    ],
)
def test_reload_with_other_rise_and_fall_keeps_state(
    before: str, status_before: str, checks_after: str, expected: list[str]
) -> None:
    """Rise 2 and fall 3 become 4 and 2. A server that was coming up starts its passes again."""
    old, new = Health(2, 3), Health(4, 2)
    assert record(old, before)[-1] == status_before
    new.take_over(old)
    assert record(new, checks_after) == expected
