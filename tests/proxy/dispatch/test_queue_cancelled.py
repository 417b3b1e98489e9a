"""Sessions that leave the queue before they get a slot: by the client's close or the operator's stop."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.proxy.session.dispatch import Dispatch
from mailproxy.testing import Connection, dial
from tests.support.proxy.backend_cluster import (
    BackendCluster,
    TcplogLine,
    assert_rejected,
    receive_server_name,
)
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot
from tests.support.proxy.task_steps import cancel_at_every_step

STICKY: dict[str, Any] = {"stick": {"on": "source"}}


def close(client: Connection) -> None:
    client.drop()


def half_close(client: Connection) -> None:
    client.stream.socket.shutdown(socket.SHUT_WR)


def reset(client: Connection) -> None:
    client.reset()


@pytest.mark.parametrize("end_connection", [close, half_close, reset])
async def test_closed_client_leaves_queue_at_once(
    cluster: BackendCluster, end_connection: Callable[[Connection], None]
) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    end_connection(waiting[0])
    assert await cluster.tcplog_line() == TcplogLine("b/<NOSRV>", "CQ", "0", "0/1")
    assert cluster.pool.waiting == 2
    await cluster.close_client(current)
    assert await receive_server_name(waiting[1]) == "s1", "the slot goes to the next waiter"
    assert server.accepted == 2


async def test_client_closed_before_queueing(cluster: BackendCluster) -> None:
    """The client's FIN has arrived before the session joins the queue."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True)
    await cluster.connect_greeted()
    client = await cluster.harness.dial(cluster.proxy)
    await client.send(b"PROXY TCP4 192.0.2.1 203.0.113.9 40000 143\r\n")
    client.drop()
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == ("queue-left", "client", "queue", "CQ")


async def test_half_closed_client_with_data_stays_queued(cluster: BackendCluster) -> None:
    """A client that pipes its commands in and half-closes waits for the answers."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    await client.send(b"QUIT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert cluster.pool.waiting == 1
    await cluster.close_client(current)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\nQUIT\r\n"
    client.drop()
    assert (await cluster.tcplog_lines(2))[1] == TcplogLine("b/s1", "--", "0", "0/1")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("ending", ["close_notify", "FIN alone", "reset"])
async def test_closed_tls_client_leaves_queue_at_once(
    cluster: BackendCluster, ending: str, version: str
) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tls=True)
    await cluster.connect_greeted()
    context = cluster.harness.ca.client_context()
    context.maximum_version = ssl.TLSVersion[version]
    client = await dial(cluster.proxy.frontends["f"].addresses[0], tls=context)
    await cluster.wait_for_queued(1)
    if ending == "close_notify":
        await client.close()
    elif ending == "reset":
        client.reset()
    else:
        client.drop()
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["tls_version"]) == (
        "queue-left",
        "CQ",
        version.replace("_", "."),
    )
    assert cluster.pool.waiting == 0
    assert server.accepted == 1


async def test_half_closed_tls_client_with_data_stays_queued(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tls=True)
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert cluster.pool.waiting == 1
    await cluster.close_client(current)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\na1 LOGOUT\r\n"


async def test_closed_unix_socket_client_leaves_queue(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(frontend={"bind": [{"address": f"unix:{cluster.harness.folder}/p.sock"}]})
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    client.drop()
    assert (await cluster.harness.session())["end"] == "queue-left"


async def test_all_clients_close_at_once(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current = await cluster.connect_greeted()
    before = ResourceSnapshot.now()
    waiting = await cluster.connect_queued_clients(40)
    for number, client in enumerate(waiting):
        if number % 2:
            client.drop()
        else:
            client.reset()
    lines = await cluster.harness.sessions(40)
    assert {line["end"] for line in lines} == {"queue-left"}
    await before.wait_until_restored()
    await cluster.close_client(current)
    assert await cluster.connect_and_close() == "s1"
    assert server.accepted == 2


@pytest.mark.parametrize("freed", ["just before", "just after"])
async def test_slot_given_to_closed_client_passes_on(
    cluster: BackendCluster, freed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client closes between getting the slot and the session's next step. The slot passes to the next waiter."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    server = cluster.pool.acquire()
    assert server is not None
    original_on_client_closed = Dispatch._on_client_closed

    def on_client_closed(dispatch: Dispatch) -> None:
        if freed == "just before":
            cluster.pool.release(server)
        original_on_client_closed(dispatch)
        if freed == "just after":
            cluster.pool.release(server)

    monkeypatch.setattr(Dispatch, "_on_client_closed", on_client_closed)
    first, second = await cluster.connect_queued_clients(2)
    first.drop()
    assert await receive_server_name(second) == "s1"
    await cluster.close_client(second)
    assert [line["end"] for line in await cluster.harness.sessions(2)] == ["queue-left", "client-closed"]
    assert cluster.states["s1"].sessions == 0


async def test_waiter_and_served_client_close_at_once(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    for number in range(12):
        current = await cluster.connect_greeted()
        first, second = await cluster.connect_queued_clients(2)
        if number % 2:
            current.reset()
        else:
            current.drop()
        first.drop()
        assert await receive_server_name(second) == "s1"
        await cluster.close_client(second)
        await cluster.harness.wait_until_idle()
        assert cluster.states["s1"].sessions == 0


# Stop and drain


async def test_stop_rejects_queued_sessions(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    before = ResourceSnapshot.now()
    current = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    with trio.fail_after(TIMEOUT_S):
        await cluster.proxy.drain(0)
    for client in waiting:
        await assert_rejected(client)
    current.drop()
    lines = await cluster.tcplog_lines(3)
    assert [line.state for line in lines].count("KQ") == 2
    assert server.accepted == 1, "a slot freed by the stop is not given to a waiter"
    await before.wait_until_restored()


async def test_drain_serves_queued_sessions(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    current, client = await cluster.connect_greeted(), await cluster.connect_queued()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.proxy.drain, TIMEOUT_S)
        await cluster.harness.events("draining")
        await cluster.close_client(current)
        assert await receive_server_name(client) == "s1"
        await client.close()
    assert {line["end"] for line in await cluster.harness.sessions(2)} == {"client-closed"}


@pytest.mark.parametrize("is_sticky", [False, True])
async def test_cancelled_at_every_step_of_queueing(cluster: BackendCluster, is_sticky: bool) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    mapping = cluster.mapping(max_queue=2, **(STICKY if is_sticky else {}))

    async def run_clients(address: str) -> None:
        async def run_client(closes_early: bool) -> None:
            try:
                async with await dial(address) as client:
                    if not closes_early:
                        await client.receive_line()
            except (trio.BrokenResourceError, OSError):
                pass

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(run_client, number == 1)

    await cancel_at_every_step(mapping, run_clients)
    assert server.accepted > 0
    ends = {line["end"] for line in cluster.harness.lines() if line["event"] == "session"}
    assert "internal-error" not in ends
    assert {"stopped-queued", "queue-full"} <= ends
