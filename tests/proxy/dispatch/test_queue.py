"""The queue for a server's slots: order, timeout, size limit, log and load."""

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
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot
from tests.support.timeouts import wait_until

STICKY: dict[str, Any] = {"stick": {"on": "source"}}
SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"queue": "150ms"}}


# Order


async def test_sessions_over_max_sessions_wait(
    cluster: BackendCluster,
) -> None:
    """The server is not connected until a slot is free."""
    server = await cluster.add_server("s1", max_sessions=2)
    await cluster.start_proxy()
    current = [await cluster.connect_greeted() for _ in range(2)]
    waiter = await cluster.connect_client()
    await cluster.wait_for_queued(1)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.accepted == 2
    assert not waiter.received
    await cluster.close_client(current[0])
    assert await receive_server_name(waiter) == "s1"
    for client in (current[1], waiter):
        await assert_served(client)
        client.drop()


async def test_first_come_first_served(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(5)
    for client in waiting:
        await cluster.close_client(current)
        assert await receive_server_name(client) == "s1"
        current = client


async def test_free_slot_is_given_to_single_waiter(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=2)
    await cluster.start_proxy()
    current = [await cluster.connect_greeted() for _ in range(2)]
    await cluster.connect_queued_clients(4)
    await cluster.close_client(current[0])
    await server.wait_for(3)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.accepted == 3
    assert cluster.pool.waiting == 3
    assert cluster.states["s1"].sessions == 2


async def test_full_server_is_skipped(cluster: BackendCluster) -> None:
    await cluster.add_server("small", max_sessions=1)
    await cluster.add_server("large")
    await cluster.start_proxy()
    for _ in range(5):
        await cluster.connect_greeted()
    assert cluster.pool.waiting == 0
    assert (cluster.states["small"].sessions, cluster.states["large"].sessions) == (1, 4)


async def test_first_free_slot_serves_longest_waiter(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(balance="first")
    first, second = await cluster.connect_greeted(), await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    await cluster.close_client(second)
    assert await receive_server_name(waiting[0]) == "s2"
    await cluster.close_client(first)
    assert await receive_server_name(waiting[1]) == "s1"


async def test_data_sent_in_queue_reaches_server(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    await client.send(b"EHLO impatient\r\n")
    await cluster.close_client(current)
    assert await receive_server_name(client) == "s1"
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"EHLO impatient\r\n"


async def test_slot_of_refusing_server_passes_to_next_waiter(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    await server.close()
    current.drop()
    for client in waiting:
        await assert_rejected(client)
    ends = [line["end"] for line in await cluster.harness.sessions(4)]
    assert ends[1:] == ["server-refused"] * 3
    assert cluster.states["s1"].sessions == 0


# Log


async def test_backend_queue_position_is_logged(cluster: BackendCluster) -> None:
    """The number is HAProxy's: the waiters served since this one came, and this one."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    for client in waiting:
        await cluster.close_client(current)
        assert await receive_server_name(client)
        current = client
    await cluster.close_client(current)
    assert [line.queue for line in await cluster.tcplog_lines(4)] == ["0/0", "0/1", "0/2", "0/3"]


async def test_server_queue_position_is_logged(cluster: BackendCluster) -> None:
    """Sticky clients wait for their server, although another one is idle."""
    await cluster.add_server("s1", max_sessions=1)
    idle = await cluster.add_server("s2")
    await cluster.start_proxy(tcplog=True, accept_proxy=True, balance="first", **STICKY)
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    assert idle.accepted == 0
    for client in waiting:
        await cluster.close_client(current)
        assert await receive_server_name(client) == "s1"
        current = client
    await cluster.close_client(current)
    lines = await cluster.tcplog_lines(4)
    assert [line.queue for line in lines] == ["0/0", "1/0", "2/0", "3/0"]
    assert {line.server for line in lines} == {"b/s1"}


async def test_queue_time_is_logged(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    started_at = trio.current_time()
    await trio.sleep(0.1)  # the queue time that is measured
    waited_s = trio.current_time() - started_at
    await cluster.close_client(current)
    await receive_server_name(client)
    await cluster.close_client(client)
    first, second = await cluster.harness.sessions(2)
    assert first["queue_ms"] == 0
    assert second["queue_ms"] >= int(waited_s * 1000)
    assert second["total_ms"] >= second["queue_ms"] + second["connect_ms"]


# Limits


async def test_queue_timeout_ends_session(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True, **SHORT_TIMEOUT)
    current = await cluster.connect_greeted()
    started_at = trio.current_time()
    waiting = [await cluster.connect_client() for _ in range(2)]
    for client in waiting:
        await assert_rejected(client)
    assert trio.current_time() - started_at >= 0.15
    assert await cluster.tcplog_lines(2) == [TcplogLine("b/<NOSRV>", "sQ", "0", "0/1")] * 2
    assert server.accepted == 1
    assert cluster.pool.waiting == 0
    await assert_served(current)


async def test_queue_timeout_ends_sticky_session(cluster: BackendCluster) -> None:
    """The client is not sent to the idle server and keeps its sticky entry."""
    await cluster.add_server("s1", max_sessions=1)
    idle = await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, balance="first", **STICKY, **SHORT_TIMEOUT)
    current = await cluster.connect_greeted()
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == (
        "queue-timeout",
        "timeout",
        "queue",
        "sQ",
    )
    assert idle.accepted == 0
    await cluster.close_client(current)
    assert await cluster.connect_and_close() == "s1"


async def test_queue_timeout_frees_queue_position(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(timeouts={"queue": "1s"})
    current = await cluster.connect_greeted()
    first = await cluster.connect_client()
    await assert_rejected(first)
    second = await cluster.connect_client()
    await cluster.wait_for_queued(1)
    await cluster.close_client(current)
    assert await receive_server_name(second) == "s1"


@pytest.mark.parametrize("max_queue", [1, 3])
async def test_full_queue_rejects_session(cluster: BackendCluster, max_queue: int) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(max_queue=max_queue)
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(max_queue)
    for _ in range(2):
        await assert_rejected(await cluster.connect_client())
    for line in await cluster.harness.sessions(2):
        assert (line["end"], line["by"], line["phase"], line["state"]) == (
            "queue-full",
            "proxy",
            "queue",
            "SQ",
        )
        assert f"{max_queue} wait already" in line["detail"]
    await cluster.close_client(current)
    await cluster.wait_for_queued(max_queue - 1)
    waiting.append(await cluster.connect_client())  # the queue has room again
    await cluster.wait_for_queued(max_queue)


async def test_max_queue_counts_all_servers(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, max_queue=2, balance="first", **STICKY)
    for host in ("192.0.2.1", "192.0.2.2"):
        await cluster.connect_greeted(host)
    for host in ("192.0.2.1", "192.0.2.2"):
        await cluster.connect_client(host)
    await cluster.wait_for_queued(2)
    for host in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        await assert_rejected(await cluster.connect_client(host))
    assert {line["end"] for line in await cluster.harness.sessions(3)} == {"queue-full"}


async def test_max_queue_does_not_limit_free_slots(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.start_proxy(max_queue=1)
    for _ in range(5):
        await cluster.connect_greeted()


# Load


@pytest.mark.parametrize("servers", [1, 2])
async def test_many_clients_through_few_slots(cluster: BackendCluster, servers: int) -> None:
    """Each client is served once, and never more at once than there are slots."""
    count, slots = 200, 3
    for number in range(servers):
        await cluster.add_server(f"s{number + 1}", max_sessions=slots)
    await cluster.start_proxy()
    before = ResourceSnapshot.now()
    served: list[int] = []
    at_once = most_at_once = 0

    async def run_client(number: int) -> None:
        nonlocal at_once, most_at_once
        client = await cluster.connect_client()
        assert await receive_server_name(client)
        at_once += 1
        most_at_once = max(most_at_once, at_once)
        served.append(number)
        await assert_served(client)
        at_once -= 1  # before the close: the proxy counts the session a little longer
        await client.close()

    with trio.fail_after(3 * TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(run_client, number)
    assert sorted(served) == list(range(count))
    assert most_at_once <= slots * servers
    assert sum(server.accepted for server in cluster.servers.values()) == count
    lines = await cluster.harness.sessions(count)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert [cluster.counts(name).most_sessions for name in cluster.servers] == [slots] * servers
    assert [server.sessions for server in cluster.states.values()] == [0] * servers
    await wait_until(lambda: cluster.pool.waiting == 0)
    await before.wait_until_restored()


async def test_many_clients_with_early_ends(cluster: BackendCluster) -> None:
    """Clients close, reset or reach the queue timeout. No slot is lost or given twice."""
    await cluster.add_server("s1", max_sessions=2)
    await cluster.start_proxy(timeouts={"queue": "200ms"})
    before = ResourceSnapshot.now()

    async def run_client(number: int) -> None:
        client = await cluster.connect_client()
        match number % 4:
            case 0:
                client.drop()
            case 1:
                client.reset()
            case _:
                with trio.fail_after(TIMEOUT_S):
                    await client.receive_line()
                await client.close()

    async with trio.open_nursery() as nursery:
        for number in range(120):
            nursery.start_soon(run_client, number)
    await cluster.harness.wait_until_idle()
    await before.wait_until_restored()
    assert cluster.states["s1"].sessions == cluster.pool.waiting == 0
    assert cluster.counts("s1").most_sessions == 2
    assert await cluster.connect_and_close() == "s1"
