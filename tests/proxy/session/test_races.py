"""Races: a server goes down or a client closes at the same moment as another event."""

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
from tests.support.proxy.relays import ON_EACH


@pytest.mark.parametrize("redispatch", [True, 1])
async def test_only_server_is_retried_without_redispatch(
    cluster: BackendCluster, redispatch: bool | int
) -> None:
    """HAProxy logs 3, not +3, and counts wretr 3, wredis 0."""
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=3, redispatch=redispatch, tcplog=True, timeouts={"connect": "60ms"})
    await assert_rejected(await cluster.connect_client())
    assert await cluster.tcplog_line() == TcplogLine("b/s1", "SC", "3", "0/0")
    assert (cluster.counts("s1").retries, cluster.counts("s1").redispatches) == (3, 0)


async def test_server_in_maintenance_during_pause_is_not_retried(cluster: BackendCluster) -> None:
    """Both servers refuse. The first goes to maintenance in the pause before its retry and must not be used."""
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


@ON_EACH
@pytest.mark.parametrize(("tls", "has_waiter"), [(False, True), (True, False)])
async def test_maintenance_at_every_step_leaves_no_session(
    cluster: BackendCluster, tls: bool, has_waiter: bool
) -> None:
    """The server goes at every step of a new session, or of a waiter that gets the slot of a closed client."""
    context = cluster.harness.ca.server_context("127.0.0.1") if tls else None
    await cluster.add_server("s1", tls=context, max_sessions=1)
    await cluster.add_server("s2", tls=context)
    await cluster.start_proxy(retries=3, balance="first", backend_tls=tls, on_marked_down="shutdown-sessions")
    one, two = cluster.states["s1"], cluster.states["s2"]
    steps_with_session_left = []
    for step in count(1):
        current = waiter = None
        if has_waiter:
            two.set_state("maint")
            current, waiter = await cluster.connect_greeted(), await cluster.connect_queued()
        instrument = AtStep(step, lambda: one.set_state("maint"))
        trio.lowlevel.add_instrument(instrument)
        if current is not None:
            current.drop()
        client = waiter or await cluster.connect_client()
        with trio.move_on_after(0.2):
            await receive_server_name(client)
        trio.lowlevel.remove_instrument(instrument)
        await trio.testing.wait_all_tasks_blocked(0.02)
        if one.sessions and instrument.left <= 0:
            steps_with_session_left.append(step)
        client.drop()
        two.set_state("ready")
        one.set_state("ready")
        await cluster.harness.wait_until_idle()
        if instrument.left > 0:
            break
    assert steps_with_session_left == []


async def test_slot_freed_as_server_goes_to_maintenance(cluster: BackendCluster) -> None:
    """A server in maintenance takes no sessions: the waiter that was just given the slot goes elsewhere."""
    one = await cluster.add_server("s1", max_sessions=1)
    await cluster.add_server("s2")
    await cluster.start_proxy(balance="first")
    cluster.states["s2"].set_state("maint")
    server = cluster.pool.acquire()
    assert server is not None
    client = await cluster.connect_queued()
    cluster.pool.release(server)
    cluster.states["s2"].set_state("ready")
    cluster.states["s1"].set_state("maint")
    assert await receive_server_name(client) == "s2"
    assert one.accepted == 0


async def test_reset_client_with_unread_data_leaves_queue(cluster: BackendCluster) -> None:
    await cluster.add_server("s1", max_sessions=1)
    await cluster.start_proxy()
    await cluster.connect_greeted()
    client = await cluster.connect_queued()
    await client.send(b"a1 LOGIN user secret\r\n")
    await trio.testing.wait_all_tasks_blocked(0.02)
    client.reset()
    with trio.fail_after(1):
        await cluster.wait_for_queued(0)


async def test_reset_client_with_unread_data_ends_connecting(
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


async def test_sticky_waiter_moved_elsewhere_counts_as_redispatch(cluster: BackendCluster) -> None:
    """HAProxy logs +0 1/0 and counts wredis 1.

    mailproxy once logged 0 1/1, or 0 1/0 if the other server had a free slot.
    """
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


async def test_failure_marking_server_down_redispatches_own_session(cluster: BackendCluster) -> None:
    """The session's failure marks the server down, which ends the server's sessions, but not this one."""
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


async def test_failed_proxy_header_leaves_no_socket(
    cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResourceSnapshot finds sockets that are left."""

    def refuse(*_: object) -> None:
        raise ServerRefusedError("gone")

    monkeypatch.setattr("mailproxy.proxy.session.dispatch.send_header", refuse)
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
