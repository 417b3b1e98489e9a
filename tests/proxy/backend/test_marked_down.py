"""What becomes of a server's sessions when it goes: they go on, or end at once, as ``on_marked_down`` says."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.testing import Collect, Connection, Flood, HalfClose, Send, dial
from tests.support.proxy.backend_cluster import (
    BackendCluster,
    assert_rejected,
    assert_served,
    check_of,
    receive_server_name,
)
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot
from tests.support.proxy.relays import ON_BOTH
from tests.support.timeouts import wait_until

SHUT_DOWN: dict[str, Any] = {"on_marked_down": "shutdown-sessions"}
NEVER: dict[str, Any] = {"timeouts": {"connect": "1h"}}


async def two_guests(cluster: BackendCluster, **settings: Any) -> tuple[Connection, Connection]:
    """One at s1, one at s2."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="roundrobin", **settings)
    one, two = await cluster.connect_greeted(), await cluster.connect_greeted()
    assert [server.sessions for server in cluster.states.values()] == [1, 1]
    return one, two


@ON_BOTH
@pytest.mark.parametrize("tls", [False, True])
async def test_sessions_of_a_server_in_maintenance_end(cluster: BackendCluster, tls: bool) -> None:
    one, two = await two_guests(cluster, tls=tls, **SHUT_DOWN)
    await assert_served(one)
    cluster.states["s1"].set_state("maint")
    await assert_rejected(one)
    assert one.end in {"eof", "close_notify"}, "no reset: what was on its way may arrive"
    with trio.fail_after(TIMEOUT_S):
        await cluster.servers["s1"].wait_ended()
    assert cluster.servers["s1"].connections[0].end == "eof", "the server's side ends, too"
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == ("server-down", "proxy", "data", "D-")
    assert (line["server"], line["bytes_in"], line["bytes_out"]) == ("s1", 14, 18)
    await assert_served(two)
    assert [server.sessions for server in cluster.states.values()] == [0, 1]


async def test_the_log_has_the_server_before_its_sessions(cluster: BackendCluster) -> None:
    await two_guests(cluster, **SHUT_DOWN)
    cluster.states["s1"].set_state("maint")
    await cluster.harness.session()
    lines = [line for line in cluster.harness.lines() if line["event"] in ("server-state", "session")]
    assert [line["event"] for line in lines] == ["server-state", "session"]
    assert "1 sessions active, 0 requeued" in lines[0]["message"]


async def test_haproxys_line_of_it(cluster: BackendCluster) -> None:
    await two_guests(cluster, tcplog=True, **SHUT_DOWN)
    cluster.states["s1"].set_state("maint")
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries, line.queue) == ("b/s1", "D-", "0", "0/0")


@pytest.mark.parametrize("settings", [{}, {"on_marked_down": "none"}])
async def test_unless_it_is_wished_sessions_go_on(cluster: BackendCluster, settings: dict[str, Any]) -> None:
    one, two = await two_guests(cluster, **settings)
    cluster.states["s1"].set_state("maint")
    await assert_served(one)
    await assert_served(two)
    assert await cluster.connect_and_close() == "s2"
    await cluster.close_client(one)
    lines = await cluster.harness.sessions(2)
    assert {line["end"] for line in lines} == {"client-closed"}


async def test_a_server_may_have_it_otherwise_than_its_backend(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", on_marked_down="none")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="roundrobin", **SHUT_DOWN)
    one, two = [await cluster.connect_greeted() for _ in range(2)]
    for server in cluster.states.values():
        server.set_state("maint")
    await assert_rejected(two)
    await assert_served(one)


async def test_sessions_of_a_server_that_drains_go_on(cluster: BackendCluster) -> None:
    """Until it goes for maintenance, which is how one is emptied that people will not leave."""
    one, _ = await two_guests(cluster, **SHUT_DOWN)
    cluster.states["s1"].set_state("drain")
    await assert_served(one)
    cluster.states["s1"].set_state("maint")
    await assert_rejected(one)
    assert (await cluster.harness.session())["end"] == "server-down"


async def test_a_server_that_comes_back_has_new_sessions_only(cluster: BackendCluster) -> None:
    one, _ = await two_guests(cluster, **SHUT_DOWN)
    cluster.states["s1"].set_state("maint")
    await assert_rejected(one)
    cluster.states["s1"].set_state("ready")
    assert {await cluster.connect_and_close() for _ in range(2)} == {"s1", "s2"}
    again = await cluster.connect_client()
    while await receive_server_name(again) != "s1":
        again = await cluster.connect_client()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(again)


async def test_sessions_of_a_server_whose_checks_fail_end(cluster: BackendCluster) -> None:
    checked = await cluster.start_unlisted_server("checked")
    await cluster.add_server("s1", check=check_of(checked))
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="first", **SHUT_DOWN)
    client = await cluster.connect_greeted()
    await checked.close()
    await assert_rejected(client)
    line = await cluster.harness.session()
    assert (line["end"], line["state"]) == ("server-down", "D-")
    (said,) = await cluster.harness.events("server-down")
    assert "1 sessions active" in said["message"]
    assert await cluster.connect_and_close() == "s2"


async def test_sessions_of_the_last_server_end_too(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.start_proxy(**SHUT_DOWN)
    client = await cluster.connect_greeted()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    await cluster.harness.events("backend-down")
    assert (await cluster.harness.session())["end"] == "server-down"


async def test_other_backends_sessions_go_on(cluster: BackendCluster) -> None:
    """Also those at a server of the same name and address."""
    server = await cluster.add_server("s1")
    bind = [{"address": "127.0.0.1:0"}]
    same = {"name": "s1", "address": server.address, **SHUT_DOWN}
    proxy = await cluster.harness.run_proxy(
        {
            "log": {"format": "json", "to": str(cluster.harness.log)},
            "frontends": {name: {"bind": bind, "backend": name, "log_null": True} for name in "bc"},
            "backends": {name: {"check": "none", "servers": [same]} for name in "bc"},
        }
    )
    async with (
        await dial(proxy.frontends["b"].addresses[0]) as one,
        await dial(proxy.frontends["c"].addresses[0]) as other,
    ):
        assert await receive_server_name(one) == await receive_server_name(other) == "s1"
        proxy.backends["b"].servers["s1"].set_state("maint")
        await assert_rejected(one)
        await assert_served(other)


# Whatever they are at


@pytest.mark.parametrize("where", ["connecting", "TLS", "in the pause"])
async def test_who_is_being_connected_is_taken_elsewhere(cluster: BackendCluster, where: str) -> None:
    """Nothing has come of it yet, so nothing is lost."""
    tls = cluster.harness.ca.server_context("127.0.0.1") if where == "TLS" else None
    match where:
        case "connecting":
            await cluster.add_unanswering_server("s1")
        case "TLS":
            await cluster.add_server("s1", (Collect(),))
        case _:
            await cluster.add_server("s1")
    await cluster.add_server("s2", tls=tls)
    sticky: dict[str, Any] = {"stick": {"on": "source"}} if where == "in the pause" else {}
    await cluster.start_proxy(
        balance="first",
        retries=3,
        introduced=True,
        backend_tls=tls is not None,
        **SHUT_DOWN,
        **NEVER,
        **sticky,
    )
    if sticky:
        assert await cluster.connect_and_close() == "s1"
        await cluster.servers["s1"].close()
    client = await cluster.connect_client()
    match where:
        case "connecting":
            await cluster.wait_for_sessions()
        case "TLS":
            with trio.fail_after(TIMEOUT_S):
                connection = await cluster.servers["s1"].wait_for(1)
                await connection.wait_received(1)
        case _:
            await cluster.wait_for_connect_errors("s1")
    cluster.states["s1"].set_state("maint")
    assert await receive_server_name(client) == "s2"
    await assert_served(client)
    await cluster.close_client(client)
    line = (await cluster.harness.sessions(2 if sticky else 1))[-1]
    assert (line["end"], line["server"], line["redispatched"]) == ("client-closed", "s2", True)
    assert [server.sessions for server in cluster.states.values()] == [0, 0]


async def test_who_was_taken_elsewhere_has_nothing_to_do_with_it_any_more(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="first", retries=1, **SHUT_DOWN)
    client = await cluster.connect_greeted()
    cluster.states["s1"].set_state("maint")
    await assert_served(client)


@ON_BOTH
@pytest.mark.parametrize("server_tls", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_peers_that_read_nothing_keep_no_session(
    cluster: BackendCluster, tls: bool, server_tls: bool
) -> None:
    await cluster.add_server(
        "s1", (Flood(),), tls=cluster.harness.ca.server_context("127.0.0.1") if server_tls else None
    )
    await cluster.start_proxy(tls=tls, backend_tls=server_tls, **SHUT_DOWN)
    before = ResourceSnapshot.now()
    client = await cluster.connect_client()
    with trio.fail_after(TIMEOUT_S):
        await client.receive_exactly(100)
        await trio.testing.wait_all_tasks_blocked(0.05)  # everything is full now
        cluster.states["s1"].set_state("maint")
        line = await cluster.harness.session()
    assert (line["end"], line["state"]) == ("server-down", "D-")
    client.drop()
    await before.wait_until_restored()


@ON_BOTH
async def test_half_closed_sessions_end_too(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", (Send(b"s1\r\n"), HalfClose(), Collect()))
    await cluster.start_proxy(**SHUT_DOWN)
    client = await cluster.connect_client()
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\n"  # the session goes on the other way
    assert cluster.proxy.sessions == 1
    cluster.states["s1"].set_state("maint")
    assert (await cluster.harness.session())["end"] == "server-down"


@ON_BOTH
async def test_a_hundred_sessions_end_at_once(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(**SHUT_DOWN)
    before = ResourceSnapshot.now()
    clients = [await cluster.connect_greeted() for _ in range(100)]
    cluster.states["s1"].set_state("maint")
    lines = await cluster.harness.sessions(50)
    assert {(line["server"], line["end"]) for line in lines} == {("s1", "server-down")}
    assert [server.sessions for server in cluster.states.values()] == [0, 50]
    ended = 0

    async def notice(client: Connection) -> None:
        nonlocal ended
        await client.receive_until_end()
        ended += 1

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(notice, client)
        await wait_until(lambda: ended == 50)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == 50
        nursery.cancel_scope.cancel()
    for client in clients:
        client.drop()
    await before.wait_until_restored()


async def test_a_place_that_is_freed_so_is_no_place(cluster: BackendCluster) -> None:
    """The sessions end because the server goes: those who wait for one do not get it."""
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(**SHUT_DOWN)
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(here)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (cluster.pool.waiting, server.accepted) == (1, 1)
    cluster.states["s1"].set_state("ready")
    assert await receive_server_name(client) == "s1"
