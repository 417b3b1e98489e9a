"""A close_notify that finds the socket full: it waits for room, and who makes none is the silent one."""

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
from tests.support.proxy.relays import ON_BOTH, Kind
from tests.support.proxy.task_steps import FEW_STEPS, count_steps

pytestmark = ON_BOTH

RECORD_HEAD = b"\x17\x03\x03\x00\x13"  # an alert in TLS 1.3: two bytes, its type behind it, a tag (RFC 8446 section 5.2)
RECORD_BYTES = len(RECORD_HEAD) + 19


@pytest.fixture(scope="module")
def contexts(throw_away_ca: ThrowAwayCA) -> Contexts:
    return Contexts.of(throw_away_ca)


def fill(sock: socket.socket) -> int:
    """Let a socket have no room, behind the relay's back; gives the number of bytes."""
    count = 0
    try:
        while True:
            count += socket.socket.send(sock, bytes(65536))
    except BlockingIOError:
        return count


async def read_raw(sock: socket.socket) -> tuple[bytes, bool]:
    """All that is there or comes of it, as it went over the wire, and whether it has ended."""
    data = b""
    try:
        while piece := socket.socket.recv(sock, 1 << 20):
            data += piece
            await wait_all_tasks_blocked()
    except BlockingIOError:
        return data, False
    return data, True


def half_close(sock: socket.socket) -> None:
    """In order: with no close_notify from there, OpenSSL has none for there."""
    assert isinstance(sock, ssl.SSLSocket)
    send_close_notify(sock)
    socket.socket.shutdown(sock, socket.SHUT_WR)


async def end_without_room(session: RelayedPair) -> int:
    """The server ends its side while the client's connection is full; gives the bytes that are in it."""
    filled = fill(session.tunnel.client.sock)
    session.server.shutdown(socket.SHUT_WR)
    await wait_all_tasks_blocked()
    down = session.tunnel.to_client
    assert (down.eof, down.is_blocked, down.is_finished, len(down.pending_close_notify)) == (
        True,
        True,
        False,
        RECORD_BYTES,
    )
    return filled


async def test_it_leaves_when_there_is_room(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """Once, whole, and with the FIN behind it; the other direction goes on, before and after."""
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        filled = await end_without_room(session)
        session.client.send(b"a1 NOOP\r\n")
        await wait_all_tasks_blocked()
        assert session.server.recv(100) == b"a1 NOOP\r\n"
        data, has_ended = await read_raw(session.client)
        assert has_ended
        assert (data[filled:][: len(RECORD_HEAD)], len(data)) == (RECORD_HEAD, filled + RECORD_BYTES)
        assert session.tunnel.to_client.is_finished
        session.client.send(b"a2 NOOP\r\n")
        await wait_all_tasks_blocked()
        assert session.server.recv(100) == b"a2 NOOP\r\n"
        assert session.end_reasons == []
        half_close(session.client)
        await wait_all_tasks_blocked()
        assert session.end_reasons == [SERVER_CLOSED]


async def test_when_both_have_ended_it_is_still_waited_for(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        half_close(session.client)
        await wait_all_tasks_blocked()
        filled = await end_without_room(session)
        assert session.end_reasons == []
        data, _ = await read_raw(session.client)
        assert len(data) == filled + RECORD_BYTES
        assert session.end_reasons == [CLIENT_CLOSED]


async def test_the_other_side_may_end_while_it_is_waited_for(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """And is told so at once."""
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        await end_without_room(session)
        half_close(session.client)
        await wait_all_tasks_blocked()
        assert session.server.recv(1) == b""
        assert session.end_reasons == []
        await read_raw(session.client)
        assert session.end_reasons == [SERVER_CLOSED]


async def test_what_has_left_in_part_leaves_whole(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rest is bytes of the wire by then: through OpenSSL they would be a record of their own."""

    def in_part(tls: ssl.SSLSocket) -> bytes:
        ours, theirs = socket.socketpair()
        real = os.dup(tls.fileno())
        with ours, theirs:
            os.dup2(theirs.fileno(), tls.fileno())
            try:
                assert send_close_notify(tls) == b""
            finally:
                os.dup2(real, tls.fileno(), inheritable=False)
                os.close(real)
            record = ours.recv(100)
        return send_record(tls, record[:7]) + record[7:]

    monkeypatch.setattr("mailproxy.net.relay.transfer.send_close_notify", in_part)
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        session.server.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.client.recv(100) == b"", "close_notify, or this raises"


async def test_a_client_that_makes_no_room_is_silent(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """From when the server has ended; however long both had been silent before."""
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="client", contexts=contexts
    ) as session:
        await session.advance(100)
        await end_without_room(session)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


async def test_a_client_that_has_ended_and_makes_no_room_is_silent(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="client", contexts=contexts
    ) as session:
        half_close(session.client)
        await wait_all_tasks_blocked()
        await end_without_room(session)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


async def test_a_server_that_makes_no_room_is_silent(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    """The mirror."""
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="server", contexts=contexts
    ) as session:
        fill(session.tunnel.server.sock)
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.tunnel.to_server.is_blocked
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


async def test_the_clients_limit_counts_anew_once_it_has_left(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(
        mock_clock, relay_kind, half_closed_timeout=5, tls="client", contexts=contexts
    ) as session:
        await end_without_room(session)
        await session.advance(4)
        await read_raw(session.client)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_client_that_goes_meanwhile(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts, has_ended: bool
) -> None:
    """Who has said its last word may leave before the answer, and nothing but close_notify is lost."""
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        if has_ended:
            half_close(session.client)
            await wait_all_tasks_blocked()
        await end_without_room(session)
        session.client.close()  # over what it has not read, which makes a reset of it
        await wait_all_tasks_blocked()
        assert session.end_reasons == [CLIENT_CLOSED if has_ended else CLIENT_ABORTED]
        assert not session.tunnel.to_client.pending_close_notify


async def test_nothing_is_done_until_there_is_room(
    mock_clock: MockClock, relay_kind: Kind, contexts: Contexts
) -> None:
    async with relayed_pair(mock_clock, relay_kind, tls="client", contexts=contexts) as session:
        await end_without_room(session)
        mock_clock.rate = 1
        assert await count_steps() < FEW_STEPS
        assert session.end_reasons == []
