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
from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.log.record import SessionRecord, ms
from mailproxy.net.client_close import is_client_closing
from mailproxy.net.dial import connect, start
from mailproxy.net.poller import GONE, AnyPoller, Watch
from mailproxy.net.proxy_header import send_header
from mailproxy.net.relay import Tunnel
from mailproxy.net.tls.close import peer_closed
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.handshake import connect_tls
from mailproxy.pool import RetryDecision, RetryState, Waiter
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.session.errors import SessionEndedError

_MAX_TURNAROUND_S = 1.0  # before the same server is tried again; HAProxy's turn-around

# A client that has ended its side may still read what a server says that answers soon: ``nc`` does, and many a probe.
_CLIENT_EOF_GRACE_S = 0.2


@define(eq=False, weakref_slot=False)
class Dispatch:
    """``stopped``: what its end is if the operator stops it now. ``server`` is the one that it has a place at. ``pair`` is
    the session in the relay.
    """

    backend: Backend
    client_info: ClientInfo = field(repr=False)
    record: SessionRecord
    poller: AnyPoller
    server: BackendServer | None = field(default=None, init=False)
    end_if_cancelled: EndReason = field(default=end_reasons.STOPPED_CONNECTING, init=False)
    tunnel: Tunnel | None = field(default=None, init=False)
    # What it waits in: an attempt, a pause before one, the line for a place. There is one scope at a time, they cost.
    _scope: trio.CancelScope | None = field(default=None, init=False)
    _client_gone: EndReason | None = field(default=None, init=False)
    _client_eof_deadline: float = field(default=math.inf, init=False)  # the client, which has ended its side
    _queued_for: BackendServer | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.backend.add_sessions(1)

    async def connect(self, client: Watch) -> socket.socket:
        """The connection to a server, which the caller closes; it has been added to the poller."""
        client.on_hangup = self._on_client_event
        if client.pending_events & GONE:
            self._on_client_event(client.pending_events)
        try:
            return await self._connect_with_retries()
        finally:
            client.on_hangup = None

    @property
    def other_sessions_on_server(self) -> int:
        """The other sessions of the server that it has a place at, or waited for in vain."""
        if self.server is not None:
            return self.server.sessions - 1
        return self._queued_for.sessions if self._queued_for is not None else 0

    def release(self) -> None:
        """Give the place back; at the end of the session."""
        self.backend.add_sessions(-1)
        self._release_slot()

    def on_server_down(self, *, close_sessions: bool) -> None:
        """The server is down: attempts need not go on, and sessions end if that is wished."""
        if self.tunnel is None:
            if self._scope is not None:
                self._scope.cancel()
        elif close_sessions:
            self.tunnel.abort(end_reasons.SERVER_DOWN)

    def _on_client_event(self, events: int) -> None:
        if is_client_closing(self.client_info.sock, events):
            self._on_client_closed()

    def _on_client_closed(self) -> None:
        if self.end_if_cancelled is end_reasons.STOPPED_QUEUED:
            self._client_gone = end_reasons.QUEUE_LEFT
            if self._scope is not None:
                self._scope.cancel()
        elif self._client_eof_deadline == math.inf:
            self._client_eof_deadline = trio.current_time() + _CLIENT_EOF_GRACE_S
            if self._scope is not None:
                self._scope.deadline = min(self._scope.deadline, self._client_eof_deadline)

    def _timeout(self, seconds: float) -> trio.CancelScope:
        """What the next wait is made in."""
        self._scope = trio.CancelScope(deadline=min(self.poller.clock() + seconds, self._client_eof_deadline))
        return self._scope

    def _raise_if_client_gone(self) -> None:
        """After a wait that was cut short: was it for the client? Raises SessionEndedError then."""
        self._scope = None
        if self._client_gone is None and self._client_eof_deadline <= trio.current_time():
            self._client_gone = end_reasons.CLIENT_LEFT
        if self._client_gone is not None:
            raise SessionEndedError(self._client_gone)

    async def _connect_with_retries(self) -> socket.socket:
        backend, record, settings = self.backend, self.record, self.backend.config
        key = backend.client_key(self.client_info)
        wanted = backend.sticky_server(key) if key is not None else None
        server = await self._acquire_slot(key, wanted=wanted)
        began = self.poller.clock()
        attempts: RetryState | None = None
        tried: set[BackendServer] = set()
        while True:
            try:
                sock = await self._attempt(server)
            except SessionEndedError as failure:
                attempts = attempts or RetryState(settings.retries, settings.redispatch)
                if self._should_retry(failure, server, attempts, is_sticky=server is wanted):
                    if not failure.retries_at_once:  # HAProxy makes no pause then either
                        await self._turnaround_pause()
                    if server.accepts_persistent or not settings.redispatch:
                        continue
                tried.add(server)
                server = await self._redispatch(failure, server, tried, key)
            else:
                backend.on_connected(server, key)
                record.connect_ms = ms(self.poller.clock() - began)
                return sock

    # A place

    async def _acquire_slot(
        self,
        key: int | None,
        *,
        wanted: BackendServer | None = None,
        avoiding: Collection[BackendServer] = (),
    ) -> BackendServer:
        backend = self.backend
        while True:
            server = backend.acquire(key, required=wanted, excluded=avoiding)
            if server is None:
                if wanted is None and not backend.pool.has_usable_server:
                    raise SessionEndedError(end_reasons.NO_SERVER, backend.no_server_reason())
                server = await self._wait_in_queue(wanted)
            self.server = server
            server.active_sessions.add(self)
            if server.accepts_persistent:
                break
            self._release_slot()  # it went in the moment in which it had a place
            wanted = None
        self.record.server = server.name
        self.record.queue_ms = max(self.record.queue_ms, 0)
        return server

    async def _wait_in_queue(self, wanted: BackendServer | None) -> BackendServer:
        """In the line, first come, first served."""
        backend, record, began, woken = self.backend, self.record, trio.current_time(), trio.Event()
        waiter = Waiter(woken.set, wanted)
        if not backend.pool.enqueue(waiter):
            raise SessionEndedError(
                end_reasons.QUEUE_FULL, f"{backend.pool.waiting} wait already, which is max_queue"
            )
        self.end_if_cancelled = end_reasons.STOPPED_QUEUED
        if wanted is not None:
            record.server, self._queued_for = wanted.name, wanted
        try:
            if self._client_eof_deadline == math.inf:
                with self._timeout(backend.config.timeouts.queue):
                    await woken.wait()
            else:  # it had left before
                self._client_gone = end_reasons.QUEUE_LEFT
            self._raise_if_client_gone()
            server, waiter.server = waiter.server, None
        finally:
            backend.pool.cancel(waiter)  # a place that came too late goes on to the next
            record.queue_ms = max(record.queue_ms, 0) + ms(trio.current_time() - began)
            record.server_queue, record.backend_queue = waiter.server_queue, waiter.backend_queue
        if wanted is not None and waiter.required is None:  # it went, and any other would do
            wanted.counts.redispatches += 1
            record.redispatched = True
        if server is None:
            raise SessionEndedError(end_reasons.QUEUE_TIMEOUT)
        self.end_if_cancelled = end_reasons.STOPPED_CONNECTING
        return server

    def _release_slot(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.active_sessions.discard(self)
            self.backend.pool.release(server)

    # Attempts

    async def _attempt(self, server: BackendServer) -> socket.socket:
        """One attempt. Raises SessionEndedError with what is the end unless another one follows."""
        port, endpoints, begun = self.client_info.port, server.endpoints, None
        source = server.source_for(self.client_info.source) if server.config.source is not None else None
        try:
            if len(endpoints) == 1:
                begun = start(endpoints[0], port, self.poller, server.options, source)
                if not begun.errno and server.tls_context is None and server.accepts_persistent:
                    # Nothing is to be waited for.
                    return self._finish_plain(begun.sock, server, endpoints[0].text(port))
            with self._timeout(self.backend.config.timeouts.connect):
                sock, endpoint = await connect(
                    endpoints, port, server.options, self.poller, begun, source=source
                )
                if not server.accepts_persistent:
                    self._close(sock)  # it went in the moment in which it was connected
                elif server.tls_context is None:
                    return self._finish_plain(sock, server, endpoint.text(port))
                else:
                    self._send_proxy_header(sock, server)
                    sock = await self._start_tls(sock, server.tls_context, server)
                    if server.accepts_persistent:
                        self.record.server_address = endpoint.text(port)
                        return sock
                    self._close(sock)
        except ServerHandshakeError as error:
            raise SessionEndedError(end_reasons.SERVER_HANDSHAKE_FAILED, error) from None
        except ServerRefusedError as error:
            raise SessionEndedError(
                end_reasons.SERVER_REFUSED,
                error,
                retries_at_once=error.is_local,
                is_clients=error.is_client_fault,
            ) from None
        except ProxyError as error:
            raise SessionEndedError(end_reasons.OUT_OF_RESOURCES, error) from None
        finally:
            self._scope = None
        self._raise_if_client_gone()
        if not server.accepts_persistent:
            raise SessionEndedError(end_reasons.SERVER_REFUSED, f"{server.name} is {server.status} now")
        raise SessionEndedError(end_reasons.CONNECT_TIMEOUT, "no answer in time")

    def _finish_plain(self, sock: socket.socket, server: BackendServer, address: str) -> socket.socket:
        """It is connected, and that is all where it has no TLS."""
        self._send_proxy_header(sock, server)
        self.record.server_address = address
        return sock

    def _send_proxy_header(self, sock: socket.socket, server: BackendServer) -> None:
        """The PROXY header comes before all else."""
        if server.proxy_header is None:
            return
        try:
            send_header(sock, server.proxy_header.build(self.client_info))
        except BaseException:
            self._close(sock)
            raise

    async def _start_tls(self, sock: socket.socket, context: Context, server: BackendServer) -> socket.socket:
        fd = sock.fileno()
        try:
            return await connect_tls(sock, context, server.server_name, self.poller.watch(fd))
        except BaseException:
            self.poller.forget(fd)
            raise

    def _close(self, sock: socket.socket) -> None:
        self.poller.forget(sock.fileno())
        sock.close()

    def _should_retry(
        self, failure: SessionEndedError, server: BackendServer, attempts: RetryState, *, is_sticky: bool
    ) -> bool:
        """Count the failure; is the same server tried again, and not another one? Raises it if nothing is tried any more."""
        if failure.end is end_reasons.OUT_OF_RESOURCES or self._client_gone is not None:
            raise failure
        if not failure.is_clients:
            self.backend.on_connect_failed(server, self.client_info, failure.detail)
        following = attempts.record_failure(
            is_up=server.accepts_persistent, is_sticky=is_sticky, has_others=self.backend.has_others(server)
        )
        if following is RetryDecision.GIVE_UP:
            raise self._client_closed_or(failure)
        self.record.retries = attempts.retries_made
        if following is RetryDecision.RETRY:
            server.counts.retries += 1
        return following is RetryDecision.RETRY

    async def _redispatch(
        self, failure: SessionEndedError, server: BackendServer, tried: set[BackendServer], key: int | None
    ) -> BackendServer:
        """Another server, if there is one; the failure if there is none at all any more."""
        self._release_slot()
        while self.backend.pool.has_usable_server:
            other = await self._acquire_slot(key, avoiding=tried)
            if other in tried:
                await self._turnaround_pause()
            if other.accepts_persistent:
                self._count_redispatch(server, other)
                return other
            self._release_slot()
        raise self._client_closed_or(failure)

    def _count_redispatch(self, server: BackendServer, other: BackendServer) -> None:
        if other is server:  # there is no other
            server.counts.retries += 1
        else:
            server.counts.redispatches += 1
            self.record.redispatched = True

    async def _turnaround_pause(self) -> None:
        """Whoever comes back at once finds what it has found; shorter if the server is marked down meanwhile."""
        seconds = min(self.backend.config.timeouts.connect, _MAX_TURNAROUND_S)
        with self._timeout(seconds):
            await trio.sleep_forever()
        self._raise_if_client_gone()

    def _client_closed_or(self, failure: SessionEndedError) -> SessionEndedError:
        """The failure, unless the client has left meanwhile: then nobody waits for that server any more."""
        if peer_closed(self.client_info.sock):
            return SessionEndedError(end_reasons.CLIENT_LEFT, failure.detail)
        return failure
