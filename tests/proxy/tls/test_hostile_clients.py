"""Clients whose TLS is odd on purpose: they cost the proxy nothing, and the other sessions do not notice them."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing

from mailproxy.net.relay import Tunnel
from mailproxy.net.tls.handshake import accept_tls
from mailproxy.testing import Collect, Connection, Flood, Send, WaitFor, collect, dial, pattern
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness
from tests.support.proxy.relays import ON_BOTH, Kind, run_relay
from tests.support.proxy.task_steps import FEW_STEPS, count_steps
from tests.support.proxy.tls_records import (
    KEY_UPDATE_HALF,
    KEY_UPDATE_REQUESTED,
    KEY_UPDATE_REST,
    RecordWriter,
    log_keys,
)

GREETING = b"* OK ready\r\n"


async def assert_served(harness: ProxyHarness, proxy_address: str) -> None:
    """Another client's session goes on as ever."""
    with trio.fail_after(TIMEOUT_S):
        other = await dial(proxy_address, tls=harness.ca.client_context())
        assert await other.receive_line() == GREETING
        await other.close()


@ON_BOTH
async def test_half_a_key_update_and_then_the_server_speaks(harness: ProxyHarness, tmp_path: Path) -> None:
    """TLS must read the other half before it writes: that is waited for without spinning, and nothing is lost."""
    speak = trio.Event()
    server = await harness.server((WaitFor(speak), Send(GREETING), Collect()), collect(GREETING))
    proxy = await harness.proxy(server.address, tls=True)
    keys = tmp_path / "keys"
    address = proxy.frontends["f"].addresses[0]
    client = await dial(address, tls=log_keys(harness.ca.client_context(), keys))
    assert client.tls is not None
    write = RecordWriter.of(client.tls, keys)
    await client.stream.send_all(write.data(b"x") + write.handshake(KEY_UPDATE_HALF))
    assert await count_steps() < FEW_STEPS, "the other half is waited for"
    speak.set()
    assert await count_steps() < FEW_STEPS, "the greeting cannot be written yet"
    await assert_served(harness, address)

    await client.stream.send_all(write.handshake(KEY_UPDATE_REST))
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    client.drop()
    await harness.sessions(2)


@ON_BOTH
async def test_key_update_in_the_middle_of_a_download(harness: ProxyHarness, tmp_path: Path) -> None:
    """Requested while records of the download wait to be written: every byte arrives, either way."""
    size, words = 20_000_000, b"words of the client"
    server = await harness.server((Flood(size), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    keys = tmp_path / "keys"
    context = log_keys(harness.ca.client_context(), keys)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, receive_buffer_bytes=65536)
    assert client.tls is not None
    write = RecordWriter.of(client.tls, keys)
    await trio.testing.wait_all_tasks_blocked(0.05)  # all buffers on the way are full
    await client.stream.send_all(write.handshake(KEY_UPDATE_REQUESTED))
    write.update_key()
    await client.stream.send_all(write.data(words))
    assert await count_steps() < FEW_STEPS
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_exactly(size) == pattern(size)
        await (await server.wait_for()).wait_received(words)
    client.drop()
    await harness.session()


@ON_BOTH
async def test_key_update_requested_by_one_that_does_not_read(
    harness: ProxyHarness, relay_kind: Kind, tmp_path: Path
) -> None:
    """The answer to it finds the socket full: what comes behind it, from either side, wakes nobody in vain."""
    context = harness.ca.server_context("localhost")
    context.num_tickets = 0
    keys = tmp_path / "keys"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        host, port = listener.getsockname()
        client = Connection(await trio.open_tcp_stream(host, port))
        accepted, _ = listener.accept()
    accepted.setblocking(False)
    server_side, behind = socket.socketpair()
    server_side.setblocking(False)
    behind.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.start_tls, log_keys(harness.ca.client_context(), keys))
        tls = await accept_tls(accepted, context)
    assert client.tls is not None
    write = RecordWriter.of(client.tls, keys)
    with tls, server_side, behind:
        await _fill(tls)
        pair = Tunnel(tls, server_side, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000)
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(relay.run, pair)
            await client.stream.send_all(write.handshake(KEY_UPDATE_REQUESTED))
            assert await count_steps() < FEW_STEPS
            behind.send(b"a line of the server")
            assert await count_steps() < FEW_STEPS
            write.update_key()
            await client.stream.send_all(write.data(b"more of the client"))
            assert await count_steps() < FEW_STEPS
            nursery.cancel_scope.cancel()
    client.drop()


async def _fill(sock: socket.socket) -> None:
    """Put what is no TLS into a socket until not one byte more fits. Its client reads nothing."""
    vain = 0
    while vain < 3:
        vain = 0 if _put(sock, 65536) + _put(sock, 1) else vain + 1
        await trio.sleep(0.02)  # the kernel moves some on to the client's side meanwhile


def _put(sock: socket.socket, size: int) -> int:
    count = 0
    try:
        while True:
            count += socket.socket.send(sock, b"j" * size)
    except BlockingIOError:
        return count


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # ssl's own; the program hears it itself
async def test_server_name_that_is_no_ascii(harness: ProxyHarness) -> None:
    """``ssl`` fails before any code of ours is asked; the session still has its line, and the next client is served."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=True)
    client = await harness.dial(proxy)
    await client.send(hello_for(b"caf\xe9.example"))
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    line = await harness.session()
    assert (line["end"], line["by"]) == ("handshake-failed", "client")
    await assert_served(harness, proxy.frontends["f"].addresses[0])


def hello_for(name: bytes) -> bytes:
    """A ClientHello for a server name of any bytes."""
    stand_in = "x" * len(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=stand_in)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read().replace(stand_in.encode(), name)
