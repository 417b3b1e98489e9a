"""The balance source: a client keeps its server, and a changed server moves only its own clients."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.pool import Server, Source
from tests.support.pool_servers import clients, counts, make_servers, names

CLIENTS = clients(4000)


def ring(servers: list[Server], mean_weight: float = 1.0) -> Source:
    balance = Source(mean_weight=mean_weight)
    balance.set_servers(servers)
    return balance


def servers_by_client(balance: Source) -> dict[bytes, Server | None]:
    return {key: balance.choose(key) for key in CLIENTS}


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_choice_is_independent_of_server_order(order: list[int], count: int) -> None:
    servers = make_servers(*[1] * count)
    before = servers_by_client(ring(servers))
    assert servers_by_client(ring([servers[index] for index in order if index < count])) == before


def test_choice_is_the_same_in_every_version() -> None:
    """Proxies of two versions run side by side during an upgrade, so these servers must never change."""
    balance = ring(make_servers(1, 1, 1))
    assert names(balance.choose(key) for key in CLIENTS[:12]) == [
        *("s0", "s1", "s0", "s2", "s1", "s0"),
        *("s0", "s2", "s0", "s0", "s0", "s2"),
    ]


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_new_server_takes_only_its_share_of_clients(count: int) -> None:
    servers = make_servers(*[1] * (count + 1))
    balance = ring(servers[:-1])
    before = servers_by_client(balance)
    balance.set_servers(servers)
    after = servers_by_client(balance)
    moved = {key for key in CLIENTS if after[key] is not before[key]}
    assert all(after[key] is servers[-1] for key in moved)
    assert len(moved) / len(CLIENTS) == pytest.approx(1 / (count + 1), rel=0.25)
    balance.set_servers(servers[:-1])  # without the new server, clients return to their old ones
    assert servers_by_client(balance) == before


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=8), st.data())
def test_changed_weight_moves_only_clients_of_that_server(weights: list[int], data: st.DataObject) -> None:
    servers = make_servers(*weights)
    balance = ring(servers, sum(weights) / len(weights))
    before = servers_by_client(balance)
    changed = data.draw(st.sampled_from(servers))
    new_weight = data.draw(st.integers(1, 40))
    old_weight, changed.weight = changed.weight, new_weight
    balance.set_servers(servers)
    after = servers_by_client(balance)
    for key in CLIENTS:
        if after[key] is not before[key]:
            assert (after[key] if new_weight > old_weight else before[key]) is changed


def test_clients_are_spread_by_weight() -> None:
    servers = make_servers(100, 200, 300, 400)
    count = counts(servers_by_client(ring(servers, 250)).values())
    for server in servers:
        assert count[server.name] / len(CLIENTS) == pytest.approx(server.weight / 1000, rel=0.2)


def test_clients_of_removed_server_are_spread_over_others() -> None:
    servers = make_servers(*[1] * 5)
    balance = ring(servers)
    displaced = [key for key, server in servers_by_client(balance).items() if server is servers[0]]
    balance.set_servers(servers[1:])
    count = counts(balance.choose(key) for key in displaced)
    assert min(count.values()) > len(displaced) / 4 / 2
    assert len(count) == 4


def test_full_server_moves_clients_like_a_removed_one() -> None:
    servers = make_servers(*[1] * 4)
    balance = ring(servers)
    before = servers_by_client(balance)
    servers[0].max_sessions = servers[0].sessions = 1
    full = servers_by_client(balance)
    tried = {key: balance.choose(key, [servers[0]]) for key in CLIENTS}
    balance.set_servers(servers[1:])
    assert full == tried == servers_by_client(balance)
    balance.set_servers(servers)
    servers[0].sessions = 0
    assert servers_by_client(balance) == before


def test_tiny_weight_has_at_least_one_point() -> None:
    servers = make_servers(1, 256)
    servers[0].throttle = 0.01
    balance = ring(servers, 128.5)
    assert counts(servers_by_client(balance).values())["s0"] < len(CLIENTS) / 100
    servers[1].max_sessions = servers[1].sessions = 1
    assert set(servers_by_client(balance).values()) == {servers[0]}


def test_clients_without_address_rotate() -> None:
    balance = ring(make_servers(1, 1, 1))
    assert names(balance.choose(None) for _ in range(4)) == ["s0", "s1", "s2", "s0"]
