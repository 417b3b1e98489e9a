"""roundrobin: every server has its part of the sessions at every moment, also after changes and after it was full."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import RoundRobin, Server
from mailproxy.pool.balance import roundrobin as module
from tests.support.pool_servers import counts, make_servers, names

weights = st.lists(st.integers(1, 256), min_size=1, max_size=8)


def turns(servers: list[Server]) -> RoundRobin:
    balance = RoundRobin()
    balance.set_servers(servers)
    return balance


@given(weights, st.integers(1, 1000))
def test_nobody_is_ever_a_whole_session_off_its_share(of: list[int], choices: int) -> None:
    servers = make_servers(*of)
    balance = turns(servers)
    had = dict.fromkeys(servers, 0)
    for choice in range(1, choices + 1):
        chosen = balance.choose()
        assert chosen is not None
        had[chosen] += 1
        share = Fraction(choice * chosen.weight, sum(of))
        assert had[chosen] - share < 1
        for server in servers:
            assert Fraction(choice * server.weight, sum(of)) - had[server] < 1


@given(weights)
def test_a_round_gives_each_exactly_its_weight(of: list[int]) -> None:
    servers = make_servers(*of)
    balance = turns(servers)
    for _ in range(2):
        had = counts(balance.choose() for _ in range(sum(of)))
        assert had == {server.name: server.weight for server in servers}


def test_equals_go_in_the_order_of_the_configuration() -> None:
    balance = turns(make_servers(7, 7, 7))
    assert names(balance.choose() for _ in range(7)) == ["s0", "s1", "s2"] * 2 + ["s0"]


def test_a_heavy_one_does_not_get_its_turns_in_a_row() -> None:
    balance = turns(make_servers(5, 1, 1, 1, 1, 1))
    order = names(balance.choose() for _ in range(10))
    assert order[::2] == ["s0"] * 5
    assert sorted(order[1::2]) == ["s1", "s2", "s3", "s4", "s5"]


@given(weights, st.integers(1, 20))
def test_who_is_renewed_all_the_time_still_gets_its_share(of: list[int], every: int) -> None:
    """A slow start anywhere renews every few sessions; who came first must not have each of the first turns."""
    servers = make_servers(*of)
    balance = turns(servers)
    had = dict.fromkeys(servers, 0)
    for choice in range(500):
        if choice % every == 0:
            balance.set_servers(servers)
        chosen = balance.choose()
        assert chosen is not None
        had[chosen] += 1
    for server in servers:
        assert abs(had[server] - 500 * server.weight / sum(of)) <= 1 + 1e-6


def test_one_that_comes_gets_its_share_from_now_on_and_not_what_it_missed() -> None:
    servers = make_servers(1, 1, 1)
    balance = turns(servers[:2])
    for _ in range(1000):
        balance.choose()
    balance.set_servers(servers)
    had = counts(balance.choose() for _ in range(30))
    assert all(abs(number - 10) <= 1 for number in had.values())


def test_one_whose_weight_changes_has_its_new_share_at_once() -> None:
    servers = make_servers(10, 10)
    balance = turns(servers)
    for _ in range(101):
        balance.choose()
    servers[0].weight = 30
    balance.set_servers(servers)
    assert counts(balance.choose() for _ in range(400))["s0"] == pytest.approx(300, abs=2)


@given(st.lists(st.integers(1, 256), min_size=2, max_size=6), st.integers(1, 300))
def test_one_that_was_full_is_not_overrun_with_what_it_missed(of: list[int], meanwhile: int) -> None:
    servers = make_servers(*of)
    servers[0].max_sessions = servers[0].sessions = 1
    balance = turns(servers)
    rest = sum(of[1:])
    without = counts(balance.choose() for _ in range(meanwhile))
    assert without["s0"] == 0
    for server in servers[1:]:  # and the others share as if it was not there
        assert abs(without[server.name] - meanwhile * server.weight / rest) < 2
    servers[0].sessions = 0
    had = counts(balance.choose() for _ in range(sum(of)))
    for server in servers:
        assert abs(had[server.name] - server.weight) <= 2


def test_one_that_fills_up_and_has_room_again_does_not_upset_the_turns_of_the_others() -> None:
    servers = make_servers(5, 1, 1, 1, 1, 1, 30)
    balance = turns(servers)
    for _ in range(1000):
        balance.choose()
    servers[6].max_sessions = servers[6].sessions = 1
    order = names(balance.choose() for _ in range(20))
    assert "s6" not in order
    assert all(order[place : place + 3] != ["s0"] * 3 for place in range(18))
    servers[6].sessions = 0
    assert counts(balance.choose() for _ in range(40))["s6"] == pytest.approx(30, abs=1)


def test_times_begin_anew_without_anybody_noticing(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = make_servers(3, 5, 11)
    once = names(balance.choose() for balance in [turns(servers)] * 200)
    monkeypatch.setattr(module, "_REBASE_CHOICES", 23)
    assert names(balance.choose() for balance in [turns(servers)] * 200) == once
