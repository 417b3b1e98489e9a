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
from tests.support.proxy.backend_cluster import Farm, TcpLine, served_by, turned_away
from tests.support.proxy.proxy_fixture import PATIENCE_S, Belongings
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
    farm: Farm, leave: Callable[[Connection], None]
) -> None:
    server = await farm.server("s1", max_sessions=1)
    await farm.start(tcplog=True)
    here = await farm.welcome()
    waiting = await farm.line_up(3)
    leave(waiting[0])
    assert await farm.tcp_line() == TcpLine("b/<NOSRV>", "CQ", "0", "0/1")
    assert farm.pool.waiting == 2
    await farm.leave(here)
    assert await served_by(waiting[1]) == "s1", "the place goes to who came next"
    assert server.accepted == 2


async def test_a_client_that_left_before_it_could_wait(farm: Farm) -> None:
    """Its end is there already when the line is joined."""
    await farm.server("s1", max_sessions=1)
    await farm.start(introduced=True)
    await farm.welcome()
    client = await farm.scene.dial(farm.proxy)
    await client.send(b"PROXY TCP4 192.0.2.1 203.0.113.9 40000 143\r\n")
    client.drop()
    line = await farm.scene.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == ("queue-left", "client", "queue", "CQ")


async def test_a_client_that_sent_all_it_has_to_say_stays_in_the_line(farm: Farm) -> None:
    """One that pipes its commands in and ends its side wants their answers."""
    await farm.server("s1", max_sessions=1)
    await farm.start(tcplog=True)
    here, client = await farm.welcome(), await farm.in_line()
    await client.send(b"QUIT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert farm.pool.waiting == 1
    await farm.leave(here)
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b"s1\r\nQUIT\r\n"
    client.drop()
    assert (await farm.tcp_lines(2))[1] == TcpLine("b/s1", "--", "0", "0/1")


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize("how", ["in order", "FIN alone", "reset"])
async def test_a_client_with_tls_that_leaves_the_line_is_gone_at_once(
    farm: Farm, how: str, version: str
) -> None:
    server = await farm.server("s1", max_sessions=1)
    await farm.start(tls=True)
    await farm.welcome()
    context = farm.scene.ca.client_context()
    context.maximum_version = ssl.TLSVersion[version]
    client = await dial(farm.proxy.frontends["f"].addresses[0], tls=context)
    await farm.lined_up(1)
    if how == "in order":
        await client.close()
    elif how == "reset":
        client.reset()
    else:
        client.drop()
    line = await farm.scene.session()
    assert (line["end"], line["state"], line["tls_version"]) == (
        "queue-left",
        "CQ",
        version.replace("_", "."),
    )
    assert farm.pool.waiting == 0
    assert server.accepted == 1


async def test_a_client_with_tls_that_has_said_something_stays_in_the_line(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start(tls=True)
    here, client = await farm.welcome(), await farm.in_line()
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert farm.pool.waiting == 1
    await farm.leave(here)
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b"s1\r\na1 LOGOUT\r\n"


async def test_clients_of_a_unix_socket_leave_the_line_as_others_do(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start(frontend={"bind": [{"address": f"unix:{farm.scene.folder}/p.sock"}]})
    await farm.welcome()
    client = await farm.in_line()
    client.drop()
    assert (await farm.scene.session())["end"] == "queue-left"


async def test_all_leave_the_line_at_once(farm: Farm) -> None:
    server = await farm.server("s1", max_sessions=1)
    await farm.start()
    here = await farm.welcome()
    before = Belongings.now()
    waiting = await farm.line_up(40)
    for number, client in enumerate(waiting):
        if number % 2:
            client.drop()
        else:
            client.reset()
    lines = await farm.scene.sessions(40)
    assert {line["end"] for line in lines} == {"queue-left"}
    await before.again()
    await farm.leave(here)
    assert await farm.visit() == "s1"
    assert server.accepted == 2


@pytest.mark.parametrize("freed", ["just before", "just after"])
async def test_a_client_that_leaves_with_the_place_it_was_given(
    farm: Farm, freed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the place and its session's next step: the place goes on to the next."""
    await farm.server("s1", max_sessions=1)
    await farm.start()
    place = farm.pool.acquire()
    assert place is not None
    notice = Dispatch._on_client_closed

    def notice_and_free(visit: Dispatch) -> None:
        if freed == "just before":
            farm.pool.release(place)
        notice(visit)
        if freed == "just after":
            farm.pool.release(place)

    monkeypatch.setattr(Dispatch, "_on_client_closed", notice_and_free)
    first, second = await farm.line_up(2)
    first.drop()
    assert await served_by(second) == "s1"
    await farm.leave(second)
    assert [line["end"] for line in await farm.scene.sessions(2)] == ["queue-left", "client-closed"]
    assert farm.states["s1"].sessions == 0


async def test_a_client_that_leaves_at_the_same_time_as_who_was_before_it(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start()
    for number in range(12):
        here = await farm.welcome()
        first, second = await farm.line_up(2)
        if number % 2:
            here.reset()
        else:
            here.drop()
        first.drop()
        assert await served_by(second) == "s1"
        await farm.leave(second)
        await farm.scene.idle()
        assert farm.states["s1"].sessions == 0


# The operator


async def test_stopped_in_the_line(farm: Farm) -> None:
    server = await farm.server("s1", max_sessions=1)
    await farm.start(tcplog=True)
    before = Belongings.now()
    here = await farm.welcome()
    waiting = await farm.line_up(2)
    with trio.fail_after(PATIENCE_S):
        await farm.proxy.drain(0)
    for client in waiting:
        await turned_away(client)
    here.drop()
    lines = await farm.tcp_lines(3)
    assert [line.state for line in lines].count("KQ") == 2
    assert server.accepted == 1, "nobody has a place any more that another one left"
    await before.again()


async def test_a_drain_lets_those_in_the_line_have_their_turn(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start()
    here, client = await farm.welcome(), await farm.in_line()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(farm.proxy.drain, PATIENCE_S)
        await farm.scene.events("draining")
        await farm.leave(here)
        assert await served_by(client) == "s1"
        await client.close()
    assert {line["end"] for line in await farm.scene.sessions(2)} == {"client-closed"}


@pytest.mark.parametrize("sticky", [False, True])
async def test_cancelled_at_every_step_of_waiting(farm: Farm, sticky: bool) -> None:
    server = await farm.server("s1", max_sessions=1)
    mapping = farm.mapping(max_queue=2, **(STICKY if sticky else {}))

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
    ends = {line["end"] for line in farm.scene.lines() if line["event"] == "session"}
    assert "internal-error" not in ends
    assert {"stopped-queued", "queue-full"} <= ends
