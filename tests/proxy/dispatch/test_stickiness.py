"""Stickiness: which addresses are one client, when its server is stored, and when the entry is dropped."""

from __future__ import annotations

from typing import Any

import pytest

from mailproxy.testing import Close, collect, dial
from tests.support.proxy.backend_cluster import BackendCluster, assert_rejected, check_of, receive_server_name
from tests.support.timeouts import wait_until

HOST_1, HOST_2, HOST_3 = "192.0.2.1", "192.0.2.2", "192.0.2.3"
SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": "100ms"}}


async def start_with_two_servers(
    cluster: BackendCluster, *, stick: dict[str, Any] | None = None, **backend: Any
) -> None:
    """Start a proxy with two servers in round robin, and a stick table."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await start_proxy(cluster, stick=stick, **backend)


async def start_proxy(
    cluster: BackendCluster, *, stick: dict[str, Any] | None = None, **backend: Any
) -> None:
    settings = {"balance": "roundrobin", "accept_proxy": True, **backend}
    await cluster.start_proxy(stick={"on": "source", **(stick or {})}, **settings)


async def store_sticky_entry(cluster: BackendCluster, name: str, host: str) -> None:
    """Connect a client to this server, so that the stick table has an entry for it."""
    for other in cluster.states.values():
        other.set_state("ready" if other.name == name else "maint")
    assert await cluster.connect_and_close(host) == name
    for other in cluster.states.values():
        other.set_state("ready")


# Which addresses are one client


async def test_client_returns_to_its_server(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster)
    assert [await cluster.connect_and_close(HOST_1) for _ in range(3)] == ["s1"] * 3
    assert [await cluster.connect_and_close(HOST_2) for _ in range(3)] == ["s2"] * 3
    assert await cluster.connect_and_close(HOST_1) == "s1"


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "first", "random", "source"])
async def test_sticky_server_overrides_each_balance(cluster: BackendCluster, balance: str) -> None:
    for number in range(4):
        await cluster.add_server(f"s{number + 1}")
    await start_proxy(cluster, balance=balance)
    first = {host: await cluster.connect_and_close(host) for host in (HOST_1, HOST_2, HOST_3)}
    for _ in range(2):
        assert {host: await cluster.connect_and_close(host) for host in (HOST_1, HOST_2, HOST_3)} == first


async def test_parallel_sessions_of_client_share_server(cluster: BackendCluster) -> None:
    """A mail client opens several connections at once, and all should see the same mailbox."""
    await start_with_two_servers(cluster, balance="leastconn")
    for _ in range(5):
        await cluster.connect_greeted(HOST_1)
    assert [server.sessions for server in cluster.states.values()] == [5, 0]


async def test_without_stick_table_clients_rotate(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="roundrobin", accept_proxy=True)
    assert [await cluster.connect_and_close(HOST_1) for _ in range(4)] == ["s1", "s2", "s1", "s2"]


async def test_connection_address_is_used_without_proxy_header(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, accept_proxy=False)
    assert [await cluster.connect_and_close() for _ in range(3)] == ["s1"] * 3


async def test_client_is_sticky_at_every_bind(cluster: BackendCluster) -> None:
    binds = [{"address": "127.0.0.1:0", "accept_proxy": ["127.0.0.0/8"]} for _ in range(2)]
    await start_with_two_servers(cluster, frontend={"bind": binds})
    assert [await cluster.connect_and_close(HOST_1, bind=number) for number in (0, 1, 0)] == ["s1"] * 3


async def test_tls_clients_are_sticky(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, tls=True)
    assert [await cluster.connect_and_close(host) for host in (HOST_1, HOST_2, HOST_1, HOST_2)] == [
        "s1",
        "s2",
        "s1",
        "s2",
    ]


async def test_default_ipv4_prefix_is_32(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster)
    assert [await cluster.connect_and_close(host) for host in ("192.0.2.0", "192.0.2.1")] == ["s1", "s2"]


async def test_default_ipv6_prefix_is_64(cluster: BackendCluster) -> None:
    """A household has a /64, and its devices change the other 64 bits freely."""
    await start_with_two_servers(cluster)
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
async def test_prefix_makes_network_single_client(
    cluster: BackendCluster, stick: dict[str, Any], inside: tuple[str, str], outside: str
) -> None:
    await start_with_two_servers(cluster, stick=stick)
    assert await cluster.connect_and_close(inside[0]) == "s1"
    assert await cluster.connect_and_close(outside) == "s2"
    assert await cluster.connect_and_close(inside[1]) == "s1"
    assert await cluster.connect_and_close(outside) == "s2"


async def test_unix_socket_clients_are_not_sticky(cluster: BackendCluster) -> None:
    address = f"unix:{cluster.harness.folder}/p.sock"
    await start_with_two_servers(cluster, accept_proxy=False, frontend={"bind": [{"address": address}]})
    assert [await cluster.connect_and_close() for _ in range(4)] == ["s1", "s2", "s1", "s2"]


async def test_unix_socket_clients_with_header_are_sticky(cluster: BackendCluster) -> None:
    address = f"unix:{cluster.harness.folder}/p.sock"
    await start_with_two_servers(cluster, frontend={"bind": [{"address": address, "accept_proxy": ["unix"]}]})
    assert [await cluster.connect_and_close(host) for host in (HOST_1, HOST_2, HOST_1, HOST_1)] == [
        "s1",
        "s2",
        "s1",
        "s1",
    ]


async def test_optional_header_falls_back_to_connection_address(cluster: BackendCluster) -> None:
    binds = [{"address": "127.0.0.1:0", "accept_proxy": ["192.0.2.0/24"], "proxy_optional": True}]
    await start_with_two_servers(cluster, accept_proxy=False, frontend={"bind": binds})
    assert [await cluster.connect_and_close() for _ in range(3)] == ["s1"] * 3


# When an entry is stored


async def test_refusing_server_is_not_stored(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await start_proxy(cluster)
    await assert_rejected(await cluster.connect_client(HOST_1))
    assert await cluster.connect_and_close(HOST_1) == "good", (
        "the refusing server was not stored, so round robin continues"
    )


async def test_unanswering_server_is_not_stored(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("slow")
    await cluster.add_server("good")
    await start_proxy(cluster, **SHORT_TIMEOUT)
    client = await cluster.connect_client(HOST_1)
    await cluster.wait_for_sessions()
    assert await cluster.connect_and_close(HOST_1) == "good", (
        "a server that is being connected is not stored either"
    )
    await assert_rejected(client)


async def test_server_with_failed_tls_is_not_stored(cluster: BackendCluster) -> None:
    await cluster.add_server("bad", collect(b"* OK in clear text\r\n"))
    await cluster.add_server("good", tls=cluster.harness.ca.server_context("127.0.0.1"))
    await start_proxy(cluster, backend_tls=True)
    await assert_rejected(await cluster.connect_client(HOST_1))
    assert await cluster.connect_and_close(HOST_1) == "good"


async def test_server_closing_after_connect_is_stored(cluster: BackendCluster) -> None:
    """The connection was made. What the server does afterwards does not matter."""
    closing = await cluster.add_server("closing", (Close(),))
    await cluster.add_server("s2")
    await start_proxy(cluster)
    for number in range(3):
        assert await cluster.connect_and_close(HOST_1) == ""
        await cluster.harness.sessions(number + 1)
    assert closing.accepted == 3


async def test_server_after_redispatch_is_stored(cluster: BackendCluster) -> None:
    bad = await cluster.add_server("bad", is_open=False)
    await cluster.add_server("good")
    await start_proxy(cluster, retries=1)
    assert await cluster.connect_and_close(HOST_1) == "good"
    await cluster.open_server(bad)
    assert [await cluster.connect_and_close(HOST_1) for _ in range(3)] == ["good"] * 3


async def test_server_with_stick_false_is_not_stored(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", stick=False)
    await cluster.add_server("s2")
    await cluster.add_server("s3", stick=False)
    await start_proxy(cluster)
    assert [await cluster.connect_and_close(HOST_1) for _ in range(4)] == ["s1", "s2", "s2", "s2"]


async def test_backup_with_stick_false_loses_clients(
    cluster: BackendCluster,
) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("spare", backup=True, stick=False)
    await start_proxy(cluster)
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(HOST_1) == "spare"
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close(HOST_1) == "s1"


async def test_sticky_backup_keeps_clients(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("spare", backup=True)
    await start_proxy(cluster)
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(HOST_1) == "spare"
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close(HOST_1) == "spare"
    assert await cluster.connect_and_close(HOST_2) == "s1"


# State changes


async def test_client_moved_by_maintenance_stays_moved(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(HOST_1) == "s2"
    cluster.states["s1"].set_state("ready")
    assert [await cluster.connect_and_close(HOST_1) for _ in range(3)] == ["s2"] * 3, (
        "the client has fetched its mail from s2 since"
    )
    lines = await cluster.harness.sessions(5)
    assert {(line["retries"], line["redispatched"]) for line in lines} == {(0, False)}


async def test_sticky_entry_survives_maintenance_if_unused(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, balance="first")
    await store_sticky_entry(cluster, "s2", HOST_1)
    cluster.states["s2"].set_state("maint")
    cluster.states["s2"].set_state("ready")
    assert [await cluster.connect_and_close(host) for host in (HOST_2, HOST_1)] == ["s1", "s2"]


async def test_client_moved_by_failed_check_stays_moved(cluster: BackendCluster) -> None:
    checked = await cluster.start_unlisted_server("checked")
    await cluster.add_server("s1", check=check_of(checked))
    await cluster.add_server("s2")
    await start_proxy(cluster)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    await checked.close()
    await cluster.harness.events("server-down")
    assert await cluster.connect_and_close(HOST_1) == "s2"
    await cluster.open_server(checked)
    await cluster.harness.events("server-up")
    assert await cluster.connect_and_close(HOST_1) == "s2"


async def test_end_of_old_session_keeps_new_entry(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster)
    old_client = await cluster.connect_greeted(HOST_1)
    cluster.states["s1"].set_state("maint")
    assert await cluster.connect_and_close(HOST_1) == "s2"
    cluster.states["s1"].set_state("ready")
    await cluster.close_client(old_client)
    assert await cluster.connect_and_close(HOST_1) == "s2"


async def test_draining_server_keeps_sticky_clients_only(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    cluster.states["s1"].set_state("drain")
    assert [await cluster.connect_and_close(host) for host in (HOST_2, HOST_1, HOST_3, HOST_1)] == [
        "s2",
        "s1",
        "s2",
        "s1",
    ]


async def test_only_server_drains(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await start_proxy(cluster)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    cluster.states["s1"].set_state("drain")
    assert await cluster.connect_and_close(HOST_1) == "s1"
    await assert_rejected(await cluster.connect_client(HOST_2))
    line = (await cluster.harness.sessions(3))[2]
    assert (line["end"], line["state"]) == ("no-server", "SC")


async def test_server_with_weight_zero_keeps_sticky_clients(cluster: BackendCluster) -> None:
    """Weight 0 is a drain by configuration. The server's sticky clients are those from before a reload."""
    await cluster.add_server("s1", weight=0)
    await cluster.add_server("s2")
    await start_proxy(cluster)
    assert [await cluster.connect_and_close(host) for host in (HOST_1, HOST_2)] == ["s2", "s2"]
    table = cluster.pool.stick
    assert table is not None
    table.store(next(table.entries())[0], 0, 1e9)  # an entry from before: the first client had s1
    assert [await cluster.connect_and_close(host) for host in (HOST_1, HOST_2)] == ["s1", "s2"]


async def test_sticky_entry_survives_rejection(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, balance="first")
    await store_sticky_entry(cluster, "s2", HOST_1)
    for server in cluster.states.values():
        server.set_state("maint")
    await assert_rejected(await cluster.connect_client(HOST_1))
    for server in cluster.states.values():
        server.set_state("ready")
    assert [await cluster.connect_and_close(host) for host in (HOST_2, HOST_1)] == ["s1", "s2"]


@pytest.mark.parametrize("redispatch", [True, 1])
async def test_redispatched_client_stays_moved(cluster: BackendCluster, redispatch: bool | int) -> None:
    await start_with_two_servers(cluster, retries=2, redispatch=redispatch, **SHORT_TIMEOUT)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    await cluster.servers["s1"].close()
    assert await cluster.connect_and_close(HOST_1) == "s2"
    await cluster.open_server(cluster.servers["s1"])
    assert [await cluster.connect_and_close(HOST_1) for _ in range(2)] == ["s2"] * 2


async def test_failed_session_keeps_sticky_entry(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, retries=0)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    await cluster.servers["s1"].close()
    for _ in range(2):
        await assert_rejected(await cluster.connect_client(HOST_1))
    await cluster.open_server(cluster.servers["s1"])
    assert await cluster.connect_and_close(HOST_1) == "s1"


# Expiry and size


async def test_full_table_drops_least_recently_used(cluster: BackendCluster) -> None:
    """s1 drains, so only clients with an entry return to it."""
    await start_with_two_servers(cluster, stick={"size": 2}, balance="first")
    for host in (HOST_1, HOST_2, HOST_3):
        assert await cluster.connect_and_close(host) == "s1"
    cluster.states["s1"].set_state("drain")
    assert [await cluster.connect_and_close(host) for host in (HOST_2, HOST_3)] == ["s1", "s1"]
    assert await cluster.connect_and_close(HOST_1) == "s2", (
        "the entry of HOST_1 was dropped; its new entry drops that of HOST_2"
    )
    assert [await cluster.connect_and_close(host) for host in (HOST_3, HOST_1, HOST_2)] == ["s1", "s2", "s2"]


async def test_returning_client_counts_as_use(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, stick={"size": 2}, balance="first")
    for host in (HOST_1, HOST_2, HOST_1, HOST_3):
        assert await cluster.connect_and_close(host) == "s1"
    cluster.states["s1"].set_state("drain")
    assert [await cluster.connect_and_close(host) for host in (HOST_1, HOST_3, HOST_2)] == ["s1", "s1", "s2"]


async def test_sticky_entry_expires(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster, stick={"expire": "200ms"}, balance="first")
    table = cluster.pool.stick
    assert table is not None
    open_client = await cluster.connect_greeted(HOST_1)
    cluster.states["s1"].set_state("drain")
    assert len(table) == 1
    # The entry's memory is freed. An open session does not count as use.
    await wait_until(lambda: not len(table))
    assert await cluster.connect_and_close(HOST_1) == "s2"
    assert open_client.end is None


async def test_sessions_of_client_share_entry(cluster: BackendCluster) -> None:
    await start_with_two_servers(cluster)
    for _ in range(4):
        await cluster.connect_greeted(HOST_1)
    await cluster.connect_greeted(HOST_2)
    table = cluster.pool.stick
    assert table is not None
    assert len(table) == 2


async def test_connection_addresses_are_distinguished(cluster: BackendCluster) -> None:
    """Without PROXY headers: connections from two addresses of this machine."""
    await start_with_two_servers(cluster, accept_proxy=False, frontend={"bind": [{"address": "[::]:0"}]})
    port = cluster.proxy.frontends["f"].addresses[0].rpartition(":")[2]
    for host, server in (("127.0.0.1", "s1"), ("[::1]", "s2"), ("127.0.0.1", "s1"), ("[::1]", "s2")):
        async with await dial(f"{host}:{port}") as client:
            assert await receive_server_name(client) == server
