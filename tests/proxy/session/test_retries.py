"""Attempts to connect that fail: the same server after a pause, another one at once, or the end, and what the log counts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mailproxy.testing import UnansweredServer, collect, dial
from tests.support.proxy.backend_cluster import Farm, checked_by, is_served, served_by, turned_away
from tests.support.proxy.proxy_fixture import Belongings
from tests.support.proxy.task_steps import cancel_at_every_step

PAUSE_MS = 60  # before the same server is tried again: as long as the limit on connecting, up to a second
QUICK: dict[str, Any] = {"timeouts": {"connect": f"{PAUSE_MS}ms"}}
LONGEST_PAUSE_MS = 1000
AT_ONCE_S = 0.6  # a pause would have to be waited out until later than that
OFTEN = 50  # so that it is not over before the test has done something meanwhile
NEVER: dict[str, Any] = {"timeouts": {"connect": "1h"}}


# The same server again


async def test_a_server_that_refused_once_is_tried_again(farm: Farm) -> None:
    server = await farm.server("s1", is_open=False)
    await farm.start(retries=OFTEN, **QUICK)
    client = await farm.guest()
    await farm.failed("s1")
    await farm.open(server)
    assert await served_by(client) == "s1"
    await farm.leave(client)
    line = await farm.scene.session()
    assert (line["end"], line["server"], line["redispatched"]) == ("client-closed", "s1", False)
    assert line["retries"] == farm.counts("s1").retries >= 1
    assert line["connect_ms"] >= line["retries"] * PAUSE_MS
    assert farm.counts("s1").redispatches == 0


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_a_server_that_refuses_for_good_is_tried_so_often(farm: Farm, retries: int) -> None:
    await farm.refusing("s1")
    await farm.start(retries=retries, redispatch=False, **QUICK)
    before = Belongings.now()
    await turned_away(await farm.guest())
    line = await farm.scene.session()
    assert (line["end"], line["state"], line["retries"]) == ("server-refused", "SC", retries)
    assert (line["server"], line["connect_ms"], line["redispatched"]) == ("s1", -1, False)
    assert "Connection refused" in line["detail"]
    assert line["total_ms"] >= retries * PAUSE_MS, "a pause before each retry"
    assert farm.counts("s1").retries == retries
    await before.again()


async def test_the_pause_is_no_longer_than_a_second(farm: Farm) -> None:
    await farm.refusing("s1")
    await farm.start(retries=1, redispatch=False, **NEVER)
    await turned_away(await farm.guest())
    assert (await farm.scene.session())["total_ms"] >= LONGEST_PAUSE_MS


async def test_retries_of_one_server_have_no_plus_in_the_log(farm: Farm) -> None:
    await farm.refusing("s1")
    await farm.start(retries=2, redispatch=False, tcplog=True, **QUICK)
    await turned_away(await farm.guest())
    line = await farm.tcp_line()
    assert (line.place, line.state, line.retries) == ("b/s1", "SC", "2")


# Another server


@pytest.mark.parametrize("redispatch", [True, 1, 2, 5])
async def test_another_server_is_tried_at_once(farm: Farm, redispatch: bool | int) -> None:
    """Whoever has no server of its own does not wait for one, whatever the number says."""
    await farm.refusing("bad")
    await farm.server("good")
    await farm.start(retries=3, redispatch=redispatch, tcplog=True)
    with trio.fail_after(AT_ONCE_S):
        assert await farm.visit() == "good"
    line = await farm.tcp_line()
    assert (line.place, line.state, line.retries) == ("b/good", "--", "+1")
    assert (farm.counts("bad").redispatches, farm.counts("bad").retries) == (1, 0)
    assert (farm.counts("good").redispatches, farm.counts("good").connect_errors) == (0, 0)


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "source", "first", "random"])
async def test_whatever_the_balance_nobody_is_left_with_a_server_that_refuses(
    farm: Farm, balance: str
) -> None:
    await farm.refusing("bad")
    await farm.server("good")
    await farm.start(retries=1, balance=balance)
    for _ in range(8):
        assert await farm.visit() == "good"
    lines = await farm.scene.sessions(8)
    assert {(line["retries"], line["redispatched"]) for line in lines} <= {(0, False), (1, True)}


async def test_no_other_server_is_tried_without_redispatch(farm: Farm) -> None:
    await farm.refusing("bad")
    good = await farm.server("good")
    await farm.start(retries=2, redispatch=False, balance="first", **QUICK)
    await turned_away(await farm.guest())
    line = await farm.scene.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "bad", 2)
    assert not line["redispatched"]
    assert good.accepted == 0


async def test_each_server_is_tried_before_any_is_tried_again(farm: Farm) -> None:
    await farm.refusing("bad", "worse")
    await farm.server("good")
    await farm.start(retries=3, tcplog=True, balance="first")
    with trio.fail_after(AT_ONCE_S):
        assert await farm.visit() == "good"
    assert (await farm.tcp_line()).retries == "+2"
    assert [farm.counts(name).connect_errors for name in ("bad", "worse")] == [1, 1]


async def test_a_retry_too_few_to_reach_the_good_one(farm: Farm) -> None:
    await farm.refusing("bad", "worse")
    good = await farm.server("good")
    await farm.start(retries=1, balance="first")
    await turned_away(await farm.guest())
    line = await farm.scene.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "worse", 1)
    assert good.accepted == 0


async def test_when_all_refuse_they_are_tried_again_after_a_pause(farm: Farm) -> None:
    await farm.refusing("one", "two")
    await farm.start(retries=3, tcplog=True, **QUICK)
    began = trio.current_time()
    await turned_away(await farm.guest())
    assert trio.current_time() - began >= 2 * PAUSE_MS / 1000
    line = await farm.tcp_line()
    assert (line.state, line.retries) == ("SC", "+3")
    assert [farm.counts(name).connect_errors for name in ("one", "two")] == [2, 2]


async def test_one_of_them_comes_back_meanwhile(farm: Farm) -> None:
    one = await farm.server("one", is_open=False)
    await farm.refusing("two")
    await farm.start(retries=OFTEN, balance="first", **QUICK)
    client = await farm.guest()
    await farm.failed("two")  # and the pause before "one" has begun
    await farm.open(one)
    assert await served_by(client) == "one"
    await farm.leave(client)
    line = await farm.scene.session()
    assert line["retries"] >= 2
    assert line["redispatched"]


async def test_backups_are_not_where_retries_go(farm: Farm) -> None:
    """They are for when no other server is up; that this one refuses does not mean that it is down."""
    await farm.refusing("s1")
    spare = await farm.server("spare", backup=True)
    await farm.start(retries=2, **QUICK)
    await turned_away(await farm.guest())
    line = await farm.scene.session()
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "s1", 2)
    assert spare.accepted == 0


# A client that has a server

STICKY: dict[str, Any] = {"stick": {"on": "source"}, "balance": "first"}


async def stuck_to_one_that_closed(farm: Farm, **backend: Any) -> None:
    """A guest's server is s1, which refuses from now on; s2 is fine."""
    one = await farm.server("s1")
    await farm.server("s2")
    await farm.start(introduced=True, **STICKY, **backend)
    assert await farm.visit() == "s1"
    await one.close()


@pytest.mark.parametrize(("redispatch", "attempts"), [(True, 3), (1, 1), (2, 2)])
async def test_who_has_a_server_is_patient_with_it(farm: Farm, redispatch: bool | int, attempts: int) -> None:
    """True takes the last retry elsewhere, a number every n-th; until then it is the same server, after pauses."""
    await stuck_to_one_that_closed(farm, retries=3, redispatch=redispatch, tcplog=True, **QUICK)
    began = trio.current_time()
    assert await farm.visit() == "s2"
    assert trio.current_time() - began >= (attempts - 1) * PAUSE_MS / 1000
    line = (await farm.tcp_lines(2))[1]
    assert (line.place, line.retries) == ("b/s2", f"+{attempts}")
    assert farm.counts("s1").retries == attempts - 1
    assert farm.counts("s1").redispatches == 1


async def test_who_has_no_server_is_not_patient_meanwhile(farm: Farm) -> None:
    await stuck_to_one_that_closed(farm, retries=3)
    await farm.guest()
    await farm.failed("s1")
    with trio.fail_after(AT_ONCE_S):
        assert await farm.visit("192.0.2.2") == "s2"


async def test_who_has_a_server_waits_for_it_to_come_back(farm: Farm) -> None:
    await stuck_to_one_that_closed(farm, retries=OFTEN, **QUICK)
    client = await farm.guest()
    await farm.failed("s1")
    await farm.open(farm.servers["s1"])
    assert await served_by(client) == "s1"


async def test_who_has_a_server_is_left_with_it_without_redispatch(farm: Farm) -> None:
    await stuck_to_one_that_closed(farm, retries=2, redispatch=False, **QUICK)
    await turned_away(await farm.guest())
    line = (await farm.scene.sessions(2))[1]
    assert (line["end"], line["server"], line["retries"]) == ("server-refused", "s1", 2)
    assert not line["redispatched"]
    await farm.open(farm.servers["s1"])
    assert await farm.visit() == "s1", "it is its server still"


# A server that leaves while it is tried


@pytest.mark.parametrize("where", ["in the pause", "connecting"])
async def test_a_server_that_goes_for_maintenance_is_waited_for_no_longer(farm: Farm, where: str) -> None:
    if where == "connecting":
        await farm.unanswered("s1")
        await farm.server("s2")
        await farm.start(retries=3, balance="first", **NEVER)
    else:
        await stuck_to_one_that_closed(farm, retries=3, **NEVER)
    client = await farm.guest()
    if where == "connecting":
        await farm.connecting()
    else:
        await farm.failed("s1")
    with trio.fail_after(AT_ONCE_S):
        farm.states["s1"].set_state("maint")
        assert await served_by(client) == "s2"
    await farm.leave(client)
    line = (await farm.scene.sessions(1 if where == "connecting" else 2))[-1]
    assert (line["server"], line["redispatched"]) == ("s2", True)
    assert farm.states["s1"].sessions == 0


async def test_who_is_taken_elsewhere_stands_in_the_line_like_anybody(farm: Farm) -> None:
    one = await farm.server("s1")
    await farm.server("s2", max_sessions=1)
    await farm.start(introduced=True, retries=3, tcplog=True, **STICKY, **NEVER)
    await farm.visit()
    await one.close()
    client = await farm.guest()
    await farm.failed("s1")
    there = await farm.welcome("192.0.2.2")  # refused by s1, too
    farm.states["s1"].set_state("maint")
    await farm.lined_up(1)
    await farm.leave(there)
    assert await served_by(client) == "s2"
    await farm.leave(client)
    line = (await farm.tcp_lines(3))[2]
    assert (line.place, line.retries, line.queue) == ("b/s2", "+1", "0/1")


async def test_who_has_a_server_waits_for_its_answer_no_longer_when_it_goes(farm: Farm) -> None:
    await stuck_to_one_that_closed(farm, retries=3, **NEVER)
    await farm.scene.nursery.start(UnansweredServer(farm.servers["s1"].address).serve)
    client = await farm.guest()
    await farm.connecting()
    with trio.fail_after(AT_ONCE_S):
        farm.states["s1"].set_state("maint")
        assert await served_by(client) == "s2"


async def test_a_server_that_drains_is_tried_on(farm: Farm) -> None:
    """Clients that have it may come back to it."""
    await stuck_to_one_that_closed(farm, retries=OFTEN, **QUICK)
    client = await farm.guest()
    await farm.failed("s1")
    farm.states["s1"].set_state("drain")
    await farm.failed("s1", farm.counts("s1").connect_errors + 1)
    await farm.open(farm.servers["s1"])
    assert await served_by(client) == "s1"


@pytest.mark.parametrize("redispatch", [True, False])
async def test_the_only_server_goes_while_it_is_tried(farm: Farm, redispatch: bool) -> None:
    await farm.unanswered("s1")
    await farm.start(retries=3, redispatch=redispatch, **(NEVER if redispatch else QUICK))
    before = Belongings.now()
    client = await farm.guest()
    await farm.connecting()
    farm.states["s1"].set_state("maint")
    await turned_away(client)
    line = await farm.scene.session()
    assert (line["phase"], line["server_address"]) == ("connect", None)
    assert line["retries"] == (1 if redispatch else 3), "without redispatch nobody asks whether it is up"
    await before.again()


async def test_a_server_whose_check_fails_is_waited_for_no_longer(farm: Farm) -> None:
    checked = await farm.bystander("checked")
    await farm.unanswered("s1", check=checked_by(checked))
    await farm.server("s2")
    await farm.start(retries=3, balance="first", **NEVER)
    client = await farm.guest()
    await farm.connecting()
    await checked.close()
    assert await served_by(client) == "s2"
    await farm.scene.events("server-down")


# Many, and at every step


async def test_a_crowd_finds_the_servers_that_work(farm: Farm) -> None:
    await farm.refusing("bad", "worse")
    await farm.server("good")
    await farm.server("better")
    await farm.start(retries=3)
    before = Belongings.now()

    async def visit() -> None:
        client = await farm.guest()
        assert await served_by(client) in ("good", "better")
        await is_served(client)
        await client.close()

    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(visit)
    lines = await farm.scene.sessions(60)
    assert {line["end"] for line in lines} == {"client-closed"}
    assert any(line["retries"] for line in lines)
    assert [server.sessions for server in farm.states.values()] == [0, 0, 0, 0]
    await before.again()


async def test_cancelled_at_every_step_of_trying(farm: Farm) -> None:
    """Refused, failed TLS, the pause, the good one: whatever it is at, nothing stays."""
    await farm.refusing("bad")
    await farm.server("clear", collect(b"* OK ready\r\n"))
    good = await farm.server("good", tls=farm.scene.ca.server_context("127.0.0.1"))
    mapping = farm.mapping(retries=4, balance="first", backend_tls=True, timeouts={"connect": "20ms"})

    async def visit(address: str) -> None:
        async with await dial(address) as client:
            await client.send(b"x\r\n")
            await client.receive_until_end()

    await cancel_at_every_step(mapping, visit)
    assert good.accepted > 0, "some got as far as that"
    assert "internal-error" not in {line.get("end") for line in farm.scene.lines()}
