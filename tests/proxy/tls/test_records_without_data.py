"""A peer whose TLS consists of key updates or renegotiations does not hold the loop, and its session ends."""

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
from mailproxy.net.tls.auto_retry import can_clear_auto_retry
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.net.tls.tls_socket import ssl_object
from mailproxy.testing import Collect, Connection, Send, ThrowAwayCA, dial
from tests.support.patience import PATIENCE_S
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relay_harness import Contexts
from tests.support.proxy.relayed_pair import relayed_pair
from tests.support.proxy.relays import ON_BOTH, Kind, run_relay
from tests.support.proxy.tls_records import KEY_UPDATE_REST, RecordWriter, Tls12RecordWriter, log_keys

pytestmark = pytest.mark.skipif(
    not can_clear_auto_retry(), reason="this Python has no way to clear auto-retry"
)

GREETING = b"* OK ready\r\n"
KEY_UPDATE = b"\x18\x00\x00\x01" + KEY_UPDATE_REST
MANY = 2000
DETAIL = "too many TLS renegotiations or key updates"


@pytest.fixture(autouse=True)
def fewer_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records made in Python take a while."""
    monkeypatch.setattr("mailproxy.net.relay.transfer.EMPTY_READS_MAX", MANY)


def key_updates(write: RecordWriter, count: int) -> bytes:
    records = bytearray()
    for _ in range(count):
        records += write.handshake(KEY_UPDATE)
        write.update_key()
    return bytes(records)


async def test_a_read_handles_one_record(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    """Ten key updates and a word need eleven reads, and no more. This is what keeps a turn of the loop short."""
    keys = tmp_path / "keys"
    async with trio.open_nursery() as nursery:
        left, right = socket.socketpair()
        connection = Connection(trio.SocketStream(trio.socket.from_stdlib_socket(left)))
        right.setblocking(False)
        nursery.start_soon(connection.start_tls, log_keys(throw_away_ca.client_context(), keys))
        context = throw_away_ca.server_context("localhost")
        context.num_tickets = 0
        tls = await accept_tls(right, context)
    assert connection.tls is not None
    write = RecordWriter.of(connection.tls, keys)
    with tls:
        await connection.stream.send_all(key_updates(write, 10) + write.data(b"word"))
        for _ in range(10):
            with pytest.raises(ssl.SSLWantReadError):
                ssl_object(tls).read(100)
        assert ssl_object(tls).read(100) == b"word"
    connection.drop()


@ON_BOTH
async def test_a_client_of_key_updates(harness: ProxyHarness, tmp_path: Path) -> None:
    """It is cut off, and another client is served meanwhile. Its session is logged, although no byte was for the server."""
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True, frontends={"f": {"log_null": False}})
    address = proxy.frontends["f"].addresses[0]
    keys = tmp_path / "keys"
    client = await dial(address, tls=log_keys(harness.ca.client_context(), keys))
    assert client.tls is not None
    write = RecordWriter.of(client.tls, keys)
    records = key_updates(write, MANY + 1)
    async with trio.open_nursery() as nursery:

        async def flood() -> None:
            with trio.fail_after(PATIENCE_S), suppress(trio.BrokenResourceError):
                await client.stream.send_all(records)

        nursery.start_soon(flood)
        with trio.fail_after(PATIENCE_S):
            other = await dial(address, tls=harness.ca.client_context())
            assert await other.receive_line() == GREETING
    line = await harness.session()
    assert (line["end"], line["detail"]) == ("client-aborted", DETAIL)
    client.drop()
    await other.close()


async def test_the_log_says_where_that_cannot_be(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, at the start, and only where there is TLS."""
    monkeypatch.setattr("mailproxy.proxy.monitor.can_clear_auto_retry", lambda: False)
    server = await harness.server((Send(GREETING), Collect()))
    await harness.proxy(server.address)
    await harness.proxy(server.address, tls=True)
    (event,) = await harness.events("tls-reads-unbounded")
    assert event["level"] == "warning"


@ON_BOTH
async def test_key_updates_between_words(harness: ProxyHarness, tmp_path: Path) -> None:
    """However many: a client may change its keys whenever it likes, and every word arrives."""
    words = b"".join(b"%d " % number for number in range(200))
    server = await harness.server((Send(GREETING), Collect()))
    proxy = await harness.proxy(server.address, tls=True)
    keys = tmp_path / "keys"
    client = await dial(proxy.frontends["f"].addresses[0], tls=log_keys(harness.ca.client_context(), keys))
    assert client.tls is not None
    write = RecordWriter.of(client.tls, keys)
    records = b"".join(
        key_updates(write, 1 + number % 5 * 100) + write.data(b"%d " % number) for number in range(200)
    )
    with trio.fail_after(PATIENCE_S):
        await client.stream.send_all(records)
        await (await server.wait_for()).wait_received(words)
    client.drop()
    await harness.session()


@ON_BOTH
async def test_data_behind_as_many_records_as_are_allowed(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, mock_clock: trio.testing.MockClock
) -> None:
    """A full record arrives, and the read behind it that finds nothing is not one too many."""
    contexts = Contexts.of(throw_away_ca)
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as pair:
        pair.tunnel.to_server.empty_reads = MANY
        pair.client.send(bytes(RECORD_BYTES))
        await trio.testing.wait_all_tasks_blocked()
        assert await pair.drain(pair.server) == RECORD_BYTES
        assert not pair.end_reasons


@ON_BOTH
@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_peer_of_renegotiations(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, tmp_path: Path, who: Literal["client", "server"]
) -> None:
    """In TLS 1.2: a client that sends one ClientHello behind the other, or a server its HelloRequests. Each is refused."""
    is_server = who == "server"
    message = b"\x00\x00\x00\x00" if is_server else b"\x01\x00\x00\x26\x03\x03" + bytes(36)
    keys = tmp_path / "keys"
    connecting, accepting = throw_away_ca.client_context(), throw_away_ca.server_context("localhost")
    connecting.maximum_version = ssl.TLSVersion.TLSv1_2
    connecting.set_ciphers("ECDHE+AESGCM")
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    peer = Connection(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))
    other, other_side = socket.socketpair()
    other_side.setblocking(False)
    async with trio.open_nursery() as nursery:
        tls: ssl.SSLSocket
        if is_server:
            accepting.keylog_filename = str(keys)
            connecting.options |= ssl.OP_NO_RENEGOTIATION
            nursery.start_soon(peer.accept_tls, accepting)
            tls = await connect_tls(ours, connecting, "localhost")
        else:
            connecting.keylog_filename = str(keys)
            accepting.options |= ssl.OP_NO_RENEGOTIATION
            nursery.start_soon(peer.start_tls, connecting)
            tls = await accept_tls(ours, accepting)
    assert peer.tls is not None
    write = Tls12RecordWriter.of(peer.tls, keys, is_server=is_server)
    records = b"".join(write.handshake(message) for _ in range(MANY + 1))

    async def flood() -> None:
        with suppress(trio.BrokenResourceError):
            await peer.stream.send_all(records)

    async def read() -> None:
        """The refusals must not fill the connection."""
        with suppress(trio.BrokenResourceError):
            while await peer.stream.receive_some():
                pass

    with tls, other, other_side:
        sides = (other_side, tls) if is_server else (tls, other_side)
        pair = Tunnel(*sides, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000)
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(read)
            with trio.fail_after(PATIENCE_S):
                end = await relay.run(pair)
            nursery.cancel_scope.cancel()
    peer.drop()
    assert (end, pair.detail) == (SERVER_ABORTED if is_server else CLIENT_ABORTED, DETAIL)
