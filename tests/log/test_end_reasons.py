"""End reasons: each is distinct, and the list has all of them."""

from __future__ import annotations

import re

from mailproxy.log import END_REASONS, EndedBy, EndReason, Phase, end_reasons


def test_names_and_meanings_are_distinct() -> None:
    assert len({end.name for end in END_REASONS}) == len(END_REASONS)
    assert len({end.meaning for end in END_REASONS}) == len(END_REASONS)


def test_list_has_every_end_reason() -> None:
    defined = {value for value in vars(end_reasons).values() if isinstance(value, EndReason)}
    assert defined == set(END_REASONS)


def test_state_matches_haproxy_letters() -> None:
    # Configuration manual, section 8.5: first the cause, then the phase.
    letters = {
        Phase.ROUTE: "R",
        Phase.NEGOTIATION: "R",
        Phase.QUEUE: "Q",
        Phase.CONNECT: "C",
        Phase.DATA: "D",
    }
    for end in END_REASONS:
        if not end.has_message:
            assert re.fullmatch(r"--|[CSscRIKD]-|[CSscRK][CDQ]|[CcPK]R", end.state)
            assert end.state[1] == letters[end.phase] or end.state in ("--", "K-", "I-", "D-")


def test_early_ends_have_haproxy_messages() -> None:
    # HAProxy writes these messages for connections that never become sessions.
    for end in END_REASONS:
        assert end.has_message == (end.phase in (Phase.HEADER, Phase.HANDSHAKE))
        assert end.has_message == (len(end.state) > 2)
    messages = {end.state for end in END_REASONS if end.phase is Phase.HANDSHAKE}
    pattern = r"[A-Z][A-Za-z ]+ (SSL handshake|failure)|SSL client (certificate|CA chain) [a-z ]+"
    assert all(re.fullmatch(pattern, message) for message in messages)
    messages = {end.state for end in END_REASONS if end.phase is Phase.HEADER}
    assert all(
        re.fullmatch(r"[A-Z][A-Za-z ]+ PROXY protocol header( received)?", message) for message in messages
    )


def test_first_letter_is_the_cause() -> None:
    letters = {
        EndedBy.CLIENT: {"C", "-"},
        EndedBy.SERVER: {"S", "-"},
        EndedBy.TIMEOUT: {"c", "s"},
        EndedBy.ADMIN: {"K"},
        EndedBy.PROXY: {"S", "R", "I", "P", "D"},  # for HAProxy, "no usable server" is caused by the servers
    }
    for end in END_REASONS:
        assert end.has_message or end.state[0] in letters[end.by]


def test_every_phase_has_client_operator_and_timeout_ends() -> None:
    for phase in set(Phase) - {Phase.ROUTE}:  # routing takes no time
        causes = {end.by for end in END_REASONS if end.phase is phase}
        assert causes >= {EndedBy.CLIENT, EndedBy.ADMIN, EndedBy.TIMEOUT}


def test_names_are_hyphenated_words() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", end.name) for end in END_REASONS)
    assert all(end.meaning and "\n" not in end.meaning and "|" not in end.meaning for end in END_REASONS)
