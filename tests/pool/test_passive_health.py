"""Passive health: sessions that fail in a row count as a failed check if enough clients are affected."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import PassiveHealth


def results(passive_health: PassiveHealth, sessions: str) -> str:
    """Return `!` for each session after which a check counts as failed, and `.` for the others.

    In `sessions` a letter is a failed session of that client, and `+` is a session that succeeded.
    """
    seen = ""
    for session in sessions:
        if session == "+":
            passive_health.record_success()
            seen += "."
        else:
            seen += "!" if passive_health.record_failure(session) else "."
    return seen


def test_failures_in_a_row_count_as_failed_check() -> None:
    assert results(PassiveHealth(3), "aaa") == "..!"


def test_count_restarts_after_failed_check() -> None:
    assert results(PassiveHealth(3), "aaaaaaa") == "..!..!."


def test_success_resets_the_failures() -> None:
    assert results(PassiveHealth(3), "aa+aaa") == ".....!"
    assert results(PassiveHealth(3), "+++a+aaa") == ".......!"


def test_limit_of_one_makes_each_failure_count() -> None:
    assert results(PassiveHealth(1), "aab+a") == "!!!.!"


def test_single_client_never_suffices_if_two_are_required() -> None:
    assert results(PassiveHealth(3, clients=2), "aaaaaaaa") == "........"
    assert results(PassiveHealth(3, clients=2), "aaaaab") == ".....!"
    assert results(PassiveHealth(3, clients=2), "abb") == "..!"


def test_clients_restart_after_failed_check_and_success() -> None:
    assert results(PassiveHealth(2, clients=2), "abbbba") == ".!...!"
    assert results(PassiveHealth(2, clients=2), "a+bbba") == ".....!"


def test_more_clients_than_failures_require_as_many_failures() -> None:
    assert results(PassiveHealth(1, clients=3), "aababc") == ".....!"


def test_failures_property_is_the_current_streak() -> None:
    passive_health = PassiveHealth(3)
    seen = []
    for session in "aa+aaa":
        results(passive_health, session)
        seen.append(passive_health.failures)
    assert seen == [1, 2, 0, 1, 2, 0]


@given(st.integers(1, 5), st.integers(1, 4), st.text("abcd+", max_size=40))
def test_any_sequence_of_sessions_matches_the_model(limit: int, clients: int, sessions: str) -> None:
    expected, streak = "", ""
    for session in sessions:
        streak = "" if session == "+" else streak + session
        is_failed = len(streak) >= limit and len(set(streak)) >= clients
        expected += "!" if is_failed else "."
        streak = "" if is_failed else streak
    assert results(PassiveHealth(limit, clients), sessions) == expected
