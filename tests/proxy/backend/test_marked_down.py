"""The sessions of a server that goes down continue or end at once, as ``on_marked_down`` says."""

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
from tests.support.proxy.relays import ON_EACH
from tests.support.timeouts import wait_until

SHUT_DOWN: dict[str, Any] = {"on_marked_down": "shutdown-sessions"}
LONG_CONNECT_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": "1h"}}


async def connect_two(cluster: BackendCluster, **settings: Any) -> tuple[Connection, Connection]:
    """Connect a client to s1 and one to s2."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="roundrobin", **settings)
    one, two = await cluster.connect_greeted(), await cluster.connect_greeted()
    assert [server.sessions for server in cluster.states.values()] == [1, 1]
    return one, two


@ON_EACH
@pytest.mark.parametrize("tls", [False, True])
async def test_sessions_end_in_maintenance(cluster: BackendCluster, tls: bool) -> None:
    one, two = await connect_two(cluster, tls=tls, **SHUT_DOWN)
    await assert_served(one)
    cluster.states["s1"].set_state("maint")
    await assert_rejected(one)
    assert one.end in {"eof", "close_notify"}, "no reset, so that data in flight can arrive"
    with trio.fail_after(TIMEOUT_S):
        await cluster.servers["s1"].wait_ended()
    assert cluster.servers["s1"].connections[0].end == "eof", "the connection to the server must end, too"
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == ("server-down", "proxy", "data", "D-")
    assert (line["server"], line["bytes_in"], line["bytes_out"]) == ("s1", 14, 18)
    await assert_served(two)
    assert [server.sessions for server in cluster.states.values()] == [0, 1]


async def test_server_is_logged_before_sessions(cluster: BackendCluster) -> None:
    await connect_two(cluster, **SHUT_DOWN)
    cluster.states["s1"].set_state("maint")
    await cluster.harness.session()
    lines = [line for line in cluster.harness.lines() if line["event"] in ("server-state", "session")]
    assert [line["event"] for line in lines] == ["server-state", "session"]
    assert "1 sessions active, 0 requeued" in lines[0]["message"]


async def test_tcplog_state_is_d(cluster: BackendCluster) -> None:
    await connect_two(cluster, tcplog=True, **SHUT_DOWN)
    cluster.states["s1"].set_state("maint")
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries, line.queue) == ("b/s1", "D-", "0", "0/0")


@pytest.mark.parametrize("settings", [{}, {"on_marked_down": "none"}])
async def test_sessions_continue_by_default(cluster: BackendCluster, settings: dict[str, Any]) -> None:
    one, two = await connect_two(cluster, **settings)
    cluster.states["s1"].set_state("maint")
    await assert_served(one)
    await assert_served(two)
    assert await cluster.connect_and_close() == "s2"
    await cluster.close_client(one)
    lines = await cluster.harness.sessions(2)
    assert {line["end"] for line in lines} == {"client-closed"}


async def test_server_setting_overrides_backend(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", on_marked_down="none")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="roundrobin", **SHUT_DOWN)
    one, two = [await cluster.connect_greeted() for _ in range(2)]
    for server in cluster.states.values():
        server.set_state("maint")
    await assert_rejected(two)
    await assert_served(one)


async def test_sessions_continue_while_draining(cluster: BackendCluster) -> None:
    """Maintenance then ends them: so an operator empties a server that clients do not leave."""
    one, _ = await connect_two(cluster, **SHUT_DOWN)
    cluster.states["s1"].set_state("drain")
    await assert_served(one)
    cluster.states["s1"].set_state("maint")
    await assert_rejected(one)
    assert (await cluster.harness.session())["end"] == "server-down"


async def test_returned_server_gets_new_sessions(cluster: BackendCluster) -> None:
    one, _ = await connect_two(cluster, **SHUT_DOWN)
    cluster.states["s1"].set_state("maint")
    await assert_rejected(one)
    cluster.states["s1"].set_state("ready")
    assert {await cluster.connect_and_close() for _ in range(2)} == {"s1", "s2"}
    later = await cluster.connect_client()
    while await receive_server_name(later) != "s1":
        later = await cluster.connect_client()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(later)


async def test_sessions_end_when_checks_fail(cluster: BackendCluster) -> None:
    checked = await cluster.start_unlisted_server("checked")
    await cluster.add_server("s1", check=check_of(checked))
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="first", **SHUT_DOWN)
    client = await cluster.connect_greeted()
    await checked.close()
    await assert_rejected(client)
    line = await cluster.harness.session()
    assert (line["end"], line["state"]) == ("server-down", "D-")
    (event,) = await cluster.harness.events("server-down")
    assert "1 sessions active" in event["message"]
    assert await cluster.connect_and_close() == "s2"


async def test_sessions_of_last_server_end(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.start_proxy(**SHUT_DOWN)
    client = await cluster.connect_greeted()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    await cluster.harness.events("backend-down")
    assert (await cluster.harness.session())["end"] == "server-down"


async def test_sessions_of_other_backend_continue(cluster: BackendCluster) -> None:
    """Also sessions at a server with the same name and address."""
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


# In each phase


@pytest.mark.parametrize("phase", ["connecting", "TLS", "turnaround pause"])
async def test_connecting_session_is_redispatched(cluster: BackendCluster, phase: str) -> None:
    """No data has been exchanged yet, so nothing is lost."""
    tls = cluster.harness.ca.server_context("127.0.0.1") if phase == "TLS" else None
    match phase:
        case "connecting":
            await cluster.add_unanswering_server("s1")
        case "TLS":
            await cluster.add_server("s1", (Collect(),))
        case _:
            await cluster.add_server("s1")
    await cluster.add_server("s2", tls=tls)
    sticky: dict[str, Any] = {"stick": {"on": "source"}} if phase == "turnaround pause" else {}
    await cluster.start_proxy(
        balance="first",
        retries=3,
        accept_proxy=True,
        backend_tls=tls is not None,
        **SHUT_DOWN,
        **LONG_CONNECT_TIMEOUT,
        **sticky,
    )
    if sticky:
        assert await cluster.connect_and_close() == "s1"
        await cluster.servers["s1"].close()
    client = await cluster.connect_client()
    match phase:
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


async def test_redispatched_session_ignores_first_server(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="first", retries=1, **SHUT_DOWN)
    client = await cluster.connect_greeted()
    cluster.states["s1"].set_state("maint")
    await assert_served(client)


@ON_EACH
@pytest.mark.parametrize("server_tls", [False, True])
@pytest.mark.parametrize("tls", [False, True])
async def test_stalled_peers_do_not_keep_session(
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
        await trio.testing.wait_all_tasks_blocked(0.05)  # all buffers are full now
        cluster.states["s1"].set_state("maint")
        line = await cluster.harness.session()
    assert (line["end"], line["state"]) == ("server-down", "D-")
    client.drop()
    await before.wait_until_restored()


@ON_EACH
async def test_half_closed_session_ends(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", (Send(b"s1\r\n"), HalfClose(), Collect()))
    await cluster.start_proxy(**SHUT_DOWN)
    client = await cluster.connect_client()
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\n"  # the session continues in the other direction
    assert cluster.proxy.sessions == 1
    cluster.states["s1"].set_state("maint")
    assert (await cluster.harness.session())["end"] == "server-down"


@ON_EACH
async def test_hundred_sessions_end_at_once(cluster: BackendCluster) -> None:
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

    async def count_end(client: Connection) -> None:
        nonlocal ended
        await client.receive_until_end()
        ended += 1

    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(count_end, client)
        await wait_until(lambda: ended == 50)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert ended == 50
        nursery.cancel_scope.cancel()
    for client in clients:
        client.drop()
    await before.wait_until_restored()


async def test_ended_sessions_give_no_slot_to_queue(cluster: BackendCluster) -> None:
    """The sessions end because the server is down, so queued sessions must not get its slots."""
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(**SHUT_DOWN)
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(current)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (cluster.pool.waiting, server.accepted) == (1, 1)
    cluster.states["s1"].set_state("ready")
    assert await receive_server_name(client) == "s1"
