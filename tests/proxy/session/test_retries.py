"""Attempts to connect that fail: the same server after a pause, another one at once, or the end, and what the log counts."""

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

PAUSE_MS = 60  # before the same server is tried again: as long as the limit on connecting, up to a second
QUICK: dict[str, Any] = {"timeouts": {"connect": f"{PAUSE_MS}ms"}}
LONGEST_PAUSE_MS = 1000
AT_ONCE_S = 0.6  # a pause would have to be waited out until later than that
OFTEN = 50  # so that it is not over before the test has done something meanwhile
NEVER: dict[str, Any] = {"timeouts": {"connect": "1h"}}


# The same server again


async def test_a_server_that_refused_once_is_tried_again(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", is_open=False)
    await cluster.start_proxy(retries=OFTEN, **QUICK)
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
async def test_a_server_that_refuses_for_good_is_tried_so_often(
    cluster: BackendCluster, retries: int
) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=retries, redispatch=False, **QUICK)
    before = ResourceSnapshot.now()
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["retries"]) == ("server-refused", "SC", retries)
    assert (line["server"], line["connect_ms"], line["redispatched"]) == ("s1", -1, False)
    assert "Connection refused" in line["detail"]
    assert line["total_ms"] >= retries * PAUSE_MS, "a pause before each retry"
    assert cluster.counts("s1").retries == retries
    await before.wait_until_restored()


async def test_the_pause_is_no_longer_than_a_second(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=1, redispatch=False, **NEVER)
    await assert_rejected(await cluster.connect_client())
    assert (await cluster.harness.session())["total_ms"] >= LONGEST_PAUSE_MS


async def test_retries_of_one_server_have_no_plus_in_the_log(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("s1")
    await cluster.start_proxy(retries=2, redispatch=False, tcplog=True, **QUICK)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/s1", "SC", "2")


# Another server


@pytest.mark.parametrize("redispatch", [True, 1, 2, 5])
async def test_another_server_is_tried_at_once(cluster: BackendCluster, redispatch: bool | int) -> None:
    """Whoever has no server of its own does not wait for one, whatever the number says."""
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=3, redispatch=redispatch, tcplog=True)
    with trio.fail_after(AT_ONCE_S):
        assert await cluster.connect_and_close() == "good"
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/good", "--", "+1")
    assert (cluster.counts("bad").redispatches, cluster.counts("bad").retries) == (1, 0)
    assert (cluster.counts("good").redispatches, cluster.counts("good").connect_errors) == (0, 0)


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "source", "first", "random"])
async def test_whatever_the_balance_nobody_is_left_with_a_server_that_refuses(
    cluster: BackendCluster, balance: str
) -> None:
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=1, balance=balance)
    for _ in range(8):
        assert await cluster.connect_and_close() == "good"
    lines = await cluster.harness.sessions(8)
    assert {(line["retries"], line["redispatched"]) for line in lines} <= {(0, False), (1, True)}


async def test_no_other_server_is_tried_without_redispatch(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad")
    good = await cluster.add_server("good")
    await cluster.start_proxy(retries=2, redispatch=False, balance="first", **QUICK)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "bad", 2)
    assert not line["redispatched"]
    assert good.accepted == 0


async def test_each_server_is_tried_before_any_is_tried_again(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=3, tcplog=True, balance="first")
    with trio.fail_after(AT_ONCE_S):
        assert await cluster.connect_and_close() == "good"
    assert (await cluster.tcplog_line()).retries == "+2"
    assert [cluster.counts(name).connect_errors for name in ("bad", "worse")] == [1, 1]


async def test_a_retry_too_few_to_reach_the_good_one(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    good = await cluster.add_server("good")
    await cluster.start_proxy(retries=1, balance="first")
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "worse", 1)
    assert good.accepted == 0


async def test_when_all_refuse_they_are_tried_again_after_a_pause(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("one", "two")
    await cluster.start_proxy(retries=3, tcplog=True, **QUICK)
    began = trio.current_time()
    await assert_rejected(await cluster.connect_client())
    assert trio.current_time() - began >= 2 * PAUSE_MS / 1000
    line = await cluster.tcplog_line()
    assert (line.state, line.retries) == ("SC", "+3")
    assert [cluster.counts(name).connect_errors for name in ("one", "two")] == [2, 2]


async def test_one_of_them_comes_back_meanwhile(cluster: BackendCluster) -> None:
    one = await cluster.add_server("one", is_open=False)
    await cluster.add_refusing_servers("two")
    await cluster.start_proxy(retries=OFTEN, balance="first", **QUICK)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("two")  # and the pause before "one" has begun
    await cluster.open_server(one)
    assert await receive_server_name(client) == "one"
    await cluster.close_client(client)
    line = await cluster.harness.session()
    assert line["retries"] >= 2
    assert line["redispatched"]


async def test_backups_are_not_where_retries_go(cluster: BackendCluster) -> None:
    """They are for when no other server is up; that this one refuses does not mean that it is down."""
    await cluster.add_refusing_servers("s1")
    spare = await cluster.add_server("spare", backup=True)
    await cluster.start_proxy(retries=2, **QUICK)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "s1", 2)
    assert spare.accepted == 0


# A client that has a server

STICKY: dict[str, Any] = {"stick": {"on": "source"}, "balance": "first"}


async def stuck_to_one_that_closed(cluster: BackendCluster, **backend: Any) -> None:
    """A guest's server is s1, which refuses from now on; s2 is fine."""
    one = await cluster.add_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(accept_proxy=True, **STICKY, **backend)
    assert await cluster.connect_and_close() == "s1"
    await one.close()


@pytest.mark.parametrize(("redispatch", "attempts"), [(True, 3), (1, 1), (2, 2)])
async def test_who_has_a_server_is_patient_with_it(
    cluster: BackendCluster, redispatch: bool | int, attempts: int
) -> None:
    """True takes the last retry elsewhere, a number every n-th; until then it is the same server, after pauses."""
    await stuck_to_one_that_closed(cluster, retries=3, redispatch=redispatch, tcplog=True, **QUICK)
    began = trio.current_time()
    assert await cluster.connect_and_close() == "s2"
    assert trio.current_time() - began >= (attempts - 1) * PAUSE_MS / 1000
    line = (await cluster.tcplog_lines(2))[1]
    assert (line.server, line.retries) == ("b/s2", f"+{attempts}")
    assert cluster.counts("s1").retries == attempts - 1
    assert cluster.counts("s1").redispatches == 1


async def test_who_has_no_server_is_not_patient_meanwhile(cluster: BackendCluster) -> None:
    await stuck_to_one_that_closed(cluster, retries=3)
    await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    with trio.fail_after(AT_ONCE_S):
        assert await cluster.connect_and_close("192.0.2.2") == "s2"


async def test_who_has_a_server_waits_for_it_to_come_back(cluster: BackendCluster) -> None:
    await stuck_to_one_that_closed(cluster, retries=OFTEN, **QUICK)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await cluster.open_server(cluster.servers["s1"])
    assert await receive_server_name(client) == "s1"


async def test_who_has_a_server_is_left_with_it_without_redispatch(cluster: BackendCluster) -> None:
    await stuck_to_one_that_closed(cluster, retries=2, redispatch=False, **QUICK)
    await assert_rejected(await cluster.connect_client())
    line = (await cluster.harness.sessions(2))[1]
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "s1", 2)
    assert not line["redispatched"]
    await cluster.open_server(cluster.servers["s1"])
    assert await cluster.connect_and_close() == "s1", "it is its server still"


# A server that leaves while it is tried


@pytest.mark.parametrize("where", ["in the pause", "connecting"])
async def test_a_server_that_goes_for_maintenance_is_waited_for_no_longer(
    cluster: BackendCluster, where: str
) -> None:
    if where == "connecting":
        await cluster.add_unanswering_server("s1")
        await cluster.add_server("s2")
        await cluster.start_proxy(retries=3, balance="first", **NEVER)
    else:
        await stuck_to_one_that_closed(cluster, retries=3, **NEVER)
    client = await cluster.connect_client()
    if where == "connecting":
        await cluster.wait_for_sessions()
    else:
        await cluster.wait_for_connect_errors("s1")
    with trio.fail_after(AT_ONCE_S):
        cluster.states["s1"].set_state("maint")
        assert await receive_server_name(client) == "s2"
    await cluster.close_client(client)
    line = (await cluster.harness.sessions(1 if where == "connecting" else 2))[-1]
    assert (line["server"], line["redispatched"]) == ("s2", True)
    assert cluster.states["s1"].sessions == 0


async def test_who_is_taken_elsewhere_stands_in_the_line_like_anybody(cluster: BackendCluster) -> None:
    one = await cluster.add_server("s1")
    await cluster.add_server("s2", max_sessions=1)
    await cluster.start_proxy(accept_proxy=True, retries=3, tcplog=True, **STICKY, **NEVER)
    await cluster.connect_and_close()
    await one.close()
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    there = await cluster.connect_greeted("192.0.2.2")  # refused by s1, too
    cluster.states["s1"].set_state("maint")
    await cluster.wait_for_queued(1)
    await cluster.close_client(there)
    assert await receive_server_name(client) == "s2"
    await cluster.close_client(client)
    line = (await cluster.tcplog_lines(3))[2]
    assert (line.server, line.retries, line.queue) == ("b/s2", "+1", "0/1")


async def test_who_has_a_server_waits_for_its_answer_no_longer_when_it_goes(cluster: BackendCluster) -> None:
    await stuck_to_one_that_closed(cluster, retries=3, **NEVER)
    await cluster.harness.nursery.start(UnansweredServer(cluster.servers["s1"].address).serve)
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    with trio.fail_after(AT_ONCE_S):
        cluster.states["s1"].set_state("maint")
        assert await receive_server_name(client) == "s2"


async def test_a_server_that_drains_is_tried_on(cluster: BackendCluster) -> None:
    """Clients that have it may come back to it."""
    await stuck_to_one_that_closed(cluster, retries=OFTEN, **QUICK)
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    cluster.states["s1"].set_state("drain")
    await cluster.wait_for_connect_errors("s1", cluster.counts("s1").connect_errors + 1)
    await cluster.open_server(cluster.servers["s1"])
    assert await receive_server_name(client) == "s1"


@pytest.mark.parametrize("redispatch", [True, False])
async def test_the_only_server_goes_while_it_is_tried(cluster: BackendCluster, redispatch: bool) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(retries=3, redispatch=redispatch, **(NEVER if redispatch else QUICK))
    before = ResourceSnapshot.now()
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    line = await cluster.harness.session()
    assert (line["phase"], line["server_address"]) == ("connect", None)
    assert line["retries"] == (1 if redispatch else 3), "without redispatch nobody asks whether it is up"
    await before.wait_until_restored()


async def test_a_server_whose_check_fails_is_waited_for_no_longer(cluster: BackendCluster) -> None:
    checked = await cluster.start_unlisted_server("checked")
    await cluster.add_unanswering_server("s1", check=check_of(checked))
    await cluster.add_server("s2")
    await cluster.start_proxy(retries=3, balance="first", **NEVER)
    client = await cluster.connect_client()
    await cluster.wait_for_sessions()
    await checked.close()
    assert await receive_server_name(client) == "s2"
    await cluster.harness.events("server-down")


# Many, and at every step


async def test_a_crowd_finds_the_servers_that_work(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    await cluster.add_server("good")
    await cluster.add_server("better")
    await cluster.start_proxy(retries=3)
    before = ResourceSnapshot.now()

    async def visit() -> None:
        client = await cluster.connect_client()
        assert await receive_server_name(client) in ("good", "better")
        await assert_served(client)
        await client.close()

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(visit)
    lines = await cluster.harness.sessions(60)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert any(line["retries"] for line in lines)
    assert [server.sessions for server in cluster.states.values()] == [0, 0, 0, 0]
    await before.wait_until_restored()


async def test_cancelled_at_every_step_of_trying(cluster: BackendCluster) -> None:
    """Refused, failed TLS, the pause, the good one: whatever it is at, nothing stays."""
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("clear", collect(b"* OK ready\r\n"))
    good = await cluster.add_server("good", tls=cluster.harness.ca.server_context("127.0.0.1"))
    mapping = cluster.mapping(retries=4, balance="first", backend_tls=True, timeouts={"connect": "20ms"})

    async def visit(address: str) -> None:
        async with await dial(address) as client:
            await client.send(b"x\r\n")
            await client.receive_until_end()

    await cancel_at_every_step(mapping, visit)
    assert good.accepted > 0, "some got as far as that"
    assert "internal-error" not in {line.get("end") for line in cluster.harness.lines()}
