"""Who leaves the line before it has a place, by itself or because the operator stops the proxy: the next one moves up."""

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


def end_in_order(client: Connection) -> None:
    client.drop()


def end_one_side(client: Connection) -> None:
    client.stream.socket.shutdown(socket.SHUT_WR)


def reset(client: Connection) -> None:
    client.reset()


@pytest.mark.parametrize("leave", [end_in_order, end_one_side, reset])
async def test_a_client_that_leaves_the_line_is_gone_at_once(
    cluster: BackendCluster, leave: Callable[[Connection], None]
) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    here = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(3)
    leave(waiting[0])
    assert await cluster.tcplog_line() == TcplogLine("b/<NOSRV>", "CQ", "0", "0/1")
    assert cluster.pool.waiting == 2
    await cluster.close_client(here)
    assert await receive_server_name(waiting[1]) == "s1", "the place goes to who came next"
    assert server.accepted == 2


async def test_a_client_that_left_before_it_could_wait(cluster: BackendCluster) -> None:
    """Its end is there already when the line is joined."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True)
    await cluster.connect_greeted()
    client = await cluster.harness.dial(cluster.proxy)
    await client.send(b"PROXY TCP4 192.0.2.1 203.0.113.9 40000 143\r\n")
    client.drop()
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == ("queue-left", "client", "queue", "CQ")


async def test_a_client_that_sent_all_it_has_to_say_stays_in_the_line(cluster: BackendCluster) -> None:
    """One that pipes its commands in and ends its side wants their answers."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    await client.send(b"QUIT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert cluster.pool.waiting == 1
    await cluster.close_client(here)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\nQUIT\r\n"
    client.drop()
    assert (await cluster.tcplog_lines(2))[1] == TcplogLine("b/s1", "--", "0", "0/1")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("how", ["in order", "FIN alone", "reset"])
async def test_a_client_with_tls_that_leaves_the_line_is_gone_at_once(
    cluster: BackendCluster, how: str, version: str
) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tls=True)
    await cluster.connect_greeted()
    context = cluster.harness.ca.client_context()
    context.maximum_version = ssl.TLSVersion[version]
    client = await dial(cluster.proxy.frontends["f"].addresses[0], tls=context)
    await cluster.wait_for_queued(1)
    if how == "in order":
        await client.close()
    elif how == "reset":
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


async def test_a_client_with_tls_that_has_said_something_stays_in_the_line(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tls=True)
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert cluster.pool.waiting == 1
    await cluster.close_client(here)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\na1 LOGOUT\r\n"


async def test_clients_of_a_unix_socket_leave_the_line_as_others_do(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(frontend={"bind": [{"address": f"unix:{cluster.harness.folder}/p.sock"}]})
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    client.drop()
    assert (await cluster.harness.session())["end"] == "queue-left"


async def test_all_leave_the_line_at_once(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here = await cluster.connect_greeted()
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
    await cluster.close_client(here)
    assert await cluster.connect_and_close() == "s1"
    assert server.accepted == 2


@pytest.mark.parametrize("freed", ["just before", "just after"])
async def test_a_client_that_leaves_with_the_place_it_was_given(
    cluster: BackendCluster, freed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the place and its session's next step: the place goes on to the next."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    place = cluster.pool.acquire()
    assert place is not None
    notice = Dispatch._on_client_closed

    def notice_and_free(visit: Dispatch) -> None:
        if freed == "just before":
            cluster.pool.release(place)
        notice(visit)
        if freed == "just after":
            cluster.pool.release(place)

    monkeypatch.setattr(Dispatch, "_on_client_closed", notice_and_free)
    first, second = await cluster.connect_queued_clients(2)
    first.drop()
    assert await receive_server_name(second) == "s1"
    await cluster.close_client(second)
    assert [line["end"] for line in await cluster.harness.sessions(2)] == ["queue-left", "client-closed"]
    assert cluster.states["s1"].sessions == 0


async def test_a_client_that_leaves_at_the_same_time_as_who_was_before_it(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    for number in range(12):
        here = await cluster.connect_greeted()
        first, second = await cluster.connect_queued_clients(2)
        if number % 2:
            here.reset()
        else:
            here.drop()
        first.drop()
        assert await receive_server_name(second) == "s1"
        await cluster.close_client(second)
        await cluster.harness.wait_until_idle()
        assert cluster.states["s1"].sessions == 0


# The operator


async def test_stopped_in_the_line(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy(tcplog=True)
    before = ResourceSnapshot.now()
    here = await cluster.connect_greeted()
    waiting = await cluster.connect_queued_clients(2)
    with trio.fail_after(TIMEOUT_S):
        await cluster.proxy.drain(0)
    for client in waiting:
        await assert_rejected(client)
    here.drop()
    lines = await cluster.tcplog_lines(3)
    assert [line.state for line in lines].count("KQ") == 2
    assert server.accepted == 1, "nobody has a place any more that another one left"
    await before.wait_until_restored()


async def test_a_drain_lets_those_in_the_line_have_their_turn(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    here, client = await cluster.connect_greeted(), await cluster.connect_queued()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cluster.proxy.drain, TIMEOUT_S)
        await cluster.harness.events("draining")
        await cluster.close_client(here)
        assert await receive_server_name(client) == "s1"
        await client.close()
    assert {line["end"] for line in await cluster.harness.sessions(2)} == {"client-closed"}


@pytest.mark.parametrize("sticky", [False, True])
async def test_cancelled_at_every_step_of_waiting(cluster: BackendCluster, sticky: bool) -> None:
    server = await cluster.add_server("s1", max_sessions=1)
    mapping = cluster.mapping(max_queue=2, **(STICKY if sticky else {}))

    async def visit(address: str) -> None:
        async def come(leave_early: bool) -> None:
            try:
                async with await dial(address) as client:
                    if not leave_early:
                        await client.receive_line()
            except (trio.BrokenResourceError, OSError):
                pass

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(come, number == 1)

    await cancel_at_every_step(mapping, visit)
    assert server.accepted > 0
    ends = {line["end"] for line in cluster.harness.lines() if line["event"] == "session"}
    assert "internal-error" not in ends
    assert {"stopped-queued", "queue-full"} <= ends
