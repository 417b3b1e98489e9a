"""Which server real sessions get, by each balance, by weight, and when only backups are left."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mailproxy.testing import dial
from tests.support.proxy.backend_cluster import BackendCluster, assert_rejected, receive_server_name


async def servers(cluster: BackendCluster, *names: str, **table: Any) -> None:
    for name in names:
        await cluster.add_server(name, **table)


async def visits(cluster: BackendCluster, count: int) -> list[str]:
    """Who serves so many guests, of whom each leaves before the next one comes."""
    return [await cluster.connect_and_close() for _ in range(count)]


async def stays(cluster: BackendCluster, count: int) -> list[str]:
    """Who serves so many guests, who all stay."""
    return [await receive_server_name(await cluster.connect_client()) for _ in range(count)]


def hosts(count: int) -> list[str]:
    return [f"198.51.{number // 250}.{number % 250 + 1}" for number in range(count)]


# roundrobin


async def test_in_turn(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="roundrobin")
    assert await visits(cluster, 7) == ["s1", "s2", "s3", "s1", "s2", "s3", "s1"]


async def test_in_turn_however_long_they_stay(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2")
    await cluster.start_proxy(balance="roundrobin")
    first = await cluster.connect_greeted()
    assert await stays(cluster, 4) == ["s2", "s1", "s2", "s1"]
    await cluster.close_client(first)
    assert await stays(cluster, 2) == ["s2", "s1"]


async def test_in_turn_by_weight_and_well_mixed(cluster: BackendCluster) -> None:
    await cluster.add_server("strong", weight=3)
    await cluster.add_server("weak")
    await cluster.start_proxy(balance="roundrobin")
    served = await visits(cluster, 12)
    assert Counter(served) == {"strong": 9, "weak": 3}
    for start in range(0, 12, 4):
        assert Counter(served[start : start + 4]) == {"strong": 3, "weak": 1}


async def test_a_server_that_is_full_is_passed_over(cluster: BackendCluster) -> None:
    await cluster.add_server("small", max_sessions=1)
    await cluster.add_server("large")
    await cluster.start_proxy(balance="roundrobin")
    assert await stays(cluster, 4) == ["small", "large", "large", "large"]


async def test_a_server_that_comes_back_is_not_overrun(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2")
    await cluster.start_proxy(balance="roundrobin")
    cluster.states["s1"].set_state("maint")
    assert set(await visits(cluster, 6)) == {"s2"}
    cluster.states["s1"].set_state("ready")
    assert Counter(await visits(cluster, 6)) == {"s1": 3, "s2": 3}


# leastconn


async def test_whoever_has_least_to_do(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy()
    clients = [await cluster.connect_client() for _ in range(1)]
    assert [await receive_server_name(client) for client in clients] == ["s1"]
    assert await stays(cluster, 2) == ["s2", "s3"]
    await cluster.close_client(clients[0])
    assert await stays(cluster, 1) == ["s1"]


async def test_by_weight_the_strong_have_more(cluster: BackendCluster) -> None:
    await cluster.add_server("strong", weight=4)
    await cluster.add_server("weak")
    await cluster.start_proxy()
    await stays(cluster, 20)
    assert [server.sessions for server in cluster.states.values()] == [16, 4]


async def test_a_server_that_comes_back_is_filled_first(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2")
    await cluster.start_proxy()
    cluster.states["s1"].set_state("maint")
    await stays(cluster, 4)
    cluster.states["s1"].set_state("ready")
    assert await stays(cluster, 4) == ["s1"] * 4


# first


async def test_the_first_until_it_is_full(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", max_sessions=2)
    await cluster.add_server("s3")
    await cluster.start_proxy(balance="first")
    first = await cluster.connect_greeted()
    assert await stays(cluster, 5) == ["s1", "s2", "s2", "s3", "s3"]
    await cluster.close_client(first)
    assert await stays(cluster, 2) == ["s1", "s3"]


async def test_weights_do_not_matter_to_the_first(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", weight=1)
    await cluster.add_server("s2", weight=100)
    await cluster.start_proxy(balance="first")
    assert await stays(cluster, 3) == ["s1"] * 3


# source


async def test_by_source_a_client_always_has_the_same_server(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    first = {host: await cluster.connect_and_close(host) for host in hosts(24)}
    assert set(first.values()) == {"s1", "s2", "s3"}
    assert {host: await cluster.connect_and_close(host) for host in hosts(24)} == first


async def test_by_source_over_a_restart_and_in_every_proxy(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    first = {host: await cluster.connect_and_close(host) for host in hosts(12)}
    cluster.server_tables.reverse()
    await cluster.start_proxy(balance="source", accept_proxy=True)
    assert {host: await cluster.connect_and_close(host) for host in hosts(12)} == first, (
        "nor does their order matter"
    )


async def test_by_source_only_the_clients_of_a_server_that_goes_move(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    first = {host: await cluster.connect_and_close(host) for host in hosts(24)}
    cluster.states["s1"].set_state("maint")
    meanwhile = {host: await cluster.connect_and_close(host) for host in hosts(24)}
    assert "s1" not in meanwhile.values()
    assert {host: name for host, name in meanwhile.items() if first[host] != "s1"} == {
        host: name for host, name in first.items() if name != "s1"
    }
    cluster.states["s1"].set_state("ready")
    assert {host: await cluster.connect_and_close(host) for host in hosts(24)} == first, "and they come back"


async def test_by_source_a_household_with_ipv6_is_one_client(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3", "s4")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    households = [
        [await cluster.connect_and_close(f"2001:db8:0:{net:x}::{host:x}") for host in (1, 0xFFFF)]
        for net in range(12)
    ]
    assert all(len(set(served)) == 1 for served in households)
    assert len({served[0] for served in households}) > 1


async def test_by_source_clients_of_a_unix_socket_take_turns(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2")
    await cluster.start_proxy(
        balance="source", frontend={"bind": [{"address": f"unix:{cluster.harness.folder}/p.sock"}]}
    )
    assert await visits(cluster, 4) == ["s1", "s2", "s1", "s2"]


async def test_by_source_without_a_header_the_connections_address_counts(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source")
    assert len(set(await visits(cluster, 5))) == 1


async def test_by_source_a_full_server_sends_its_clients_to_the_same_other_one(
    cluster: BackendCluster,
) -> None:
    await servers(cluster, "s1", "s2", "s3", max_sessions=1)
    await cluster.start_proxy(balance="source", accept_proxy=True)
    own = await receive_server_name(await cluster.connect_client("192.0.2.1"))
    others = [await cluster.connect_and_close("192.0.2.1") for _ in range(3)]
    assert len(set(others)) == 1
    assert others[0] != own


# random


async def test_by_chance_everybody_has_some(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="random")
    await stays(cluster, 60)
    # of two that are drawn the less loaded one: far more even than chance alone
    assert all(10 <= server.sessions <= 30 for server in cluster.states.values())


async def test_by_chance_places_that_are_left_are_found(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2", "s3", max_sessions=4)
    await cluster.start_proxy(balance="random")
    await stays(cluster, 12)
    assert [server.sessions for server in cluster.states.values()] == [4, 4, 4]


# Weights, backups


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_a_server_without_weight_takes_nobody(cluster: BackendCluster, balance: str) -> None:
    await cluster.add_server("s1", weight=0)
    await servers(cluster, "s2", "s3")
    await cluster.start_proxy(balance=balance, accept_proxy=True)
    served = [await cluster.connect_and_close(host) for host in hosts(8)]
    assert "s1" not in served


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_backups_serve_only_while_no_other_server_is_there(
    cluster: BackendCluster, balance: str
) -> None:
    await servers(cluster, "spare", "spare2", backup=True)
    await servers(cluster, "s1", "s2")
    await cluster.start_proxy(balance=balance, accept_proxy=True)
    assert {await cluster.connect_and_close(host) for host in hosts(6)} <= {"s1", "s2"}
    cluster.states["s1"].set_state("maint")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"s2"}
    cluster.states["s2"].set_state("drain")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"spare"}, (
        "the first of them, alone"
    )
    cluster.states["spare"].set_state("maint")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"spare2"}
    cluster.states["s1"].set_state("ready")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"s1"}


async def test_full_servers_are_waited_for_rather_than_backups_used(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    spare = await cluster.add_server("spare", backup=True)
    await cluster.start_proxy()
    here = await cluster.connect_greeted()
    client = await cluster.connect_queued()
    assert spare.accepted == 0
    await cluster.close_client(here)
    assert await receive_server_name(client) == "s1"


async def test_who_waits_for_a_place_has_the_backups_when_the_servers_go(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("spare", backup=True)
    await cluster.start_proxy()
    await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    cluster.states["s1"].set_state("maint")
    for client in waiting:
        assert await receive_server_name(client) == "spare"


async def test_no_server_at_all(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2", weight=0)
    await cluster.start_proxy()
    cluster.states["s1"].set_state("drain")
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["state"]) == ("no-server", "proxy", "SC")
    assert "s1: DRAIN" in line["detail"]
    assert "s2: weight 0" in line["detail"]


async def test_two_frontends_share_a_backends_turns(cluster: BackendCluster) -> None:
    await servers(cluster, "s1", "s2")
    bind = [{"address": "127.0.0.1:0"}]
    proxy = await cluster.harness.run_proxy(
        {
            "log": {"format": "json", "to": str(cluster.harness.log)},
            "frontends": {name: {"bind": bind, "backend": "b"} for name in "fg"},
            "backends": {"b": {"servers": cluster.server_tables, "balance": "roundrobin", "check": "none"}},
        }
    )
    served = []
    for name in "fgfg":
        async with await dial(proxy.frontends[name].addresses[0]) as client:
            served.append(await receive_server_name(client))
    assert served == ["s1", "s2", "s1", "s2"]
