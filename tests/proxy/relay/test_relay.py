"""The relay: every byte arrives in order at any pace of the peers, with idle timeouts and half-closes."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import trio
import trio.testing

from mailproxy.testing import (
    Collect,
    Connection,
    Expect,
    Flood,
    HalfClose,
    Send,
    SendSlowly,
    Step,
    WaitFor,
    dial,
    pattern,
)
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness, ResourceSnapshot
from tests.support.proxy.relays import ON_EACH, Kind

pytestmark = ON_EACH

MB = 1_000_000
EACH_TLS = pytest.mark.parametrize(
    ("tls", "server_tls"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["clear-clear", "tls-clear", "clear-tls", "tls-tls"],
)


async def connect_both(
    harness: ProxyHarness, *playbook: Step, tls: bool, server_tls: bool, **options: Any
) -> tuple[Connection, Connection]:
    """Return both ends of a session: the client's connection and the server's."""
    context = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await harness.server(playbook, tls=context, **options)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls)
    client = await harness.dial(proxy, tls=tls, **options)
    with trio.fail_after(TIMEOUT_S):
        return client, await server.wait_for()


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


@EACH_TLS
async def test_bulk_in_both_directions_at_once(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    size = 6 * MB
    both_received = trio.Event()

    class SendAndReceive:
        """The server's step: send and receive at the same time."""

        async def play(self, connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Flood(size).play, connection)
                await connection.receive_exactly(size)
            await both_received.wait()

    client, server = await connect_both(harness, SendAndReceive(), tls=tls, server_tls=server_tls)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Flood(size).play, client)
            await client.receive_exactly(size)
        await server.wait_received(size)
    both_received.set()
    expected = digest(pattern(size))
    assert digest(client.received) == expected
    assert digest(server.received) == expected
    await client.close()
    line = await harness.session()
    assert (line["bytes_in"], line["bytes_out"]) == (size, size)


@EACH_TLS
async def test_slow_reader_blocks_sender(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    """Nothing is lost, and the proxy does not buffer what the reader does not take."""
    size = 16 * MB  # more than the kernel's buffers
    client, server = await connect_both(
        harness, Flood(size), Collect(), tls=tls, server_tls=server_tls, receive_buffer_bytes=65536
    )
    with trio.fail_after(TIMEOUT_S):
        await trio.testing.wait_all_tasks_blocked(0.05)
    (proxy,) = harness.proxies
    assert proxy.sessions == 1
    with trio.fail_after(60):
        data = await client.receive_exactly(size)
    assert digest(data) == digest(pattern(size))
    await client.close()
    assert (await harness.session())["bytes_out"] == size
    assert server.end is not None


@EACH_TLS
async def test_half_close_arrives_after_last_byte(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    """A client that sends much and closes its sending side still gets the complete answer."""
    size = 5 * MB
    client, server = await connect_both(
        harness, Collect(), Flood(size), tls=tls, server_tls=server_tls, receive_buffer_bytes=16384
    )
    with trio.fail_after(60):
        await Flood(size).play(client)
        await client.half_close()
        answer = await client.receive_until_end()
    assert digest(server.received) == digest(pattern(size))
    assert digest(answer) == digest(pattern(size))
    assert client.end == ("close_notify" if tls else "eof")
    client.drop()
    line = await harness.session()
    assert (line["end"], line["bytes_in"], line["bytes_out"]) == ("client-closed", size, size)


@EACH_TLS
async def test_half_close_during_transfer_loses_nothing(
    harness: ProxyHarness, tls: bool, server_tls: bool
) -> None:
    """The client half-closes while the server is sending."""
    size = 5 * MB
    client, server = await connect_both(harness, Flood(size), Collect(), tls=tls, server_tls=server_tls)
    with trio.fail_after(60):
        first = await client.receive_exactly(1000)
        await client.half_close()
        rest = await client.receive_until_end()
    assert server.end == ("close_notify" if server_tls else "eof")
    assert digest(first + rest) == digest(pattern(size))
    client.drop()
    await harness.session()


@EACH_TLS
async def test_half_closed_server_still_receives(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    client, server = await connect_both(
        harness, Send(b"* BYE\r\n"), HalfClose(), Expect(b"late words"), tls=tls, server_tls=server_tls
    )
    assert await client.receive_until_end() == b"* BYE\r\n"
    await SendSlowly(b"late words").play(client)
    await client.close()
    line = await harness.session()
    assert (line["end"], line["bytes_in"]) == ("server-closed", 10)
    assert bytes(server.received) == b"late words"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_traffic_keeps_session_alive(harness: ProxyHarness, tls: bool) -> None:
    """Idle timeouts count from the last byte in either direction: a receiving side may stay silent."""
    context = harness.ca.server_context("127.0.0.1") if tls else None
    lines = 10
    server = await harness.server((SendSlowly(b"still here\r\n" * lines, 12, 0.05), Collect()), tls=context)
    proxy = await harness.proxy(
        server.address,
        tls=tls,
        server_tls=tls,
        frontends={"f": {"timeouts": {"client": "400ms"}}},
        backends={"b": {"timeouts": {"server": "400ms"}}},
    )
    client = await harness.dial(proxy, tls=tls)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_exactly(12 * lines) == b"still here\r\n" * lines
        await client.receive_until_end()
    client.drop()
    record = await harness.session()
    assert record["end"] == "client-timeout"
    assert record["total_ms"] >= lines * 50 + 350


async def test_bulk_does_not_starve_other_sessions(harness: ProxyHarness) -> None:
    """While one session moves all it can, another's line comes back after a bounded number of turns."""
    flood = await harness.server((Flood(),))
    echo = await harness.server()
    proxy = await harness.proxy(
        flood.address,
        frontends={"talk": {"backend": "echo", "bind": [{"address": "127.0.0.1:0"}]}},
        backends={"echo": {"servers": [echo.address], "check": "none"}},
    )
    bulk = [await harness.dial(proxy) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for connection in bulk:
            await connection.receive_exactly(MB)
            nursery.start_soon(_discard_received, connection)
        echo_client = await dial(proxy.frontends["talk"].addresses[0])
        with trio.fail_after(TIMEOUT_S):
            assert await echo_client.receive_line()
            for _ in range(50):
                await echo_client.send(b"n NOOP\r\n")
                assert await echo_client.receive_line() == b"n NOOP\r\n"
        nursery.cancel_scope.cancel()
    for connection in (*bulk, echo_client):
        connection.drop()


async def _discard_received(connection: Connection) -> None:
    while await connection.receive():
        connection.received.clear()


async def test_session_has_one_task_beside_relay(harness: ProxyHarness, relay_kind: Kind) -> None:
    """One task runs from the accept to the log line. The portable relay adds one, the engine none."""
    go = trio.Event()
    server = await harness.server(
        (WaitFor(go), Send(b"x"), Collect()), tls=harness.ca.server_context("127.0.0.1")
    )
    proxy = await harness.proxy(server.address, tls=True, server_tls=True)
    before = ResourceSnapshot.now()
    client = await dial(proxy.frontends["f"].addresses[0])  # connected, no handshake yet
    with trio.fail_after(TIMEOUT_S):
        while proxy.sessions == 0:  # noqa: ASYNC110 - a count, not an event
            await trio.sleep(0.005)
    await trio.testing.wait_all_tasks_blocked()
    assert ResourceSnapshot.now().tasks - before.tasks == 1, "the session's own task"
    await client.start_tls(harness.ca.client_context())
    await server.wait_for()
    go.set()
    assert await client.receive() == b"x"
    await trio.testing.wait_all_tasks_blocked()
    in_relay = 2 if relay_kind == "portable" else 1
    assert ResourceSnapshot.now().tasks - before.tasks == in_relay + 1, (
        "the tasks of the session and of the scripted server"
    )
    client.drop()
    await before.wait_until_restored()
