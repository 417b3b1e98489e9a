"""Servers that come and go while some wait for a place, and clients that wait for their own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from tests.support.proxy.backend_cluster import Farm, TcpLine, is_served, served_by, turned_away

STICKY: dict[str, Any] = {"stick": {"on": "source"}}
QUICK: dict[str, Any] = {"timeouts": {"queue": "150ms"}}


async def test_a_server_that_comes_takes_as_many_as_it_has_places(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    two = await farm.server("s2", max_sessions=2)
    await farm.start()
    farm.states["s2"].set_state("maint")
    await farm.welcome()
    waiting = await farm.line_up(4)
    farm.states["s2"].set_state("ready")
    for client in waiting[:2]:
        assert await served_by(client) == "s2"
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert two.accepted == 2
    assert farm.pool.waiting == 2


@pytest.mark.parametrize("state", ["drain", "maint"])
async def test_those_in_the_line_wait_on_while_no_server_is_up(farm: Farm, state: Any) -> None:
    """Who comes now is turned away; who waits has a chance yet, for as long as it may."""
    server = await farm.server("s1", max_sessions=1)
    await farm.start()
    here, client = await farm.welcome(), await farm.in_line()
    farm.states["s1"].set_state(state)
    await turned_away(await farm.guest())
    assert (await farm.scene.session())["end"] == "no-server"
    await farm.leave(here)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert farm.pool.waiting == 1, "a free place at a server that takes nobody is none"
    assert server.accepted == 1
    farm.states["s1"].set_state("ready")
    assert await served_by(client) == "s1"


async def test_no_server_comes_back_in_time(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start(tcplog=True, **QUICK)
    await farm.welcome()
    client = await farm.in_line()
    farm.states["s1"].set_state("maint")
    await turned_away(client)
    assert await farm.tcp_line() == TcpLine("b/<NOSRV>", "sQ", "0", "0/1")


@pytest.mark.parametrize("state", ["drain", "maint"])
async def test_a_server_that_goes_has_its_sessions_still(farm: Farm, state: Any) -> None:
    """Its places count on when it comes back: nobody is let in over them."""
    server = await farm.server("s1", max_sessions=1)
    await farm.start()
    here, client = await farm.welcome(), await farm.in_line()
    farm.states["s1"].set_state(state)
    farm.states["s1"].set_state("ready")
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert (farm.pool.waiting, server.accepted) == (1, 1)
    await is_served(here)
    await farm.leave(here)
    assert await served_by(client) == "s1"


async def test_who_waits_for_its_own_server_goes_elsewhere_when_that_one_goes(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.server("s2")
    await farm.start(introduced=True, balance="first", **STICKY)
    await farm.welcome()
    waiting = await farm.line_up(2)
    farm.states["s1"].set_state("maint")
    for client in waiting:
        assert await served_by(client) == "s2"
    (said,) = await farm.scene.events("server-state")
    assert "2 requeued, 0 remaining in queue" in said["message"]
    farm.states["s1"].set_state("ready")
    assert await farm.visit() == "s2", "and sticks to the one that it has now"


async def test_who_waited_for_its_own_server_has_its_turn_by_when_it_came(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.server("s2", max_sessions=1)
    await farm.start(introduced=True, balance="first", **STICKY)
    await farm.welcome("192.0.2.1")
    two = await farm.welcome("192.0.2.2")
    waiting = [
        await farm.in_line(host) for host in ("192.0.2.3", "192.0.2.1", "192.0.2.4")
    ]  # the second has s1 as its own
    farm.states["s1"].set_state("maint")
    here = two
    for client in waiting:
        await farm.leave(here)
        assert await served_by(client) == "s2"
        here = client


async def test_who_waits_for_its_own_server_has_it_while_it_drains(farm: Farm) -> None:
    """Those that any server would do for wait on."""
    await farm.server("s1", max_sessions=1)
    await farm.start(introduced=True, **STICKY)
    here = await farm.welcome("192.0.2.1")
    stranger = await farm.guest("192.0.2.2")
    await farm.lined_up(1)
    own = await farm.guest("192.0.2.1")
    await farm.lined_up(2)
    farm.states["s1"].set_state("drain")
    await farm.leave(here)
    assert await served_by(own) == "s1"
    assert farm.pool.waiting == 1
    farm.states["s1"].set_state("ready")
    await farm.leave(own)
    assert await served_by(stranger) == "s1"


async def test_strangers_and_those_who_stick_are_served_in_the_order_they_came(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start(introduced=True, **STICKY)
    here = await farm.welcome("192.0.2.1")
    waiting = [await farm.in_line(host) for host in ("192.0.2.2", "192.0.2.1", "192.0.2.3", "192.0.2.1")]
    for client in waiting:
        await farm.leave(here)
        assert await served_by(client) == "s1"
        here = client


async def test_a_stranger_takes_the_idle_server_past_those_who_wait_for_the_other(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.server("s2")
    await farm.start(introduced=True, balance="first", **STICKY)
    await farm.welcome("192.0.2.1")
    await farm.guest("192.0.2.1")
    await farm.lined_up(1)
    assert await farm.visit("192.0.2.2") == "s2"
    assert farm.pool.waiting == 1
