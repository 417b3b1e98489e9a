"""The balance roundrobin: each server has its share at all times, also after changes and after it was full."""

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
def test_share_deviates_by_less_than_one_session(given_weights: list[int], choices: int) -> None:
    servers = make_servers(*given_weights)
    balance = turns(servers)
    count = dict.fromkeys(servers, 0)
    for choice in range(1, choices + 1):
        chosen = balance.choose()
        assert chosen is not None
        count[chosen] += 1
        share = Fraction(choice * chosen.weight, sum(given_weights))
        assert count[chosen] - share < 1
        for server in servers:
            assert Fraction(choice * server.weight, sum(given_weights)) - count[server] < 1


@given(weights)
def test_round_gives_each_server_exactly_its_weight(given_weights: list[int]) -> None:
    servers = make_servers(*given_weights)
    balance = turns(servers)
    for _ in range(2):
        count = counts(balance.choose() for _ in range(sum(given_weights)))
        assert count == {server.name: server.weight for server in servers}


def test_equal_servers_follow_the_configured_order() -> None:
    balance = turns(make_servers(7, 7, 7))
    assert names(balance.choose() for _ in range(7)) == ["s0", "s1", "s2"] * 2 + ["s0"]


def test_turns_of_heavy_server_are_not_consecutive() -> None:
    balance = turns(make_servers(5, 1, 1, 1, 1, 1))
    order = names(balance.choose() for _ in range(10))
    assert order[::2] == ["s0"] * 5
    assert sorted(order[1::2]) == ["s1", "s2", "s3", "s4", "s5"]


@given(weights, st.integers(1, 20))
def test_frequent_set_servers_keeps_the_shares(given_weights: list[int], every: int) -> None:
    """Slow start calls `set_servers` every few sessions. The first server must not get each first turn."""
    servers = make_servers(*given_weights)
    balance = turns(servers)
    count = dict.fromkeys(servers, 0)
    for choice in range(500):
        if choice % every == 0:
            balance.set_servers(servers)
        chosen = balance.choose()
        assert chosen is not None
        count[chosen] += 1
    for server in servers:
        assert abs(count[server] - 500 * server.weight / sum(given_weights)) <= 1 + 1e-6


def test_new_server_gets_its_share_without_catching_up() -> None:
    servers = make_servers(1, 1, 1)
    balance = turns(servers[:2])
    for _ in range(1000):
        balance.choose()
    balance.set_servers(servers)
    count = counts(balance.choose() for _ in range(30))
    assert all(abs(number - 10) <= 1 for number in count.values())


def test_changed_weight_applies_at_once() -> None:
    servers = make_servers(10, 10)
    balance = turns(servers)
    for _ in range(101):
        balance.choose()
    servers[0].weight = 30
    balance.set_servers(servers)
    assert counts(balance.choose() for _ in range(400))["s0"] == pytest.approx(300, abs=2)


@given(st.lists(st.integers(1, 256), min_size=2, max_size=6), st.integers(1, 300))
def test_server_that_was_full_does_not_catch_up(given_weights: list[int], choices: int) -> None:
    servers = make_servers(*given_weights)
    servers[0].max_sessions = servers[0].sessions = 1
    balance = turns(servers)
    others_weight = sum(given_weights[1:])
    without = counts(balance.choose() for _ in range(choices))
    assert without["s0"] == 0
    for server in servers[1:]:  # the others share as without it
        assert abs(without[server.name] - choices * server.weight / others_weight) < 2
    servers[0].sessions = 0
    count = counts(balance.choose() for _ in range(sum(given_weights)))
    for server in servers:
        assert abs(count[server.name] - server.weight) <= 2


def test_full_server_does_not_disturb_turns_of_others() -> None:
    servers = make_servers(5, 1, 1, 1, 1, 1, 30)
    balance = turns(servers)
    for _ in range(1000):
        balance.choose()
    servers[6].max_sessions = servers[6].sessions = 1
    order = names(balance.choose() for _ in range(20))
    assert "s6" not in order
    assert all(order[index : index + 3] != ["s0"] * 3 for index in range(18))
    servers[6].sessions = 0
    assert counts(balance.choose() for _ in range(40))["s6"] == pytest.approx(30, abs=1)


def test_rebase_does_not_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = make_servers(3, 5, 11)
    once = names(balance.choose() for balance in [turns(servers)] * 200)
    monkeypatch.setattr(module, "_REBASE_CHOICES", 23)
    assert names(balance.choose() for balance in [turns(servers)] * 200) == once
