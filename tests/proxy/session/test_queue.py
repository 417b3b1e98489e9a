"""The line for a place at a server: who comes first has it first, who waits too long or is one too many has none."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.support.patience import wait_until
from tests.support.proxy.backend_cluster import (
    BackendCluster,
    TcplogLine,
    assert_rejected,
    assert_served,
    receive_server_name,
)
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot

STICKY: dict[str, Any] = {"stick": {"on": "source"}}
QUICK: dict[str, Any] = {"timeouts": {"queue": "150ms"}}


# Who waits


async def test_over_max_sessions_guests_wait_and_the_server_does_not_hear_of_them(
    cluster: BackendCluster,
) -> None:
    server = await cluster.add_server("s1", max_sessions=2)
    await cluster.start_proxy()
    here = [await cluster.connect_greeted() for _ in range(2)]
    waiting = await cluster.connect_client()
    await cluster.wait_for_queued(1)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.accepted == 2
    assert not waiting.received
    await cluster.close_client(here[0])
    assert await receive_server_name(waiting) == "s1"
    for client in (here[1], waiting):
        await assert_served(client)
        client.drop()


async def test_first_come_first_served(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(5)
    for client in waiting:
        await cluster.close_client(here)
        assert await receive_server_name(client) == "s1"
        here = client


async def test_a_place_is_given_to_one_only(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=2)
    await cluster.start_proxy()
    here = [await cluster.connect_greeted() for _ in range(2)]
    await cluster.connect_queued_clients(4)
    await cluster.close_client(here[0])
    await server.wait_for(3)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert server.accepted == 3
    assert cluster.pool.waiting == 3
    assert cluster.states["s1"].sessions == 2


async def test_a_server_with_a_place_is_taken_while_others_are_full(cluster: BackendCluster) -> None:
    await cluster.add_server("small", max_sessions=1)
    await cluster.add_server("large")
    await cluster.start_proxy()
    for _ in range(5):
        await cluster.connect_greeted()
    assert cluster.pool.waiting == 0
    assert (cluster.states["small"].sessions, cluster.states["large"].sessions) == (1, 4)


async def test_whichever_server_has_a_place_first_serves_who_waits_longest(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(balance="first")
    first, second = await cluster.connect_greeted(), await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    await cluster.close_client(second)
    assert await receive_server_name(waiting[0]) == "s2"
    await cluster.close_client(first)
    assert await receive_server_name(waiting[1]) == "s1"


async def test_what_was_said_in_the_line_reaches_the_server(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    await client.send(b"EHLO impatient\r\n")
    await cluster.close_client(here)
    assert await receive_server_name(client) == "s1"
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"EHLO impatient\r\n"


async def test_a_place_whose_server_refuses_goes_to_the_next(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    await server.close()
    here.drop()
    for client in waiting:
        await assert_rejected(client)
    ends = [line["end"] for line in await cluster.harness.sessions(4)]
    assert ends[1:] == ["server-refused"] * 3
    assert cluster.states["s1"].sessions == 0


# What the log says


async def test_positions_in_the_backends_line(cluster: BackendCluster) -> None:
    """As HAProxy counts them: those who were served before since one came, and oneself."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    here = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    for client in waiting:
        await cluster.close_client(here)
        assert await receive_server_name(client)
        here = client
    await cluster.close_client(here)
    assert [line.queue for line in await cluster.tcplog_lines(4)] == ["0/0", "0/1", "0/2", "0/3"]


async def test_positions_in_a_servers_own_line(cluster: BackendCluster) -> None:
    """Clients that stick wait for their server, although another one has nothing to do."""
    await cluster.add_server("s1", max_sessions=1)
    idle = await cluster.add_server("s2")
    await cluster.start_proxy(tcplog=True, accept_proxy=True, balance="first", **STICKY)
    here = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    assert idle.accepted == 0
    for client in waiting:
        await cluster.close_client(here)
        assert await receive_server_name(client) == "s1"
        here = client
    await cluster.close_client(here)
    lines = await cluster.tcplog_lines(4)
    assert [line.queue for line in lines] == ["0/0", "1/0", "2/0", "3/0"]
    assert {line.server for line in lines} == {"b/s1"}


async def test_the_time_in_the_line_is_told(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    began = trio.current_time()
    await trio.sleep(0.1)  # what is measured
    waited = trio.current_time() - began
    await cluster.close_client(here)
    await receive_server_name(client)
    await cluster.close_client(client)
    first, second = await cluster.harness.sessions(2)
    assert first["queue_ms"] == 0
    assert second["queue_ms"] >= int(waited * 1000)
    assert second["total_ms"] >= second["queue_ms"] + second["connect_ms"]


# Too long, and too many


async def test_who_waits_too_long_is_let_go(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True, **QUICK)
    here = await cluster.connect_greeted()
    began = trio.current_time()
    waiting = [await cluster.connect_client() for _ in range(2)]
    for client in waiting:
        await assert_rejected(client)
    assert trio.current_time() - began >= 0.15
    assert await cluster.tcplog_lines(2) == [TcplogLine("b/<NOSRV>", "sQ", "0", "0/1")] * 2
    assert server.accepted == 1
    assert cluster.pool.waiting == 0
    await assert_served(here)


async def test_who_waits_too_long_for_its_own_server_is_let_go(cluster: BackendCluster) -> None:
    """It is not sent to the one that is idle, and sticks to its own."""
    await cluster.add_server("s1", max_sessions=1)
    idle = await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, balance="first", **STICKY, **QUICK)
    here = await cluster.connect_greeted()
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == (
        "queue-timeout",
        "timeout",
        "queue",
        "sQ",
    )
    assert idle.accepted == 0
    await cluster.close_client(here)
    assert await cluster.connect_and_close() == "s1"


async def test_who_is_let_go_leaves_its_place_in_the_line(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(timeouts={"queue": "300ms"})
    here = await cluster.connect_greeted()
    first = await cluster.connect_client()
    await assert_rejected(first)
    second = await cluster.connect_client()
    await cluster.wait_for_queued(1)
    await cluster.close_client(here)
    assert await receive_server_name(second) == "s1"


@pytest.mark.parametrize("max_queue", [1, 3])
async def test_more_than_max_queue_are_refused_at_once(cluster: BackendCluster, max_queue: int) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(max_queue=max_queue)
    here = await cluster.connect_greeted()
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
    await cluster.close_client(here)
    await cluster.wait_for_queued(max_queue - 1)
    waiting.append(await cluster.connect_client())  # there is room again
    await cluster.wait_for_queued(max_queue)


async def test_max_queue_is_that_of_all_servers_together(cluster: BackendCluster) -> None:
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


async def test_nobody_is_refused_while_there_are_places(cluster: BackendCluster) -> None:
    await cluster.add_server("s1")
    await cluster.start_proxy(max_queue=1)
    for _ in range(5):
        await cluster.connect_greeted()


# A crowd


@pytest.mark.parametrize("servers", [1, 2])
async def test_a_crowd_through_few_places(cluster: BackendCluster, servers: int) -> None:
    """Everybody is served once, and never more at once than there are places."""
    count, places = 200, 3
    for number in range(servers):
        await cluster.add_server(f"s{number + 1}", max_sessions=places)
    await cluster.start_proxy()
    before = ResourceSnapshot.now()
    served: list[int] = []
    inside = most = 0

    async def visit(number: int) -> None:
        nonlocal inside, most
        client = await cluster.connect_client()
        assert await receive_server_name(client)
        inside += 1
        most = max(most, inside)
        served.append(number)
        await assert_served(client)
        inside -= 1  # before it leaves: as it counts for the proxy for a while yet, this is never too many
        await client.close()

    with trio.fail_after(3 * TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(visit, number)
    assert sorted(served) == list(range(count))
    assert most <= places * servers
    assert sum(server.accepted for server in cluster.servers.values()) == count
    lines = await cluster.harness.sessions(count)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert [cluster.counts(name).most_sessions for name in cluster.servers] == [places] * servers
    assert [server.sessions for server in cluster.states.values()] == [0] * servers
    await wait_until(lambda: cluster.pool.waiting == 0)
    await before.wait_until_restored()


async def test_a_crowd_of_which_many_give_up(cluster: BackendCluster) -> None:
    """By leaving, by a reset, by having waited too long: no place is lost over it, and none is given twice."""
    await cluster.add_server("s1", max_sessions=2)
    await cluster.start_proxy(timeouts={"queue": "200ms"})
    before = ResourceSnapshot.now()

    async def visit(number: int) -> None:
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
            nursery.start_soon(visit, number)
    await cluster.harness.wait_until_idle()
    await before.wait_until_restored()
    assert cluster.states["s1"].sessions == cluster.pool.waiting == 0
    assert cluster.counts("s1").most_sessions == 2
    assert await cluster.connect_and_close() == "s1"
