"""source: a client keeps its server; who comes, goes or weighs more takes no client that is not its own."""

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


def homes(balance: Source) -> dict[bytes, Server | None]:
    return {key: balance.choose(key) for key in CLIENTS}


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_client_has_the_same_server_in_every_proxy_whatever_the_order(order: list[int], count: int) -> None:
    servers = make_servers(*[1] * count)
    before = homes(ring(servers))
    assert homes(ring([servers[place] for place in order if place < count])) == before


def test_servers_stay_the_clients_own_over_versions_of_the_program() -> None:
    """Proxies of two versions stand side by side during an upgrade: these must never change."""
    balance = ring(make_servers(1, 1, 1))
    assert names(balance.choose(key) for key in CLIENTS[:12]) == [
        *("s0", "s1", "s0", "s2", "s1", "s0"),
        *("s0", "s2", "s0", "s0", "s0", "s2"),
    ]


@pytest.mark.parametrize("count", [1, 2, 9, 40])
def test_one_that_comes_takes_its_part_and_nobody_else_moves(count: int) -> None:
    servers = make_servers(*[1] * (count + 1))
    balance = ring(servers[:-1])
    before = homes(balance)
    balance.set_servers(servers)
    after = homes(balance)
    moved = {key for key in CLIENTS if after[key] is not before[key]}
    assert all(after[key] is servers[-1] for key in moved)
    assert len(moved) / len(CLIENTS) == pytest.approx(1 / (count + 1), rel=0.25)
    balance.set_servers(servers[:-1])  # and when it goes, they go back to where they were
    assert homes(balance) == before


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=8), st.data())
def test_one_whose_weight_changes_moves_only_clients_from_or_to_it(
    of: list[int], data: st.DataObject
) -> None:
    servers = make_servers(*of)
    balance = ring(servers, sum(of) / len(of))
    before = homes(balance)
    changed = data.draw(st.sampled_from(servers))
    more = data.draw(st.integers(1, 40))
    was, changed.weight = changed.weight, more
    balance.set_servers(servers)
    after = homes(balance)
    for key in CLIENTS:
        if after[key] is not before[key]:
            assert (after[key] if more > was else before[key]) is changed


def test_clients_are_shared_by_weight() -> None:
    servers = make_servers(100, 200, 300, 400)
    had = counts(homes(ring(servers, 250)).values())
    for server in servers:
        assert had[server.name] / len(CLIENTS) == pytest.approx(server.weight / 1000, rel=0.2)


def test_the_clients_of_one_that_goes_are_spread_over_all_others() -> None:
    servers = make_servers(*[1] * 5)
    balance = ring(servers)
    orphans = [key for key, home in homes(balance).items() if home is servers[0]]
    balance.set_servers(servers[1:])
    had = counts(balance.choose(key) for key in orphans)
    assert min(had.values()) > len(orphans) / 4 / 2
    assert len(had) == 4


def test_clients_of_a_full_one_go_where_they_would_if_it_was_gone_and_come_back() -> None:
    servers = make_servers(*[1] * 4)
    balance = ring(servers)
    before = homes(balance)
    servers[0].max_sessions = servers[0].sessions = 1
    full = homes(balance)
    tried = {key: balance.choose(key, [servers[0]]) for key in CLIENTS}
    balance.set_servers(servers[1:])
    assert full == tried == homes(balance)
    balance.set_servers(servers)
    servers[0].sessions = 0
    assert homes(balance) == before


def test_a_server_without_weight_to_speak_of_has_a_point_at_least() -> None:
    servers = make_servers(1, 256)
    servers[0].throttle = 0.01
    balance = ring(servers, 128.5)
    assert counts(homes(balance).values())["s0"] < len(CLIENTS) / 100
    servers[1].max_sessions = servers[1].sessions = 1
    assert set(homes(balance).values()) == {servers[0]}


def test_clients_without_an_address_take_turns() -> None:
    balance = ring(make_servers(1, 1, 1))
    assert names(balance.choose(None) for _ in range(4)) == ["s0", "s1", "s2", "s0"]
