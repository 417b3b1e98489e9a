"""Who is silent for too long while bytes are held back: under a clock that only the test moves, over socket pairs."""

from __future__ import annotations

import math
import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.log.end_reasons import CLIENT_TIMEOUT, SERVER_CLOSED, SERVER_TIMEOUT
from mailproxy.net.relay import Tunnel
from tests.support.proxy.relayed_pair import read_available, relayed_pair
from tests.support.proxy.relays import ON_BOTH, Kind


@ON_BOTH
async def test_a_server_that_is_held_back_is_not_silent(mock_clock: MockClock, relay_kind: Kind) -> None:
    """Its limit counts again, and from then on exactly, once the client has taken the last byte."""
    async with relayed_pair(mock_clock, relay_kind, server_limit=5) as session:
        sent = await session.fill(session.server)
        assert session.tunnel.to_client.is_blocked
        await session.advance(60)
        assert session.end_reasons == [], "who is not read from cannot speak"
        assert await session.drain(session.client) == sent
        await session.advance(4.9)
        assert session.end_reasons == [], "the limit counts from here"
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


@ON_BOTH
async def test_a_server_that_had_said_all_is_not_silent_as_long_as_its_words_are_held_back(
    mock_clock: MockClock, relay_kind: Kind
) -> None:
    """All of it lies in the relay, which reads nothing meanwhile: the limit counts from when that was flushed."""
    async with relayed_pair(mock_clock, relay_kind, server_limit=5) as session:
        while not session.tunnel.to_client.is_blocked:
            session.server.send(b"x" * 65536)
            await wait_all_tasks_blocked()
        await session.advance(60)
        assert session.end_reasons == []
        await session.drain(session.client)
        assert not session.tunnel.to_client.is_blocked
        assert session.end_reasons == [], "the last byte has only just left"
        await session.advance(4.9)
        assert session.end_reasons == [], "the limit counts from here"
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


@ON_BOTH
async def test_a_client_that_is_held_back_is_not_silent(mock_clock: MockClock, relay_kind: Kind) -> None:
    """The mirror: a long message that the server takes slowly."""
    async with relayed_pair(mock_clock, relay_kind, client_limit=5) as session:
        while not session.tunnel.to_server.is_blocked:
            session.client.send(b"x" * 65536)
            await wait_all_tasks_blocked()
        await session.advance(60)
        assert session.end_reasons == []
        await session.drain(session.server)
        assert session.end_reasons == [], "the last byte has only just left"
        await session.advance(4.9)
        assert session.end_reasons == [], "the limit counts from here"
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@ON_BOTH
async def test_who_does_not_read_is_silent(mock_clock: MockClock, relay_kind: Kind) -> None:
    async with relayed_pair(mock_clock, relay_kind, client_limit=5, server_limit=3) as session:
        await session.fill(session.server)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@ON_BOTH
async def test_a_slow_reader_that_has_half_closed(mock_clock: MockClock, relay_kind: Kind) -> None:
    """It is not cut while it reads; when it stops, it is the client that is silent, not the server held back."""
    async with relayed_pair(mock_clock, relay_kind, half_closed=5) as session:
        await session.fill(session.server)
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.tunnel.to_server.eof
        for _ in range(20):
            await session.advance(4)
            assert read_available(session.client)
            await (
                wait_all_tasks_blocked()
            )  # what was held back moves on now, and not at the next jump of the clock
            await session.fill(session.server)
            assert session.tunnel.to_client.is_blocked
            assert session.end_reasons == [], "it reads on"
        await session.advance(5.1)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@ON_BOTH
async def test_a_slow_reader_of_a_server_that_has_closed(mock_clock: MockClock, relay_kind: Kind) -> None:
    """The server has said everything and left; who reads its words slowly gets them all."""
    async with relayed_pair(mock_clock, relay_kind, half_closed=5) as session:
        sent = await session.fill(session.server)
        session.server.shutdown(socket.SHUT_WR)
        read = 0
        while not session.tunnel.to_client.eof:
            await session.advance(4)
            read += read_available(session.client)
            await wait_all_tasks_blocked()
            assert session.end_reasons == []
        assert read + read_available(session.client) == sent
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.end_reasons == [SERVER_CLOSED]


@ON_BOTH
async def test_after_a_half_close_the_server_that_says_nothing_is_the_silent_one(
    mock_clock: MockClock, relay_kind: Kind
) -> None:
    async with relayed_pair(mock_clock, relay_kind, half_closed=5) as session:
        await session.advance(100)
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


# What each direction is doing, client to server and back, and whose silence counts then by which limit. A direction
# that has ended holds nothing back but a close_notify: its end is passed on behind its last byte.
CLIENT_S, SERVER_S, HALF_S = 10.0, 20.0, 3.0
DUE: dict[tuple[str, str], tuple[float, float]] = {
    ("open", "open"): (CLIENT_S, SERVER_S),
    ("open", "pending"): (CLIENT_S, math.inf),  # the client does not read, so the server is not read from
    ("pending", "open"): (math.inf, SERVER_S),
    ("pending", "pending"): (CLIENT_S, SERVER_S),
    ("open", "ended"): (HALF_S, math.inf),
    ("ended", "open"): (math.inf, HALF_S),
    ("ended", "pending"): (HALF_S, math.inf),  # the client has closed and must still read
    ("pending", "ended"): (math.inf, HALF_S),
    ("ended", "ended"): (math.inf, math.inf),
    ("open", "farewell"): (HALF_S, math.inf),  # the client has no room for close_notify
    ("pending", "farewell"): (HALF_S, HALF_S),
    ("ended", "farewell"): (HALF_S, math.inf),
    ("farewell", "open"): (math.inf, HALF_S),
    ("farewell", "pending"): (HALF_S, HALF_S),
    ("farewell", "ended"): (math.inf, HALF_S),
    ("farewell", "farewell"): (HALF_S, HALF_S),
}


@pytest.mark.parametrize(("up", "down"), DUE)
async def test_due(mock_clock: MockClock, up: str, down: str) -> None:
    await trio.lowlevel.checkpoint()  # it waits for nothing, but a pair notes the loop's time
    client, server = socket.socketpair()
    with client, server:
        pair = Tunnel(
            client, server, client_timeout=CLIENT_S, server_timeout=SERVER_S, half_closed_timeout=HALF_S
        )
        pair.client.last_activity, pair.server.last_activity = 1000.0, 2000.0
        for direction, state in ((pair.to_server, up), (pair.to_client, down)):
            direction.eof = state in ("ended", "farewell")
            direction.is_blocked = state in ("pending", "farewell")
        client_s, server_s = DUE[up, down]
        assert pair.deadlines() == (1000 + client_s, 2000 + server_s)
