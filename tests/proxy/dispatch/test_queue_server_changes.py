"""The queue when servers change state, and sticky sessions that wait for their own server."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.support.proxy.backend_cluster import (
    BackendCluster,
    TcplogLine,
    assert_rejected,
    assert_served,
    receive_server_name,
)

STICKY: dict[str, Any] = {"stick": {"on": "source"}}
SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"queue": "1s"}}


async def test_server_up_takes_waiters_up_to_max_sessions(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    two = await cluster.add_server("s2", max_sessions=2)
    await cluster.start_proxy()
    cluster.states["s2"].set_state("maint")
    await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(4)
    cluster.states["s2"].set_state("ready")
    for client in waiting[:2]:
        assert await receive_server_name(client) == "s2"
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert two.accepted == 2
    assert cluster.pool.waiting == 2


@pytest.mark.parametrize("state", ["drain", "maint"])
async def test_queued_session_waits_while_no_server_is_up(cluster: BackendCluster, state: Any) -> None:
    """A new session is rejected. A queued session waits until the queue timeout."""
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    cluster.states["s1"].set_state(state)
    await assert_rejected(await cluster.connect_client())
    assert (await cluster.harness.session())["end"] == "no-server"
    await cluster.close_client(current)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert cluster.pool.waiting == 1, "a free slot of a server that takes no sessions is not given away"
    assert server.accepted == 1
    cluster.states["s1"].set_state("ready")
    assert await receive_server_name(client) == "s1"


async def test_queue_timeout_while_no_server_is_up(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True, **SHORT_TIMEOUT)
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    assert await cluster.tcplog_line() == TcplogLine("b/<NOSRV>", "sQ", "0", "0/1")


@pytest.mark.parametrize("state", ["drain", "maint"])
async def test_slots_stay_taken_over_state_changes(cluster: BackendCluster, state: Any) -> None:
    """Open sessions keep their slots when the server comes back. The waiter still waits."""
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    cluster.states["s1"].set_state(state)
    cluster.states["s1"].set_state("ready")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (cluster.pool.waiting, server.accepted) == (1, 1)
    await assert_served(current)
    await cluster.close_client(current)
    assert await receive_server_name(client) == "s1"


async def test_sticky_waiters_move_when_server_goes_down(
    cluster: BackendCluster,
) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, balance="first", **STICKY)
    await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    cluster.states["s1"].set_state("maint")
    for client in waiting:
        assert await receive_server_name(client) == "s2"
    (event,) = await cluster.harness.events("server-state")
    assert "2 requeued, 0 remaining in queue" in event["message"]
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close() == "s2", "the client is sticky to its new server"


async def test_moved_sticky_waiter_keeps_order(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, balance="first", **STICKY)
    await cluster.connect_greeted("192.0.2.1")
    two = await cluster.connect_greeted("192.0.2.2")
    # The second client is sticky to s1.
    waiting = [await cluster.connect_queued(host) for host in ("192.0.2.3", "192.0.2.1", "192.0.2.4")]
    cluster.states["s1"].set_state("maint")
    current = two
    for client in waiting:
        await cluster.close_client(current)
        assert await receive_server_name(client) == "s2"
        current = client


async def test_sticky_waiter_gets_draining_server(cluster: BackendCluster) -> None:
    """Clients without a sticky entry keep waiting."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, **STICKY)
    current = await cluster.connect_greeted("192.0.2.1")
    new_client = await cluster.connect_client("192.0.2.2")
    await cluster.wait_for_queued(1)
    sticky_client = await cluster.connect_client("192.0.2.1")
    await cluster.wait_for_queued(2)
    cluster.states["s1"].set_state("drain")
    await cluster.close_client(current)
    assert await receive_server_name(sticky_client) == "s1"
    assert cluster.pool.waiting == 1
    cluster.states["s1"].set_state("ready")
    await cluster.close_client(sticky_client)
    assert await receive_server_name(new_client) == "s1"


async def test_sticky_and_new_clients_share_order(
    cluster: BackendCluster,
) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, **STICKY)
    current = await cluster.connect_greeted("192.0.2.1")
    waiting = [
        await cluster.connect_queued(host) for host in ("192.0.2.2", "192.0.2.1", "192.0.2.3", "192.0.2.1")
    ]
    for client in waiting:
        await cluster.close_client(current)
        assert await receive_server_name(client) == "s1"
        current = client


async def test_new_client_passes_sticky_waiters_to_idle_server(
    cluster: BackendCluster,
) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, balance="first", **STICKY)
    await cluster.connect_greeted("192.0.2.1")
    await cluster.connect_client("192.0.2.1")
    await cluster.wait_for_queued(1)
    assert await cluster.connect_and_close("192.0.2.2") == "s2"
    assert cluster.pool.waiting == 1
