"""Idle timeouts while data is blocked, over socket pairs and with a clock that only the test moves."""

from __future__ import annotations

import math
import socket

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.log.end_reasons import CLIENT_TIMEOUT, SERVER_CLOSED, SERVER_TIMEOUT
from mailproxy.net.relay import Tunnel
from tests.support.proxy.relayed_pair import read_available, relayed_pair
from tests.support.proxy.relays import ON_EACH, Kind


@ON_EACH
async def test_blocked_server_is_not_idle(mock_clock: MockClock, relay_kind: Kind) -> None:
    """Its timeout starts when the client has taken the last byte."""
    async with relayed_pair(mock_clock, relay_kind, server_timeout=5) as session:
        sent = await session.fill(session.server)
        assert session.tunnel.to_client.is_blocked
        await session.advance(60)
        assert session.end_reasons == [], "a server that is not read from is not idle"
        assert await session.drain(session.client) == sent
        await session.advance(4.9)
        assert session.end_reasons == [], "the timeout counts from here"
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


@ON_EACH
async def test_server_with_data_in_relay_is_not_idle(mock_clock: MockClock, relay_kind: Kind) -> None:
    """All of its data is in the relay, which reads nothing meanwhile. The timeout counts from the flush."""
    async with relayed_pair(mock_clock, relay_kind, server_timeout=5) as session:
        while not session.tunnel.to_client.is_blocked:
            session.server.send(b"x" * 65536)
            await wait_all_tasks_blocked()
        await session.advance(60)
        assert session.end_reasons == []
        await session.drain(session.client)
        assert not session.tunnel.to_client.is_blocked
        assert session.end_reasons == [], "the last byte has only just left"
        await session.advance(4.9)
        assert session.end_reasons == [], "the timeout counts from here"
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


@ON_EACH
async def test_blocked_client_is_not_idle(mock_clock: MockClock, relay_kind: Kind) -> None:
    """The opposite direction: a long message that the server takes slowly."""
    async with relayed_pair(mock_clock, relay_kind, client_timeout=5) as session:
        while not session.tunnel.to_server.is_blocked:
            session.client.send(b"x" * 65536)
            await wait_all_tasks_blocked()
        await session.advance(60)
        assert session.end_reasons == []
        await session.drain(session.server)
        assert session.end_reasons == [], "the last byte has only just left"
        await session.advance(4.9)
        assert session.end_reasons == [], "the timeout counts from here"
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@ON_EACH
async def test_client_without_reading_is_idle(mock_clock: MockClock, relay_kind: Kind) -> None:
    async with relayed_pair(mock_clock, relay_kind, client_timeout=5, server_timeout=3) as session:
        await session.fill(session.server)
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@ON_EACH
async def test_half_closed_slow_reader_times_out_when_stopped(
    mock_clock: MockClock, relay_kind: Kind
) -> None:
    """The session lasts while the client reads. When it stops, the client is idle, not the blocked server."""
    async with relayed_pair(mock_clock, relay_kind, half_closed_timeout=5) as session:
        await session.fill(session.server)
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        assert session.tunnel.to_server.eof
        for _ in range(20):
            await session.advance(4)
            assert read_available(session.client)
            await wait_all_tasks_blocked()  # Blocked data moves on now, and not when the clock next jumps.
            await session.fill(session.server)
            assert session.tunnel.to_client.is_blocked
            assert session.end_reasons == [], "the client still reads"
        await session.advance(5.1)
        assert session.end_reasons == [CLIENT_TIMEOUT]


@ON_EACH
async def test_slow_reader_gets_all_data_of_closed_server(mock_clock: MockClock, relay_kind: Kind) -> None:
    """The server has sent everything and closed."""
    async with relayed_pair(mock_clock, relay_kind, half_closed_timeout=5) as session:
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


@ON_EACH
async def test_silent_server_after_half_close_is_idle(mock_clock: MockClock, relay_kind: Kind) -> None:
    async with relayed_pair(mock_clock, relay_kind, half_closed_timeout=5) as session:
        await session.advance(100)
        session.client.shutdown(socket.SHUT_WR)
        await wait_all_tasks_blocked()
        await session.advance(4.9)
        assert session.end_reasons == []
        await session.advance(0.2)
        assert session.end_reasons == [SERVER_TIMEOUT]


# Each key has the states of both directions, client to server and back. Each value has the idle timeouts of
# client and server that result. An ended direction blocks nothing but a close_notify, because its end is
# passed on after its last byte.
CLIENT_S, SERVER_S, HALF_S = 10.0, 20.0, 3.0
IDLE_TIMEOUTS: dict[tuple[str, str], tuple[float, float]] = {
    ("open", "open"): (CLIENT_S, SERVER_S),
    ("open", "pending"): (CLIENT_S, math.inf),  # the client does not read, so the server is not read from
    ("pending", "open"): (math.inf, SERVER_S),
    ("pending", "pending"): (CLIENT_S, SERVER_S),
    ("open", "ended"): (HALF_S, math.inf),
    ("ended", "open"): (math.inf, HALF_S),
    ("ended", "pending"): (HALF_S, math.inf),  # the client has closed and must still read
    ("pending", "ended"): (math.inf, HALF_S),
    ("ended", "ended"): (math.inf, math.inf),
    ("open", "close_notify"): (HALF_S, math.inf),  # the client has no room for close_notify
    ("pending", "close_notify"): (HALF_S, HALF_S),
    ("ended", "close_notify"): (HALF_S, math.inf),
    ("close_notify", "open"): (math.inf, HALF_S),
    ("close_notify", "pending"): (HALF_S, HALF_S),
    ("close_notify", "ended"): (math.inf, HALF_S),
    ("close_notify", "close_notify"): (HALF_S, HALF_S),
}


@pytest.mark.parametrize(("up", "down"), IDLE_TIMEOUTS)
async def test_deadlines_depend_on_both_directions(mock_clock: MockClock, up: str, down: str) -> None:
    await trio.lowlevel.checkpoint()  # nothing waits here, but a tunnel reads the loop's clock
    client, server = socket.socketpair()
    with client, server:
        tunnel = Tunnel(
            client, server, client_timeout=CLIENT_S, server_timeout=SERVER_S, half_closed_timeout=HALF_S
        )
        tunnel.client.last_activity, tunnel.server.last_activity = 1000.0, 2000.0
        for direction, state in ((tunnel.to_server, up), (tunnel.to_client, down)):
            direction.eof = state in ("ended", "close_notify")
            direction.is_blocked = state in ("pending", "close_notify")
        client_s, server_s = IDLE_TIMEOUTS[up, down]
        assert tunnel.deadlines() == (1000 + client_s, 2000 + server_s)
