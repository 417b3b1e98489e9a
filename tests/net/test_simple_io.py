"""Simple I/O with a server, plain and over TLS: sending, receiving, graceful close, server faults."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from attrs import frozen

from mailproxy.config import ServerTls
from mailproxy.net.simple_io import ServerConnectionError, close_gracefully, receive, send_all
from mailproxy.net.tls.context import make_client_context
from mailproxy.net.tls.handshake import connect_tls
from mailproxy.testing import (
    Close,
    Collect,
    Connection,
    Drop,
    Flood,
    HalfClose,
    Reset,
    ScriptedServer,
    Send,
    SendSlowly,
    Stall,
    Step,
    ThrowAwayCA,
    WaitFor,
    pattern,
)
from tests.support.timeouts import fail_after_timeout, wait_until

LONG_S = 1000.0
SHORT_S = 0.05
GREETING = b"* OK ready\r\n"

clear_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Fail tests that hang."""
    nursery.start_soon(fail_after_timeout)


@frozen
class SendBelowTls:
    """Send bytes that are not a TLS record."""

    data: bytes

    async def play(self, connection: Connection) -> None:
        await connection.stream.send_all(self.data)


@asynccontextmanager
async def connect(
    ca: ThrowAwayCA,
    *playbook: Step,
    tls: bool = False,
    context: ssl.SSLContext | None = None,
    buffer: int | None = None,
) -> AsyncIterator[tuple[socket.socket, ScriptedServer]]:
    """Connect to a server with this playbook; ``buffer``: bytes that the kernel buffers on each side."""
    async with trio.open_nursery() as nursery:
        server_context = context or ca.server_context("localhost") if tls else None
        server = ScriptedServer(playbook, tls=server_context, receive_buffer_bytes=buffer)
        host, _, port = (await nursery.start(server.serve)).rpartition(":")
        sock = socket.socket()
        if buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        sock.connect((host, int(port)))
        sock.setblocking(False)
        if tls:
            sock = await connect_tls(sock, make_client_context(ServerTls(ca=Path(ca.pem)), None), "localhost")
        with sock:
            yield sock, server
        nursery.cancel_scope.cancel()


async def end_at_server(server: ScriptedServer) -> tuple[bytes, str | None]:
    """Return the bytes that the server received, and how its connection ended."""
    await server.wait_ended()
    return bytes(server.connections[0].received), server.connections[0].end


# Sending and receiving.


@clear_and_tls
async def test_send_and_receive(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(
        throw_away_ca, Send(GREETING), Collect(12), Send(b"a1 OK\r\n"), Collect(), tls=tls
    ) as (
        sock,
        server,
    ):
        assert await receive(sock) == GREETING
        await send_all(sock, b"a1 LOGOUT\r\n.")
        assert await receive(sock) == b"a1 OK\r\n"
        assert server.connections[0].received == b"a1 LOGOUT\r\n."


@clear_and_tls
@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 500_001])
async def test_data_larger_than_buffers_arrives(throw_away_ca: ThrowAwayCA, tls: bool, size: int) -> None:
    """The kernel takes a part of the data each time, under TLS a part of a record."""
    async with connect(throw_away_ca, Collect(), tls=tls, buffer=4096) as (sock, server):
        await send_all(sock, pattern(size))
        await close_gracefully(sock, LONG_S)
        assert await end_at_server(server) == (pattern(size), "close_notify" if tls else "eof")


@clear_and_tls
async def test_slowly_sent_data_is_received(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    data = pattern(300)
    async with connect(throw_away_ca, SendSlowly(data, size=7), Close(), tls=tls) as (sock, _):
        received = b""
        while piece := await receive(sock):
            received += piece
        assert received == data
        assert await receive(sock) == b"", "the end stays the end"


@clear_and_tls
@pytest.mark.parametrize("last_step", [Close(), Drop(), HalfClose()], ids=["close", "bare FIN", "half-close"])
async def test_receive_returns_eof_after_server_close(
    throw_away_ca: ThrowAwayCA, tls: bool, last_step: Step
) -> None:
    async with connect(throw_away_ca, Send(GREETING), last_step, Stall(), tls=tls) as (sock, _):
        assert await receive(sock) == GREETING
        assert await receive(sock) == b""


@clear_and_tls
async def test_receive_from_resetting_server_fails(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Reset(), tls=tls) as (sock, _):
        with pytest.raises(ServerConnectionError, match=r"(?i)connection reset by peer"):
            await receive(sock)


@clear_and_tls
async def test_send_to_resetting_server_fails(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    may_reset = trio.Event()
    async with connect(throw_away_ca, WaitFor(may_reset), Reset(), tls=tls, buffer=4096) as (sock, _):
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(ServerConnectionError, match=r"(?i)reset by peer|broken pipe"):
                    await send_all(sock, pattern(1_000_000))

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            may_reset.set()


async def test_receive_of_invalid_tls_record_fails(throw_away_ca: ThrowAwayCA) -> None:
    async with connect(throw_away_ca, SendBelowTls(b"-ERR this is no record\r\n"), Stall(), tls=True) as (
        sock,
        _,
    ):
        with pytest.raises(ServerConnectionError, match=r"wrong version number|record"):
            await receive(sock)


async def test_receive_reports_required_client_certificate(throw_away_ca: ThrowAwayCA) -> None:
    """In TLS 1.3 the server reports this after the handshake has succeeded (RFC 8446 section 4.4.2.4)."""
    context = throw_away_ca.server_context("localhost")
    context.load_verify_locations(throw_away_ca.pem)
    context.verify_mode = ssl.CERT_REQUIRED
    async with connect(throw_away_ca, Stall(), tls=True, context=context) as (sock, _):
        with pytest.raises(ServerConnectionError, match="certificate required"):
            await receive(sock)


# Closing.


@clear_and_tls
async def test_graceful_close_with_closing_server(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Send(GREETING), Collect(), Close(), tls=tls) as (sock, server):
        await send_all(sock, b"QUIT\r\n")
        await close_gracefully(sock, LONG_S)
        assert sock.fileno() == -1
        assert await end_at_server(server) == (b"QUIT\r\n", "close_notify" if tls else "eof")


@clear_and_tls
async def test_graceful_close_with_unread_data_sends_fin(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Flood(200_000), Collect(), tls=tls) as (sock, server):
        await close_gracefully(sock, LONG_S)
        assert await end_at_server(server) == (b"", "close_notify" if tls else "eof")


@clear_and_tls
async def test_graceful_close_discards_late_data(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Collect(), SendSlowly(pattern(50)), Close(), tls=tls) as (sock, server):
        await close_gracefully(sock, LONG_S)
        await server.wait_ended()
        assert server.connections[0].end == ("close_notify" if tls else "eof")


@clear_and_tls
async def test_graceful_close_after_server_half_close(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Send(GREETING), HalfClose(), Collect(), tls=tls) as (sock, server):
        assert await receive(sock) == GREETING
        assert await receive(sock) == b""
        await close_gracefully(sock, LONG_S)
        assert await end_at_server(server) == (b"", "close_notify" if tls else "eof")


@clear_and_tls
async def test_graceful_close_after_server_reset(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Reset(), tls=tls) as (sock, server):
        await server.wait_ended()
        await close_gracefully(sock, LONG_S)
        assert sock.fileno() == -1


@clear_and_tls
async def test_graceful_close_waits_for_its_timeout(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    closed = trio.Event()
    async with connect(throw_away_ca, Send(GREETING), WaitFor(closed), Collect(), tls=tls) as (sock, server):
        assert await receive(sock) == GREETING
        started_at = trio.current_time()
        await close_gracefully(sock, SHORT_S)
        assert SHORT_S <= trio.current_time() - started_at < LONG_S
        assert sock.fileno() == -1
        closed.set()
        assert await end_at_server(server) == (b"", "close_notify" if tls else "eof")


@clear_and_tls
async def test_graceful_close_ends_with_flooding_server(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Flood(), tls=tls) as (sock, server):
        await close_gracefully(sock, LONG_S)
        assert sock.fileno() == -1
        await server.wait_ended()


@clear_and_tls
async def test_graceful_close_ends_with_full_buffers(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    """There is no room left, not even for the close_notify alert."""
    async with connect(throw_away_ca, Stall(), tls=tls, buffer=4096) as (sock, _):
        with trio.move_on_after(SHORT_S) as limit:
            await send_all(sock, pattern(10_000_000))
        assert limit.cancelled_caught
        await close_gracefully(sock, SHORT_S)
        assert sock.fileno() == -1


@clear_and_tls
async def test_cancelled_graceful_close_closes_the_socket(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with connect(throw_away_ca, Stall(), tls=tls) as (sock, _):
        with trio.move_on_after(SHORT_S) as limit:
            await close_gracefully(sock, LONG_S)
        assert limit.cancelled_caught
        assert sock.fileno() == -1


@clear_and_tls
async def test_cancelled_receive_keeps_the_connection(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    """The caller still owns the connection and can continue to use it."""
    more = trio.Event()
    async with connect(throw_away_ca, WaitFor(more), Send(GREETING), Stall(), tls=tls) as (sock, _):
        with trio.move_on_after(0.01) as limit:
            await receive(sock)
        assert limit.cancelled_caught
        more.set()
        assert await receive(sock) == GREETING


@clear_and_tls
async def test_graceful_close_leaves_no_open_descriptor(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with connect(throw_away_ca, Collect(), tls=tls) as (sock, server):
        await server.wait_for()
        before = descriptors()
        await close_gracefully(sock, LONG_S)
        await server.wait_ended()
        await wait_until(lambda: descriptors() <= before - 2)  # each side had one
