"""Moments: a server or a client goes just when something else happens."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import count

import pytest
import trio
import trio.testing
from attrs import define

from mailproxy.errors import ServerRefusedError
from tests.support.proxy.backend_cluster import Farm, TcpLine, is_served, served_by, turned_away
from tests.support.proxy.proxy_fixture import Belongings
from tests.support.proxy.relays import ON_BOTH


@pytest.mark.parametrize("redispatch", [True, 1])
async def test_a_server_that_is_alone_is_not_taken_for_another_one(
    farm: Farm, redispatch: bool | int
) -> None:
    """HAProxy: 3, not +3; wretr 3, wredis 0."""
    await farm.refusing("s1")
    await farm.start(retries=3, redispatch=redispatch, tcplog=True, timeouts={"connect": "60ms"})
    await turned_away(await farm.guest())
    assert await farm.tcp_line() == TcpLine("b/s1", "SC", "3", "0/0")
    assert (farm.counts("s1").retries, farm.counts("s1").redispatches) == (3, 0)


async def test_a_server_that_goes_in_the_pause_before_it_is_tried_anew(farm: Farm) -> None:
    """Both refused; the session pauses before the first one; that one goes for maintenance, and must not be used."""
    one = await farm.server("one", is_open=False)
    two = await farm.server("two", is_open=False)
    await farm.start(retries=9, balance="first")  # pauses of 1 s
    client = await farm.guest()
    await farm.failed("two")
    await farm.open(one)
    await farm.open(two)
    farm.states["one"].set_state("maint")
    assert await served_by(client) == "two"


@define(eq=False)
class AtStep(trio.abc.Instrument):
    """Acts the n-th time that any task is about to run."""

    left: int
    act: Callable[[], None]

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.left -= 1
        if self.left == 0:
            self.act()


@ON_BOTH
@pytest.mark.parametrize(("tls", "waits"), [(False, True), (True, False)])
async def test_whenever_it_goes_nobody_is_left_there(farm: Farm, tls: bool, waits: bool) -> None:
    """At every step of who comes, or of who is given the place of one that leaves."""
    context = farm.scene.ca.server_context("127.0.0.1") if tls else None
    await farm.server("s1", tls=context, max_sessions=1)
    await farm.server("s2", tls=context)
    await farm.start(retries=3, balance="first", backend_tls=tls, on_marked_down="shutdown-sessions")
    one, two = farm.states["s1"], farm.states["s2"]
    left_there = []
    for step in count(1):
        here = waiting = None
        if waits:
            two.set_state("maint")
            here, waiting = await farm.welcome(), await farm.in_line()
        instrument = AtStep(step, lambda: one.set_state("maint"))
        trio.lowlevel.add_instrument(instrument)
        if here is not None:
            here.drop()
        client = waiting or await farm.guest()
        with trio.move_on_after(0.2):
            await served_by(client)
        trio.lowlevel.remove_instrument(instrument)
        await trio.testing.wait_all_tasks_blocked(0.02)
        if one.sessions and instrument.left <= 0:
            left_there.append(step)
        client.drop()
        two.set_state("ready")
        one.set_state("ready")
        await farm.scene.idle()
        if instrument.left > 0:
            break
    assert left_there == []


async def test_a_place_at_a_server_that_goes_in_the_same_moment(farm: Farm) -> None:
    """Maintenance takes nobody: who was just given the place goes elsewhere."""
    one = await farm.server("s1", max_sessions=1)
    await farm.server("s2")
    await farm.start(balance="first")
    farm.states["s2"].set_state("maint")
    place = farm.pool.acquire()
    assert place is not None
    client = await farm.in_line()
    farm.pool.release(place)
    farm.states["s2"].set_state("ready")
    farm.states["s1"].set_state("maint")
    assert await served_by(client) == "s2"
    assert one.accepted == 0


async def test_a_client_that_has_said_something_and_resets_leaves_the_line(farm: Farm) -> None:
    await farm.server("s1", max_sessions=1)
    await farm.start()
    await farm.welcome()
    client = await farm.in_line()
    await client.send(b"a1 LOGIN user secret\r\n")
    await trio.testing.wait_all_tasks_blocked(0.02)
    client.reset()
    with trio.fail_after(1):
        await farm.lined_up(0)


async def test_a_client_that_has_said_something_and_resets_is_not_connected_any_more(farm: Farm) -> None:
    await farm.unanswered("s1")
    await farm.start(timeouts={"connect": "1h"})
    client = await farm.guest()
    await farm.connecting()
    await client.send(b"a1 LOGIN user secret\r\n")
    await trio.testing.wait_all_tasks_blocked(0.02)
    client.reset()
    with trio.fail_after(1):
        await farm.scene.idle()


async def test_who_lost_its_own_server_while_it_waited_was_taken_elsewhere(farm: Farm) -> None:
    """HAProxy: +0 1/0, wredis 1 (ours: 0 1/1, or 1/0 where the other had a place)."""
    await farm.server("s1", max_sessions=1)
    await farm.server("s2")
    await farm.start(introduced=True, tcplog=True, stick={"on": "source"}, balance="first")
    await farm.welcome()
    client = await farm.in_line()
    farm.states["s1"].set_state("maint")
    assert await served_by(client) == "s2"
    await farm.leave(client)
    line = await farm.tcp_line()
    assert (line.place, line.retries, line.queue) == ("b/s2", "+0", "1/0")
    assert farm.counts("s1").redispatches == 1


async def test_who_finds_out_that_a_server_is_down_is_taken_elsewhere(farm: Farm) -> None:
    """Its own failure marks the server down, whose sessions end; it is none of them."""
    one = await farm.server("s1")
    await farm.server("s2")
    await farm.start(
        retries=3,
        balance="first",
        observe="connect",
        error_limit=1,
        on_marked_down="shutdown-sessions",
        check={"type": "tcp", "interval": "1h", "fall": 1},
    )
    await one.close()
    client = await farm.guest()
    assert await served_by(client) == "s2"
    assert farm.states["s1"].status == "DOWN"
    await is_served(client)


async def test_a_server_that_goes_before_it_is_told_who_comes(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scene finds the sockets that are left."""

    def go(*_: object) -> None:
        raise ServerRefusedError("gone")

    monkeypatch.setattr("mailproxy.proxy.session.dispatch.send_header", go)
    await farm.server("s1")
    await farm.start(send_proxy="v2")
    before = Belongings.now()
    gc.disable()
    try:
        client = await farm.guest()
        await turned_away(client)
        await before.again()
    finally:
        gc.enable()
