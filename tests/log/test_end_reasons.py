"""End reasons: each is unlike every other, and none is missing in the list."""

from __future__ import annotations

import re

from mailproxy.log import END_REASONS, EndedBy, EndReason, Phase, end_reasons


def test_each_is_unlike_every_other() -> None:
    assert len({end.name for end in END_REASONS}) == len(END_REASONS)
    assert len({end.meaning for end in END_REASONS}) == len(END_REASONS)


def test_none_is_forgotten() -> None:
    defined = {value for value in vars(end_reasons).values() if isinstance(value, EndReason)}
    assert defined == set(END_REASONS)


def test_the_state_has_haproxys_letters() -> None:
    # configuration manual, section 8.5: who or what ended it, then what was going on
    letters = {Phase.ROUTE: "R", Phase.QUEUE: "Q", Phase.CONNECT: "C", Phase.DATA: "D"}
    for end in END_REASONS:
        if not end.has_message:
            assert re.fullmatch(r"--|[CSscRIKD]-|[CSscRK][CDQ]|PR", end.state)
            assert end.state[1] == letters[end.phase] or end.state in ("--", "K-", "I-", "D-")


def test_ends_before_there_is_a_state_have_haproxys_message() -> None:
    # those of its connections that never become sessions
    for end in END_REASONS:
        assert end.has_message == (end.phase in (Phase.HEADER, Phase.HANDSHAKE))
        assert end.has_message == (len(end.state) > 2)
    messages = {end.state for end in END_REASONS if end.phase is Phase.HANDSHAKE}
    words = r"[A-Z][A-Za-z ]+ (SSL handshake|failure)|SSL client (certificate|CA chain) [a-z ]+"
    assert all(re.fullmatch(words, message) for message in messages)
    messages = {end.state for end in END_REASONS if end.phase is Phase.HEADER}
    assert all(
        re.fullmatch(r"[A-Z][A-Za-z ]+ PROXY protocol header( received)?", message) for message in messages
    )


def test_the_first_letter_says_who() -> None:
    letters = {
        EndedBy.CLIENT: {"C", "-"},
        EndedBy.SERVER: {"S", "-"},
        EndedBy.TIMEOUT: {"c", "s"},
        EndedBy.ADMIN: {"K"},
        EndedBy.PROXY: {"S", "R", "I", "P", "D"},  # no usable server is the servers' fault there
    }
    for end in END_REASONS:
        assert end.has_message or end.state[0] in letters[end.by]


def test_every_phase_can_be_ended_by_client_operator_and_time() -> None:
    for phase in set(Phase) - {Phase.ROUTE}:  # which takes no time
        who = {end.by for end in END_REASONS if end.phase is phase}
        assert who >= {EndedBy.CLIENT, EndedBy.ADMIN, EndedBy.TIMEOUT}


def test_names_are_words_for_a_search() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", end.name) for end in END_REASONS)
    assert all(end.meaning and "\n" not in end.meaning and "|" not in end.meaning for end in END_REASONS)
