"""Data sent just before a close or reset is delivered, although sending to that side fails.

A socket that is closed with unread bytes sends a reset after its last data. Here both are in the kernel
before the relay runs, so that no test depends on which is faster.
"""

from __future__ import annotations

import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from attrs import define
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.log.end_reasons import CLIENT_ABORTED, CLIENT_CLOSED, SERVER_ABORTED, EndReason
from mailproxy.net.relay import Tunnel
from mailproxy.net.relay.tunnel import FINAL_DATA_TIMEOUT_S
from mailproxy.net.tls.close import send_close_notify
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.testing import Drop, Expect, Send, ThrowAwayCA, pattern
from tests.support.proxy.proxy_harness import ProxyHarness
from tests.support.proxy.relay_harness import TRANSPORTS, Contexts, Transport
from tests.support.proxy.relayed_pair import fill_send_buffer, relayed_pair
from tests.support.proxy.relays import ON_EACH, Kind, run_relay
from tests.support.timeouts import wait_until

pytestmark = ON_EACH

REPETITIONS = 5
RESET = "Connection reset by peer"
ANSWER = b"552 5.3.4 message too big\r\n"
COMMAND = b"QUIT\r\n"
BUFFER_BYTES = 400_000  # size of the kernel's buffers, for the data that is there before the relay runs


@pytest.fixture(scope="module")
def contexts(throw_away_ca: ThrowAwayCA) -> Contexts:
    return Contexts.of(throw_away_ca)


@define
class Ends:
    """The four sockets of a TCP session.

    ``client`` and ``server`` are the peers' ends, ``client_side`` and ``server_side`` the relay's.
    """

    client: socket.socket
    client_side: socket.socket
    server_side: socket.socket
    server: socket.socket
    detail: str = ""

    async def relay(self, kind: Kind) -> EndReason:
        """Relay until the session ends, then close the sockets as a session does."""
        tunnel = Tunnel(
            self.client_side,
            self.server_side,
            client_timeout=1000,
            server_timeout=1000,
            half_closed_timeout=1000,
        )
        async with run_relay(kind) as relay:
            with trio.fail_after(10):
                end = await relay.run(tunnel)
        self.client_side.close()
        self.server_side.close()
        self.detail = tunnel.detail
        return end


@asynccontextmanager
async def session(
    contexts: Contexts, client: Transport = "clear", server: Transport = "clear"
) -> AsyncIterator[Ends]:
    client_peer, client_side = tcp_pair()
    server_side, server_peer = tcp_pair()
    if client != "clear":
        client_peer, client_side = await over_tls(
            client_peer, client_side, contexts.client[client], contexts.front
        )
    if server != "clear":
        server_side, server_peer = await over_tls(
            server_side, server_peer, contexts.back, contexts.server[server]
        )
    ends = Ends(client_peer, client_side, server_side, server_peer)
    try:
        yield ends
    finally:
        for sock in (client_peer, client_side, server_side, server_peer):
            sock.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return a TCP connection: the connecting end and the accepted one."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        connected = socket.socket()
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        connected.connect(listener.getsockname())
        accepted, _ = listener.accept()
    for sock in (connected, accepted):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        sock.setblocking(False)
    return connected, accepted


async def over_tls(
    first: socket.socket, second: socket.socket, connecting: ssl.SSLContext, accepting: ssl.SSLContext
) -> tuple[socket.socket, socket.socket]:
    accepting.num_tickets = 0
    ends = [first, second]

    async def connect() -> None:
        ends[0] = await connect_tls(first, connecting, "localhost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(connect)
        ends[1] = await accept_tls(second, accepting)
    return ends[0], ends[1]


async def close_with_unread_data(sock: socket.socket, final_data: bytes) -> None:
    """Send, wait until the data has arrived, then close with unread bytes, which sends a reset."""
    sent = 0
    while sent < len(final_data):
        sent += sock.send(final_data[sent : sent + 16384])
    await wait_until(lambda: not struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])
    sock.close()


async def receive_all(sock: socket.socket) -> bytes:
    """Return all that a peer receives until its connection ends."""
    data = b""
    while True:
        try:
            piece = sock.recv(1 << 20)
        except (BlockingIOError, ssl.SSLWantReadError):
            with trio.fail_after(10):
                await trio.lowlevel.wait_readable(sock)
            continue
        except OSError:
            return data
        if not piece:
            return data
        data += piece


@pytest.mark.parametrize("server", TRANSPORTS)
@pytest.mark.parametrize("client", TRANSPORTS)
@pytest.mark.parametrize("size", [len(ANSWER), 100_000])
async def test_answer_of_closing_server_is_delivered(
    relay_kind: Kind, contexts: Contexts, client: Transport, server: Transport, size: int
) -> None:
    """The client is still sending when the server answers and closes without having read everything."""
    answer = pattern(size)
    for _ in range(REPETITIONS):
        async with session(contexts, client, server) as ends:
            ends.server_side.send(b"MAIL FROM:<a@example.com>\r\n")
            await trio.lowlevel.wait_readable(ends.server)
            await close_with_unread_data(ends.server, answer)
            ends.client.send(b"DATA\r\n")
            assert await ends.relay(relay_kind) is SERVER_ABORTED
            assert ends.detail == RESET
            assert await receive_all(ends.client) == answer


@pytest.mark.parametrize("server", TRANSPORTS)
@pytest.mark.parametrize("client", TRANSPORTS)
@pytest.mark.parametrize("size", [len(COMMAND), 100_000])
async def test_last_command_of_closing_client_is_delivered(
    relay_kind: Kind, contexts: Contexts, client: Transport, server: Transport, size: int
) -> None:
    """The server is still sending when the client sends a command and closes with unread data."""
    command = pattern(size)
    for _ in range(REPETITIONS):
        async with session(contexts, client, server) as ends:
            ends.client_side.send(b"+OK ready\r\n")
            await trio.lowlevel.wait_readable(ends.client)
            await close_with_unread_data(ends.client, command)
            ends.server.send(b"+OK 2 messages\r\n")
            assert await ends.relay(relay_kind) is CLIENT_ABORTED
            assert ends.detail == RESET
            assert await receive_all(ends.server) == command


async def test_answer_during_bulk_is_delivered(relay_kind: Kind, contexts: Contexts) -> None:
    """The bytes towards the server go through a pipe."""
    for _ in range(REPETITIONS):
        async with session(contexts) as ends:
            ends.server_side.send(b"x")
            await trio.lowlevel.wait_readable(ends.server)
            sent = fill_send_buffer(ends.client)
            assert sent > 2 * 65536
            await close_with_unread_data(ends.server, ANSWER)
            assert await ends.relay(relay_kind) is SERVER_ABORTED
            assert await receive_all(ends.client) == ANSWER


async def test_answer_after_client_half_close_is_delivered(relay_kind: Kind, contexts: Contexts) -> None:
    """The client half-closes. Passing that on over TLS finds that the server has gone."""
    for _ in range(REPETITIONS):
        async with session(contexts, server="TLS 1.3") as ends:
            ends.server_side.send(b"x")
            await trio.lowlevel.wait_readable(ends.server)
            await close_with_unread_data(ends.server, ANSWER)
            ends.client.shutdown(socket.SHUT_WR)
            assert await ends.relay(relay_kind) is SERVER_ABORTED
            assert await receive_all(ends.client) == ANSWER


@pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
async def test_answer_to_rejected_upload_is_delivered(harness: ProxyHarness, tls: bool) -> None:
    """As a mail client sees it: of 5 MB the server reads a little, answers and closes."""
    server = await harness.server((Expect(b"DATA\r\n"), Send(ANSWER), Drop()))
    proxy = await harness.proxy(server.address, tls=tls)
    host, port = proxy.frontends["f"].addresses[0].split(":")
    context = harness.ca.client_context() if tls else None
    for _ in range(REPETITIONS):
        assert await trio.to_thread.run_sync(upload, host, int(port), context) == ANSWER
    lines = await harness.sessions(REPETITIONS)
    assert {(line["end"], line["detail"]) for line in lines} == {("server-aborted", RESET)}


def upload(host: str, port: int, context: ssl.SSLContext | None) -> bytes:
    """Send until that fails, then return what the server has sent."""
    with socket.create_connection((host, port), timeout=10) as connected:
        sock = context.wrap_socket(connected, server_hostname="localhost") if context else connected
        with sock:
            with suppress(OSError):
                sock.sendall(b"DATA\r\n" + bytes(5_000_000))
            answer = bytearray()
            with suppress(OSError):
                while piece := sock.recv(65536):
                    answer += piece
            return bytes(answer)


async def test_final_data_reaches_slow_reader(relay_kind: Kind, contexts: Contexts) -> None:
    """The data is more than the client's connection holds. The client gets all of it as long as it reads."""
    async with session(contexts) as ends:
        answer = pattern(100_000)
        ends.client_side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        ends.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        ends.server_side.send(b"x")
        await trio.lowlevel.wait_readable(ends.server)
        await close_with_unread_data(ends.server, answer)
        ends.client.send(b"DATA\r\n")
        received = bytearray()

        async def read_slowly() -> None:
            while True:
                await trio.lowlevel.wait_readable(ends.client)
                try:
                    piece = ends.client.recv(8192)
                except ConnectionError:
                    return
                if not piece:
                    return
                received.extend(piece)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly)
            assert await ends.relay(relay_kind) is SERVER_ABORTED
        assert received == answer


@pytest.mark.parametrize("transport", ["TLS 1.2", "TLS 1.3"])
async def test_reset_after_close_notify_is_an_abort(
    relay_kind: Kind, contexts: Contexts, transport: Transport
) -> None:
    """OpenSSL reports the failed write as an orderly end, which it is not."""
    async with session(contexts, transport) as ends:
        assert isinstance(ends.client, ssl.SSLSocket)
        ends.client_side.send(b"+OK ready\r\n")
        await trio.lowlevel.wait_readable(ends.client)
        send_close_notify(ends.client)
        ends.client.close()
        ends.server.send(b"+OK 2 messages\r\n")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_more_later, ends.server)
            end = await ends.relay(relay_kind)
            nursery.cancel_scope.cancel()
        assert (end, ends.detail) == (CLIENT_ABORTED, RESET)


async def send_more_later(sock: socket.socket) -> None:
    await wait_all_tasks_blocked()
    sock.send(b"+OK\r\n")


# With a clock that only the test moves


async def test_final_data_times_out_without_reader(mock_clock: MockClock, relay_kind: Kind) -> None:
    """The session ends after ``FINAL_DATA_TIMEOUT_S``, with the reason of the first close."""
    async with relayed_pair(mock_clock, relay_kind) as session:
        filled = await session.fill(session.server)
        assert filled
        session.server.close()
        await wait_all_tasks_blocked()
        session.client.send(COMMAND)
        await session.advance(1.1)
        await session.advance(FINAL_DATA_TIMEOUT_S - 0.5)
        assert session.end_reasons == []
        await session.advance(0.6)
        assert session.end_reasons == [SERVER_ABORTED]


async def test_client_reset_ends_session_with_stalled_server(mock_clock: MockClock, relay_kind: Kind) -> None:
    """After the client has reset, the session does not last until the server's timeout."""
    async with relayed_pair(mock_clock, relay_kind) as session:
        session.server.send(b"* OK ready\r\n")
        await wait_all_tasks_blocked()
        await session.fill(session.client)
        session.client.close()  # with the greeting unread, which sends a reset
        await session.advance(1.1)
        await session.advance(FINAL_DATA_TIMEOUT_S - 0.5)
        assert session.end_reasons == []
        await session.advance(0.6)
        assert session.end_reasons == [CLIENT_ABORTED]
        assert session.tunnel.detail == RESET


async def test_data_before_client_reset_reaches_slow_server(mock_clock: MockClock, relay_kind: Kind) -> None:
    """All that the client had sent arrives."""
    async with relayed_pair(mock_clock, relay_kind) as session:
        session.server.send(b"* OK ready\r\n")
        await wait_all_tasks_blocked()
        filled = await session.fill(session.client)
        session.client.close()
        await session.advance(1.1)
        await session.advance(FINAL_DATA_TIMEOUT_S - 0.5)
        assert await session.drain(session.server) == filled
        await wait_all_tasks_blocked()
        assert session.end_reasons == [CLIENT_ABORTED]


async def test_reset_after_half_close_ends_session(mock_clock: MockClock, relay_kind: Kind) -> None:
    """Nothing more can be sent to that client, so the silent server does not keep the session."""
    async with relayed_pair(mock_clock, relay_kind) as session:
        session.server.send(b"* OK ready\r\n")
        await wait_all_tasks_blocked()
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        session.client.close()
        await session.advance(1.1)
        await session.advance(FINAL_DATA_TIMEOUT_S - 0.5)
        assert session.end_reasons == []
        await session.advance(0.6)
        assert session.end_reasons == [CLIENT_ABORTED]


async def test_reset_after_half_close_keeps_orderly_end(mock_clock: MockClock, relay_kind: Kind) -> None:
    """A client may close before the answer to its last command: both sides ended in order."""
    async with relayed_pair(mock_clock, relay_kind) as session:
        session.server.send(b"* OK ready\r\n")
        await wait_all_tasks_blocked()
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        session.client.close()
        await session.advance(1.1)
        session.server.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.end_reasons == [CLIENT_CLOSED]
        assert session.tunnel.detail == ""


async def test_urgent_data_does_not_stop_bulk(relay_kind: Kind, contexts: Contexts) -> None:
    """splice(2) stops at urgent data as if nothing more had come. The data after it is still delivered."""
    async with session(contexts) as ends:
        tunnel = Tunnel(
            ends.client_side,
            ends.server_side,
            client_timeout=1000,
            server_timeout=1000,
            half_closed_timeout=1000,
        )
        before, after = pattern(140_000), pattern(1000)
        received = bytearray()
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            ends.client.send(before)
            ends.client.send(b"!", socket.MSG_OOB)
            ends.client.send(after)
            nursery.start_soon(relay.run, tunnel)
            with trio.fail_after(10):
                while len(received) < len(before) + len(after):
                    await trio.lowlevel.wait_readable(ends.server)
                    received += ends.server.recv(1 << 20)
            nursery.cancel_scope.cancel()
        assert received == before + after
