"""The layout of the shared memory over reloads, and which worker accepts at the sockets of workers that are gone."""

from __future__ import annotations

import pytest

from mailproxy.workers.reload.commit import adopt_slots
from mailproxy.workers.reload.layout import Layout, LayoutFullError, server_key
from mailproxy.workers.scoreboard import Scoreboard
from tests.support.startup_config import startup_config

FIRST = startup_config(backends__dovecot__servers=["192.0.2.1:143", "192.0.2.2:143"])
SECOND = startup_config(backends__dovecot__servers=["192.0.2.2:143", "192.0.2.3:143"])


def test_columns_stay_with_names_and_addresses() -> None:
    layout, other = Layout.of(FIRST), Layout.of(FIRST)
    before = dict(layout.columns)
    for each in (layout, other):
        each.add(SECOND)
    assert layout.columns == other.columns, "all processes come to the same"
    assert before.items() <= layout.columns.items()
    assert len(set(layout.columns.values())) == len(layout.columns)
    added = layout.columns.keys() - before.keys()
    assert added == {server_key("dovecot", "192.0.2.3:143", "192.0.2.3:143")}
    layout.add(FIRST)
    assert layout.columns == other.columns, "what comes back has the columns that it had"


def test_full_layout_stays_as_it_is() -> None:
    layout = Layout.of(FIRST)
    layout.columns_max = len(FIRST.frontends) * 3 + 9 + 3 + 3 * 4 - 1
    before = dict(layout.columns)
    with pytest.raises(LayoutFullError, match="needs a restart"):
        layout.add(SECOND)
    assert layout.columns == before


def test_counts_of_earlier_counters_are_seen() -> None:
    scoreboard = Scoreboard(FIRST, 2, max_sessions_per_worker=10)
    old = scoreboard.counters(0).backends["dovecot"].servers[1]
    old.sessions.add(3)
    scoreboard.reconfigure(SECOND, 3)
    new = scoreboard.counters(2).backends["dovecot"].servers[0]
    assert new.number == old.number
    new.sessions.add(1)
    assert new.sessions.total == 4
    assert scoreboard.counters(0).backends["dovecot"].servers[0].sessions.total == 4
    scoreboard.clear(2)
    assert new.sessions.total == 3
    with pytest.raises(LayoutFullError, match="more than 8 workers need a restart"):
        scoreboard.check(SECOND, 9)


@pytest.mark.parametrize(
    ("slots", "workers", "leaving", "adopted"),
    [
        (2, 2, set(), {}),
        (4, 2, {2, 3}, {0: [2], 1: [3]}),
        (4, 1, {1, 2, 3}, {0: [1, 2, 3]}),
        (4, 3, {1, 3}, {2: [1, 3]}),  # the worker of slot 1 drains still
    ],
)
def test_each_slot_without_a_worker_is_adopted(
    slots: int, workers: int, leaving: set[int], adopted: dict[int, list[int]]
) -> None:
    assert adopt_slots(range(slots), workers, leaving) == adopted
