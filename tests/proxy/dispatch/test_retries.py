"""Retries and redispatch: which server is tried next, after which pause, and what the log counts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mailproxy.testing import UnansweredServer, collect, dial
from tests.support.proxy.backend_cluster import (
    BackendCluster,
    assert_rejected,
    assert_served,
    check_of,
    receive_server_name,
)
from tests.support.proxy.proxy_harness import ResourceSnapshot
from tests.support.proxy.task_steps import cancel_at_every_step

# The turnaround pause is as long as the connect timeout, and at most one second.
PAUSE_MS = 60
SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": f"{PAUSE_MS}ms"}}
MAX_PAUSE_MS = 1000
WITHOUT_PAUSE_S = 0.6  # a session that paused would take longer
MANY_RETRIES = 50  # enough for a test to act before the last one
LONG_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": "1h"}}


# The same server


async def test_refusing_server_is_retried(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", is_open=False)
    await cluster.start_proxy(retries=MANY_RETRIES, **SHORT_TIMEOUT)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await cluster.open_server(server)
    assert await receive_server_name(client) == "s1"
    await cluster.close_client(client)
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["redispatched"]) == ("client-closed", "s1", False)
    assert line["retries"] == cluster.counts("s1").retries >= 1
    assert line["connect_ms"] >= line["retries"] * PAUSE_MS
    assert cluster.counts("s1").redispatches == 0


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_retries_limit_attempts(cluster: BackendCluster, retries: int) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=retries, redispatch=False, **SHORT_TIMEOUT)
    before = ResourceSnapshot.now()
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["retries"]) == ("server-refused", "SC", retries)
    assert (line["server"], line["connect_ms"], line["redispatched"]) == ("s1", -1, False)
    assert "Connection refused" in line["detail"]
    assert line["total_ms"] >= retries * PAUSE_MS, "each retry comes after a pause"
    assert cluster.counts("s1").retries == retries
    await before.wait_until_restored()


async def test_turnaround_pause_is_at_most_one_second(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=1, redispatch=False, **LONG_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    assert (await cluster.harness.session())["total_ms"] >= MAX_PAUSE_MS


async def test_retries_without_redispatch_are_logged_without_plus(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=2, redispatch=False, tcplog=True, **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/s1", "SC", "2")


# Another server


@pytest.mark.parametrize("redispatch", [True, 1, 2, 5])
async def test_new_client_is_redispatched_without_pause(
    cluster: BackendCluster, redispatch: bool | int
) -> None:
    """A client without a sticky entry is redispatched at once, independent of the number in ``redispatch``."""
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=3, redispatch=redispatch, tcplog=True)
    with trio.fail_after(WITHOUT_PAUSE_S):
        assert await cluster.connect_and_close() == "good"
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/good", "--", "+1")
    assert (cluster.counts("bad").redispatches, cluster.counts("bad").retries) == (1, 0)
    assert (cluster.counts("good").redispatches, cluster.counts("good").connect_errors) == (0, 0)


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "source", "first", "random"])
async def test_redispatch_works_with_each_balance(cluster: BackendCluster, balance: str) -> None:
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=1, balance=balance)
    for _ in range(8):
        assert await cluster.connect_and_close() == "good"
    lines = await cluster.harness.sessions(8)
    assert {(line["retries"], line["redispatched"]) for line in lines} <= {(0, False), (1, True)}


async def test_redispatch_false_keeps_server(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad")
    good = await cluster.add_server("good")
    await cluster.start_proxy(retries=2, redispatch=False, balance="first", **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "bad", 2)
    assert not line["redispatched"]
    assert good.accepted == 0


async def test_all_servers_are_tried_before_retry(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=3, tcplog=True, balance="first")
    with trio.fail_after(WITHOUT_PAUSE_S):
        assert await cluster.connect_and_close() == "good"
    assert (await cluster.tcplog_line()).retries == "+2"
    assert [cluster.counts(name).connect_errors for name in ("bad", "worse")] == [1, 1]


async def test_retries_too_few_for_working_server(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    good = await cluster.add_server("good")
    await cluster.start_proxy(retries=1, balance="first")
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "worse", 1)
    assert good.accepted == 0


async def test_refusing_servers_are_retried_after_pauses(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("one", "two")
    await cluster.start_proxy(retries=3, tcplog=True, **SHORT_TIMEOUT)
    started_at = trio.current_time()
    await assert_rejected(await cluster.connect_client())
    assert trio.current_time() - started_at >= 2 * PAUSE_MS / 1000
    line = await cluster.tcplog_line()
    assert (line.state, line.retries) == ("SC", "+3")
    assert [cluster.counts(name).connect_errors for name in ("one", "two")] == [2, 2]


async def test_server_opened_during_pause_is_used(cluster: BackendCluster) -> None:
    one = await cluster.add_server("one", is_open=False)
    await cluster.add_refusing_servers("two")
    await cluster.start_proxy(retries=MANY_RETRIES, balance="first", **SHORT_TIMEOUT)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("two")  # the pause before "one" has begun
    await cluster.open_server(one)
    assert await receive_server_name(client) == "one"
    await cluster.close_client(client)
    line = await cluster.harness.session()
    assert line["retries"] >= 2
    assert line["redispatched"]


async def test_redispatch_does_not_use_backup(cluster: BackendCluster) -> None:
    """A backup serves when all other servers are down. A server that refuses is not down yet."""
    await cluster.add_refusing_servers("s1")
    spare = await cluster.add_server("spare", backup=True)
    await cluster.start_proxy(retries=2, **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "s1", 2)
    assert spare.accepted == 0


# Sticky clients

STICKY: dict[str, Any] = {"stick": {"on": "source"}, "balance": "first"}


async def stick_to_closed_server(cluster: BackendCluster, **backend: Any) -> None:
    """Make the client sticky to s1, then close s1. s2 works."""
    one = await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, **STICKY, **backend)
    assert await cluster.connect_and_close() == "s1"
    await one.close()


@pytest.mark.parametrize(("redispatch", "attempts"), [(True, 3), (1, 1), (2, 2)])
async def test_sticky_client_is_redispatched_after_retries(
    cluster: BackendCluster, redispatch: bool | int, attempts: int
) -> None:
    """True redispatches the last retry, a number n each n-th. Other retries go to the same server after a pause."""
    await stick_to_closed_server(cluster, retries=3, redispatch=redispatch, tcplog=True, **SHORT_TIMEOUT)
    started_at = trio.current_time()
    assert await cluster.connect_and_close() == "s2"
    assert trio.current_time() - started_at >= (attempts - 1) * PAUSE_MS / 1000
    line = (await cluster.tcplog_lines(2))[1]
    assert (line.server, line.retries) == ("b/s2", f"+{attempts}")
    assert cluster.counts("s1").retries == attempts - 1
    assert cluster.counts("s1").redispatches == 1


async def test_new_client_does_not_wait_for_closed_server(cluster: BackendCluster) -> None:
    await stick_to_closed_server(cluster, retries=3)
    await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    with trio.fail_after(WITHOUT_PAUSE_S):
        assert await cluster.connect_and_close("192.0.2.2") == "s2"


async def test_sticky_client_gets_reopened_server(cluster: BackendCluster) -> None:
    await stick_to_closed_server(cluster, retries=MANY_RETRIES, **SHORT_TIMEOUT)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await cluster.open_server(cluster.servers["s1"])
    assert await receive_server_name(client) == "s1"


async def test_sticky_client_without_redispatch_keeps_server(cluster: BackendCluster) -> None:
    await stick_to_closed_server(cluster, retries=2, redispatch=False, **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = (await cluster.harness.sessions(2))[1]
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "s1", 2)
    assert not line["redispatched"]
    await cluster.open_server(cluster.servers["s1"])
    assert await cluster.connect_and_close() == "s1", "the sticky entry is kept"


# State changes during an attempt


@pytest.mark.parametrize("phase", ["turnaround pause", "connecting"])
async def test_maintenance_ends_attempt_and_pause(cluster: BackendCluster, phase: str) -> None:
    if phase == "connecting":
        await cluster.add_unanswering_server("s1")
        await cluster.add_server("s2")
        await cluster.start_proxy(retries=3, balance="first", **LONG_TIMEOUT)
    else:
        await stick_to_closed_server(cluster, retries=3, **LONG_TIMEOUT)
    client = await cluster.connect_client()
    if phase == "connecting":
        await cluster.wait_for_sessions()
    else:
        await cluster.wait_for_connect_errors("s1")
    with trio.fail_after(WITHOUT_PAUSE_S):
        cluster.states["s1"].set_state("maint")
        assert await receive_server_name(client) == "s2"
    await cluster.close_client(client)
    line = (await cluster.harness.sessions(1 if phase == "connecting" else 2))[-1]
    assert (line["server"], line["redispatched"]) == ("s2", True)
    assert cluster.states["s1"].sessions == 0


async def test_redispatched_session_joins_queue(cluster: BackendCluster) -> None:
    one = await cluster.add_server("s1")
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, retries=3, tcplog=True, **STICKY, **LONG_TIMEOUT)
    await cluster.connect_and_close()
    await one.close()
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    current = await cluster.connect_greeted("192.0.2.2")  # s1 refuses this client, too
    cluster.states["s1"].set_state("maint")
    await cluster.wait_for_queued(1)
    await cluster.close_client(current)
    assert await receive_server_name(client) == "s2"
    await cluster.close_client(client)
    line = (await cluster.tcplog_lines(3))[2]
    assert (line.server, line.retries, line.queue) == ("b/s2", "+1", "0/1")


async def test_maintenance_ends_attempt_of_sticky_client(cluster: BackendCluster) -> None:
    await stick_to_closed_server(cluster, retries=3, **LONG_TIMEOUT)
    await cluster.harness.nursery.start(UnansweredServer(cluster.servers["s1"].address).serve)
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    with trio.fail_after(WITHOUT_PAUSE_S):
        cluster.states["s1"].set_state("maint")
        assert await receive_server_name(client) == "s2"


async def test_draining_server_is_retried_for_sticky_client(cluster: BackendCluster) -> None:
    """Clients that are sticky to a draining server may return to it."""
    await stick_to_closed_server(cluster, retries=MANY_RETRIES, **SHORT_TIMEOUT)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    cluster.states["s1"].set_state("drain")
    await cluster.wait_for_connect_errors("s1", cluster.counts("s1").connect_errors + 1)
    await cluster.open_server(cluster.servers["s1"])
    assert await receive_server_name(client) == "s1"


@pytest.mark.parametrize("redispatch", [True, False])
async def test_maintenance_of_only_server_during_attempt(cluster: BackendCluster, redispatch: bool) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(
        retries=3, redispatch=redispatch, **(LONG_TIMEOUT if redispatch else SHORT_TIMEOUT)
    )
    before = ResourceSnapshot.now()
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    line = await cluster.harness.session()
    assert (line["phase"], line["server_address"]) == ("connect", None)
    assert line["retries"] == (1 if redispatch else 3), (
        "without redispatch the server's state is not considered"
    )
    await before.wait_until_restored()


async def test_failed_check_ends_attempt(cluster: BackendCluster) -> None:
    checked = await cluster.start_unlisted_server("checked")
    await cluster.add_unanswering_server("s1", check=check_of(checked))
    await cluster.add_server("s2")
    await cluster.start_proxy(retries=3, balance="first", **LONG_TIMEOUT)
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    await checked.close()
    assert await receive_server_name(client) == "s2"
    await cluster.harness.events("server-down")


# Load and cancellation


async def test_many_clients_reach_working_servers(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    await cluster.add_server("good")
    await cluster.add_server("better")
    await cluster.start_proxy(retries=3)
    before = ResourceSnapshot.now()

    async def run_client() -> None:
        client = await cluster.connect_client()
        assert await receive_server_name(client) in ("good", "better")
        await assert_served(client)
        await client.close()

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(run_client)
    lines = await cluster.harness.sessions(60)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert any(line["retries"] for line in lines)
    assert [server.sessions for server in cluster.states.values()] == [0, 0, 0, 0]
    await before.wait_until_restored()


async def test_cancelled_at_every_step_of_retrying(cluster: BackendCluster) -> None:
    """Refused attempt, failed TLS, pause and tunnel: a cancelled session leaves no resources."""
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("clear", collect(b"* OK ready\r\n"))
    good = await cluster.add_server("good", tls=cluster.harness.ca.server_context("127.0.0.1"))
    mapping = cluster.mapping(retries=4, balance="first", backend_tls=True, timeouts={"connect": "20ms"})

    async def run_client(address: str) -> None:
        async with await dial(address) as client:
            await client.send(b"x\r\n")
            await client.receive_until_end()

    await cancel_at_every_step(mapping, run_client)
    assert good.accepted > 0, "some runs reach the working server"
    assert "internal-error" not in {line.get("end") for line in cluster.harness.lines()}
