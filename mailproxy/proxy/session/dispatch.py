"""Connect a session to a server: attempts, retries at the same server, redispatch to another one.

No byte of the client has gone to a server before ``Dispatch.connect`` returns. So each failure here may be
retried: a refused connection, a timeout, a failed TLS handshake. The failure that ends the session is a
``SessionEndedError``.
"""

from __future__ import annotations

import socket

import trio
from attrs import define, field

from mailproxy.errors import ProxyError, ServerHandshakeError, ServerRefusedError
from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndedBy, Phase
from mailproxy.log.record import ms
from mailproxy.net.client_close import is_client_closing
from mailproxy.net.dial import connect, start
from mailproxy.net.poller import GONE, AnyPoller, Watch
from mailproxy.net.proxy_header import send_header
from mailproxy.net.tls.close import peer_closed
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.handshake import connect_tls
from mailproxy.pool import RetryDecision, RetryState
from mailproxy.protocol.opening.opening import Opening
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.session.errors import SessionEndedError
from mailproxy.proxy.session.negotiation import Greeted
from mailproxy.proxy.session.opening import make_opening, open_session
from mailproxy.proxy.session.slot_lease import SlotLease
from mailproxy.proxy.session.wait import InterruptibleWait

_MAX_TURNAROUND_S = 1.0  # before the same server is tried again; HAProxy's turn-around

_NEVER_RETRIED = (end_reasons.OUT_OF_RESOURCES, end_reasons.CLIENT_LEFT)


@define(eq=False, weakref_slot=False)
class Dispatch:
    """Gets one session to a server. It is done then; only the lease lives as long as the session.

    Attributes:
        lease: The slot that the session has at a server.
        wait: What the session waits in. Client and server cut it short when they close or go down.
        protocol: The protocol of the session.
        greeted: What the client has sent to the proxy, if that has greeted it.
        opening: The dialogue with the server before the session is joined, None without one.
    """

    lease: SlotLease
    wait: InterruptibleWait
    client_info: ClientInfo = field(repr=False)
    poller: AnyPoller
    protocol: str
    greeted: Greeted | None = field(default=None, repr=False)
    opening: Opening | None = field(default=None, init=False)
    _key: int | None = field(default=None, init=False)

    async def connect(self, client: Watch) -> socket.socket:
        """Connect to a server, and watch the client meanwhile.

        Returns:
            The connection, with TLS if the server has that, the PROXY header sent, and the opening done. It has
            been added to the poller. The caller closes it.

        Raises:
            SessionEndedError: No server can be reached, or the client has closed.
        """
        client.on_hangup = self._on_client_event
        if client.pending_events & GONE:
            self._on_client_event(client.pending_events)
        try:
            return await self._connect_with_retries()
        finally:
            client.on_hangup = None

    def _on_client_event(self, events: int) -> None:
        if is_client_closing(self.client_info.sock, events):
            self._on_client_closed()

    def _on_client_closed(self) -> None:
        if self.lease.record.phase is Phase.QUEUE:
            self.wait.end_session(end_reasons.QUEUE_LEFT)
        else:
            self.wait.end_session_soon()

    async def _connect_with_retries(self) -> socket.socket:
        lease, backend, record = self.lease, self.lease.backend, self.lease.record
        config = backend.config
        self._key = key = backend.client_key(self.client_info)
        sticky = backend.sticky_server(key) if key is not None else None
        server = await lease.acquire(self.wait, key, required=sticky)
        started_at = self.poller.clock()
        retries: RetryState | None = None
        tried: set[BackendServer] = set()
        while True:
            try:
                sock = await self._attempt(server)
            except SessionEndedError as failure:
                if failure.end in _NEVER_RETRIED or failure.end.by is EndedBy.ADMIN:
                    raise
                retries = retries or RetryState(config.retries, config.redispatch)
                decision = self._record_failure(failure, server, retries, is_sticky=server is sticky)
                if decision is RetryDecision.GIVE_UP:
                    raise self._client_closed_or(failure) from None
                if decision is RetryDecision.RETRY:
                    if not failure.retries_at_once:  # HAProxy makes no pause then either
                        await self._turnaround_pause()
                    if server.accepts_persistent or not config.redispatch:
                        continue
                tried.add(server)
                server = await self._redispatch(failure, server, tried)
            else:
                backend.on_connected(server, key)
                record.connect_ms = ms(self.poller.clock() - started_at)
                return sock

    # One attempt

    async def _attempt(self, server: BackendServer) -> socket.socket:
        """Connect to a server once, with PROXY header and TLS.

        Raises:
            SessionEndedError: Its end reason is that of the session unless another attempt follows.
        """
        port, endpoints, dial, wait = self.client_info.port, server.endpoints, None, self.wait
        connected: socket.socket | None = None
        source = server.source_for(self.client_info.source) if server.config.source is not None else None
        opening = None
        if self.greeted is not None or server.opens:
            opening = make_opening(server, self.protocol, self.client_info, self.greeted)
        try:
            if len(endpoints) == 1:
                dial = start(endpoints[0], port, self.poller, server.options, source)
                is_direct = server.tls_context is None or server.starts_tls
                if not dial.errno and is_direct and server.accepts_persistent:
                    # Connected at once, as on this machine. Without a wait the session needs no cancel scope.
                    self._send_proxy_header(dial.sock, server)
                    self.lease.record.server_address = endpoints[0].text(port)
                    if opening is None:
                        return dial.sock
                    connected = dial.sock
            if connected is None:
                with wait.timeout(self.lease.backend.config.timeouts.connect):
                    sock, endpoint = await connect(
                        endpoints, port, server.options, self.poller, dial, source=source
                    )
                    if server.accepts_persistent:
                        self._send_proxy_header(sock, server)
                        if server.tls_context is not None and not server.starts_tls:
                            sock = await self._start_tls(sock, server.tls_context, server)
                    if server.accepts_persistent:
                        self.lease.record.server_address = endpoint.text(port)
                        if opening is None:
                            return sock
                        connected = sock
                    else:
                        self._close(sock)  # it went down in the scheduler step in which it was connected
            if connected is not None and (opened := await self._open(connected, opening, server)) is not None:
                return opened
        except (ServerHandshakeError, ServerRefusedError, ProxyError) as error:
            raise _failure(error) from None
        wait.raise_if_ended()
        if not server.accepts_persistent:
            raise SessionEndedError(end_reasons.SERVER_REFUSED, f"{server.name} is {server.status} now")
        raise SessionEndedError(end_reasons.CONNECT_TIMEOUT, "no answer in time")

    async def _open(
        self, sock: socket.socket, opening: Opening | None, server: BackendServer
    ) -> socket.socket | None:
        """Talk with a server until the session can be joined, within ``timeouts.greeting``.

        Returns:
            The connection. None after a timeout, and if the server went down.
        """
        assert opening is not None  # noqa: S101 - a session without an opening is joined at once

        async def start_tls(taken: socket.socket) -> socket.socket:
            assert server.tls_context is not None  # noqa: S101 - the configuration has given it one
            return await self._start_tls(taken, server.tls_context, server)

        try:
            self.wait.raise_if_ended()  # in the scheduler step in which it was connected
        except SessionEndedError:
            self._close(sock)
            raise
        with self.wait.timeout(self.lease.backend.config.timeouts.greeting):
            sock = await open_session(sock, opening, self.poller, start_tls)
            if server.accepts_persistent:
                self.opening = opening
                if opening.is_identified is False:
                    self.lease.backend.on_identity_refused(server)
                return sock
            self._close(sock)
        return None

    def _send_proxy_header(self, sock: socket.socket, server: BackendServer) -> None:
        if server.proxy_header is None:
            return
        try:
            send_header(sock, server.proxy_header.build(self.client_info))
        except BaseException:
            self._close(sock)
            raise

    async def _start_tls(self, sock: socket.socket, context: Context, server: BackendServer) -> socket.socket:
        """Make the TLS handshake, which takes ``sock`` over and closes it if it fails."""
        fd = sock.fileno()
        try:
            return await connect_tls(sock, context, server.server_name, self.poller.watch(fd))
        except BaseException:
            self.poller.forget(fd)
            raise

    def _close(self, sock: socket.socket) -> None:
        self.poller.forget(sock.fileno())
        sock.close()

    # After a failure

    def _record_failure(
        self, failure: SessionEndedError, server: BackendServer, retries: RetryState, *, is_sticky: bool
    ) -> RetryDecision:
        """Count a failed attempt, and return what to do next."""
        if not failure.is_client_specific:
            self.lease.backend.on_connect_failed(server, self.client_info, failure.detail)
        decision = retries.record_failure(
            is_up=server.accepts_persistent,
            is_sticky=is_sticky,
            has_others=self.lease.backend.has_others(server),
        )
        if decision is not RetryDecision.GIVE_UP:
            self.lease.record.retries = retries.retries_made
        if decision is RetryDecision.RETRY:
            server.counts.retries += 1
        return decision

    async def _turnaround_pause(self) -> None:
        """Pause before the same server is tried again, or until it is marked down.

        Without a pause the next attempt would fail for the same reason.
        """
        with self.wait.timeout(min(self.lease.backend.config.timeouts.connect, _MAX_TURNAROUND_S)):
            await trio.sleep_forever()
        self.wait.raise_if_ended()

    async def _redispatch(
        self, failure: SessionEndedError, server: BackendServer, tried: set[BackendServer]
    ) -> BackendServer:
        """Exchange the slot for one at another server, if possible one that has not been tried.

        Raises:
            SessionEndedError: ``failure``, if no server is usable.
        """
        self.lease.release()
        while self.lease.backend.pool.has_usable_server:
            other = await self.lease.acquire(self.wait, self._key, excluded=tried)
            if other in tried:
                await self._turnaround_pause()
            if other.accepts_persistent:
                self._count_redispatch(server, other)
                return other
            self.lease.release()
        raise self._client_closed_or(failure)

    def _count_redispatch(self, server: BackendServer, other: BackendServer) -> None:
        if other is server:  # there is no other
            server.counts.retries += 1
        else:
            server.counts.redispatches += 1
            self.lease.record.redispatched = True

    def _client_closed_or(self, failure: SessionEndedError) -> SessionEndedError:
        """Return the failure, or CLIENT_LEFT with its detail if the client has closed meanwhile."""
        if peer_closed(self.client_info.sock):
            return SessionEndedError(end_reasons.CLIENT_LEFT, failure.detail)
        return failure


def _failure(error: ProxyError | ServerRefusedError | ServerHandshakeError) -> SessionEndedError:
    """Return how a session ends if it is not tried again after this error."""
    if isinstance(error, ServerHandshakeError):
        return SessionEndedError(end_reasons.SERVER_HANDSHAKE_FAILED, error)
    if isinstance(error, ServerRefusedError):
        return SessionEndedError(
            end_reasons.SERVER_REFUSED,
            error,
            retries_at_once=error.is_local,
            is_client_specific=error.is_client_fault,
        )
    return SessionEndedError(end_reasons.OUT_OF_RESOURCES, error)
