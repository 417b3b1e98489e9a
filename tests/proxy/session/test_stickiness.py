"""Clients come back to the server that they had: who is the same client, when it is learned, and when it is not so any more."""

from __future__ import annotations

from typing import Any

import pytest

from mailproxy.testing import Close, collect, dial
from tests.support.patience import wait_until
from tests.support.proxy.backend_cluster import BackendCluster, assert_rejected, check_of, receive_server_name

ONE, TWO, THREE = "192.0.2.1", "192.0.2.2", "192.0.2.3"
QUICK: dict[str, Any] = {"timeouts": {"connect": "100ms"}}


async def two_servers(
    cluster: BackendCluster, *, stick: dict[str, Any] | None = None, **backend: Any
) -> None:
    """They take turns, but for clients that stick."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await start(cluster, stick=stick, **backend)


async def start(cluster: BackendCluster, *, stick: dict[str, Any] | None = None, **backend: Any) -> None:
    settings = {"balance": "roundrobin", "accept_proxy": True, **backend}
    await cluster.start_proxy(stick={"on": "source", **(stick or {})}, **settings)


async def known_at(cluster: BackendCluster, name: str, host: str) -> None:
    """Let this client have been at this server."""
    for other in cluster.states.values():
        other.set_state("ready" if other.name == name else "maint")
    assert await cluster.connect_and_close(host) == name
    for other in cluster.states.values():
        other.set_state("ready")


# Who is the same client


async def test_a_client_comes_back_to_its_server(cluster: BackendCluster) -> None:
    await two_servers(cluster)
    assert [await cluster.connect_and_close(ONE) for _ in range(3)] == ["s1"] * 3
    assert [await cluster.connect_and_close(TWO) for _ in range(3)] == ["s2"] * 3
    assert await cluster.connect_and_close(ONE) == "s1"


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_so_it_does_whatever_the_balance_says(cluster: BackendCluster, balance: str) -> None:
    for number in range(4):
        await cluster.add_server(f"s{number + 1}")
    await start(cluster, balance=balance)
    first = {host: await cluster.connect_and_close(host) for host in (ONE, TWO, THREE)}
    for _ in range(2):
        assert {host: await cluster.connect_and_close(host) for host in (ONE, TWO, THREE)} == first


async def test_a_client_has_one_server_although_others_have_less_to_do(cluster: BackendCluster) -> None:
    """A mail client opens several connections at once, and all see the same mailbox."""
    await two_servers(cluster, balance="leastconn")
    for _ in range(5):
        await cluster.connect_greeted(ONE)
    assert [server.sessions for server in cluster.states.values()] == [5, 0]


async def test_without_a_stick_table_nobody_sticks(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="roundrobin", accept_proxy=True)
    assert [await cluster.connect_and_close(ONE) for _ in range(4)] == ["s1", "s2", "s1", "s2"]


async def test_without_a_header_the_connections_own_address_counts(cluster: BackendCluster) -> None:
    await two_servers(cluster, accept_proxy=False)
    assert [await cluster.connect_and_close() for _ in range(3)] == ["s1"] * 3


async def test_the_same_client_is_known_at_every_bind(cluster: BackendCluster) -> None:
    binds = [{"address": "127.0.0.1:0", "accept_proxy": ["127.0.0.0/8"]} for _ in range(2)]
    await two_servers(cluster, frontend={"bind": binds})
    assert [await cluster.connect_and_close(ONE, bind=number) for number in (0, 1, 0)] == ["s1"] * 3


async def test_clients_with_tls_stick_as_others_do(cluster: BackendCluster) -> None:
    await two_servers(cluster, tls=True)
    assert [await cluster.connect_and_close(host) for host in (ONE, TWO, ONE, TWO)] == [
        "s1",
        "s2",
        "s1",
        "s2",
    ]


async def test_by_default_every_ipv4_address_is_a_client(cluster: BackendCluster) -> None:
    await two_servers(cluster)
    assert [await cluster.connect_and_close(host) for host in ("192.0.2.0", "192.0.2.1")] == ["s1", "s2"]


async def test_by_default_64_bits_of_an_ipv6_address_are_a_client(cluster: BackendCluster) -> None:
    """A household has so many, and its devices change the rest as they like."""
    await two_servers(cluster)
    assert await cluster.connect_and_close("2001:db8:0:1::7") == "s1"
    assert await cluster.connect_and_close("2001:db8:0:1:ffff:ffff:ffff:ffff") == "s1"
    assert await cluster.connect_and_close("2001:db8:0:2::7") == "s2"
    assert await cluster.connect_and_close("2001:db8:0:1:1::") == "s1"


NETWORKS = {
    "v4/24": ({"prefix_v4": 24}, ("198.51.100.7", "198.51.100.255"), "198.51.101.7"),
    "v4/20": ({"prefix_v4": 20}, ("198.51.96.1", "198.51.111.254"), "198.51.112.1"),
    "v6/48": ({"prefix_v6": 48}, ("2001:db8:5::1", "2001:db8:5:ffff::1"), "2001:db8:6::1"),
    "v6/128": ({"prefix_v6": 128}, ("2001:db8::1", "2001:db8:0:0::1"), "2001:db8::2"),
    "mapped": ({}, ("198.51.100.7", "::ffff:198.51.100.7"), "198.51.100.8"),
}


@pytest.mark.parametrize(("stick", "inside", "outside"), NETWORKS.values(), ids=NETWORKS)
async def test_a_network_is_one_client(
    cluster: BackendCluster, stick: dict[str, Any], inside: tuple[str, str], outside: str
) -> None:
    await two_servers(cluster, stick=stick)
    assert await cluster.connect_and_close(inside[0]) == "s1"
    assert await cluster.connect_and_close(outside) == "s2"
    assert await cluster.connect_and_close(inside[1]) == "s1"
    assert await cluster.connect_and_close(outside) == "s2"


async def test_clients_of_a_unix_socket_are_nobody_in_particular(cluster: BackendCluster) -> None:
    address = f"unix:{cluster.harness.folder}/p.sock"
    await two_servers(cluster, accept_proxy=False, frontend={"bind": [{"address": address}]})
    assert [await cluster.connect_and_close() for _ in range(4)] == ["s1", "s2", "s1", "s2"]


async def test_unless_a_header_says_who_they_are(cluster: BackendCluster) -> None:
    address = f"unix:{cluster.harness.folder}/p.sock"
    await two_servers(cluster, frontend={"bind": [{"address": address, "accept_proxy": ["unix"]}]})
    assert [await cluster.connect_and_close(host) for host in (ONE, TWO, ONE, ONE)] == [
        "s1",
        "s2",
        "s1",
        "s1",
    ]


async def test_who_comes_without_a_header_is_known_by_its_own_address(cluster: BackendCluster) -> None:
    binds = [{"address": "127.0.0.1:0", "accept_proxy": ["192.0.2.0/24"], "proxy_optional": True}]
    await two_servers(cluster, accept_proxy=False, frontend={"bind": binds})
    assert [await cluster.connect_and_close() for _ in range(3)] == ["s1"] * 3


# When it is learned


async def test_a_server_that_was_not_reached_is_not_learned(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await start(cluster)
    await assert_rejected(await cluster.connect_client(ONE))
    assert await cluster.connect_and_close(ONE) == "good", "it was its turn"


async def test_a_server_that_took_too_long_is_not_learned(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("slow")
    await cluster.add_server("good")
    await start(cluster, **QUICK)
    client = await cluster.connect_client(ONE)
    await cluster.wait_for_sessions()
    assert await cluster.connect_and_close(ONE) == "good", "nor is it while it is being tried"
    await assert_rejected(client)


async def test_a_server_with_which_tls_fails_is_not_learned(cluster: BackendCluster) -> None:
    await cluster.add_server("bad", collect(b"* OK in clear text\r\n"))
    await cluster.add_server("good", tls=cluster.harness.ca.server_context("127.0.0.1"))
    await start(cluster, backend_tls=True)
    await assert_rejected(await cluster.connect_client(ONE))
    assert await cluster.connect_and_close(ONE) == "good"


async def test_a_server_that_hangs_up_at_once_is_learned(cluster: BackendCluster) -> None:
    """The connection was made; what it says in it is its own business."""
    hasty = await cluster.add_server("hasty", (Close(),))
    await cluster.add_server("s2")
    await start(cluster)
    for number in range(3):
        assert await cluster.connect_and_close(ONE) == ""
        await cluster.harness.sessions(number + 1)
    assert hasty.accepted == 3


async def test_the_server_that_took_it_in_the_end_is_learned(cluster: BackendCluster) -> None:
    bad = await cluster.add_server("bad", is_open=False)
    await cluster.add_server("good")
    await start(cluster, retries=1)
    assert await cluster.connect_and_close(ONE) == "good"
    await cluster.open_server(bad)
    assert [await cluster.connect_and_close(ONE) for _ in range(3)] == ["good"] * 3


async def test_a_server_to_which_nobody_sticks_is_not_learned(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", stick=False)
    await cluster.add_server("s2")
    await cluster.add_server("s3", stick=False)
    await start(cluster)
    assert [await cluster.connect_and_close(ONE) for _ in range(4)] == ["s1", "s2", "s2", "s2"]


async def test_a_backup_to_which_nobody_sticks_is_left_when_the_others_are_back(
    cluster: BackendCluster,
) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("spare", backup=True, stick=False)
    await start(cluster)
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(ONE) == "spare"
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close(ONE) == "s1"


async def test_a_backup_that_is_learned_is_kept(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("spare", backup=True)
    await start(cluster)
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(ONE) == "spare"
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close(ONE) == "spare"
    assert await cluster.connect_and_close(TWO) == "s1"


# When its server is not there


async def test_a_server_in_maintenance_loses_its_clients_for_good(cluster: BackendCluster) -> None:
    await two_servers(cluster)
    assert await cluster.connect_and_close(ONE) == "s1"
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(ONE) == "s2"
    cluster.states["s1"].set_state("ready")
    assert [await cluster.connect_and_close(ONE) for _ in range(3)] == ["s2"] * 3, (
        "where its mail has been fetched from since"
    )
    lines = await cluster.harness.sessions(5)
    assert {(line["retries"], line["redispatched"]) for line in lines} == {(0, False)}


async def test_unless_they_did_not_come_meanwhile(cluster: BackendCluster) -> None:
    await two_servers(cluster, balance="first")
    await known_at(cluster, "s2", ONE)
    cluster.states["s2"].set_state("maint")
    cluster.states["s2"].set_state("ready")
    assert [await cluster.connect_and_close(host) for host in (TWO, ONE)] == ["s1", "s2"]


async def test_a_server_that_is_down_loses_its_clients(cluster: BackendCluster) -> None:
    checked = await cluster.start_unlisted_server("checked")
    await cluster.add_server("s1", check=check_of(checked))
    await cluster.add_server("s2")
    await start(cluster)
    assert await cluster.connect_and_close(ONE) == "s1"
    await checked.close()
    await cluster.harness.events("server-down")
    assert await cluster.connect_and_close(ONE) == "s2"
    await cluster.open_server(checked)
    await cluster.harness.events("server-up")
    assert await cluster.connect_and_close(ONE) == "s2"


async def test_a_session_that_outlives_the_change_changes_nothing(cluster: BackendCluster) -> None:
    await two_servers(cluster)
    old = await cluster.connect_greeted(ONE)
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(ONE) == "s2"
    cluster.states["s1"].set_state("ready")
    await cluster.close_client(old)
    assert await cluster.connect_and_close(ONE) == "s2"


async def test_a_server_that_drains_keeps_its_clients_and_takes_no_others(cluster: BackendCluster) -> None:
    await two_servers(cluster)
    assert await cluster.connect_and_close(ONE) == "s1"
    cluster.states["s1"].set_state("drain")
    assert [await cluster.connect_and_close(host) for host in (TWO, ONE, THREE, ONE)] == [
        "s2",
        "s1",
        "s2",
        "s1",
    ]


async def test_the_only_server_drains(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await start(cluster)
    assert await cluster.connect_and_close(ONE) == "s1"
    cluster.states["s1"].set_state("drain")
    assert await cluster.connect_and_close(ONE) == "s1"
    await assert_rejected(await cluster.connect_client(TWO))
    line = (await cluster.harness.sessions(3))[2]
    assert (line["end"], line["state"]) == ("no-server", "SC")


async def test_a_server_without_weight_keeps_its_clients_and_takes_no_others(cluster: BackendCluster) -> None:
    """Weight 0 is a drain that the configuration says; its clients are those of before a reload."""
    await cluster.add_server("s1", weight=0)
    await cluster.add_server("s2")
    await start(cluster)
    assert [await cluster.connect_and_close(host) for host in (ONE, TWO)] == ["s2", "s2"]
    known = cluster.pool.stick
    assert known is not None
    known.store(next(known.entries())[0], 0, 1e9)  # what was known before: the first client had s1
    assert [await cluster.connect_and_close(host) for host in (ONE, TWO)] == ["s1", "s2"]


async def test_while_no_server_is_there_nothing_is_forgotten(cluster: BackendCluster) -> None:
    await two_servers(cluster, balance="first")
    await known_at(cluster, "s2", ONE)
    for server in cluster.states.values():
        server.set_state("maint")
    await assert_rejected(await cluster.connect_client(ONE))
    for server in cluster.states.values():
        server.set_state("ready")
    assert [await cluster.connect_and_close(host) for host in (TWO, ONE)] == ["s1", "s2"]


@pytest.mark.parametrize("redispatch", [True, 1])
async def test_who_is_taken_elsewhere_stays_there(cluster: BackendCluster, redispatch: bool | int) -> None:
    await two_servers(cluster, retries=2, redispatch=redispatch, **QUICK)
    assert await cluster.connect_and_close(ONE) == "s1"
    await cluster.servers["s1"].close()
    assert await cluster.connect_and_close(ONE) == "s2"
    await cluster.open_server(cluster.servers["s1"])
    assert [await cluster.connect_and_close(ONE) for _ in range(2)] == ["s2"] * 2


async def test_who_got_nowhere_has_its_server_still(cluster: BackendCluster) -> None:
    await two_servers(cluster, retries=0)
    assert await cluster.connect_and_close(ONE) == "s1"
    await cluster.servers["s1"].close()
    for _ in range(2):
        await assert_rejected(await cluster.connect_client(ONE))
    await cluster.open_server(cluster.servers["s1"])
    assert await cluster.connect_and_close(ONE) == "s1"


# How long, and how many


async def test_over_size_the_longest_unused_are_forgotten(cluster: BackendCluster) -> None:
    """s1 drains: only those that it is known of come back to it."""
    await two_servers(cluster, stick={"size": 2}, balance="first")
    for host in (ONE, TWO, THREE):
        assert await cluster.connect_and_close(host) == "s1"
    cluster.states["s1"].set_state("drain")
    assert [await cluster.connect_and_close(host) for host in (TWO, THREE)] == ["s1", "s1"]
    assert await cluster.connect_and_close(ONE) == "s2", "which makes TWO the longest unused, and forgotten"
    assert [await cluster.connect_and_close(host) for host in (THREE, ONE, TWO)] == ["s1", "s2", "s2"]


async def test_coming_back_counts_as_use(cluster: BackendCluster) -> None:
    await two_servers(cluster, stick={"size": 2}, balance="first")
    for host in (ONE, TWO, ONE, THREE):
        assert await cluster.connect_and_close(host) == "s1"
    cluster.states["s1"].set_state("drain")
    assert [await cluster.connect_and_close(host) for host in (ONE, THREE, TWO)] == ["s1", "s1", "s2"]


async def test_who_does_not_come_back_for_long_is_forgotten(cluster: BackendCluster) -> None:
    await two_servers(cluster, stick={"expire": "200ms"}, balance="first")
    table = cluster.pool.stick
    assert table is not None
    open_still = await cluster.connect_greeted(ONE)
    cluster.states["s1"].set_state("drain")
    assert len(table) == 1
    await wait_until(
        lambda: not len(table)
    )  # the memory of it is given back, too, and a session that is open is no use
    assert await cluster.connect_and_close(ONE) == "s2"
    assert open_still.end is None


async def test_an_entry_is_one_for_all_connections_of_a_client(cluster: BackendCluster) -> None:
    await two_servers(cluster)
    for _ in range(4):
        await cluster.connect_greeted(ONE)
    await cluster.connect_greeted(TWO)
    table = cluster.pool.stick
    assert table is not None
    assert len(table) == 2


async def test_the_hosts_own_addresses_are_told_apart(cluster: BackendCluster) -> None:
    """Not by a header alone: connections from other addresses of this machine."""
    await two_servers(cluster, accept_proxy=False, frontend={"bind": [{"address": "[::]:0"}]})
    port = cluster.proxy.frontends["f"].addresses[0].rpartition(":")[2]
    for host, server in (("127.0.0.1", "s1"), ("[::1]", "s2"), ("127.0.0.1", "s1"), ("[::1]", "s2")):
        async with await dial(f"{host}:{port}") as client:
            assert await receive_server_name(client) == server
