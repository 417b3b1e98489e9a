"""The shared memory of workers: what one publishes of its clients, the others see until it is gone."""

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
CLIENT = 2**63 + 1  # a hash


def board(lines: str = LIMITED, workers: int = 3) -> Scoreboard:
    return Scoreboard(smallest_config(lines), workers, max_sessions_per_worker=100)


def limits(tables: ClientTables) -> ClientLimits:
    return ClientLimits(
        max_sessions=2,
        max_rate=4,
        sessions=SessionCounts(tables.sessions),
        rates=RateCounts(60.0, published=tables.rates),
    )


def test_worker_that_is_gone_counts_no_more() -> None:
    shared = board()
    first, second, third = (limits(shared.counters(slot).clients["imap"]) for slot in range(3))
    assert first.add(CLIENT, 1.0) is None
    assert second.add(CLIENT, 1.0) is None
    assert third.add(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)
    shared.clear(0)
    assert third.add(CLIENT, 1.0) is None
    assert third.add(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)
    second.remove(CLIENT)
    reached = third.add(CLIENT, 1.0)
    assert reached == LimitReached("max_session_rate_per_client", 5), "one of the second, four of the third"


def test_counts_of_another_process_are_seen() -> None:
    """Made before it was forked, as the memory is."""
    shared = board()
    child = os.fork()
    if child == 0:
        there = limits(shared.counters(1).clients["imap"])
        is_full = [there.add(CLIENT, 1.0) for _ in range(2)] == [None, None]
        os._exit(0 if is_full else 1)
    assert os.waitpid(child, 0)[1] == 0
    here = limits(shared.counters(0).clients["imap"])
    assert here.add(CLIENT, 1.0) == LimitReached("max_sessions_per_client", 2)


def test_secret_is_one_for_all_workers_and_another_at_each_start() -> None:
    secrets = {
        shared.counters(slot).clients["imap"].secret for shared in (board(), board()) for slot in range(3)
    }
    assert len(secrets) == 2


@pytest.mark.parametrize("lines", ["", 'frontends.imap.max_sessions_per_client_exempt = ["10.0.0.0/8"]'])
def test_frontends_without_limits_have_no_tables(lines: str) -> None:
    assert board(lines).counters(0).clients == {}


def test_control_has_no_part_in_it() -> None:
    shared = board()
    assert shared.counters(shared.control).clients == {}
