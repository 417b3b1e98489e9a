"""Draining servers and frontends of a proxy in one process, with real sessions."""

from __future__ import annotations

from typing import Any

import trio

from mailproxy.proxy.drain import DrainCommands, DrainTarget
from tests.support.proxy.backend_cluster import BackendCluster
from tests.support.proxy.proxy_harness import TIMEOUT_S
from tests.support.timeouts import wait_until

HOST_1, HOST_2 = "192.0.2.1", "192.0.2.2"


async def start(cluster: BackendCluster, *, stick: bool = False) -> DrainCommands:
    """Two servers in round robin."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    options: dict[str, Any] = {"stick": {"on": "source"}} if stick else {}
    await cluster.start_proxy(balance="roundrobin", accept_proxy=True, **options)
    return cluster.proxy._service.drains


async def drain(cluster: BackendCluster, drains: DrainCommands, name: str, seconds: float) -> None:
    backend = cluster.proxy._service.backends["b"]
    (server,) = [server for server in backend.servers if server.name == name]
    await drains.drain_server(backend, server, seconds)


async def test_drained_server_ends_its_sessions_and_gets_no_more(cluster: BackendCluster) -> None:
    drains = await start(cluster)
    first, second = await cluster.connect_client(HOST_1), await cluster.connect_client(HOST_2)
    assert await first.receive_line() == b"s1\r\n"
    assert await second.receive_line() == b"s2\r\n"
    await drain(cluster, drains, "s1", 0.5)
    with trio.fail_after(TIMEOUT_S):
        assert await first.receive_until_end() == b""
    assert cluster.states["s1"].status == "DRAIN"
    assert [await cluster.connect_and_close(HOST_1) for _ in range(3)] == ["s2"] * 3
    await second.send(b"x\r\n")
    assert await second.receive_line() == b"x\r\n"
    for client in (first, second):
        await client.close()
    await wait_until(lambda: drains.statuses() == [])


async def test_sticky_client_of_a_drained_server_gets_another(cluster: BackendCluster) -> None:
    """After the state is set again, clients stick to the server that they have now."""
    drains = await start(cluster, stick=True)
    assert await cluster.connect_and_close(HOST_1) == "s1"
    cluster.states["s1"].set_state("drain")  # alone, it leaves sticky clients where they are, as in HAProxy
    assert await cluster.connect_and_close(HOST_1) == "s1"
    await drain(cluster, drains, "s1", 30)
    assert await cluster.connect_and_close(HOST_1) == "s2"
    cluster.states["s1"].set_state("ready")
    assert await cluster.connect_and_close(HOST_1) == "s2"


async def test_kill_leaves_the_server_in_service(cluster: BackendCluster) -> None:
    drains = await start(cluster)
    first = await cluster.connect_client(HOST_1)
    assert await first.receive_line() == b"s1\r\n"
    await drains.kill(DrainTarget(backend="b", server="s1"), 0)
    with trio.fail_after(TIMEOUT_S):
        assert await first.receive_until_end() == b""
    await first.close()
    assert {await cluster.connect_and_close(HOST_1) for _ in range(2)} == {"s1", "s2"}


async def test_frontend_is_drained_and_the_drain_cancelled(cluster: BackendCluster) -> None:
    drains = await start(cluster)
    client = await cluster.connect_client(HOST_1)
    assert await client.receive_line() == b"s1\r\n"
    target = DrainTarget(frontend="f")
    await drains.drain_frontend("f", 1000)
    assert [str(status) for status in drains.statuses()] == ["frontend f left=1 idle=0 deadline=1000s"]
    assert await drains.cancel(target)
    assert not await drains.cancel(target)
    await client.send(b"x\r\n")
    assert await client.receive_line() == b"x\r\n"
    await drains.drain_frontend("f", 0)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    await client.close()
