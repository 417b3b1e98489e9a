"""Observation: sessions that fail in a row are as good as a failed check, if they are not all of one client."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import PassiveHealth


def results(observation: PassiveHealth, sessions: str) -> str:
    """After each session, ``!`` if a check counts as failed: a letter is a client that failed, ``+`` one that came through."""
    seen = ""
    for session in sessions:
        if session == "+":
            observation.record_success()
            seen += "."
        else:
            seen += "!" if observation.record_failure(session) else "."
    return seen


def test_so_many_failures_in_a_row_are_a_failed_check() -> None:
    assert results(PassiveHealth(3), "aaa") == "..!"


def test_after_a_failed_check_counting_begins_anew() -> None:
    assert results(PassiveHealth(3), "aaaaaaa") == "..!..!."


def test_one_session_that_comes_through_makes_all_failures_before_it_forgotten() -> None:
    assert results(PassiveHealth(3), "aa+aaa") == ".....!"
    assert results(PassiveHealth(3), "+++a+aaa") == ".......!"


def test_with_a_limit_of_one_every_failure_is_a_failed_check() -> None:
    assert results(PassiveHealth(1), "aab+a") == "!!!.!"


def test_a_single_client_never_brings_a_server_down_where_two_are_asked_for() -> None:
    assert results(PassiveHealth(3, clients=2), "aaaaaaaa") == "........"
    assert results(PassiveHealth(3, clients=2), "aaaaab") == ".....!"
    assert results(PassiveHealth(3, clients=2), "abb") == "..!"


def test_clients_too_count_anew_after_a_failed_check_and_after_a_success() -> None:
    assert results(PassiveHealth(2, clients=2), "abbbba") == ".!...!"
    assert results(PassiveHealth(2, clients=2), "a+bbba") == ".....!"


def test_more_clients_than_failures_asked_for_take_as_many_failures() -> None:
    assert results(PassiveHealth(1, clients=3), "aababc") == ".....!"


def test_failures_in_a_row_can_be_read() -> None:
    observation = PassiveHealth(3)
    seen = []
    for session in "aa+aaa":
        results(observation, session)
        seen.append(observation.failures)
    assert seen == [1, 2, 0, 1, 2, 0]


@given(st.integers(1, 5), st.integers(1, 4), st.text("abcd+", max_size=40))
def test_it_counts_any_row_of_sessions_as_one_would_by_hand(limit: int, clients: int, sessions: str) -> None:
    expected, row = "", ""
    for session in sessions:
        row = "" if session == "+" else row + session
        enough = len(row) >= limit and len(set(row)) >= clients
        expected += "!" if enough else "."
        row = "" if enough else row
    assert results(PassiveHealth(limit, clients), sessions) == expected
