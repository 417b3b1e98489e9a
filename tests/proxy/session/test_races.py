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
from tests.support.proxy.backend_cluster import (
    BackendCluster,
    TcplogLine,
    assert_rejected,
    assert_served,
    receive_server_name,
)
from tests.support.proxy.proxy_harness import ResourceSnapshot
from tests.support.proxy.relays import ON_BOTH


@pytest.mark.parametrize("redispatch", [True, 1])
async def test_a_server_that_is_alone_is_not_taken_for_another_one(
    cluster: BackendCluster, redispatch: bool | int
) -> None:
    """HAProxy: 3, not +3; wretr 3, wredis 0."""
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=3, redispatch=redispatch, tcplog=True, timeouts={"connect": "60ms"})
    await assert_rejected(await cluster.connect_client())
    assert await cluster.tcplog_line() == TcplogLine("b/s1", "SC", "3", "0/0")
    assert (cluster.counts("s1").retries, cluster.counts("s1").redispatches) == (3, 0)


async def test_a_server_that_goes_in_the_pause_before_it_is_tried_anew(cluster: BackendCluster) -> None:
    """Both refused; the session pauses before the first one; that one goes for maintenance, and must not be used."""
    one = await cluster.add_server("one", is_open=False)
    two = await cluster.add_server("two", is_open=False)
    await cluster.start_proxy(retries=9, balance="first")  # pauses of 1 s
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("two")
    await cluster.open_server(one)
    await cluster.open_server(two)
    cluster.states["one"].set_state("maint")
    assert await receive_server_name(client) == "two"


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
async def test_whenever_it_goes_nobody_is_left_there(cluster: BackendCluster, tls: bool, waits: bool) -> None:
    """At every step of who comes, or of who is given the place of one that leaves."""
    context = cluster.harness.ca.server_context("127.0.0.1") if tls else None
    await cluster.add_server("s1", tls=context, max_sessions=1)
    await cluster.add_server("s2", tls=context)
    await cluster.start_proxy(retries=3, balance="first", backend_tls=tls, on_marked_down="shutdown-sessions")
    one, two = cluster.states["s1"], cluster.states["s2"]
    left_there = []
    for step in count(1):
        here = waiting = None
        if waits:
            two.set_state("maint")
            here, waiting = await cluster.connect_greeted(), await cluster.connect_queued()
        instrument = AtStep(step, lambda: one.set_state("maint"))
        trio.lowlevel.add_instrument(instrument)
        if here is not None:
            here.drop()
        client = waiting or await cluster.connect_client()
        with trio.move_on_after(0.2):
            await receive_server_name(client)
        trio.lowlevel.remove_instrument(instrument)
        await trio.testing.wait_all_tasks_blocked(0.02)
        if one.sessions and instrument.left <= 0:
            left_there.append(step)
        client.drop()
        two.set_state("ready")
        one.set_state("ready")
        await cluster.harness.wait_until_idle()
        if instrument.left > 0:
            break
    assert left_there == []


async def test_a_place_at_a_server_that_goes_in_the_same_moment(cluster: BackendCluster) -> None:
    """Maintenance takes nobody: who was just given the place goes elsewhere."""
    one = await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="first")
    cluster.states["s2"].set_state("maint")
    place = cluster.pool.acquire()
    assert place is not None
    client = await cluster.connect_queued()
    cluster.pool.release(place)
    cluster.states["s2"].set_state("ready")
    cluster.states["s1"].set_state("maint")
    assert await receive_server_name(client) == "s2"
    assert one.accepted == 0


async def test_a_client_that_has_said_something_and_resets_leaves_the_line(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    await client.send(b"a1 LOGIN user secret\r\n")
    await trio.testing.wait_all_tasks_blocked(0.02)
    client.reset()
    with trio.fail_after(1):
        await cluster.wait_for_queued(0)


async def test_a_client_that_has_said_something_and_resets_is_not_connected_any_more(
    cluster: BackendCluster,
) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(timeouts={"connect": "1h"})
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    await client.send(b"a1 LOGIN user secret\r\n")
    await trio.testing.wait_all_tasks_blocked(0.02)
    client.reset()
    with trio.fail_after(1):
        await cluster.harness.wait_until_idle()


async def test_who_lost_its_own_server_while_it_waited_was_taken_elsewhere(cluster: BackendCluster) -> None:
    """HAProxy: +0 1/0, wredis 1 (ours: 0 1/1, or 1/0 where the other had a place)."""
    await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, tcplog=True, stick={"on": "source"}, balance="first")
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    cluster.states["s1"].set_state("maint")
    assert await receive_server_name(client) == "s2"
    await cluster.close_client(client)
    line = await cluster.tcplog_line()
    assert (line.server, line.retries, line.queue) == ("b/s2", "+0", "1/0")
    assert cluster.counts("s1").redispatches == 1


async def test_who_finds_out_that_a_server_is_down_is_taken_elsewhere(cluster: BackendCluster) -> None:
    """Its own failure marks the server down, whose sessions end; it is none of them."""
    one = await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(
        retries=3,
        balance="first",
        observe="connect",
        error_limit=1,
        on_marked_down="shutdown-sessions",
        check={"type": "tcp", "interval": "1h", "fall": 1},
    )
    await one.close()
    client = await cluster.connect_client()
    assert await receive_server_name(client) == "s2"
    assert cluster.states["s1"].status == "DOWN"
    await assert_served(client)


async def test_a_server_that_goes_before_it_is_told_who_comes(
    cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The harness finds the sockets that are left."""

    def go(*_: object) -> None:
        raise ServerRefusedError("gone")

    monkeypatch.setattr("mailproxy.proxy.session.dispatch.send_header", go)
    await cluster.add_server("s1")
    await cluster.start_proxy(send_proxy="v2")
    before = ResourceSnapshot.now()
    gc.disable()
    try:
        client = await cluster.connect_client()
        await assert_rejected(client)
        await before.wait_until_restored()
    finally:
        gc.enable()
