"""The relay: every byte arrives, in order, whatever the peers' pace; silence and half-close as documented."""

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
from tests.support.proxy.relays import ON_BOTH, Kind

pytestmark = ON_BOTH

MB = 1_000_000
BOTH = pytest.mark.parametrize(
    ("tls", "server_tls"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["clear-clear", "tls-clear", "clear-tls", "tls-tls"],
)


async def link(
    harness: ProxyHarness, *playbook: Step, tls: bool, server_tls: bool, **options: Any
) -> tuple[Connection, Connection]:
    """Both ends of a session: the client's connection and the server's."""
    context = harness.ca.server_context("127.0.0.1") if server_tls else None
    server = await harness.server(playbook, tls=context, **options)
    proxy = await harness.proxy(server.address, tls=tls, server_tls=server_tls)
    client = await harness.dial(proxy, tls=tls, **options)
    with trio.fail_after(TIMEOUT_S):
        return client, await server.wait_for()


def digest(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


@BOTH
async def test_bulk_both_ways_at_once(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    size = 6 * MB
    both = trio.Event()

    class Both:
        """The server's step: send and receive at the same time."""

        async def play(self, connection: Connection) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Flood(size).play, connection)
                await connection.receive_exactly(size)
            await both.wait()

    client, server = await link(harness, Both(), tls=tls, server_tls=server_tls)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Flood(size).play, client)
            await client.receive_exactly(size)
        await server.wait_received(size)
    both.set()
    expected = digest(pattern(size))
    assert digest(client.received) == expected
    assert digest(server.received) == expected
    await client.close()
    line = await harness.session()
    assert (line["bytes_in"], line["bytes_out"]) == (size, size)


@BOTH
async def test_slow_reader_holds_the_sender_back(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    """Nothing is lost, and the proxy does not swallow what the reader does not take."""
    size = 16 * MB  # more than the kernel holds
    client, server = await link(
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


@BOTH
async def test_half_close_comes_behind_the_last_byte(
    harness: ProxyHarness, tls: bool, server_tls: bool
) -> None:
    """A client that sends much and closes its sending side still gets the whole answer."""
    size = 5 * MB
    client, server = await link(
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


@BOTH
async def test_half_close_meets_bytes_on_their_way(
    harness: ProxyHarness, tls: bool, server_tls: bool
) -> None:
    """The client closes its side while the server is in the middle of sending."""
    size = 5 * MB
    client, server = await link(harness, Flood(size), Collect(), tls=tls, server_tls=server_tls)
    with trio.fail_after(60):
        first = await client.receive_exactly(1000)
        await client.half_close()
        rest = await client.receive_until_end()
    assert server.end == ("close_notify" if server_tls else "eof")
    assert digest(first + rest) == digest(pattern(size))
    client.drop()
    await harness.session()


@BOTH
async def test_server_half_closes_and_listens_on(harness: ProxyHarness, tls: bool, server_tls: bool) -> None:
    client, server = await link(
        harness, Send(b"* BYE\r\n"), HalfClose(), Expect(b"late words"), tls=tls, server_tls=server_tls
    )
    assert await client.receive_until_end() == b"* BYE\r\n"
    await SendSlowly(b"late words").play(client)
    await client.close()
    line = await harness.session()
    assert (line["end"], line["bytes_in"]) == ("server-closed", 10)
    assert bytes(server.received) == b"late words"


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_talking_keeps_a_session_alive(harness: ProxyHarness, tls: bool) -> None:
    """Limits count from the last byte either way: one side may stay silent as long as it is spoken to."""
    context = harness.ca.server_context("127.0.0.1") if tls else None
    words = 10
    server = await harness.server((SendSlowly(b"still here\r\n" * words, 12, 0.05), Collect()), tls=context)
    proxy = await harness.proxy(
        server.address,
        tls=tls,
        server_tls=tls,
        frontends={"f": {"timeouts": {"client": "400ms"}}},
        backends={"b": {"timeouts": {"server": "400ms"}}},
    )
    client = await harness.dial(proxy, tls=tls)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_exactly(12 * words) == b"still here\r\n" * words
        await client.receive_until_end()
    client.drop()
    line = await harness.session()
    assert line["end"] == "client-timeout"
    assert line["total_ms"] >= words * 50 + 350


async def test_bulk_starves_nobody(harness: ProxyHarness) -> None:
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
            nursery.start_soon(_swallow, connection)
        talker = await dial(proxy.frontends["talk"].addresses[0])
        with trio.fail_after(TIMEOUT_S):
            assert await talker.receive_line()
            for _ in range(50):
                await talker.send(b"n NOOP\r\n")
                assert await talker.receive_line() == b"n NOOP\r\n"
        nursery.cancel_scope.cancel()
    for connection in (*bulk, talker):
        connection.drop()


async def _swallow(connection: Connection) -> None:
    while await connection.receive():
        connection.received.clear()


async def test_tasks_of_a_session(harness: ProxyHarness, relay_kind: Kind) -> None:
    """One task from accepting to the last line; the portable relay adds another one, the engine none."""
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
    assert ResourceSnapshot.now().tasks - before.tasks == 1, "the session's own"
    await client.start_tls(harness.ca.client_context())
    await server.wait_for()
    go.set()
    assert await client.receive() == b"x"
    await trio.testing.wait_all_tasks_blocked()
    in_relay = {"portable": 2, "engine": 1}[relay_kind]
    assert ResourceSnapshot.now().tasks - before.tasks == in_relay + 1, (
        "the session's and the scripted server's one"
    )
    client.drop()
    await before.wait_until_restored()
