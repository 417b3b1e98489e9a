"""A peer that sends only key updates or renegotiations does not block the loop; its session ends."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest
import trio
import trio.testing

from mailproxy.log.end_reasons import CLIENT_ABORTED, SERVER_ABORTED
from mailproxy.net.relay import Tunnel
from mailproxy.net.relay.transfer import RECORD_BYTES
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.net.tls.openssl import can_clear_auto_retry
from mailproxy.net.tls.tls_socket import ssl_object
from mailproxy.testing import Collect, Connection, Send, ThrowAwayCA, dial
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relay_harness import Contexts
from tests.support.proxy.relayed_pair import relayed_pair
from tests.support.proxy.relays import ON_EACH, Kind, run_relay
from tests.support.proxy.tls_records import KEY_UPDATE_REST, RecordWriter, Tls12RecordWriter, log_keys
from tests.support.timeouts import TIMEOUT_S

pytestmark = pytest.mark.skipif(
    not can_clear_auto_retry(), reason="this Python has no way to clear auto-retry"
)

GREETING = b"* OK ready\r\n"
KEY_UPDATE = b"\x18\x00\x00\x01" + KEY_UPDATE_REST
MANY = 2000
DETAIL = "too many TLS renegotiations or key updates"


@pytest.fixture(autouse=True)
def low_empty_reads_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower the limit, because records made in Python are slow."""
    monkeypatch.setattr("mailproxy.net.relay.transfer.EMPTY_READS_MAX", MANY)


def key_updates(writer: RecordWriter, count: int) -> bytes:
    records = bytearray()
    for _ in range(count):
        records += writer.handshake(KEY_UPDATE)
        writer.update_key()
    return bytes(records)


async def test_a_read_handles_one_record(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    """Ten key updates and one data record need eleven reads. This bounds a turn of the loop."""
    keys = tmp_path / "keys"
    async with trio.open_nursery() as nursery:
        client_sock, server_sock = socket.socketpair()
        connection = Connection(trio.SocketStream(trio.socket.from_stdlib_socket(client_sock)))
        server_sock.setblocking(False)
        nursery.start_soon(connection.start_tls, log_keys(throw_away_ca.client_context(), keys))
        context = throw_away_ca.server_context("localhost")
        context.num_tickets = 0
        tls = await accept_tls(server_sock, context)
    assert connection.tls is not None
    writer = RecordWriter.of(connection.tls, keys)
    with tls:
        await connection.stream.send_all(key_updates(writer, 10) + writer.data(b"word"))
        for _ in range(10):
            with pytest.raises(ssl.SSLWantReadError):
                ssl_object(tls).read(100)
        assert ssl_object(tls).read(100) == b"word"
    connection.drop()


@ON_EACH
async def test_client_flooding_key_updates_is_aborted(harness: ProxyHarness, tmp_path: Path) -> None:
    """Another client is served meanwhile. The session is logged although no byte was for the server."""
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"log_null": False}})
    address = proxy.frontends["f"].addresses[0]
    keys = tmp_path / "keys"
    client = await dial(address, tls=log_keys(harness.ca.client_context(), keys))
    assert client.tls is not None
    writer = RecordWriter.of(client.tls, keys)
    records = key_updates(writer, MANY + 1)
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with trio.fail_after(TIMEOUT_S), suppress(trio.BrokenResourceError):
                await client.stream.send_all(records)

        nursery.start_soon(flood)
        with trio.fail_after(TIMEOUT_S):
            other = await dial(address, tls=harness.ca.client_context())
            assert await other.receive_line() == GREETING
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("client-aborted", DETAIL)
    client.drop()
    await other.close()


async def test_unbounded_tls_reads_are_logged_once(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The warning comes once, at the start, and only with TLS."""
    monkeypatch.setattr("mailproxy.proxy.monitor.can_clear_auto_retry", lambda: False)
    server = await harness.server((Send(GREETING), Collect()))
    await harness.proxy(server.address)
    await harness.proxy(server.address, tls=True)
    (event,) = await harness.events("tls-reads-unbounded")
    assert event["level"] == "warning"


@ON_EACH
async def test_key_updates_between_data_are_allowed(harness: ProxyHarness, tmp_path: Path) -> None:
    """A client may update its keys at any time, in any number. All data arrives."""
    data = b"".join(b"%d " % number for number in range(200))
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    keys = tmp_path / "keys"
    client = await dial(proxy.frontends["f"].addresses[0], tls=log_keys(harness.ca.client_context(), keys))
    assert client.tls is not None
    writer = RecordWriter.of(client.tls, keys)
    records = b"".join(
        key_updates(writer, 1 + number % 5 * 100) + writer.data(b"%d " % number) for number in range(200)
    )
    with trio.fail_after(TIMEOUT_S):
        await client.stream.send_all(records)
        await (await server.wait_for()).wait_received(data)
    client.drop()
    await harness.session()


@ON_EACH
async def test_data_after_the_last_allowed_empty_read_is_relayed(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, mock_clock: trio.testing.MockClock
) -> None:
    """The read after a full record finds nothing, and does not count as one empty read too many."""
    contexts = Contexts.of(throw_away_ca)
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as pair:
        pair.tunnel.to_server.empty_reads = MANY
        pair.client.send(bytes(RECORD_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        assert await pair.drain(pair.server) == RECORD_BYTES
        assert not pair.end_reasons


@ON_EACH
@pytest.mark.parametrize("peer_name", ["client", "server"])
async def test_peer_flooding_renegotiations_is_aborted(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, tmp_path: Path, peer_name: Literal["client", "server"]
) -> None:
    """TLS 1.2: a client repeats its ClientHello, or a server its HelloRequest. Each one is refused."""
    is_server = peer_name == "server"
    message = b"\x00\x00\x00\x00" if is_server else b"\x01\x00\x00\x26\x03\x03" + bytes(36)
    keys = tmp_path / "keys"
    client_context, server_context = throw_away_ca.client_context(), throw_away_ca.server_context("localhost")
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context.set_ciphers("ECDHE+AESGCM")
    peer_sock, our_sock = socket.socketpair()
    our_sock.setblocking(False)
    peer = Connection(trio.SocketStream(trio.socket.from_stdlib_socket(peer_sock)))
    other, other_side = socket.socketpair()
    other_side.setblocking(False)
    async with trio.open_nursery() as nursery:
        tls: ssl.SSLSocket
        if is_server:
            server_context.keylog_filename = str(keys)
            client_context.options |= ssl.OP_NO_RENEGOTIATION
            nursery.start_soon(peer.accept_tls, server_context)
            tls = await connect_tls(our_sock, client_context, "localhost")
        else:
            client_context.keylog_filename = str(keys)
            server_context.options |= ssl.OP_NO_RENEGOTIATION
            nursery.start_soon(peer.start_tls, client_context)
            tls = await accept_tls(our_sock, server_context)
    assert peer.tls is not None
    writer = Tls12RecordWriter.of(peer.tls, keys, is_server=is_server)
    records = b"".join(writer.handshake(message) for _ in range(MANY + 1))

    async def flood() -> None:
        with suppress(trio.BrokenResourceError):
            await peer.stream.send_all(records)

    async def read() -> None:
        """Read the refusals, so that they do not fill the connection."""
        with suppress(trio.BrokenResourceError):
            while await peer.stream.receive_some():
                pass

    with tls, other, other_side:
        sides = (other_side, tls) if is_server else (tls, other_side)
        tunnel = Tunnel(*sides, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000)
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(read)
            with trio.fail_after(TIMEOUT_S):
                end_reason = await relay.run(tunnel)
            nursery.cancel_scope.cancel()
    peer.drop()
    assert (end_reason, tunnel.detail) == (SERVER_ABORTED if is_server else CLIENT_ABORTED, DETAIL)
