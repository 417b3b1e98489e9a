"""End reasons: each is unlike every other, and the README tells all of them."""

from __future__ import annotations

import re
from pathlib import Path

from mailproxy.log import ENDS, EndedBy, EndReason, Phase, end_reasons

README = Path(__file__).parents[2] / "README.md"
COLUMNS = ["end", "who", "phase", "state", "meaning"]


def table_of_ends() -> list[list[str]]:
    """The rows of the README's table, without the backquotes round a whole cell."""
    rows = [
        [re.sub(r"\A`([^`]*)`\Z", r"\1", cell.strip()) for cell in line.strip().strip("|").split("|")]
        for line in README.read_text(encoding="utf-8").splitlines()
        if line.lstrip().startswith("|")
    ]
    start = rows.index(COLUMNS)
    table = []
    for row in rows[start + 2 :]:
        if len(row) != len(COLUMNS):
            break
        table.append(row)
    return table


def test_the_readme_has_them_all_as_they_are() -> None:
    told = {row[0]: row[1:] for row in table_of_ends()}
    assert told == {end.name: [end.by.value, end.phase.value, end.state, end.meaning] for end in ENDS}
    assert len(told) == len(table_of_ends())


def test_each_is_unlike_every_other() -> None:
    assert len({end.name for end in ENDS}) == len(ENDS)
    assert len({end.meaning for end in ENDS}) == len(ENDS)


def test_none_is_forgotten() -> None:
    defined = {value for value in vars(end_reasons).values() if isinstance(value, EndReason)}
    assert defined == set(ENDS)


def test_the_state_has_haproxys_letters() -> None:
    # configuration manual, section 8.5: who or what ended it, then what was going on
    letters = {Phase.ROUTE: "R", Phase.QUEUE: "Q", Phase.CONNECT: "C", Phase.DATA: "D"}
    for end in ENDS:
        if not end.has_message:
            assert re.fullmatch(r"--|[CSscRIKD]-|[CSscRK][CDQ]|PR", end.state)
            assert end.state[1] == letters[end.phase] or end.state in ("--", "K-", "I-", "D-")


def test_ends_before_there_is_a_state_have_haproxys_message() -> None:
    # those of its connections that never become sessions
    for end in ENDS:
        assert end.has_message == (end.phase in (Phase.HEADER, Phase.HANDSHAKE))
        assert end.has_message == (len(end.state) > 2)
    messages = {end.state for end in ENDS if end.phase is Phase.HANDSHAKE}
    words = r"[A-Z][A-Za-z ]+ (SSL handshake|failure)|SSL client (certificate|CA chain) [a-z ]+"
    assert all(re.fullmatch(words, message) for message in messages)
    messages = {end.state for end in ENDS if end.phase is Phase.HEADER}
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
    for end in ENDS:
        assert end.has_message or end.state[0] in letters[end.by]


def test_every_phase_can_be_ended_by_client_operator_and_time() -> None:
    for phase in set(Phase) - {Phase.ROUTE}:  # which takes no time
        who = {end.by for end in ENDS if end.phase is phase}
        assert who >= {EndedBy.CLIENT, EndedBy.ADMIN, EndedBy.TIMEOUT}


def test_names_are_words_for_a_search() -> None:
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", end.name) for end in ENDS)
    assert all(end.meaning and "\n" not in end.meaning and "|" not in end.meaning for end in ENDS)
