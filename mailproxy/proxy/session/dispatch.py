"""A session at its backend: a place at a server, or in the line for one; attempts to connect, and another server if they fail.

Nothing of the client's has gone to a server before ``reach`` returns, so whatever fails here may be tried again: a refused
connection, one that is not made in time, a TLS handshake. What ends it for good is a ``SessionEndedError``.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Collection

import trio
from attrs import define, field

from mailproxy.errors import ProxyError, ServerHandshakeError, ServerRefusedError
from mailproxy.log import end_reasons as ends
from mailproxy.log.end_reasons import End
from mailproxy.log.record import SessionRecord, ms
from mailproxy.net.client_close import is_leaving
from mailproxy.net.dial import begin, connect
from mailproxy.net.poller import GONE, AnyPoller, Watch
from mailproxy.net.proxy_header import send_header
from mailproxy.net.relay import Pair
from mailproxy.net.tls.tls import Context, connect_tls, has_left
from mailproxy.pool import Attempts, Next, Waiter
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_info import Caller
from mailproxy.proxy.session.errors import SessionEndedError

_LONGEST_PAUSE_S = 1.0  # before the same server is tried again; HAProxy's turn-around

# A client that has ended its side may still read what a server says that answers soon: ``nc`` does, and many a probe.
_HEARING_S = 0.2


@define(eq=False, weakref_slot=False)
class Visit:
    """``stopped``: what its end is if the operator stops it now. ``server`` is the one that it has a place at. ``pair`` is
    the session in the relay.
    """

    backend: Backend
    caller: Caller = field(repr=False)
    record: SessionRecord
    poller: AnyPoller
    server: BackendServer | None = field(default=None, init=False)
    stopped: End = field(default=ends.STOPPED_CONNECTING, init=False)
    pair: Pair | None = field(default=None, init=False)
    # What it waits in: an attempt, a pause before one, the line for a place. There is one scope at a time, they cost.
    _scope: trio.CancelScope | None = field(default=None, init=False)
    _has_left: End | None = field(default=None, init=False)
    _heard_until: float = field(default=math.inf, init=False)  # the client, which has ended its side
    _waited_for: BackendServer | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.backend.count(1)

    async def reach(self, client: Watch) -> socket.socket:
        """The connection to a server, which the caller closes; it has been added to the poller."""
        client.leaves = self._client_may_have_left
        if client.seen & GONE:
            self._client_may_have_left(client.seen)
        try:
            return await self._reach()
        finally:
            client.leaves = None

    @property
    def others_there(self) -> int:
        """The other sessions of the server that it has a place at, or waited for in vain."""
        if self.server is not None:
            return self.server.sessions - 1
        return self._waited_for.sessions if self._waited_for is not None else 0

    def leave(self) -> None:
        """Give the place back; at the end of the session."""
        self.backend.count(-1)
        self._give_back()

    def server_went(self, *, shut_down: bool) -> None:
        """The server is down: attempts need not go on, and sessions end if that is wished."""
        if self.pair is None:
            if self._scope is not None:
                self._scope.cancel()
        elif shut_down:
            self.pair.cut(ends.SERVER_DOWN)

    def _client_may_have_left(self, events: int) -> None:
        if is_leaving(self.caller.sock, events):
            self._client_left()

    def _client_left(self) -> None:
        if self.stopped is ends.STOPPED_QUEUED:
            self._has_left = ends.QUEUE_LEFT
            if self._scope is not None:
                self._scope.cancel()
        elif self._heard_until == math.inf:
            self._heard_until = trio.current_time() + _HEARING_S
            if self._scope is not None:
                self._scope.deadline = min(self._scope.deadline, self._heard_until)

    def _within(self, seconds: float) -> trio.CancelScope:
        """What the next wait is made in."""
        self._scope = trio.CancelScope(deadline=min(self.poller.clock() + seconds, self._heard_until))
        return self._scope

    def _is_over(self) -> None:
        """After a wait that was cut short: was it for the client? Raises SessionEndedError then."""
        self._scope = None
        if self._has_left is None and self._heard_until <= trio.current_time():
            self._has_left = ends.CLIENT_LEFT
        if self._has_left is not None:
            raise SessionEndedError(self._has_left)

    async def _reach(self) -> socket.socket:
        backend, record, settings = self.backend, self.record, self.backend.config
        key = backend.client_key(self.caller)
        wanted = backend.stuck(key) if key is not None else None
        server = await self._place(key, wanted=wanted)
        began = self.poller.clock()
        attempts: Attempts | None = None
        tried: set[BackendServer] = set()
        while True:
            try:
                sock = await self._try(server)
            except SessionEndedError as failure:
                attempts = attempts or Attempts(settings.retries, settings.redispatch)
                if self._is_again(failure, server, attempts, belongs=server is wanted):
                    if not failure.retries_at_once:  # HAProxy makes no pause then either
                        await self._pause()
                    if server.takes_back or not settings.redispatch:
                        continue
                tried.add(server)
                server = await self._elsewhere(failure, server, tried, key)
            else:
                backend.connected(server, key)
                record.connect_ms = ms(self.poller.clock() - began)
                return sock

    # A place

    async def _place(
        self,
        key: int | None,
        *,
        wanted: BackendServer | None = None,
        avoiding: Collection[BackendServer] = (),
    ) -> BackendServer:
        backend = self.backend
        while True:
            server = backend.enter(key, wanted=wanted, avoiding=avoiding)
            if server is None:
                if wanted is None and not backend.pool.can_serve:
                    raise SessionEndedError(ends.NO_SERVER, backend.why_none())
                server = await self._wait(wanted)
            self.server = server
            server.visitors.add(self)
            if server.takes_back:
                break
            self._give_back()  # it went in the moment in which it had a place
            wanted = None
        self.record.server = server.name
        self.record.queue_ms = max(self.record.queue_ms, 0)
        return server

    async def _wait(self, wanted: BackendServer | None) -> BackendServer:
        """In the line, first come, first served."""
        backend, record, began, woken = self.backend, self.record, trio.current_time(), trio.Event()
        waiter = Waiter(woken.set, wanted)
        if not backend.pool.join(waiter):
            raise SessionEndedError(
                ends.QUEUE_FULL, f"{backend.pool.waiting} wait already, which is max_queue"
            )
        self.stopped = ends.STOPPED_QUEUED
        if wanted is not None:
            record.server, self._waited_for = wanted.name, wanted
        try:
            if self._heard_until == math.inf:
                with self._within(backend.config.timeouts.queue):
                    await woken.wait()
            else:  # it had left before
                self._has_left = ends.QUEUE_LEFT
            self._is_over()
            server, waiter.server = waiter.server, None
        finally:
            backend.pool.quit(waiter)  # a place that came too late goes on to the next
            record.queue_ms = max(record.queue_ms, 0) + ms(trio.current_time() - began)
            record.server_queue, record.backend_queue = waiter.server_queue, waiter.backend_queue
        if wanted is not None and waiter.wanted is None:  # it went, and any other would do
            wanted.counts.redispatches += 1
            record.redispatched = True
        if server is None:
            raise SessionEndedError(ends.QUEUE_TIMEOUT)
        self.stopped = ends.STOPPED_CONNECTING
        return server

    def _give_back(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.visitors.discard(self)
            self.backend.pool.leave(server)

    # Attempts

    async def _try(self, server: BackendServer) -> socket.socket:
        """One attempt. Raises SessionEndedError with what is the end unless another one follows."""
        port, endpoints, begun = self.caller.port, server.endpoints, None
        source = server.source_for(self.caller.source) if server.config.source is not None else None
        try:
            if len(endpoints) == 1:
                begun = begin(endpoints[0], port, self.poller, server.options, source)
                if not begun.code and server.context is None and server.takes_back:
                    # Nothing is to be waited for.
                    return self._reached(begun.sock, server, endpoints[0].text(port))
            with self._within(self.backend.config.timeouts.connect):
                sock, endpoint = await connect(
                    endpoints, port, server.options, self.poller, begun, source=source
                )
                if not server.takes_back:
                    self._drop(sock)  # it went in the moment in which it was connected
                elif server.context is None:
                    return self._reached(sock, server, endpoint.text(port))
                else:
                    self._announce(sock, server)
                    sock = await self._secure(sock, server.context, server)
                    if server.takes_back:
                        self.record.server_address = endpoint.text(port)
                        return sock
                    self._drop(sock)
        except ServerHandshakeError as error:
            raise SessionEndedError(ends.SERVER_HANDSHAKE_FAILED, error) from None
        except ServerRefusedError as error:
            raise SessionEndedError(
                ends.SERVER_REFUSED, error, retries_at_once=error.is_local, is_clients=error.is_clients
            ) from None
        except ProxyError as error:
            raise SessionEndedError(ends.OUT_OF_RESOURCES, error) from None
        finally:
            self._scope = None
        self._is_over()
        if not server.takes_back:
            raise SessionEndedError(ends.SERVER_REFUSED, f"{server.name} is {server.status} now")
        raise SessionEndedError(ends.CONNECT_TIMEOUT, "no answer in time")

    def _reached(self, sock: socket.socket, server: BackendServer, address: str) -> socket.socket:
        """It is connected, and that is all where it has no TLS."""
        self._announce(sock, server)
        self.record.server_address = address
        return sock

    def _announce(self, sock: socket.socket, server: BackendServer) -> None:
        """The PROXY header comes before all else."""
        if server.announcer is None:
            return
        try:
            send_header(sock, server.announcer.header(self.caller))
        except BaseException:
            self._drop(sock)
            raise

    async def _secure(self, sock: socket.socket, context: Context, server: BackendServer) -> socket.socket:
        fd = sock.fileno()
        try:
            return await connect_tls(sock, context, server.server_name, self.poller.watch(fd))
        except BaseException:
            self.poller.forget(fd)
            raise

    def _drop(self, sock: socket.socket) -> None:
        self.poller.forget(sock.fileno())
        sock.close()

    def _is_again(
        self, failure: SessionEndedError, server: BackendServer, attempts: Attempts, *, belongs: bool
    ) -> bool:
        """Count the failure; is the same server tried again, and not another one? Raises it if nothing is tried any more."""
        if failure.end is ends.OUT_OF_RESOURCES or self._has_left is not None:
            raise failure
        if not failure.is_clients:
            self.backend.not_connected(server, self.caller, failure.detail)
        following = attempts.failed(
            is_up=server.takes_back, belongs=belongs, has_others=self.backend.has_others(server)
        )
        if following is Next.GIVE_UP:
            raise self._left_or(failure)
        self.record.retries = attempts.made
        if following is Next.AGAIN:
            server.counts.retries += 1
        return following is Next.AGAIN

    async def _elsewhere(
        self, failure: SessionEndedError, server: BackendServer, tried: set[BackendServer], key: int | None
    ) -> BackendServer:
        """Another server, if there is one; the failure if there is none at all any more."""
        self._give_back()
        while self.backend.pool.can_serve:
            other = await self._place(key, avoiding=tried)
            if other in tried:
                await self._pause()
            if other.takes_back:
                self._count_move(server, other)
                return other
            self._give_back()
        raise self._left_or(failure)

    def _count_move(self, server: BackendServer, other: BackendServer) -> None:
        if other is server:  # there is no other
            server.counts.retries += 1
        else:
            server.counts.redispatches += 1
            self.record.redispatched = True

    async def _pause(self) -> None:
        """Whoever comes back at once finds what it has found; shorter if the server is marked down meanwhile."""
        seconds = min(self.backend.config.timeouts.connect, _LONGEST_PAUSE_S)
        with self._within(seconds):
            await trio.sleep_forever()
        self._is_over()

    def _left_or(self, failure: SessionEndedError) -> SessionEndedError:
        """The failure, unless the client has left meanwhile: then nobody waits for that server any more."""
        if has_left(self.caller.sock):
            return SessionEndedError(ends.CLIENT_LEFT, failure.detail)
        return failure
