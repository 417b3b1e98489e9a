"""Attempts: retries and redispatch, case by case, as HAProxy goes about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import RetryDecision, RetryState

LETTERS = {RetryDecision.RETRY: "a", RetryDecision.REDISPATCH: "e", RetryDecision.GIVE_UP: "."}
NEVER, THE_LAST, EACH, EVERY_SECOND, EVERY_THIRD = False, True, 1, 2, 3


def steps(attempts: RetryState, *, is_up: bool = True, belongs: bool = True, has_others: bool = True) -> str:
    """What follows each failure: again, elsewhere, or the end."""
    taken = ""
    while not taken.endswith("."):
        taken += LETTERS[attempts.record_failure(is_up=is_up, is_sticky=belongs, has_others=has_others)]
    return taken


@pytest.mark.parametrize("retries", range(5))
@pytest.mark.parametrize(
    ("redispatch", "where_it_belongs", "where_it_does_not"),  # with 0, 1, 2, 3 and 4 retries
    [
        (NEVER, ". a. aa. aaa. aaaa.", ". a. aa. aaa. aaaa."),
        (THE_LAST, ". e. ae. aae. aaae.", ". e. ee. eee. eeee."),
        (EACH, ". e. ee. eee. eeee.", ". e. ee. eee. eeee."),
        (EVERY_SECOND, ". a. ae. aea. aeae.", ". e. ee. eee. eeee."),
        (EVERY_THIRD, ". a. aa. aae. aaea.", ". e. ee. eee. eeee."),
    ],
    ids=["never", "the last", "each", "every second", "every third"],
)
def test_a_session_tries_as_often_and_where_haproxys_would(
    redispatch: bool | int, where_it_belongs: str, where_it_does_not: str, retries: int
) -> None:
    """It is patient with the server to which it belongs, or which is the only one, but not with one that is down."""

    def attempts() -> RetryState:
        return RetryState(retries, redispatch)

    patient, impatient = where_it_belongs.split()[retries], where_it_does_not.split()[retries]
    assert steps(attempts()) == steps(attempts(), has_others=False) == patient
    assert steps(attempts(), belongs=False, has_others=False) == patient
    assert steps(attempts(), belongs=False) == impatient
    assert steps(attempts(), is_up=False) == steps(attempts(), is_up=False, belongs=False) == impatient
    assert steps(attempts(), is_up=False, has_others=False) == impatient


def test_it_is_the_server_tried_last_that_counts_as_up_or_down() -> None:
    attempts = RetryState(4, redispatch=True)
    ups = [True, False, True, True, True]
    taken = [attempts.record_failure(is_up=is_up, is_sticky=True, has_others=True) for is_up in ups]
    assert "".join(LETTERS[step] for step in taken) == "aeae."


@given(
    st.integers(0, 10),
    st.one_of(st.booleans(), st.integers(1, 12)),
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=15),
)
def test_the_log_counts_the_retries_that_were_made_and_never_more_than_were_allowed(
    retries: int, redispatch: bool | int, failures: list[tuple[bool, bool, bool]]
) -> None:
    attempts = RetryState(retries, redispatch)
    assert attempts.retries_made == 0
    for count, (is_up, belongs, has_others) in enumerate(failures, start=1):
        what_next = attempts.record_failure(is_up=is_up, is_sticky=belongs, has_others=has_others)
        assert (what_next is RetryDecision.GIVE_UP) == (count > retries)
        assert attempts.retries_made == min(count, retries)
