"""Clients that leave while their server is being connected: nobody goes on for nobody, unless they have said something."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.proxy.session import wait
from mailproxy.testing import Close, Collect, Connection, Echo, Send, UnansweredServer, WaitFor
from tests.support.proxy.backend_cluster import BackendCluster, assert_rejected
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot
from tests.support.proxy.relays import ON_BOTH
from tests.support.proxy.task_steps import FEW_STEPS, count_steps

NEVER: dict[str, Any] = {"timeouts": {"connect": "1h"}}
HEARING_S = 0.02
GONE = ("client-left", "client", "connect", "CC")


@pytest.fixture(autouse=True)
def short_hearing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that end their side may still hear a server that answers soon: not for long here."""
    monkeypatch.setattr(wait, "_CLIENT_EOF_GRACE_S", HEARING_S)


def in_order(client: Connection) -> None:
    client.drop()


def one_side(client: Connection) -> None:
    client.stream.socket.shutdown(socket.SHUT_WR)


def by_reset(client: Connection) -> None:
    client.reset()


leaving = pytest.mark.parametrize("leave", [in_order, one_side, by_reset])


async def being_connected(
    cluster: BackendCluster, where: str, *, retries: int = 3, **settings: Any
) -> Connection:
    """A guest whose server is not reached: it does not answer, does not finish its TLS, or refuses and is tried again."""
    if where == "TLS":
        server = await cluster.add_server("s1", (Collect(),))
        await cluster.start_proxy(backend_tls=True, **NEVER, **settings)
        client = await cluster.connect_client()
        with trio.fail_after(TIMEOUT_S):
            await (await server.wait_for(1)).wait_received(1)
    elif where == "connecting":
        await cluster.add_unanswering_server("s1")
        await cluster.start_proxy(**NEVER, **settings)
        client = await cluster.connect_client()
        await cluster.wait_for_sessions()
    else:
        await cluster.add_refusing_servers("s1")
        await cluster.start_proxy(retries=retries, redispatch=False, **{**NEVER, **settings})
        client = await cluster.connect_client()
        await cluster.wait_for_connect_errors("s1")
    return client


@leaving
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("where", ["connecting", "TLS", "in the pause"])
async def test_who_leaves_is_not_connected_any_more(
    cluster: BackendCluster, where: str, tls: bool, leave: Callable[[Connection], None]
) -> None:
    client = await being_connected(cluster, where, tls=tls)
    leave(client)
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == GONE
    assert (line["server"], line["connect_ms"]) == ("s1", -1)
    assert line["retries"] == (1 if where == "in the pause" else 0), "and no pause is waited out"
    assert cluster.states["s1"].sessions == 0
    assert cluster.proxy.sessions == 0


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_so_is_who_ends_its_tls_in_order(cluster: BackendCluster, version: str) -> None:
    """A close_notify comes first then, which is no word to a server."""
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(tls=True, **NEVER)
    context = cluster.harness.ca.client_context()
    context.maximum_version = ssl.TLSVersion[version]
    client = await cluster.connect_client(tls=context)
    await cluster.wait_for_sessions()
    await client.close()
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == GONE


async def test_the_servers_side_is_given_up_too(cluster: BackendCluster) -> None:
    client = await being_connected(cluster, "TLS")
    client.drop()
    with trio.fail_after(TIMEOUT_S):
        await cluster.servers["s1"].wait_ended()
    assert cluster.servers["s1"].accepted == 1


async def test_haproxys_line_of_it(cluster: BackendCluster) -> None:
    client = await being_connected(cluster, "in the pause", tcplog=True)
    client.drop()
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/s1", "CC", "1")


async def test_who_has_left_before_a_server_was_chosen(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(**NEVER)
    for _ in range(5):
        (await cluster.connect_client()).drop()
    lines = await cluster.harness.sessions(5)
    assert {(line["end"], line["state"]) for line in lines} == {("client-left", "CC")}


async def test_who_leaves_hides_no_fault_of_the_server(cluster: BackendCluster) -> None:
    """The failed attempt is counted and told although nobody waits for the next."""
    client = await being_connected(cluster, "in the pause")
    client.drop()
    await cluster.harness.session()
    assert cluster.counts("s1").connect_errors == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_who_has_said_what_it_wants_is_still_connected(cluster: BackendCluster, tls: bool) -> None:
    """One that pipes its commands in, and ends its side, waits for the answers."""
    server = await cluster.add_server("s1", (Echo(),), is_open=False)
    await cluster.start_proxy(tls=tls, retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await cluster.open_server(server)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"a1 LOGOUT\r\n"
    client.drop()
    line = await cluster.harness.session()
    assert (line["end"], line["server"], line["bytes_in"]) == ("client-closed", "s1", 11)


@pytest.mark.parametrize("where", ["connecting", "in the pause"])
async def test_who_waits_for_an_answer_hears_that_there_is_none(cluster: BackendCluster, where: str) -> None:
    client = await being_connected(
        cluster, where, retries=1, **{"timeouts": {"connect": "60ms"}} if where == "in the pause" else {}
    )
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    if where == "connecting":
        assert cluster.proxy.sessions == 1
        cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["connect_ms"]) == ("server-refused", "SC", -1)


async def test_what_is_sent_is_not_taken_for_leaving(cluster: BackendCluster) -> None:
    """Nor does it keep the proxy busy while it lies there, also with an end behind it."""
    client = await being_connected(cluster, "connecting")
    await client.send(b"EHLO impatient\r\n" * 100)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert cluster.proxy.sessions == 1
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await count_steps() < FEW_STEPS
    assert cluster.proxy.sessions == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_who_ends_its_side_hears_a_server_that_answers_soon(
    cluster: BackendCluster, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nc`` does, and many a probe that only wants to see a greeting."""
    monkeypatch.setattr(wait, "_CLIENT_EOF_GRACE_S", TIMEOUT_S)
    server = await cluster.add_server("s1", is_open=False)
    await cluster.start_proxy(tls=tls, retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await client.half_close()
    await cluster.open_server(server)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b"s1\r\n"
    client.drop()
    line = await cluster.harness.session()
    assert (line["end"], line["server"]) == ("client-closed", "s1")


async def test_and_hears_it_to_its_end(cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is one on connecting."""
    monkeypatch.setattr(wait, "_CLIENT_EOF_GRACE_S", 0.5)
    go_on = trio.Event()
    server = await cluster.add_server(
        "s1", (Send(b"s1\r\n"), WaitFor(go_on), Send(b"more\r\n")), is_open=False
    )
    await cluster.start_proxy(retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await client.half_close()
    await cluster.open_server(server)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"s1\r\n"
        await trio.sleep(0.5)  # the limit is over now
        go_on.set()
        assert await client.receive_until_end() == b"more\r\n"


@ON_BOTH
async def test_an_end_that_comes_later_is_the_relays_business(cluster: BackendCluster) -> None:
    go_on = trio.Event()
    await cluster.add_server("s1", (Send(b"s1\r\n"), Collect(), WaitFor(go_on), Send(b"more\r\n")))
    await cluster.start_proxy()
    client = await cluster.connect_client()
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"s1\r\n"
        await client.half_close()
        await trio.testing.wait_all_tasks_blocked(5 * HEARING_S)
        go_on.set()
        assert await client.receive_until_end() == b"more\r\n"


async def test_a_crowd_that_leaves(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(**NEVER)
    before = ResourceSnapshot.now()
    clients = [await cluster.connect_client() for _ in range(50)]
    await cluster.wait_for_sessions(50)
    for number, client in enumerate(clients):
        (in_order, by_reset)[number % 2](client)
    lines = await cluster.harness.sessions(50)
    assert {(line["end"], line["state"]) for line in lines} == {("client-left", "CC")}
    assert cluster.states["s1"].sessions == 0
    await before.wait_until_restored()


async def test_a_place_that_is_left_so_goes_to_the_next(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1", max_sessions=1)
    await cluster.start_proxy(**NEVER)
    first = await cluster.connect_client()
    await cluster.wait_for_sessions()
    second = await cluster.connect_queued()
    first.drop()
    await cluster.harness.session()
    assert cluster.pool.waiting == 0
    assert cluster.states["s1"].sessions == 1
    second.drop()
    lines = await cluster.harness.sessions(2)
    assert [line["end"] for line in lines] == ["client-left", "client-left"]


async def test_other_clients_are_not_mistaken_for_it(cluster: BackendCluster) -> None:
    """Descriptors are given again as soon as they are free."""
    await cluster.add_server("s1")
    nowhere: str = await cluster.harness.nursery.start(UnansweredServer().serve)
    cluster.server_tables.append({"name": "s2", "address": nowhere})
    await cluster.start_proxy(balance="first", **NEVER)
    for _ in range(5):
        cluster.states["s1"].set_state("maint")
        gone = await cluster.connect_client()
        await cluster.wait_for_sessions()
        gone.drop()
        await cluster.harness.wait_until_idle()
        cluster.states["s1"].set_state("ready")
        assert await cluster.connect_and_close() == "s1"
    lines = await cluster.harness.sessions(10)
    assert [line["end"] for line in lines] == ["client-left", "client-closed"] * 5


async def test_a_server_that_ends_at_the_same_time(cluster: BackendCluster) -> None:
    """Each such session ends one way or the other, with one line and nothing left."""
    await cluster.add_server("s1", (Close(),))
    await cluster.start_proxy(retries=2)
    before = ResourceSnapshot.now()
    for number in range(20):
        client = await cluster.connect_client()
        (in_order, by_reset)[number % 2](client)
    lines = await cluster.harness.sessions(20)
    assert {line["end"] for line in lines} <= {
        "client-left", "client-closed", "client-aborted", "server-closed", "server-aborted",
    }  # fmt: skip
    await cluster.harness.wait_until_idle()
    await before.wait_until_restored()
