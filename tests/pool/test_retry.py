"""Retries and redispatch: which server is tried next after each failure, as in HAProxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import RetryDecision, RetryState

LETTERS = {RetryDecision.RETRY: "a", RetryDecision.REDISPATCH: "e", RetryDecision.GIVE_UP: "."}
NEVER, LAST, EACH, EVERY_SECOND, EVERY_THIRD = False, True, 1, 2, 3


def steps(state: RetryState, *, is_up: bool = True, is_sticky: bool = True, has_others: bool = True) -> str:
    """Return a letter for each decision: `a` retry, `e` redispatch, `.` give up."""
    decisions = ""
    while not decisions.endswith("."):
        decisions += LETTERS[state.record_failure(is_up=is_up, is_sticky=is_sticky, has_others=has_others)]
    return decisions


@pytest.mark.parametrize("retries", range(5))
@pytest.mark.parametrize(
    ("redispatch", "if_sticky", "if_not_sticky"),  # for 0, 1, 2, 3 and 4 retries
    [
        (NEVER, ". a. aa. aaa. aaaa.", ". a. aa. aaa. aaaa."),
        (LAST, ". e. ae. aae. aaae.", ". e. ee. eee. eeee."),
        (EACH, ". e. ee. eee. eeee.", ". e. ee. eee. eeee."),
        (EVERY_SECOND, ". a. ae. aea. aeae.", ". e. ee. eee. eeee."),
        (EVERY_THIRD, ". a. aa. aae. aaea.", ". e. ee. eee. eeee."),
    ],
    ids=["never", "the last", "each", "every second", "every third"],
)
def test_retries_and_redispatches_match_haproxy(
    redispatch: bool | int, if_sticky: str, if_not_sticky: str, retries: int
) -> None:
    """A session retries at its sticky server, or at the only server, but leaves a server that is down."""

    def state() -> RetryState:
        return RetryState(retries, redispatch)

    retrying, moving = if_sticky.split()[retries], if_not_sticky.split()[retries]
    assert steps(state()) == steps(state(), has_others=False) == retrying
    assert steps(state(), is_sticky=False, has_others=False) == retrying
    assert steps(state(), is_sticky=False) == moving
    assert steps(state(), is_up=False) == steps(state(), is_up=False, is_sticky=False) == moving
    assert steps(state(), is_up=False, has_others=False) == moving


def test_decision_depends_on_the_last_tried_server() -> None:
    state = RetryState(4, redispatch=True)
    ups = [True, False, True, True, True]
    decisions = [state.record_failure(is_up=is_up, is_sticky=True, has_others=True) for is_up in ups]
    assert "".join(LETTERS[step] for step in decisions) == "aeae."


@given(
    st.integers(0, 10),
    st.one_of(st.booleans(), st.integers(1, 12)),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=15),
)
def test_logged_retries_never_exceed_the_allowed_number(
    retries: int, redispatch: bool | int, failures: list[tuple[bool, bool, bool]]
) -> None:
    state = RetryState(retries, redispatch)
    assert state.retries_made == 0
    for count, (is_up, is_sticky, has_others) in enumerate(failures, start=1):
        decision = state.record_failure(is_up=is_up, is_sticky=is_sticky, has_others=has_others)
        assert (decision is RetryDecision.GIVE_UP) == (count > retries)
        assert state.retries_made == min(count, retries)
