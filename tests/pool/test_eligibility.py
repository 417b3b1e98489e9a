"""Eligible servers: active servers or one backup; and slow start of servers that came up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import AdminState, LeastConn, Server
from mailproxy.pool.eligibility import eligible_servers, slow_start_factor
from tests.support.pool_servers import ADDRESS, make_servers, names

flags = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=6)  # is_backup, is_ready


@given(flags)
def test_first_backup_serves_while_no_active_server_can(flags_of_servers: list[tuple[bool, bool]]) -> None:
    servers = make_servers(*[1] * len(flags_of_servers))
    for server, (is_backup, is_ready) in zip(servers, flags_of_servers, strict=True):
        server.is_backup = is_backup
        server.state = AdminState.READY if is_ready else AdminState.MAINT
    active = [server for server in servers if not server.is_backup and server.is_usable]
    backups = [server for server in servers if server.is_backup and server.is_usable]
    assert list(eligible_servers(servers)) == (active or backups[:1])
    assert list(eligible_servers(servers, all_backups=True)) == (active or backups)


def test_backup_stays_unused_if_active_servers_are_full() -> None:
    active, backup = make_servers(1, 1)
    active.max_sessions = active.sessions = 1
    backup.is_backup = True
    balance = LeastConn()
    balance.set_servers(eligible_servers([active, backup]))
    assert balance.choose() is None
    active.state = AdminState.DRAIN
    balance.set_servers(eligible_servers([active, backup]))
    assert names([balance.choose()]) == ["s1"]


def slow_start_server(slow_start: float, up_since: float | None) -> Server:
    return Server(
        "s", weight=50, max_sessions=200, addresses=ADDRESS, slow_start=slow_start, up_since=up_since
    )


@pytest.mark.parametrize(
    ("elapsed", "weight", "sessions"),
    [(0, 0.5, 2), (15, 12.875, 51), (30, 25.25, 101), (45, 37.625, 150), (60, 50, 200), (1000, 50, 200)],
)
def test_slow_start_grows_linearly_from_one_percent(elapsed: float, weight: float, sessions: int) -> None:
    server = slow_start_server(60.0, up_since=1000.0)
    server.throttle = slow_start_factor(server, 1000.0 + elapsed)
    assert server.effective_weight == pytest.approx(weight)
    assert server.effective_max_sessions == sessions
    server.sessions = sessions - 1
    assert not server.is_full
    server.sessions = sessions
    assert server.is_full


@given(st.floats(0, 3600), st.floats(0, 1e9), st.floats(-10, 7200), st.floats(0, 100))
def test_slow_start_factor_never_falls(
    slow_start: float, up_since: float, elapsed: float, later: float
) -> None:
    server = slow_start_server(slow_start, up_since)
    now = up_since + elapsed
    assert 0.01 <= slow_start_factor(server, now) <= slow_start_factor(server, now + later) <= 1.0
    assert slow_start_factor(server, up_since + slow_start) == 1.0


def test_factor_is_one_without_slow_start() -> None:
    assert slow_start_factor(slow_start_server(0.0, up_since=7.0), 7.0) == 1.0
    assert slow_start_factor(slow_start_server(0.0, up_since=7.0), 6.0) == 1.0
    assert slow_start_factor(slow_start_server(60.0, up_since=None), 7.0) == 1.0


def test_factor_keeps_its_minimum_if_clock_goes_back() -> None:
    assert slow_start_factor(slow_start_server(60.0, up_since=7.0), 6.0) == 0.01


def test_slow_start_accepts_one_session_and_keeps_unlimited() -> None:
    server = slow_start_server(60.0, up_since=0.0)
    server.throttle, server.max_sessions = slow_start_factor(server, 0.0), 10
    assert not server.is_full
    server.add_session()
    assert server.is_full
    server.max_sessions = 0
    assert not server.is_full
    assert server.effective_max_sessions == 0
