"""The shared memory of workers: the client counts that one worker publishes are visible to the others."""

from __future__ import annotations

import os

import pytest

from mailproxy.pool import ClientLimits, ClientTables, LimitReached, RateCounts, SessionCounts
from mailproxy.workers.scoreboard import Scoreboard
from tests.support.smallest_config import smallest_config

LIMITED = """
frontends.imap.max_sessions_per_client = 2
frontends.imap.max_session_rate_per_client = { count = 4 }
"""
CLIENT = 2**63 + 1  # a hash of the client's address


def make_scoreboard(lines: str = LIMITED, workers: int = 3) -> Scoreboard:
    return Scoreboard(smallest_config(lines), workers, max_sessions_per_worker=100)


def client_limits(tables: ClientTables) -> ClientLimits:
    return ClientLimits(
        max_sessions=2,
        max_rate=4,
        sessions=SessionCounts(tables.sessions),
        rates=RateCounts(60.0, published=tables.rates),
    )


def test_cleared_worker_does_not_count() -> None:
    scoreboard = make_scoreboard()
    first, second, third = (client_limits(scoreboard.counters(slot).clients["imap"]) for slot in range(3))
    assert first.add(CLIENT, 1.0) is None
    assert second.add(CLIENT, 1.0) is None
    assert third.add(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)
    scoreboard.clear(0)
    assert third.add(CLIENT, 1.0) is None
    assert third.add(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)
    second.remove(CLIENT)
    reached = third.add(CLIENT, 1.0)
    assert reached == LimitReached("max_session_rate_per_client", 5), (
        "one of the second worker, four of the third"
    )


def test_counts_of_other_process_are_visible() -> None:
    """The memory is created before the fork."""
    scoreboard = make_scoreboard()
    child = os.fork()
    if child == 0:
        child_limits = client_limits(scoreboard.counters(1).clients["imap"])
        is_full = [child_limits.add(CLIENT, 1.0) for _ in range(2)] == [None, None]
        os._exit(0 if is_full else 1)
    assert os.waitpid(child, 0)[1] == 0
    own_limits = client_limits(scoreboard.counters(0).clients["imap"])
    assert own_limits.add(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)


def test_workers_share_secret_of_their_start() -> None:
    secrets = {
        scoreboard.counters(slot).clients["imap"].secret
        for scoreboard in (make_scoreboard(), make_scoreboard())
        for slot in range(3)
    }
    assert len(secrets) == 2


@pytest.mark.parametrize("lines", ["", 'frontends.imap.max_sessions_per_client_exempt = ["10.0.0.0/8"]'])
def test_frontends_without_limits_have_no_tables(lines: str) -> None:
    assert make_scoreboard(lines).counters(0).clients == {}


def test_control_only_reads_client_tables() -> None:
    scoreboard = make_scoreboard()
    own = client_limits(scoreboard.counters(0).clients["imap"])
    assert [own.add(CLIENT, 1.0) for _ in range(2)] == [None, None]
    tables = scoreboard.counters(scoreboard.control).clients["imap"]
    assert (tables.sessions.own, tables.rates.own) == (None, None)
    assert client_limits(tables).peek(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)
