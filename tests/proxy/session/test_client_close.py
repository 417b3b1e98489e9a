"""Clients that leave while their server is being connected: nobody goes on for nobody, unless they have said something."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.proxy.session import dispatch as reaching
from mailproxy.testing import Close, Collect, Connection, Echo, Send, UnansweredServer, WaitFor
from tests.support.proxy.backend_cluster import Farm, turned_away
from tests.support.proxy.proxy_fixture import PATIENCE_S, Belongings
from tests.support.proxy.relays import ON_BOTH
from tests.support.proxy.task_steps import FEW_STEPS, steps_meanwhile

NEVER: dict[str, Any] = {"timeouts": {"connect": "1h"}}
HEARING_S = 0.02
GONE = ("client-left", "client", "connect", "CC")


@pytest.fixture(autouse=True)
def short_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that end their side may still hear a server that answers soon: not for long here."""
    monkeypatch.setattr(reaching, "_CLIENT_EOF_GRACE_S", HEARING_S)


def in_order(client: Connection) -> None:
    client.drop()


def one_side(client: Connection) -> None:
    client.stream.socket.shutdown(socket.SHUT_WR)


def by_reset(client: Connection) -> None:
    client.reset()


leaving = pytest.mark.parametrize("leave", [in_order, one_side, by_reset])


async def being_connected(farm: Farm, where: str, *, retries: int = 3, **settings: Any) -> Connection:
    """A guest whose server is not reached: it does not answer, does not finish its TLS, or refuses and is tried again."""
    if where == "TLS":
        server = await farm.server("s1", (Collect(),))
        await farm.start(backend_tls=True, **NEVER, **settings)
        client = await farm.guest()
        with trio.fail_after(PATIENCE_S):
            await (await server.wait_for(1)).wait_received(1)
    elif where == "connecting":
        await farm.unanswered("s1")
        await farm.start(**NEVER, **settings)
        client = await farm.guest()
        await farm.connecting()
    else:
        await farm.refusing("s1")
        await farm.start(retries=retries, redispatch=False, **{**NEVER, **settings})
        client = await farm.guest()
        await farm.failed("s1")
    return client


@leaving
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("where", ["connecting", "TLS", "in the pause"])
async def test_who_leaves_is_not_connected_any_more(
    farm: Farm, where: str, tls: bool, leave: Callable[[Connection], None]
) -> None:
    client = await being_connected(farm, where, tls=tls)
    leave(client)
    line = await farm.scene.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == GONE
    assert (line["server"], line["connect_ms"]) == ("s1", -1)
    assert line["retries"] == (1 if where == "in the pause" else 0), "and no pause is waited out"
    assert farm.states["s1"].sessions == 0
    assert farm.proxy.sessions == 0


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_so_is_who_ends_its_tls_in_order(farm: Farm, version: str) -> None:
    """A close_notify comes first then, which is no word to a server."""
    await farm.unanswered("s1")
    await farm.start(tls=True, **NEVER)
    context = farm.scene.ca.client_context()
    context.maximum_version = ssl.TLSVersion[version]
    client = await farm.guest(tls=context)
    await farm.connecting()
    await client.close()
    line = await farm.scene.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == GONE


async def test_the_servers_side_is_given_up_too(farm: Farm) -> None:
    client = await being_connected(farm, "TLS")
    client.drop()
    with trio.fail_after(PATIENCE_S):
        await farm.servers["s1"].wait_ended()
    assert farm.servers["s1"].accepted == 1


async def test_haproxys_line_of_it(farm: Farm) -> None:
    client = await being_connected(farm, "in the pause", tcplog=True)
    client.drop()
    line = await farm.tcp_line()
    assert (line.place, line.state, line.retries) == ("b/s1", "CC", "1")


async def test_who_has_left_before_a_server_was_chosen(farm: Farm) -> None:
    await farm.unanswered("s1")
    await farm.start(**NEVER)
    for _ in range(5):
        (await farm.guest()).drop()
    lines = await farm.scene.sessions(5)
    assert {(line["end"], line["state"]) for line in lines} == {("client-left", "CC")}


async def test_who_leaves_hides_no_fault_of_the_server(farm: Farm) -> None:
    """The failed attempt is counted and told although nobody waits for the next."""
    client = await being_connected(farm, "in the pause")
    client.drop()
    await farm.scene.session()
    assert farm.counts("s1").connect_errors == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_who_has_said_what_it_wants_is_still_connected(farm: Farm, tls: bool) -> None:
    """One that pipes its commands in, and ends its side, waits for the answers."""
    server = await farm.server("s1", (Echo(),), is_open=False)
    await farm.start(tls=tls, retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await farm.guest()
    await farm.failed("s1")
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await farm.open(server)
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b"a1 LOGOUT\r\n"
    client.drop()
    line = await farm.scene.session()
    assert (line["end"], line["server"], line["bytes_in"]) == ("client-closed", "s1", 11)


@pytest.mark.parametrize("where", ["connecting", "in the pause"])
async def test_who_waits_for_an_answer_hears_that_there_is_none(farm: Farm, where: str) -> None:
    client = await being_connected(
        farm, where, retries=1, **{"timeouts": {"connect": "60ms"}} if where == "in the pause" else {}
    )
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    if where == "connecting":
        assert farm.proxy.sessions == 1
        farm.states["s1"].set_state("maint")
    await turned_away(client)
    line = await farm.scene.session()
    assert (line["end"], line["state"], line["connect_ms"]) == ("server-refused", "SC", -1)


async def test_what_is_sent_is_not_taken_for_leaving(farm: Farm) -> None:
    """Nor does it keep the proxy busy while it lies there, also with an end behind it."""
    client = await being_connected(farm, "connecting")
    await client.send(b"EHLO impatient\r\n" * 100)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert farm.proxy.sessions == 1
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await steps_meanwhile() < FEW_STEPS
    assert farm.proxy.sessions == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_who_ends_its_side_hears_a_server_that_answers_soon(
    farm: Farm, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nc`` does, and many a probe that only wants to see a greeting."""
    monkeypatch.setattr(reaching, "_CLIENT_EOF_GRACE_S", PATIENCE_S)
    server = await farm.server("s1", is_open=False)
    await farm.start(tls=tls, retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await farm.guest()
    await farm.failed("s1")
    await client.half_close()
    await farm.open(server)
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_until_end() == b"s1\r\n"
    client.drop()
    line = await farm.scene.session()
    assert (line["end"], line["server"]) == ("client-closed", "s1")


async def test_and_hears_it_to_its_end(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is one on connecting."""
    monkeypatch.setattr(reaching, "_CLIENT_EOF_GRACE_S", 0.5)
    go_on = trio.Event()
    server = await farm.server("s1", (Send(b"s1\r\n"), WaitFor(go_on), Send(b"more\r\n")), is_open=False)
    await farm.start(retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await farm.guest()
    await farm.failed("s1")
    await client.half_close()
    await farm.open(server)
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_line() == b"s1\r\n"
        await trio.sleep(0.5)  # the limit is over now
        go_on.set()
        assert await client.receive_until_end() == b"more\r\n"


@ON_BOTH
async def test_an_end_that_comes_later_is_the_relays_business(farm: Farm) -> None:
    go_on = trio.Event()
    await farm.server("s1", (Send(b"s1\r\n"), Collect(), WaitFor(go_on), Send(b"more\r\n")))
    await farm.start()
    client = await farm.guest()
    with trio.fail_after(PATIENCE_S):
        assert await client.receive_line() == b"s1\r\n"
        await client.half_close()
        await trio.testing.wait_all_tasks_blocked(5 * HEARING_S)
        go_on.set()
        assert await client.receive_until_end() == b"more\r\n"


async def test_a_crowd_that_leaves(farm: Farm) -> None:
    await farm.unanswered("s1")
    await farm.start(**NEVER)
    before = Belongings.now()
    clients = [await farm.guest() for _ in range(50)]
    await farm.connecting(50)
    for number, client in enumerate(clients):
        (in_order, by_reset)[number % 2](client)
    lines = await farm.scene.sessions(50)
    assert {(line["end"], line["state"]) for line in lines} == {("client-left", "CC")}
    assert farm.states["s1"].sessions == 0
    await before.again()


async def test_a_place_that_is_left_so_goes_to_the_next(farm: Farm) -> None:
    await farm.unanswered("s1", max_sessions=1)
    await farm.start(**NEVER)
    first = await farm.guest()
    await farm.connecting()
    second = await farm.in_line()
    first.drop()
    await farm.scene.session()
    assert farm.pool.waiting == 0
    assert farm.states["s1"].sessions == 1
    second.drop()
    lines = await farm.scene.sessions(2)
    assert [line["end"] for line in lines] == ["client-left", "client-left"]


async def test_other_clients_are_not_mistaken_for_it(farm: Farm) -> None:
    """Descriptors are given again as soon as they are free."""
    await farm.server("s1")
    nowhere: str = await farm.scene.nursery.start(UnansweredServer().serve)
    farm.tables.append({"name": "s2", "address": nowhere})
    await farm.start(balance="first", **NEVER)
    for _ in range(5):
        farm.states["s1"].set_state("maint")
        gone = await farm.guest()
        await farm.connecting()
        gone.drop()
        await farm.scene.idle()
        farm.states["s1"].set_state("ready")
        assert await farm.visit() == "s1"
    lines = await farm.scene.sessions(10)
    assert [line["end"] for line in lines] == ["client-left", "client-closed"] * 5


async def test_a_server_that_ends_at_the_same_time(farm: Farm) -> None:
    """Each such session ends one way or the other, with one line and nothing left."""
    await farm.server("s1", (Close(),))
    await farm.start(retries=2)
    before = Belongings.now()
    for number in range(20):
        client = await farm.guest()
        (in_order, by_reset)[number % 2](client)
    lines = await farm.scene.sessions(20)
    assert {line["end"] for line in lines} <= {
        "client-left", "client-closed", "client-aborted", "server-closed", "server-aborted",
    }  # fmt: skip
    await farm.scene.idle()
    await before.again()
