"""Servers that come and go while some wait for a place, and clients that wait for their own."""

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
QUICK: dict[str, Any] = {"timeouts": {"queue": "150ms"}}


async def test_a_server_that_comes_takes_as_many_as_it_has_places(cluster: BackendCluster) -> None:
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
async def test_those_in_the_line_wait_on_while_no_server_is_up(cluster: BackendCluster, state: Any) -> None:
    """Who comes now is turned away; who waits has a chance yet, for as long as it may."""
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    cluster.states["s1"].set_state(state)
    await assert_rejected(await cluster.connect_client())
    assert (await cluster.harness.session())["end"] == "no-server"
    await cluster.close_client(here)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert cluster.pool.waiting == 1, "a free place at a server that takes nobody is none"
    assert server.accepted == 1
    cluster.states["s1"].set_state("ready")
    assert await receive_server_name(client) == "s1"


async def test_no_server_comes_back_in_time(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True, **QUICK)
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    assert await cluster.tcplog_line() == TcplogLine("b/<NOSRV>", "sQ", "0", "0/1")


@pytest.mark.parametrize("state", ["drain", "maint"])
async def test_a_server_that_goes_has_its_sessions_still(cluster: BackendCluster, state: Any) -> None:
    """Its places count on when it comes back: nobody is let in over them."""
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    cluster.states["s1"].set_state(state)
    cluster.states["s1"].set_state("ready")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (cluster.pool.waiting, server.accepted) == (1, 1)
    await assert_served(here)
    await cluster.close_client(here)
    assert await receive_server_name(client) == "s1"


async def test_who_waits_for_its_own_server_goes_elsewhere_when_that_one_goes(
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
    (said,) = await cluster.harness.events("server-state")
    assert "2 requeued, 0 remaining in queue" in said["message"]
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close() == "s2", "and sticks to the one that it has now"


async def test_who_waited_for_its_own_server_has_its_turn_by_when_it_came(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, balance="first", **STICKY)
    await cluster.connect_greeted("192.0.2.1")
    two = await cluster.connect_greeted("192.0.2.2")
    waiting = [
        await cluster.connect_queued(host) for host in ("192.0.2.3", "192.0.2.1", "192.0.2.4")
    ]  # the second has s1 as its own
    cluster.states["s1"].set_state("maint")
    here = two
    for client in waiting:
        await cluster.close_client(here)
        assert await receive_server_name(client) == "s2"
        here = client


async def test_who_waits_for_its_own_server_has_it_while_it_drains(cluster: BackendCluster) -> None:
    """Those that any server would do for wait on."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, **STICKY)
    here = await cluster.connect_greeted("192.0.2.1")
    stranger = await cluster.connect_client("192.0.2.2")
    await cluster.wait_for_queued(1)
    own = await cluster.connect_client("192.0.2.1")
    await cluster.wait_for_queued(2)
    cluster.states["s1"].set_state("drain")
    await cluster.close_client(here)
    assert await receive_server_name(own) == "s1"
    assert cluster.pool.waiting == 1
    cluster.states["s1"].set_state("ready")
    await cluster.close_client(own)
    assert await receive_server_name(stranger) == "s1"


async def test_strangers_and_those_who_stick_are_served_in_the_order_they_came(
    cluster: BackendCluster,
) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, **STICKY)
    here = await cluster.connect_greeted("192.0.2.1")
    waiting = [
        await cluster.connect_queued(host) for host in ("192.0.2.2", "192.0.2.1", "192.0.2.3", "192.0.2.1")
    ]
    for client in waiting:
        await cluster.close_client(here)
        assert await receive_server_name(client) == "s1"
        here = client


async def test_a_stranger_takes_the_idle_server_past_those_who_wait_for_the_other(
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
