"""A relayed session over socket pairs, with a clock that only the test moves.

Nothing here waits for time. The kernel moves bytes over a socket pair within the system call. Therefore all
that can happen has happened when all tasks are blocked.
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
    """A relayed session.

    ``client`` and ``server`` are the ends outside the relay. ``end_reasons`` has the end reason once the
    session has ended.
    """

    client: socket.socket
    server: socket.socket
    tunnel: Tunnel
    clock: MockClock
    end_reasons: list[EndReason] = field(factory=list)

    async def run(self, relay: Relay, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        self.end_reasons.append(await relay.run(self.tunnel))

    async def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self.clock.jump(seconds)
        await wait_all_tasks_blocked()

    async def fill(self, sender: socket.socket) -> int:
        """Send until neither the kernel nor the relay takes more. Return the number of bytes."""
        total = 0
        while count := fill_send_buffer(sender):
            total += count
            await wait_all_tasks_blocked()
        return total

    async def drain(self, reader: socket.socket) -> int:
        """Read until nothing more comes. Return the number of bytes."""
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
    client_timeout: float = LONG_S,
    server_timeout: float = LONG_S,
    half_closed_timeout: float = LONG_S,
    tls: Name | None = None,
    contexts: Contexts | None = None,
) -> AsyncIterator[RelayedPair]:
    """Run a session over socket pairs. ``tls`` names the side whose connection is encrypted."""
    socks = [*socket.socketpair(), *socket.socketpair()]
    for sock in socks:
        sock.setblocking(False)
    if contexts is not None and tls is not None:
        ends = slice(0, 2) if tls == "client" else slice(2, 4)
        socks[ends] = await _over_tls(contexts, *socks[ends])
    client, client_side, server_side, server = socks
    tunnel = Tunnel(
        client_side,
        server_side,
        client_timeout=client_timeout,
        server_timeout=server_timeout,
        half_closed_timeout=half_closed_timeout,
    )
    session = RelayedPair(client, server, tunnel, clock)
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

    async def handshake() -> None:
        ends[0] = await connect_tls(first, contexts.back, "localhost")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake)
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
