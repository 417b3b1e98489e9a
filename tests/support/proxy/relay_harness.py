"""A stage: two peers on real sockets, a relay between them, and what it must have done once the play is over.

A play is a list of acts. What peers say waits for nobody: each has a task that says it and one that hears. The audience
(``Stage.review``) knows nothing of time. It knows what each peer has said and done, whether it had seen the other's end
when it made its own, and hence what the other must have heard and which end reasons fit.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal, Protocol, Self

import trio
import trio.testing
from attrs import define, field, frozen

from mailproxy.log.end_reasons import CLIENT_ABORTED, CLIENT_CLOSED, SERVER_ABORTED, SERVER_CLOSED, EndReason
from mailproxy.net.relay import Relay, Tunnel
from mailproxy.net.tls.handshake import accept_tls, connect_tls
from mailproxy.testing import Connection, ThrowAwayCA, pattern
from tests.support.proxy.relays import Kind, run_relay

Name = Literal["client", "server"]
Transport = Literal["clear", "TLS 1.2", "TLS 1.3"]
NAMES: tuple[Name, Name] = ("client", "server")
TRANSPORTS: tuple[Transport, ...] = ("clear", "TLS 1.2", "TLS 1.3")

_PATIENCE_S = 10.0  # a play that does not end takes it again and again until it is the shortest that does not
_PIECE_BYTES = 65536
_CLOSED = {"client": CLIENT_CLOSED, "server": SERVER_CLOSED}
_ABORTED = {"client": CLIENT_ABORTED, "server": SERVER_ABORTED}
_VERSIONS = {"TLS 1.2": ssl.TLSVersion.TLSv1_2, "TLS 1.3": ssl.TLSVersion.TLSv1_3}


@frozen
class Contexts:
    """TLS of all four ends; a play takes no certificates of its own."""

    client: dict[Transport, ssl.SSLContext]
    front: ssl.SSLContext
    back: ssl.SSLContext
    server: dict[Transport, ssl.SSLContext]

    @classmethod
    def of(cls, ca: ThrowAwayCA) -> Self:
        front = ca.server_context("localhost")
        front.num_tickets = 0  # a client that has not read them resets when it closes
        return cls(
            _by_version(ca.client_context),
            front,
            ca.client_context(),
            _by_version(lambda: ca.server_context("localhost")),
        )


def _by_version(make: Callable[[], ssl.SSLContext]) -> dict[Transport, ssl.SSLContext]:
    contexts: dict[Transport, ssl.SSLContext] = {}
    for channel in TRANSPORTS[1:]:
        contexts[channel] = context = make()
        context.minimum_version = context.maximum_version = _VERSIONS[channel]
    return contexts


@define(eq=False)
class Peer:
    """One end of the session, outside the relay. ``said`` counts what it was told to say, before its end."""

    name: Name
    connection: Connection
    changed: trio.lowlevel.ParkingLot
    sent: int = 0
    receive_limit: float = math.inf  # nothing more is read once so many bytes have come
    has_closed: bool = False
    had_seen_other_close: bool = False  # of the other's end, when it made its own
    is_closed: bool = False  # closed or reset: hears nothing any more
    is_reset: bool = False
    is_broken: bool = False
    _tasks: list[Callable[[], Awaitable[None]]] = field(factory=list)
    _is_closing: bool = False  # no act of speech counts any more

    @property
    def received(self) -> bytearray:
        return self.connection.received

    @property
    def has_sent_all(self) -> bool:
        """Has it said everything, as far as it could?"""
        return not self._tasks or self.is_closed or self.is_broken

    @property
    def has_received_eof(self) -> bool:
        return self.is_closed or self.connection.end is not None

    async def receive_loop(self) -> None:
        with suppress(trio.ClosedResourceError):
            while self.connection.end is None:
                if len(self.received) < self.receive_limit:
                    await self.connection.receive()
                    self.changed.unpark_all()
                else:
                    await self.changed.park()
        self.changed.unpark_all()

    async def send_loop(self) -> None:
        with suppress(trio.ClosedResourceError):
            while not self.is_closed:
                if not self._tasks:
                    await self.changed.park()
                    continue
                try:
                    await self._tasks[0]()
                except trio.BrokenResourceError:
                    self.is_broken = True
                    break
                self._tasks.pop(0)
                self.changed.unpark_all()
        self.changed.unpark_all()

    def send(self, size: int, piece: int) -> None:
        if self._is_closing:
            return
        start = self.sent
        self.sent += size

        async def speak() -> None:
            for begin in range(start, start + size, piece):
                await self.connection.send(pattern(min(piece, start + size - begin), begin))

        self._queue_task(speak)

    def half_close(self) -> None:
        async def half_close() -> None:
            self._mark_closed()
            await self.connection.half_close()

        self._close_with(half_close)

    def drop(self) -> None:
        async def drop() -> None:  # noqa: ASYNC124 - one of the tasks
            self._mark_closed()
            self.is_closed = True
            self.connection.drop()

        self._close_with(drop)

    def close(self) -> None:
        async def leave() -> None:
            self._mark_closed()
            self.is_closed = True
            await self.connection.close()

        self._close_with(leave)

    def reset(self) -> None:
        """At once, whatever it was going to say."""
        if not self.is_closed:
            self._is_closing = self.is_closed = self.is_reset = True
            self.connection.reset()
            self.changed.unpark_all()

    def _mark_closed(self) -> None:
        self.had_seen_other_close = self.connection.end is not None
        self.has_closed = True

    def _close_with(self, task: Callable[[], Awaitable[None]]) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._queue_task(task)

    def _queue_task(self, task: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(task)
        self.changed.unpark_all()


@define(eq=False)
class RelayHarness:
    """The session: both peers and the relay's side of it. ``end`` is there once the relay has it."""

    client: Peer
    server: Peer
    tunnel: Tunnel
    changed: trio.lowlevel.ParkingLot
    end: EndReason | None = None
    scope: trio.CancelScope = field(factory=trio.CancelScope)
    task: trio.lowlevel.Task | None = None
    _started: trio.Event = field(factory=trio.Event)

    @property
    def is_over(self) -> bool:
        return self.end is not None or self.scope.cancelled_caught

    def start(self) -> None:
        self._started.set()

    def peers(self, name: Name) -> tuple[Peer, Peer]:
        """This peer, and the one opposite."""
        return (self.client, self.server) if name == "client" else (self.server, self.client)

    async def relay(self, relay: Relay) -> None:
        """What a session does with its relay; from when the play says so."""
        await self._started.wait()
        self.task = trio.lowlevel.current_task()
        with self.scope:
            self.end = await relay.run(self.tunnel)
        for side in (self.tunnel.client, self.tunnel.server):
            assert side.sock.fileno() >= 0, "who opened it closes it"
            side.sock.close()
        self.changed.unpark_all()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until this holds, or until the session is over."""
        self.start()
        while not (self.is_over or condition()):
            await self.changed.park()

    async def wait_until_received(self, name: Name) -> None:
        """Wait until this peer has heard all that the other has said by now."""
        peer, other = self.peers(name)
        peer.receive_limit = max(peer.receive_limit, other.sent)
        self.changed.unpark_all()
        await self.wait_until(
            lambda: (
                peer.has_received_eof
                or other.is_reset
                or (len(peer.received) >= other.sent and other.has_sent_all)
            )
        )

    async def finish(self, last: Name) -> None:
        """Let the play come to its end: all hear everything, then those who are there end their side in order."""
        self.client.receive_limit = self.server.receive_limit = math.inf
        self.changed.unpark_all()
        if any(peer.is_reset and not peer.has_closed for peer in (self.client, self.server)):
            await self.wait_until(lambda: False)  # it must find that out by itself
        second, first = self.peers(last)
        for peer, other in ((first, second), (second, first)):
            await self.wait_until_received(other.name)
            peer.half_close()
            await self.wait_until(lambda: other.has_received_eof)  # noqa: B023 - it is over when the loop goes on
        await self.wait_until(lambda: False)
        while not (self.client.has_received_eof and self.server.has_received_eof):
            await self.changed.park()

    async def settle(self) -> None:
        """Wait until all that has been said and done has reached the other side."""
        for name in NAMES:
            peer, other = self.peers(name)
            await self.wait_until_received(name)
            if other.is_reset and not other.has_closed:
                await self.wait_until(lambda: False)
            elif other.has_closed:
                await self.wait_until(lambda: peer.has_received_eof)  # noqa: B023 - it is over when the loop goes on
        while self.is_over and not (self.client.has_received_eof and self.server.has_received_eof):
            await self.changed.park()
        await trio.testing.wait_all_tasks_blocked(0.001)

    def possible_end_reasons(self) -> set[EndReason]:
        """The end reasons that can be, as far as what the peers did and knew decides it."""
        peers = (self.client, self.server)
        ends = {_ABORTED[peer.name] for peer in peers if peer.is_closed}
        if self.client.has_closed and self.server.has_closed:
            ends |= {_CLOSED[peer.name] for peer in peers if not peer.had_seen_other_close}
        return ends

    def check_invariants(self) -> None:
        """Assert that the relay has done what it should."""
        if not self.scope.cancelled_caught:
            assert self.end in self.possible_end_reasons(), (
                self.end,
                self.possible_end_reasons(),
                self.tunnel.detail,
            )
            assert bool(self.tunnel.detail) == (self.end in _ABORTED.values())
        is_calm = not (self.client.is_closed or self.server.is_closed or self.scope.cancelled_caught)
        for direction, source, sink in (
            (self.tunnel.to_server, self.client, self.server),
            (self.tunnel.to_client, self.server, self.client),
        ):
            assert sink.received == pattern(len(sink.received)), f"the {sink.name} heard something else"
            assert len(sink.received) <= direction.received <= source.sent
            if is_calm:
                assert not sink.is_broken
                assert (len(sink.received), direction.received) == (source.sent, source.sent), sink.name
                assert sink.connection.end == ("eof" if sink.connection.tls is None else "close_notify")
                assert direction.is_finished
                assert not direction.pending
                assert not direction.pending_close_notify
        for side, peer in ((self.tunnel.client, self.client), (self.tunnel.server, self.server)):
            if not side.is_tls:
                assert side.close_notify is None
            elif is_calm:
                assert side.close_notify is True, peer.name

    def outcome(self) -> Outcome:
        """What must be the same with every relay, if the play was in step."""
        is_chance = self._is_end_chance()
        is_aborted = self.end in _ABORTED.values() or is_chance
        return Outcome(
            None if is_chance else self.end,
            bytes(self.client.received),
            bytes(self.server.received),
            None if is_aborted else (self.client.connection.end, self.server.connection.end),
            None if is_aborted else (self.tunnel.to_server.received, self.tunnel.to_client.received),
            (None, None) if is_chance else (self.tunnel.client.close_notify, self.tunnel.server.close_notify),
        )

    def _is_end_chance(self) -> bool:
        """Whether a peer that had closed was sent more: then it is closed, or aborted.

        The kernel answers such data with a reset, and only the next system call that sends to the peer reports
        it. Whether there is one depends on how many records, or segments, the relay's reads have found.
        """
        return any(
            self.end in (_CLOSED[peer.name], _ABORTED[peer.name])
            and peer.is_closed
            and not peer.is_reset
            and len(peer.received) < other.sent
            for peer, other in (self.peers(name) for name in NAMES)
        )


@frozen
class Outcome:
    """What a session came to, for both peers and for the log; ``end`` is None where it is chance.

    After an abort it is chance how closing looks to who is left, and how much was taken for who had gone.
    """

    end: EndReason | None
    client_received: bytes = field(repr=lambda data: f"<{len(data)} bytes>")
    server_received: bytes = field(repr=lambda data: f"<{len(data)} bytes>")
    received_ends: tuple[str | None, str | None] | None
    received: tuple[int, int] | None
    close_notifies: tuple[bool | None, bool | None]


# Acts


class Action(Protocol):
    """Something that happens in a play."""

    async def play(self, stage: RelayHarness) -> None:
        """Let it happen."""


@frozen
class Send:
    """In pieces, each at least one TLS record."""

    peer: Name
    size: int
    piece: int = _PIECE_BYTES

    async def play(self, stage: RelayHarness) -> None:
        stage.peers(self.peer)[0].send(self.size, self.piece)


@frozen
class StopReading:
    """Hear nothing any more."""

    peer: Name

    async def play(self, stage: RelayHarness) -> None:
        stage.peers(self.peer)[0].receive_limit = 0


@frozen
class Read:
    """Go on hearing until so many bytes more have come, all of them by default."""

    peer: Name
    size: float = math.inf

    async def play(self, stage: RelayHarness) -> None:
        peer = stage.peers(self.peer)[0]
        peer.receive_limit = len(peer.received) + self.size
        stage.changed.unpark_all()


@frozen
class ReceiveAll:
    """Hear all that the other has said by now."""

    peer: Name

    async def play(self, stage: RelayHarness) -> None:
        await stage.wait_until_received(self.peer)


@frozen
class Pause:
    """Let things take their course until nothing moves."""

    async def play(self, stage: RelayHarness) -> None:
        stage.start()
        await trio.testing.wait_all_tasks_blocked(0.001)


@frozen
class HalfClose:
    """End its side, behind what it has said."""

    peer: Name

    async def play(self, stage: RelayHarness) -> None:
        stage.peers(self.peer)[0].half_close()


@frozen
class Close:
    """Close in order behind what it has said. What it has not heard makes a reset of it."""

    peer: Name

    async def play(self, stage: RelayHarness) -> None:
        stage.peers(self.peer)[0].close()


@frozen
class Drop:
    """Close behind what it has said, without close_notify. What it has not heard makes a reset of it."""

    peer: Name

    async def play(self, stage: RelayHarness) -> None:
        stage.peers(self.peer)[0].drop()


@frozen
class Reset:
    """At once."""

    peer: Name

    async def play(self, stage: RelayHarness) -> None:
        stage.peers(self.peer)[0].reset()


@frozen
class Scenario:
    """Acts over two channels, with ``…_buffer`` bytes of the kernel's at each end of it; its own choice if None.

    The relay begins late if it finds there what the first acts have left. In step, nothing is done before what was done
    has come to its end, so that only one end reason fits.
    """

    actions: Sequence[Action]
    client: Transport = "clear"
    server: Transport = "clear"
    client_buffer: int | None = None
    server_buffer: int | None = None
    last: Name = "server"  # to end its side, if that is left to the end of the play
    is_late: bool = False
    is_in_step: bool = False

    def run(self, kind: Kind, contexts: Contexts) -> RelayHarness:
        """Play it in a loop of its own, and see that all is well and nothing stays open."""

        async def main() -> RelayHarness:
            with trio.fail_after(_PATIENCE_S):
                async with run_relay(kind) as relay, self.harness(contexts) as stage:
                    await self.play(stage, relay)
            return stage

        before = open_descriptors()
        stage: RelayHarness = trio.run(main)
        stage.check_invariants()
        if left := open_descriptors() - before:  # kept for the next one, or lost each time?
            trio.run(main)
            more = open_descriptors() - before - left
            assert not more
        return stage

    async def play(self, stage: RelayHarness, relay: Relay) -> None:
        """Play it to its end."""
        async with trio.open_nursery() as nursery:
            for peer in (stage.client, stage.server):
                nursery.start_soon(peer.receive_loop)
                nursery.start_soon(peer.send_loop)
            nursery.start_soon(stage.relay, relay)
            if not self.is_late:
                stage.start()
            for act in self.actions:
                await act.play(stage)
                if self.is_in_step:
                    await stage.settle()
            await stage.finish(self.last)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def harness(self, contexts: Contexts) -> AsyncIterator[RelayHarness]:
        """All four ends."""
        client, front = await _connected(self.client_buffer)
        server, back = await _connected(self.server_buffer)
        bell = trio.lowlevel.ParkingLot()
        peers = client, server
        sides = [front, back]

        async def open_front() -> None:
            sides[0] = await accept_tls(front, contexts.front)

        async def open_back() -> None:
            sides[1] = await connect_tls(back, contexts.back, "localhost")

        try:
            async with trio.open_nursery() as nursery:
                if self.client != "clear":
                    nursery.start_soon(open_front)
                    nursery.start_soon(client.start_tls, contexts.client[self.client])
                if self.server != "clear":
                    nursery.start_soon(open_back)
                    nursery.start_soon(server.accept_tls, contexts.server[self.server])
            pair = Tunnel(*sides, client_timeout=1000, server_timeout=1000, half_closed_timeout=1000)
            yield RelayHarness(Peer("client", client, bell), Peer("server", server, bell), pair, bell)
        finally:
            for peer in peers:
                peer.drop()
            for side in sides:
                side.close()


async def _connected(buffer_bytes: int | None) -> tuple[Connection, socket.socket]:
    """A peer's end of a connection, and the relay's."""
    with socket.socket() as listener, socket.socket() as ours:
        if buffer_bytes is not None:
            for sock in (listener, ours):  # what is accepted has those of the listener
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
                # Segments as large as the loopback's own do not fit: the kernel would wait for its timers.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        ours.connect(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setblocking(False)
        ours.setblocking(False)
        peer = trio.socket.from_stdlib_socket(ours.dup())
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    theirs.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await trio.lowlevel.checkpoint()
    return Connection(trio.SocketStream(peer)), theirs


def open_descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the folder's own
            found.add(str(link.readlink()))
    return found
