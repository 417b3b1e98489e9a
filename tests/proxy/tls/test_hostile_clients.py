"""Clients with hostile TLS: they make the loop neither spin nor fail, and other sessions continue."""

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
from tests.support.proxy.relays import ON_EACH, Kind, run_relay
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
    """Another client gets the greeting."""
    with trio.fail_after(TIMEOUT_S):
        other = await dial(proxy_address, tls=harness.ca.client_context())
        assert await other.receive_line() == GREETING
        await other.close()


@ON_EACH
async def test_server_data_during_partial_key_update(harness: ProxyHarness, tmp_path: Path) -> None:
    """TLS must read the other half before it writes. The session waits without spinning, and nothing is lost."""
    may_send = trio.Event()
    server = await harness.server((WaitFor(may_send), Send(GREETING), Collect()), collect(GREETING))
    proxy = await harness.proxy(server.address, tls=True)
    keys = tmp_path / "keys"
    address = proxy.frontends["f"].addresses[0]
    client = await dial(address, tls=log_keys(harness.ca.client_context(), keys))
    assert client.tls is not None
    writer = RecordWriter.of(client.tls, keys)
    await client.stream.send_all(writer.data(b"x") + writer.handshake(KEY_UPDATE_HALF))
    assert await count_steps() < FEW_STEPS, "waiting for the other half does not spin"
    may_send.set()
    assert await count_steps() < FEW_STEPS, "waiting to write the greeting does not spin"
    await assert_served(harness, address)

    await client.stream.send_all(writer.handshake(KEY_UPDATE_REST))
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_line() == GREETING
    client.drop()
    await harness.sessions(2)


@ON_EACH
async def test_key_update_during_download(harness: ProxyHarness, tmp_path: Path) -> None:
    """The update is requested while records of the download are pending. All bytes arrive in both directions."""
    size, client_data = 20_000_000, b"words of the client"
    server = await harness.server((Flood(size), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    keys = tmp_path / "keys"
    context = log_keys(harness.ca.client_context(), keys)
    client = await dial(proxy.frontends["f"].addresses[0], tls=context, receive_buffer_bytes=65536)
    assert client.tls is not None
    writer = RecordWriter.of(client.tls, keys)
    await trio.testing.wait_all_tasks_blocked(0.05)  # until all buffers are full
    await client.stream.send_all(writer.handshake(KEY_UPDATE_REQUESTED))
    writer.update_key()
    await client.stream.send_all(writer.data(client_data))
    assert await count_steps() < FEW_STEPS
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_exactly(size) == pattern(size)
        await (await server.wait_for()).wait_received(client_data)
    client.drop()
    await harness.session()


@ON_EACH
async def test_key_update_request_with_full_socket(
    harness: ProxyHarness, relay_kind: Kind, tmp_path: Path
) -> None:
    """The answer finds the socket full. Later data of either side does not make the loop spin."""
    context = harness.ca.server_context("localhost")
    context.num_tickets = 0
    keys = tmp_path / "keys"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        host, port = listener.getsockname()
        client = Connection(await trio.open_tcp_stream(host, port))
        client_side, _ = listener.accept()
    client_side.setblocking(False)
    server_side, server = socket.socketpair()
    server_side.setblocking(False)
    server.setblocking(False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.start_tls, log_keys(harness.ca.client_context(), keys))
        tls = await accept_tls(client_side, context)
    assert client.tls is not None
    writer = RecordWriter.of(client.tls, keys)
    with tls, server_side, server:
        await _fill_send_buffer(tls)
        tunnel = Tunnel(tls, server_side, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000)
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(relay.run, tunnel)
            await client.stream.send_all(writer.handshake(KEY_UPDATE_REQUESTED))
            assert await count_steps() < FEW_STEPS
            server.send(b"a line of the server")
            assert await count_steps() < FEW_STEPS
            writer.update_key()
            await client.stream.send_all(writer.data(b"more of the client"))
            assert await count_steps() < FEW_STEPS
            nursery.cancel_scope.cancel()
    client.drop()


async def _fill_send_buffer(sock: socket.socket) -> None:
    """Fill a socket with bytes that are not TLS until no byte fits. Its client does not read."""
    full_rounds = 0
    while full_rounds < 3:
        full_rounds = (
            0 if _send_until_blocked(sock, 65536) + _send_until_blocked(sock, 1) else full_rounds + 1
        )
        await trio.sleep(0.02)  # meanwhile the kernel moves some bytes to the client's side


def _send_until_blocked(sock: socket.socket, size: int) -> int:
    count = 0
    try:
        while True:
            count += socket.socket.send(sock, b"j" * size)
    except BlockingIOError:
        return count


# The unraisable exception is ssl's own. The program has its own hook for it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_non_ascii_server_name_fails_handshake(harness: ProxyHarness) -> None:
    """``ssl`` fails before it calls the proxy's code. The session is logged, and the next client is served."""
    server = await harness.server(collect(GREETING))
    proxy = await harness.proxy(server.address, tls=True)
    client = await harness.dial(proxy)
    await client.send(client_hello_for(b"caf\xe9.example"))
    with trio.fail_after(TIMEOUT_S):
        await client.receive_until_end()
    client.drop()
    line = await harness.session()
    assert (line["end"], line["by"]) == ("handshake-failed", "client")
    await assert_served(harness, proxy.frontends["f"].addresses[0])


def client_hello_for(name: bytes) -> bytes:
    """Return a ClientHello for a server name of any bytes."""
    placeholder = "x" * len(name)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=placeholder)
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read().replace(placeholder.encode(), name)
