"""Clients that close while their server is being connected: the session ends, unless the client sent data."""

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
from tests.support.proxy.relays import ON_EACH
from tests.support.proxy.task_steps import FEW_STEPS, count_steps

LONG_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": "1h"}}
EOF_GRACE_S = 0.02
CLIENT_LEFT = ("client-left", "client", "connect", "CC")


@pytest.fixture(autouse=True)
def short_eof_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time in which a half-closed client may still get a quick server's answer."""
    monkeypatch.setattr(wait, "_CLIENT_EOF_GRACE_S", EOF_GRACE_S)


def close(client: Connection) -> None:
    client.drop()


def half_close(client: Connection) -> None:
    client.stream.socket.shutdown(socket.SHUT_WR)


def reset(client: Connection) -> None:
    client.reset()


each_ending = pytest.mark.parametrize("end_connection", [close, half_close, reset])


async def connect_pending_client(
    cluster: BackendCluster, phase: str, *, retries: int = 3, **settings: Any
) -> Connection:
    """Connect a client whose server does not answer, does not finish TLS, or refuses and is retried."""
    if phase == "TLS":
        server = await cluster.add_server("s1", (Collect(),))
        await cluster.start_proxy(backend_tls=True, **LONG_TIMEOUT, **settings)
        client = await cluster.connect_client()
        with trio.fail_after(TIMEOUT_S):
            await (await server.wait_for(1)).wait_received(1)
    elif phase == "connecting":
        await cluster.add_unanswering_server("s1")
        await cluster.start_proxy(**LONG_TIMEOUT, **settings)
        client = await cluster.connect_client()
        await cluster.wait_for_sessions()
    else:
        await cluster.add_refusing_servers("s1")
        await cluster.start_proxy(retries=retries, redispatch=False, **{**LONG_TIMEOUT, **settings})
        client = await cluster.connect_client()
        await cluster.wait_for_connect_errors("s1")
    return client


@each_ending
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("phase", ["connecting", "TLS", "turnaround pause"])
async def test_closed_client_ends_connecting(
    cluster: BackendCluster, phase: str, tls: bool, end_connection: Callable[[Connection], None]
) -> None:
    client = await connect_pending_client(cluster, phase, tls=tls)
    end_connection(client)
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == CLIENT_LEFT
    assert (line["server"], line["connect_ms"]) == ("s1", -1)
    assert line["retries"] == (1 if phase == "turnaround pause" else 0), (
        "the session does not wait for the end of the pause"
    )
    assert cluster.states["s1"].sessions == 0
    assert cluster.proxy.sessions == 0


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_close_notify_ends_connecting(cluster: BackendCluster, version: str) -> None:
    """A close_notify comes before the FIN. It is no data for a server."""
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(tls=True, **LONG_TIMEOUT)
    context = cluster.harness.ca.client_context()
    context.maximum_version = ssl.TLSVersion[version]
    client = await cluster.connect_client(tls=context)
    await cluster.wait_for_sessions()
    await client.close()
    line = await cluster.harness.session()
    assert (line["end"], line["by"], line["phase"], line["state"]) == CLIENT_LEFT


async def test_closed_client_closes_server_connection(cluster: BackendCluster) -> None:
    client = await connect_pending_client(cluster, "TLS")
    client.drop()
    with trio.fail_after(TIMEOUT_S):
        await cluster.servers["s1"].wait_ended()
    assert cluster.servers["s1"].accepted == 1


async def test_closed_client_in_tcplog(cluster: BackendCluster) -> None:
    client = await connect_pending_client(cluster, "turnaround pause", tcplog=True)
    client.drop()
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/s1", "CC", "1")


async def test_client_closed_right_after_connecting(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(**LONG_TIMEOUT)
    for _ in range(5):
        (await cluster.connect_client()).drop()
    lines = await cluster.harness.sessions(5)
    assert {(line["end"], line["state"]) for line in lines} == {("client-left", "CC")}


async def test_closed_client_keeps_connect_error_counted(cluster: BackendCluster) -> None:
    """The failed attempt counts as a connect error although the client has closed."""
    client = await connect_pending_client(cluster, "turnaround pause")
    client.drop()
    await cluster.harness.session()
    assert cluster.counts("s1").connect_errors == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_half_closed_client_with_data_is_connected(cluster: BackendCluster, tls: bool) -> None:
    """A client that pipes its commands in and half-closes waits for the answers."""
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


@pytest.mark.parametrize("phase", ["connecting", "turnaround pause"])
async def test_half_closed_client_with_data_gets_rejection(cluster: BackendCluster, phase: str) -> None:
    client = await connect_pending_client(
        cluster, phase, retries=1, **{"timeouts": {"connect": "60ms"}} if phase == "turnaround pause" else {}
    )
    await client.send(b"a1 LOGOUT\r\n")
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    if phase == "connecting":
        assert cluster.proxy.sessions == 1
        cluster.states["s1"].set_state("maint")
    await assert_rejected(client)
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["connect_ms"]) == ("server-refused", "SC", -1)


async def test_client_data_does_not_end_connecting(cluster: BackendCluster) -> None:
    """Unread data does not make the loop spin either, also with a FIN behind it."""
    client = await connect_pending_client(cluster, "connecting")
    await client.send(b"EHLO impatient\r\n" * 100)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert cluster.proxy.sessions == 1
    await client.half_close()
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert await count_steps() < FEW_STEPS
    assert cluster.proxy.sessions == 1


@pytest.mark.parametrize("tls", [False, True])
async def test_half_closed_client_without_data_gets_quick_answer(
    cluster: BackendCluster, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nc`` half-closes so, and so do many probes that only want a greeting."""
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


async def test_half_closed_client_receives_late_server_data(
    cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of 0.5 s applies to connecting only."""
    monkeypatch.setattr(wait, "_CLIENT_EOF_GRACE_S", 0.5)
    may_send = trio.Event()
    server = await cluster.add_server(
        "s1", (Send(b"s1\r\n"), WaitFor(may_send), Send(b"more\r\n")), is_open=False
    )
    await cluster.start_proxy(retries=50, redispatch=False, timeouts={"connect": "60ms"})
    client = await cluster.connect_client()
    await cluster.wait_for_connect_errors("s1")
    await client.half_close()
    await cluster.open_server(server)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"s1\r\n"
        await trio.sleep(0.5)  # longer than the limit
        may_send.set()
        assert await client.receive_until_end() == b"more\r\n"


@ON_EACH
async def test_half_close_after_connecting_has_no_grace_limit(cluster: BackendCluster) -> None:
    may_send = trio.Event()
    await cluster.add_server("s1", (Send(b"s1\r\n"), Collect(), WaitFor(may_send), Send(b"more\r\n")))
    await cluster.start_proxy()
    client = await cluster.connect_client()
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"s1\r\n"
        await client.half_close()
        await trio.testing.wait_all_tasks_blocked(5 * EOF_GRACE_S)
        may_send.set()
        assert await client.receive_until_end() == b"more\r\n"


async def test_many_clients_close_during_connecting(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(**LONG_TIMEOUT)
    before = ResourceSnapshot.now()
    clients = [await cluster.connect_client() for _ in range(50)]
    await cluster.wait_for_sessions(50)
    for number, client in enumerate(clients):
        (close, reset)[number % 2](client)
    lines = await cluster.harness.sessions(50)
    assert {(line["end"], line["state"]) for line in lines} == {("client-left", "CC")}
    assert cluster.states["s1"].sessions == 0
    await before.wait_until_restored()


async def test_slot_of_closed_client_passes_to_waiter(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1", max_sessions=1)
    await cluster.start_proxy(**LONG_TIMEOUT)
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


async def test_reused_descriptor_does_not_end_other_session(cluster: BackendCluster) -> None:
    """The kernel reuses a descriptor as soon as it is free."""
    await cluster.add_server("s1")
    unanswering: str = await cluster.harness.nursery.start(UnansweredServer().serve)
    cluster.server_tables.append({"name": "s2", "address": unanswering})
    await cluster.start_proxy(balance="first", **LONG_TIMEOUT)
    for _ in range(5):
        cluster.states["s1"].set_state("maint")
        closing = await cluster.connect_client()
        await cluster.wait_for_sessions()
        closing.drop()
        await cluster.harness.wait_until_idle()
        cluster.states["s1"].set_state("ready")
        assert await cluster.connect_and_close() == "s1"
    lines = await cluster.harness.sessions(10)
    assert [line["end"] for line in lines] == ["client-left", "client-closed"] * 5


async def test_client_and_server_close_at_once(cluster: BackendCluster) -> None:
    """Each session ends with one of several reasons and one line, and leaves no resources."""
    await cluster.add_server("s1", (Close(),))
    await cluster.start_proxy(retries=2)
    before = ResourceSnapshot.now()
    for number in range(20):
        client = await cluster.connect_client()
        (close, reset)[number % 2](client)
    lines = await cluster.harness.sessions(20)
    assert {line["end"] for line in lines} <= {
        "client-left", "client-closed", "client-aborted", "server-closed", "server-aborted",
    }  # fmt: skip
    await cluster.harness.wait_until_idle()
    await before.wait_until_restored()
