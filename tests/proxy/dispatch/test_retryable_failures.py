"""Failures that are retried or redispatched: timeouts, TLS, names. A connected session is not retried."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from mailproxy.net.dial import Endpoint
from mailproxy.testing import Close, Collect, Echo, Expect, Reset, Send, Step, ThrowAwayCA, collect
from tests.support.proxy.backend_cluster import (
    BackendCluster,
    assert_rejected,
    proxy_header,
    receive_server_name,
)
from tests.support.proxy.header_recorder import HeaderRecorder
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot

# The turnaround pause is as long as the connect timeout, and at most one second.
PAUSE_MS = 60
SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": f"{PAUSE_MS}ms"}}


# Retried failures


async def test_connect_timeout_redispatches(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.add_server("s2")
    await cluster.start_proxy(retries=3, balance="first", **SHORT_TIMEOUT)
    assert await cluster.connect_and_close() == "s2"
    line = await cluster.harness.session()
    assert (line["server"], line["retries"], line["redispatched"]) == ("s2", 1, True)
    assert line["connect_ms"] >= PAUSE_MS


async def test_each_attempt_has_full_connect_timeout(cluster: BackendCluster) -> None:
    await cluster.add_unanswering_server("s1")
    await cluster.start_proxy(retries=2, redispatch=False, **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["retries"]) == ("connect-timeout", "sC", 2)
    assert line["total_ms"] >= 3 * PAUSE_MS


NO_TLS: dict[str, Sequence[Step]] = {
    "clear text": collect(b"* OK ready\r\n"),
    "close": (Close(),),
    "reset": (Reset(),),
    "silence": (Collect(),),
}


@pytest.mark.parametrize("fault", [*NO_TLS, "wrong name", "foreign CA"])
async def test_failed_tls_redispatches(cluster: BackendCluster, fault: str, tmp_path: Path) -> None:
    ca = cluster.harness.ca
    match fault:
        case "wrong name":
            bad = await cluster.add_server("bad", tls=ca.server_context("elsewhere.example"))
        case "foreign CA":
            (tmp_path / "foreign").mkdir()
            foreign = ThrowAwayCA(tmp_path / "foreign")
            bad = await cluster.add_server("bad", tls=foreign.server_context("127.0.0.1"))
        case _:
            bad = await cluster.add_server("bad", NO_TLS[fault])
    await cluster.add_server("good", tls=ca.server_context("127.0.0.1"))
    # The timeout covers the handshake with the good server, too.
    timeout = {"timeouts": {"connect": "500ms"}} if fault == "silence" else {}
    await cluster.start_proxy(retries=3, balance="first", backend_tls=True, tcplog=True, **timeout)
    before = ResourceSnapshot.now()
    assert await cluster.connect_and_close() == "good"
    line = await cluster.tcplog_line()
    assert (line.server, line.state, line.retries) == ("b/good", "--", "+1")
    assert bad.accepted == 1
    await before.wait_until_restored()


async def test_failed_tls_is_retried(cluster: BackendCluster) -> None:
    server = await cluster.add_server("s1", (Close(),))
    await cluster.start_proxy(retries=2, redispatch=False, backend_tls=True, **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["retries"]) == ("server-handshake-failed", "SC", 2)
    assert line["total_ms"] >= 2 * PAUSE_MS
    assert server.accepted == 3


async def test_tls_client_is_redispatched(cluster: BackendCluster) -> None:
    await cluster.add_refusing_servers("bad")
    await cluster.add_server("good")
    await cluster.start_proxy(retries=1, balance="first", tls=True)
    client = await cluster.connect_client()
    await client.send(b"before the greeting\r\n")
    assert await receive_server_name(client) == "good"
    assert await client.receive_line() == b"before the greeting\r\n"
    await cluster.close_client(client)
    assert (await cluster.harness.session())["retries"] == 1


async def test_early_client_data_reaches_connected_server(
    cluster: BackendCluster,
) -> None:
    await cluster.add_refusing_servers("bad", "worse")
    await cluster.add_server("good", (Echo(),))
    await cluster.start_proxy(retries=2, balance="first")
    client = await cluster.connect_client()
    await client.send(b"EHLO impatient\r\n")
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == b"EHLO impatient\r\n"


async def test_next_server_gets_proxy_header(cluster: BackendCluster) -> None:
    """A server that took the PROXY header and then failed does not affect the next server's header."""
    await cluster.add_server("bad", (Expect(b"PROXY"), Close()))
    recorder = HeaderRecorder(
        collect(b"good\r\n"), tls_after_header=cluster.harness.ca.server_context("127.0.0.1")
    )
    await cluster.add_external_server("good", await cluster.harness.nursery.start(recorder.serve))
    await cluster.start_proxy(
        retries=1, balance="first", backend_tls=True, accept_proxy=True, send_proxy="v1"
    )
    assert await cluster.connect_and_close("192.0.2.77") == "good"
    assert recorder.raw == [proxy_header("192.0.2.77")]
    assert (await cluster.harness.session())["retries"] == 1


def resolve_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0)) for host in hosts]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)


async def test_all_addresses_of_name_are_single_attempt(
    cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.add_refusing_servers("gone")
    port = cluster.server_tables.pop()["address"].rpartition(":")[2]
    await cluster.add_external_server("named", f"mail.internal:{port}")
    await cluster.add_server("good")
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1", "127.0.0.3")
    await cluster.start_proxy(retries=3, balance="first", redispatch=False, **SHORT_TIMEOUT)
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["server"], line["retries"]) == ("named", 3)
    assert cluster.counts("named").connect_errors == 4
    assert all(f"{host}:{port}" in line["detail"] for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"))


async def test_second_address_of_name_is_not_retry(
    cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.add_server("s1")
    cluster.server_tables[0]["address"] = server.address.replace("127.0.0.1", "mail.internal")
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    await cluster.start_proxy(retries=3)
    assert await cluster.connect_and_close() == "s1"
    line = await cluster.harness.session()
    assert (line["retries"], line["server_address"]) == (0, server.address)


# Failures that are not retried

# A server that closes with unread data resets the connection.
CLOSED_OR_ABORTED = {("server-closed", "--"), ("server-aborted", "SD")}
EARLY_ENDS: dict[str, tuple[Sequence[Step], set[tuple[str, str]]]] = {
    "closes at once": ((Close(),), CLOSED_OR_ABORTED),
    "resets at once": ((Reset(),), {("server-aborted", "SD")}),
    "greets and closes": ((Send(b"* BYE\r\n"), Close()), CLOSED_OR_ABORTED),
    "closes at the first line": ((Expect(b"a1 NOOP\r\n"), Close()), {("server-closed", "--")}),
}


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("playbook", EARLY_ENDS)
async def test_connected_session_is_never_retried(cluster: BackendCluster, playbook: str, tls: bool) -> None:
    """The server may have got a client's command, which must not be sent twice."""
    steps, ends = EARLY_ENDS[playbook]
    context = cluster.harness.ca.server_context("127.0.0.1") if tls else None
    server = await cluster.add_server("first", steps, tls=context)
    other = await cluster.add_server("other", tls=context)
    await cluster.start_proxy(retries=3, balance="first", backend_tls=tls)
    client = await cluster.connect_client()
    await client.send(b"a1 NOOP\r\n")
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    line = await cluster.harness.session()
    assert (line["server"], line["retries"], line["redispatched"]) == ("first", 0, False)
    assert (line["end"], line["state"]) in ends
    assert (server.accepted, other.accepted) == (1, 0)


async def test_lack_of_resources_is_not_retried(
    cluster: BackendCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When descriptors or buffers run out, other servers fail as well, and more attempts make it worse."""
    await cluster.add_server("s1")
    await cluster.add_server("s2")
    attempts = 0

    def address(_endpoint: Endpoint, _port: int | None) -> object:
        nonlocal attempts
        attempts += 1
        raise OSError(errno.ENOBUFS, "the kernel's error of connect(2)")

    monkeypatch.setattr(Endpoint, "address", address)
    await cluster.start_proxy(retries=3)
    before = ResourceSnapshot.now()
    await assert_rejected(await cluster.connect_client())
    line = await cluster.harness.session()
    assert (line["end"], line["state"], line["retries"]) == ("out-of-resources", "RC", 0)
    assert attempts == 1
    assert [cluster.counts(name).connect_errors for name in ("s1", "s2")] == [0, 0], (
        "the error does not count against a server"
    )
    await before.wait_until_restored()
