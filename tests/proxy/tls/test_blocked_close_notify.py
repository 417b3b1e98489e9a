"""A close_notify that finds the socket's send buffer full: when it is sent, and which side times out."""

from __future__ import annotations

import os
import socket
import ssl

import pytest
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.log.end_reasons import (
    CLIENT_ABORTED,
    CLIENT_CLOSED,
    CLIENT_TIMEOUT,
    SERVER_CLOSED,
    SERVER_TIMEOUT,
)
from mailproxy.net.tls.close import send_close_notify, send_record
from mailproxy.testing import ThrowAwayCA
from tests.support.proxy.relay_harness import Contexts
from tests.support.proxy.relayed_pair import RelayedPair, relayed_pair
from tests.support.proxy.relays import ON_EACH, Kind
from tests.support.proxy.task_steps import FEW_STEPS, count_steps

pytestmark = ON_EACH

# An alert in TLS 1.3: two bytes, the content type behind them, and a tag (RFC 8446 section 5.2).
RECORD_HEAD = b"\x17\x03\x03\x00\x13"
RECORD_BYTES = len(RECORD_HEAD) + 19


@pytest.fixture(scope="module")
def contexts(throw_away_ca: ThrowAwayCA) -> Contexts:
    return Contexts.of(throw_away_ca)


def fill_send_buffer(sock: socket.socket) -> int:
    """Fill a socket's send buffer without the relay; return the number of bytes."""
    count = 0
    try:
        while True:
            count += socket.socket.send(sock, bytes(65536))
    except BlockingIOError:
        return count


async def read_raw(sock: socket.socket) -> tuple[bytes, bool]:
    """Read raw bytes from a socket until it is empty; return the bytes and whether EOF was read."""
    data = b""
    try:
        while chunk := socket.socket.recv(sock, 1 << 20):
            data += chunk
            await wait_all_tasks_blocked()
    except BlockingIOError:
        return data, False
    return data, True


def half_close(sock: socket.socket) -> None:
    """Half-close with close_notify: after a bare FIN, OpenSSL sends no close_notify back."""
    assert isinstance(sock, ssl.SSLSocket)
    send_close_notify(sock)
    socket.socket.shutdown(sock, socket.SHUT_WR)


async def block_close_notify(session: RelayedPair) -> int:
    """Half-close the server while the client's buffer is full; return the number of bytes in the buffer."""
    filled = fill_send_buffer(session.tunnel.client.sock)
    session.server.shutdown(socket.SHUT_WR)
    await wait_all_tasks_blocked()
    to_client = session.tunnel.to_client
    assert (
        to_client.eof,
        to_client.is_blocked,
        to_client.is_finished,
        len(to_client.pending_close_notify),
    ) == (
        True,
        True,
        False,
        RECORD_BYTES,
    )
    return filled


async def test_blocked_close_notify_is_sent_when_writable(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """It is sent once and whole, with the FIN behind it. The other direction continues, before and after."""
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        filled = await block_close_notify(session)
        session.client.send(b"a1 NOOP\r\n")
        await wait_all_tasks_blocked()
        assert session.server.recv(100) == b"a1 NOOP\r\n"
        data, has_eof = await read_raw(session.client)
        assert has_eof
        assert (data[filled:][: len(RECORD_HEAD)], len(data)) == (RECORD_HEAD, filled + RECORD_BYTES)
        assert session.tunnel.to_client.is_finished
        session.client.send(b"a2 NOOP\r\n")
        await wait_all_tasks_blocked()
        assert session.server.recv(100) == b"a2 NOOP\r\n"
        assert session.end_reasons == []
        half_close(session.client)
        await wait_all_tasks_blocked()
        assert session.end_reasons == [SERVER_CLOSED]


async def test_blocked_close_notify_keeps_half_closed_session_open(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        half_close(session.client)
        await wait_all_tasks_blocked()
        filled = await block_close_notify(session)
        assert session.end_reasons == []
        data, _ = await read_raw(session.client)
        assert len(data) == filled + RECORD_BYTES
        assert session.end_reasons == [CLIENT_CLOSED]


async def test_client_half_close_passes_during_blocked_close_notify(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """The server gets the client's FIN at once, while the close_notify is still blocked."""
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        await block_close_notify(session)
        half_close(session.client)
        await wait_all_tasks_blocked()
        assert session.server.recv(1) == b""
        assert session.end_reasons == []
        await read_raw(session.client)
        assert session.end_reasons == [SERVER_CLOSED]


async def test_partly_sent_close_notify_is_completed(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is written to the socket directly: OpenSSL would encrypt it as another record."""

    def send_part(tls: ssl.SSLSocket) -> bytes:
        reader, writer = socket.socketpair()
        original_fd = os.dup(tls.fileno())
        with reader, writer:
            os.dup2(writer.fileno(), tls.fileno())
            try:
                assert send_close_notify(tls) == b""
            finally:
                os.dup2(original_fd, tls.fileno(), inheritable=False)
                os.close(original_fd)
            record = reader.recv(100)
        return send_record(tls, record[:7]) + record[7:]

    monkeypatch.setattr("mailproxy.net.relay.transfer.send_close_notify", send_part)
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        session.server.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.client.recv(100) == b"", "without a valid close_notify, recv raises"


async def test_client_without_reading_times_out_after_half_close(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """The timeout runs from the server's half-close. Earlier idle time of both sides does not count."""
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="client", contexts=contexts
    ) as session:
        await session.advance(100)
        await block_close_notify(session)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


async def test_half_closed_client_without_reading_times_out(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="client", contexts=contexts
    ) as session:
        half_close(session.client)
        await wait_all_tasks_blocked()
        await block_close_notify(session)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


async def test_server_without_reading_times_out_after_half_close(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """The same in the other direction."""
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="server", contexts=contexts
    ) as session:
        fill_send_buffer(session.tunnel.server.sock)
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.tunnel.to_server.is_blocked
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


async def test_sent_close_notify_restarts_client_timeout(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="client", contexts=contexts
    ) as session:
        await block_close_notify(session)
        await session.advance(4)
        await read_raw(session.client)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@pytest.mark.parametrize("is_half_closed", [False, True])
async def test_client_close_during_blocked_close_notify(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts, is_half_closed: bool
) -> None:
    """Only close_notify is lost. A client that half-closed before may close without waiting for it."""
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        if is_half_closed:
            half_close(session.client)
            await wait_all_tasks_blocked()
        await block_close_notify(session)
        # The client has unread data, so the kernel sends RST.
        session.client.close()
        await wait_all_tasks_blocked()
        assert session.end_reasons == [CLIENT_CLOSED if is_half_closed else CLIENT_ABORTED]
        assert not session.tunnel.to_client.pending_close_notify


async def test_blocked_close_notify_does_not_spin(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        await block_close_notify(session)
        mock_clock.rate = 1
        assert await count_steps() < FEW_STEPS
        assert session.end_reasons == []
