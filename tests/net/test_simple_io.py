"""A few bytes back and forth with a server, and an end in order: in clear and over TLS, also with who does not play along."""

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

each_way = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])


@pytest.fixture(autouse=True)
def time_limit(nursery: trio.Nursery) -> None:
    """Nothing here waits for ever."""
    nursery.start_soon(fail_after_timeout)


@frozen
class SendBelowTls:
    """Send bytes that are no record."""

    data: bytes

    async def play(self, connection: Connection) -> None:
        await connection.stream.send_all(self.data)


@asynccontextmanager
async def talk(
    ca: ThrowAwayCA,
    *playbook: Step,
    tls: bool = False,
    context: ssl.SSLContext | None = None,
    buffer: int | None = None,
) -> AsyncIterator[tuple[socket.socket, ScriptedServer]]:
    """A connection to a server with this playbook; ``buffer``: bytes that the kernel holds on either side."""
    async with trio.open_nursery() as nursery:
        accepting = context or ca.server_context("localhost") if tls else None
        server = ScriptedServer(playbook, tls=accepting, receive_buffer_bytes=buffer)
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


async def seen_by(server: ScriptedServer) -> tuple[bytes, str | None]:
    """What came to the server, and how that ended."""
    await server.wait_ended()
    return bytes(server.connections[0].received), server.connections[0].end


# Sending and receiving


@each_way
async def test_what_is_sent_arrives_and_so_does_the_answer(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Send(GREETING), Collect(12), Send(b"a1 OK\r\n"), Collect(), tls=tls) as (
        sock,
        server,
    ):
        assert await receive(sock) == GREETING
        await send_all(sock, b"a1 LOGOUT\r\n.")
        assert await receive(sock) == b"a1 OK\r\n"
        assert server.connections[0].received == b"a1 LOGOUT\r\n."


@each_way
@pytest.mark.parametrize("size", [0, 1, 16 * 1024, 500_001])
async def test_more_than_fits_arrives_whole(throw_away_ca: ThrowAwayCA, tls: bool, size: int) -> None:
    """The kernel takes a part of it each time, under TLS a part of a record."""
    async with talk(throw_away_ca, Collect(), tls=tls, buffer=4096) as (sock, server):
        await send_all(sock, pattern(size))
        await close_gracefully(sock, LONG_S)
        assert await seen_by(server) == (pattern(size), "close_notify" if tls else "eof")


@each_way
async def test_what_dribbles_in_is_received_to_its_end(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    data = pattern(300)
    async with talk(throw_away_ca, SendSlowly(data, size=7), Close(), tls=tls) as (sock, _):
        received = b""
        while piece := await receive(sock):
            received += piece
        assert received == data
        assert await receive(sock) == b"", "the end stays the end"


@each_way
@pytest.mark.parametrize("last", [Close(), Drop(), HalfClose()], ids=["close", "bare FIN", "half-close"])
async def test_a_server_that_closes(throw_away_ca: ThrowAwayCA, tls: bool, last: Step) -> None:
    async with talk(throw_away_ca, Send(GREETING), last, Stall(), tls=tls) as (sock, _):
        assert await receive(sock) == GREETING
        assert await receive(sock) == b""


@each_way
async def test_a_server_that_resets_while_it_is_listened_to(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Reset(), tls=tls) as (sock, _):
        with pytest.raises(ServerConnectionError, match=r"(?i)connection reset by peer"):
            await receive(sock)


@each_way
async def test_a_server_that_resets_while_it_is_spoken_to(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    go = trio.Event()
    async with talk(throw_away_ca, WaitFor(go), Reset(), tls=tls, buffer=4096) as (sock, _):
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:

            async def speak() -> None:
                with pytest.raises(ServerConnectionError, match=r"(?i)reset by peer|broken pipe"):
                    await send_all(sock, pattern(1_000_000))

            nursery.start_soon(speak)
            await trio.testing.wait_all_tasks_blocked()
            go.set()


async def test_a_server_that_breaks_tls(throw_away_ca: ThrowAwayCA) -> None:
    async with talk(throw_away_ca, SendBelowTls(b"-ERR this is no record\r\n"), Stall(), tls=True) as (
        sock,
        _,
    ):
        with pytest.raises(ServerConnectionError, match=r"wrong version number|record"):
            await receive(sock)


async def test_a_server_that_wants_a_certificate(throw_away_ca: ThrowAwayCA) -> None:
    """In TLS 1.3 that is told after the handshake has succeeded (RFC 8446 section 4.4.2.4)."""
    context = throw_away_ca.server_context("localhost")
    context.load_verify_locations(throw_away_ca.pem)
    context.verify_mode = ssl.CERT_REQUIRED
    async with talk(throw_away_ca, Stall(), tls=True, context=context) as (sock, _):
        with pytest.raises(ServerConnectionError, match="certificate required"):
            await receive(sock)


# An end in order


@each_way
async def test_both_ends_close(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Send(GREETING), Collect(), Close(), tls=tls) as (sock, server):
        await send_all(sock, b"QUIT\r\n")
        await close_gracefully(sock, LONG_S)
        assert sock.fileno() == -1
        assert await seen_by(server) == (b"QUIT\r\n", "close_notify" if tls else "eof")


@each_way
async def test_what_was_not_read_resets_nothing(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Flood(200_000), Collect(), tls=tls) as (sock, server):
        await close_gracefully(sock, LONG_S)
        assert await seen_by(server) == (b"", "close_notify" if tls else "eof")


@each_way
async def test_what_is_said_after_our_end_is_let_pass(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Collect(), SendSlowly(pattern(50)), Close(), tls=tls) as (sock, server):
        await close_gracefully(sock, LONG_S)
        await server.wait_ended()
        assert server.connections[0].end == ("close_notify" if tls else "eof")


@each_way
async def test_a_server_that_has_closed_before(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Send(GREETING), HalfClose(), Collect(), tls=tls) as (sock, server):
        assert await receive(sock) == GREETING
        assert await receive(sock) == b""
        await close_gracefully(sock, LONG_S)
        assert await seen_by(server) == (b"", "close_notify" if tls else "eof")


@each_way
async def test_a_server_that_has_gone_is_no_fault(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Reset(), tls=tls) as (sock, server):
        await server.wait_ended()
        await close_gracefully(sock, LONG_S)
        assert sock.fileno() == -1


@each_way
async def test_a_server_that_never_closes_is_waited_for_that_long(
    throw_away_ca: ThrowAwayCA, tls: bool
) -> None:
    closed = trio.Event()
    async with talk(throw_away_ca, Send(GREETING), WaitFor(closed), Collect(), tls=tls) as (sock, server):
        assert await receive(sock) == GREETING
        began = trio.current_time()
        await close_gracefully(sock, SHORT_S)
        assert SHORT_S <= trio.current_time() - began < LONG_S
        assert sock.fileno() == -1
        closed.set()
        assert await seen_by(server) == (b"", "close_notify" if tls else "eof")


@each_way
async def test_a_server_that_never_ends_to_speak_is_left(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Flood(), tls=tls) as (sock, server):
        await close_gracefully(sock, LONG_S)
        assert sock.fileno() == -1
        await server.wait_ended()


@each_way
async def test_a_server_that_does_not_read_is_left(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    """Nothing more fits, not even what says that nothing more will come."""
    async with talk(throw_away_ca, Stall(), tls=tls, buffer=4096) as (sock, _):
        with trio.move_on_after(SHORT_S) as limit:
            await send_all(sock, pattern(10_000_000))
        assert limit.cancelled_caught
        await close_gracefully(sock, SHORT_S)
        assert sock.fileno() == -1


@each_way
async def test_cancelled_it_is_closed_all_the_same(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    async with talk(throw_away_ca, Stall(), tls=tls) as (sock, _):
        with trio.move_on_after(SHORT_S) as limit:
            await close_gracefully(sock, LONG_S)
        assert limit.cancelled_caught
        assert sock.fileno() == -1


@each_way
async def test_cancelled_while_it_is_listened_to(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    """The connection stays the caller's, and can go on."""
    more = trio.Event()
    async with talk(throw_away_ca, WaitFor(more), Send(GREETING), Stall(), tls=tls) as (sock, _):
        with trio.move_on_after(0.01) as limit:
            await receive(sock)
        assert limit.cancelled_caught
        more.set()
        assert await receive(sock) == GREETING


@each_way
async def test_an_end_leaves_nothing_open(throw_away_ca: ThrowAwayCA, tls: bool) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with talk(throw_away_ca, Collect(), tls=tls) as (sock, server):
        await server.wait_for()
        before = descriptors()
        await close_gracefully(sock, LONG_S)
        await server.wait_ended()
        await wait_until(lambda: descriptors() <= before - 2)  # either end had one
