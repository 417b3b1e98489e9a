"""Which server a session gets: each balance, weights and backups."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mailproxy.testing import dial
from tests.support.proxy.backend_cluster import BackendCluster, assert_rejected, receive_server_name


async def add_servers(cluster: BackendCluster, *names: str, **table: Any) -> None:
    for name in names:
        await cluster.add_server(name, **table)


async def serve_in_sequence(cluster: BackendCluster, count: int) -> list[str]:
    """Return the servers of this number of clients. Each closes before the next one connects."""
    return [await cluster.connect_and_close() for _ in range(count)]


async def serve_at_once(cluster: BackendCluster, count: int) -> list[str]:
    """Return the servers of this number of clients, all of which stay connected."""
    return [await receive_server_name(await cluster.connect_client()) for _ in range(count)]


def hosts(count: int) -> list[str]:
    return [f"198.51.{number // 250}.{number % 250 + 1}" for number in range(count)]


# roundrobin


async def test_roundrobin_rotates(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="roundrobin")
    assert await serve_in_sequence(cluster, 7) == ["s1", "s2", "s3", "s1", "s2", "s3", "s1"]


async def test_roundrobin_ignores_session_counts(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2")
    await cluster.start_proxy(balance="roundrobin")
    first = await cluster.connect_greeted()
    assert await serve_at_once(cluster, 4) == ["s2", "s1", "s2", "s1"]
    await cluster.close_client(first)
    assert await serve_at_once(cluster, 2) == ["s2", "s1"]


async def test_roundrobin_mixes_servers_by_weight(cluster: BackendCluster) -> None:
    await cluster.add_server("strong", weight=3)
    await cluster.add_server("weak")
    await cluster.start_proxy(balance="roundrobin")
    served = await serve_in_sequence(cluster, 12)
    assert Counter(served) == {"strong": 9, "weak": 3}
    for start in range(0, 12, 4):
        assert Counter(served[start : start + 4]) == {"strong": 3, "weak": 1}


async def test_roundrobin_skips_full_server(cluster: BackendCluster) -> None:
    await cluster.add_server("small", max_sessions=1)
    await cluster.add_server("large")
    await cluster.start_proxy(balance="roundrobin")
    assert await serve_at_once(cluster, 4) == ["small", "large", "large", "large"]


async def test_roundrobin_does_not_overload_returned_server(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2")
    await cluster.start_proxy(balance="roundrobin")
    cluster.states["s1"].set_state("maint")
    assert set(await serve_in_sequence(cluster, 6)) == {"s2"}
    cluster.states["s1"].set_state("ready")
    assert Counter(await serve_in_sequence(cluster, 6)) == {"s1": 3, "s2": 3}


# leastconn


async def test_leastconn_prefers_fewest_sessions(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy()
    clients = [await cluster.connect_client() for _ in range(1)]
    assert [await receive_server_name(client) for client in clients] == ["s1"]
    assert await serve_at_once(cluster, 2) == ["s2", "s3"]
    await cluster.close_client(clients[0])
    assert await serve_at_once(cluster, 1) == ["s1"]


async def test_leastconn_divides_sessions_by_weight(cluster: BackendCluster) -> None:
    await cluster.add_server("strong", weight=4)
    await cluster.add_server("weak")
    await cluster.start_proxy()
    await serve_at_once(cluster, 20)
    assert [server.sessions for server in cluster.states.values()] == [16, 4]


async def test_leastconn_fills_returned_server_first(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2")
    await cluster.start_proxy()
    cluster.states["s1"].set_state("maint")
    await serve_at_once(cluster, 4)
    cluster.states["s1"].set_state("ready")
    assert await serve_at_once(cluster, 4) == ["s1"] * 4


# first


async def test_first_fills_servers_in_order(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", max_sessions=2)
    await cluster.add_server("s3")
    await cluster.start_proxy(balance="first")
    first = await cluster.connect_greeted()
    assert await serve_at_once(cluster, 5) == ["s1", "s2", "s2", "s3", "s3"]
    await cluster.close_client(first)
    assert await serve_at_once(cluster, 2) == ["s1", "s3"]


async def test_first_ignores_weights(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", weight=1)
    await cluster.add_server("s2", weight=100)
    await cluster.start_proxy(balance="first")
    assert await serve_at_once(cluster, 3) == ["s1"] * 3


# source


async def test_source_gives_client_the_same_server(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    first = {host: await cluster.connect_and_close(host) for host in hosts(24)}
    assert set(first.values()) == {"s1", "s2", "s3"}
    assert {host: await cluster.connect_and_close(host) for host in hosts(24)} == first


async def test_source_is_stable_across_restart_and_order(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    first = {host: await cluster.connect_and_close(host) for host in hosts(12)}
    cluster.server_tables.reverse()
    await cluster.start_proxy(balance="source", accept_proxy=True)
    assert {host: await cluster.connect_and_close(host) for host in hosts(12)} == first, (
        "the order of servers must not matter"
    )


async def test_source_moves_only_clients_of_removed_server(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    first = {host: await cluster.connect_and_close(host) for host in hosts(24)}
    cluster.states["s1"].set_state("maint")
    meanwhile = {host: await cluster.connect_and_close(host) for host in hosts(24)}
    assert "s1" not in meanwhile.values()
    assert {host: name for host, name in meanwhile.items() if first[host] != "s1"} == {
        host: name for host, name in first.items() if name != "s1"
    }
    cluster.states["s1"].set_state("ready")
    assert {host: await cluster.connect_and_close(host) for host in hosts(24)} == first, "the clients return"


async def test_source_treats_ipv6_network_as_one_client(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3", "s4")
    await cluster.start_proxy(balance="source", accept_proxy=True)
    networks = [
        [await cluster.connect_and_close(f"2001:db8:0:{net:x}::{host:x}") for host in (1, 0xFFFF)]
        for net in range(12)
    ]
    assert all(len(set(served)) == 1 for served in networks)
    assert len({served[0] for served in networks}) > 1


async def test_source_rotates_unix_socket_clients(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2")
    await cluster.start_proxy(
        balance="source", frontend={"bind": [{"address": f"unix:{cluster.harness.folder}/p.sock"}]}
    )
    assert await serve_in_sequence(cluster, 4) == ["s1", "s2", "s1", "s2"]


async def test_source_uses_connection_address_without_header(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="source")
    assert len(set(await serve_in_sequence(cluster, 5))) == 1


async def test_source_has_one_fallback_for_full_server(
    cluster: BackendCluster,
) -> None:
    await add_servers(cluster, "s1", "s2", "s3", max_sessions=1)
    await cluster.start_proxy(balance="source", accept_proxy=True)
    usual = await receive_server_name(await cluster.connect_client("192.0.2.1"))
    others = [await cluster.connect_and_close("192.0.2.1") for _ in range(3)]
    assert len(set(others)) == 1
    assert others[0] != usual


# random


async def test_random_balances_evenly(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3")
    await cluster.start_proxy(balance="random")
    await serve_at_once(cluster, 60)
    # The less loaded of two random servers is chosen, which is far more even than chance alone.
    assert all(10 <= server.sessions <= 30 for server in cluster.states.values())


async def test_random_finds_last_free_slots(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2", "s3", max_sessions=4)
    await cluster.start_proxy(balance="random")
    await serve_at_once(cluster, 12)
    assert [server.sessions for server in cluster.states.values()] == [4, 4, 4]


# Weights, backups


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_weight_zero_gets_no_sessions(cluster: BackendCluster, balance: str) -> None:
    await cluster.add_server("s1", weight=0)
    await add_servers(cluster, "s2", "s3")
    await cluster.start_proxy(balance=balance, accept_proxy=True)
    served = [await cluster.connect_and_close(host) for host in hosts(8)]
    assert "s1" not in served


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_backups_serve_only_without_other_servers(cluster: BackendCluster, balance: str) -> None:
    await add_servers(cluster, "spare", "spare2", backup=True)
    await add_servers(cluster, "s1", "s2")
    await cluster.start_proxy(balance=balance, accept_proxy=True)
    assert {await cluster.connect_and_close(host) for host in hosts(6)} <= {"s1", "s2"}
    cluster.states["s1"].set_state("maint")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"s2"}
    cluster.states["s2"].set_state("drain")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"spare"}, "only the first backup"
    cluster.states["spare"].set_state("maint")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"spare2"}
    cluster.states["s1"].set_state("ready")
    assert {await cluster.connect_and_close(host) for host in hosts(3)} == {"s1"}


async def test_all_backups_serve_if_that_is_set(cluster: BackendCluster) -> None:
    await add_servers(cluster, "spare", "spare2", backup=True)
    await add_servers(cluster, "s1")
    await cluster.start_proxy(balance="roundrobin", all_backups=True)
    assert {await cluster.connect_and_close() for _ in range(4)} == {"s1"}
    cluster.states["s1"].set_state("maint")
    assert {await cluster.connect_and_close() for _ in range(4)} == {"spare", "spare2"}
    cluster.states["spare"].set_state("maint")
    assert {await cluster.connect_and_close() for _ in range(4)} == {"spare2"}


async def test_full_server_queues_despite_backup(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    spare = await cluster.add_server("spare", backup=True)
    await cluster.start_proxy()
    current = await cluster.connect_greeted()
    client = await cluster.connect_queued()
    assert spare.accepted == 0
    await cluster.close_client(current)
    assert await receive_server_name(client) == "s1"


async def test_queued_sessions_move_to_backup(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("spare", backup=True)
    await cluster.start_proxy()
    await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    cluster.states["s1"].set_state("maint")
    for client in waiting:
        assert await receive_server_name(client) == "spare"


async def test_no_eligible_server_rejects_session(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2", weight=0)
    await cluster.start_proxy()
    cluster.states["s1"].set_state("drain")
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["state"]) == ("no-server", "proxy", "SC")
    assert "s1: DRAIN" in line["detail"]
    assert "s2: weight 0" in line["detail"]


async def test_two_frontends_share_rotation(cluster: BackendCluster) -> None:
    await add_servers(cluster, "s1", "s2")
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
