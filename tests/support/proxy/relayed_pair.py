"""A relayed session over socket pairs, under a clock that only the test moves.

Nothing here waits for time: the kernel hands bytes over socket pairs on within the call, so when all tasks are blocked
everything that can happen has happened.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from attrs import define, field
from trio.testing import MockClock, wait_all_tasks_blocked

from mailproxy.log.end_reasons import EndReason
from mailproxy.net.relay import Relay, Tunnel
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from tests.support.proxy.relay_harness import Contexts, Name
from tests.support.proxy.relays import Kind, run_relay

LONG_S = 1000.0


@define
class RelayedPair:
    """A relayed session: ``client`` and ``server`` are the peers' own ends; ``ends`` has its end as soon as it has one."""

    client: socket.socket
    server: socket.socket
    tunnel: Tunnel
    clock: MockClock
    end_reasons: list[EndReason] = field(factory=list)

    async def run(self, relay: Relay, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        self.end_reasons.append(await relay.run(self.tunnel))

    async def advance(self, seconds: float) -> None:
        """So much later."""
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    async def fill(self, sender: socket.socket) -> int:
        """Send until nothing more fits, not even into what the relay holds; gives the number of bytes."""
        total = 0
        while count := fill_send_buffer(sender):
            total += count
            await wait_all_tasks_blocked()
        return total

    async def drain(self, reader: socket.socket) -> int:
        """Read until nothing more comes; gives the number of bytes."""
        total = 0
        while count := read_available(reader):
            total += count
            await wait_all_tasks_blocked()
        return total


@asynccontextmanager
async def relayed_pair(
    clock: MockClock,
    relay_kind: Kind,
    *,
    client_limit: float = LONG_S,
    server_limit: float = LONG_S,
    half_closed: float = LONG_S,
    tls: Name | None = None,
    contexts: Contexts | None = None,
) -> AsyncIterator[RelayedPair]:
    """``tls``: whose connection has it."""
    socks = [*socket.socketpair(), *socket.socketpair()]
    for sock in socks:
        sock.setblocking(False)
    if contexts is not None and tls is not None:
        at = slice(0, 2) if tls == "client" else slice(2, 4)
        socks[at] = await _over_tls(contexts, *socks[at])
    client, client_side, server_side, server = socks
    pair = Tunnel(
        client_side,
        server_side,
        client_timeout=client_limit,
        server_timeout=server_limit,
        half_closed_timeout=half_closed,
    )
    session = RelayedPair(client, server, pair, clock)
    try:
        async with run_relay(relay_kind) as relay, trio.open_nursery() as nursery:
            await nursery.start(session.run, relay)
            await wait_all_tasks_blocked()
            yield session
            nursery.cancel_scope.cancel()
    finally:
        for sock in socks:
            sock.close()


async def _over_tls(contexts: Contexts, first: socket.socket, second: socket.socket) -> list[socket.socket]:
    ends: list[socket.socket] = [first, second]

    async def shake_hands() -> None:
        ends[0] = await connect_tls(first, contexts.back, "localhost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands)
        ends[1] = await accept_tls(second, contexts.front)
    return ends


def fill_send_buffer(sock: socket.socket) -> int:
    count = 0
    try:
        while True:
            count += sock.send(b"x" * 65536)
    except BlockingIOError:
        return count


def read_available(sock: socket.socket) -> int:
    count = 0
    try:
        while data := sock.recv(1 << 20):
            count += len(data)
    except BlockingIOError:
        pass
    return count
