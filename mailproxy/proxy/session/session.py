"""A session: one task that goes through the phases in ``Session.run`` and ends with exactly one end reason.

A phase that cannot continue raises ``SessionEndedError`` with the end reason. Cancellation is the operator's
stop, and ``Session.end`` the operator's wish for this session alone. In all cases ``run`` closes both sockets, releases every counter and writes one line.
"""

from __future__ import annotations

import contextlib
import socket
import time

import trio
from attrs import define

from mailproxy import config
from mailproxy.errors import ProxyError
from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndedBy, EndReason, Phase
from mailproxy.log.events import SESSION_FAULT
from mailproxy.log.record import SessionRecord, ms
from mailproxy.net.by_descriptor import local_address, stop_reading
from mailproxy.net.listener import Listener
from mailproxy.net.poller import Watch
from mailproxy.net.relay import Tunnel, close_in_order
from mailproxy.net.simple_io import send_last_words, send_line
from mailproxy.net.tls.challenge import is_challenge
from mailproxy.net.tls.close import Alert, has_unread, send_alert
from mailproxy.net.tls.errors import CONNECTION_RESET
from mailproxy.net.tls.handshake import tls_info
from mailproxy.net.tls.terminator import Terminator
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.protocol.gate.gate import Gate
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.faults import log_fault
from mailproxy.proxy.session.client_setup import (
    answer_challenge,
    peek_client_hello,
    peek_client_hello_nowait,
    receive_proxy_header,
    tls_handshake,
)
from mailproxy.proxy.session.context import SessionContext
from mailproxy.proxy.session.dispatch import Dispatch
from mailproxy.proxy.session.errors import END_IF_CANCELLED, SessionEndedError
from mailproxy.proxy.session.gate import TunnelGate, make_gate
from mailproxy.proxy.session.ids import next_id
from mailproxy.proxy.session.lines import log_start, log_steps
from mailproxy.proxy.session.negotiation import Greeted, negotiate
from mailproxy.proxy.session.opening import join
from mailproxy.proxy.session.refusal import goodbye, is_readable, make_follower, refusal
from mailproxy.proxy.session.routing import terminates_tls
from mailproxy.proxy.session.slot_lease import SlotLease
from mailproxy.proxy.session.wait import InterruptibleWait

# Handshakes at once in a frontend, and seconds for each, that only refusals need. A flood of clients over their limit
# gets no more of the processor than this.
_REFUSING_MAX = 32
_REFUSING_S = 5.0


@define(eq=False, weakref_slot=False, init=False)
class Session:
    """One client's connection and the server's. Its limits have counted it already.

    Every attribute is in memory for as long as the session lives, which may be days: a thousand sessions have
    a thousand of it. What only the phases before the tunnel need is in ``_connect``'s local variables.

    Attributes:
        context: What it shares with the other sessions of its frontend.
        client: The client's connection, under TLS the one that decrypts.
        record: What the log says about it. Its ``end`` is set once, when the session ends.
        listener: The listener that accepted it.
        counted_in: The bytes from the client that are counted already, while it lives.
        counted_out: Those from the server.
    """

    context: SessionContext
    client: socket.socket
    record: SessionRecord
    listener: Listener
    counted_in: int
    counted_out: int
    _started_at: float
    _fd: int  # the client's; an SSLSocket takes it over
    _client_key: int | None  # what ``context.clients`` counts the session for
    _lease: SlotLease | None
    _server_socket: socket.socket | None
    _tunnel: Tunnel | None
    _sent_nothing: bool
    _wanted_end: EndReason | None  # that of the operator, before there is a tunnel

    def __init__(self, context: SessionContext, client_info: ClientInfo) -> None:
        client_info.id = number = next_id()
        self.context = context
        self.client = client_info.sock
        self._started_at = context.poller.clock()
        self._fd = self.client.fileno()
        self._client_key = self._lease = self._server_socket = self._tunnel = None
        self._sent_nothing = False
        self.counted_in = self.counted_out = 0
        self._wanted_end: EndReason | None = None
        self.listener = listener = client_info.listener
        self.record = context.record_type(
            id=number,
            accepted=time.time(),
            frontend=context.config.name,
            bind=listener.name,
            tls=listener.bind.mode == "tls",
            client=client_info.name,
        )
        context.registry.sessions[number] = self
        context.counter.start(context.config.name, listener.name)

    async def run(self, client_info: ClientInfo) -> None:
        """Proxy the session to its end. Raises nothing but Cancelled.

        ``client_info`` is this session's, as in the constructor. Clients decide how large it is (ClientHello, TLVs), so it
        is dropped when the tunnel opens. For the same reason the phases before the tunnel have a coroutine of their own.

        Closes:
            The sockets of both sides, whatever happens.
        """
        try:
            await self._connect(client_info)
            del client_info
            assert self._tunnel is not None  # noqa: S101 - _connect has opened it
            self.record.end = await self.context.relay.run(self._tunnel)
            self.record.detail = self._tunnel.detail
        except Exception as error:  # noqa: BLE001 - the border: no fault of one session touches another
            self._note_error(error)
        finally:
            self._finish()

    def _note_error(self, error: Exception) -> None:
        record = self.record
        if isinstance(error, SessionEndedError):
            record.end, record.detail = error.end, error.detail
            self._sent_nothing = error.sent_nothing
            error.__traceback__ = None  # its frames refer to it, which would be a cycle
        elif isinstance(error, ProxyError):
            record.end, record.detail = end_reasons.OUT_OF_RESOURCES, str(error)
        else:
            record.end, record.detail = end_reasons.INTERNAL_ERROR, repr(error)
            self._log_fault(error)

    # Phases before the tunnel

    async def _connect(self, client_info: ClientInfo) -> None:
        """Go through all phases before the tunnel, and open it."""
        context, record, bind, greeted = self.context, self.record, client_info.listener.bind, None
        watch = context.poller.add(self._fd)
        if bind.accept_proxy:
            await self._receive_proxy_header(client_info)
        if context.clients is not None:
            try:
                self._client_key = context.clients.add_session(client_info)
            except SessionEndedError:
                await self._prepare_refusal(client_info, watch)  # noqa: ASYNC120 - if stopped, it ends so
                raise
        if bind.mode == "starttls":
            greeted = await self._negotiate(client_info, watch)
        if bind.mode in ("tls", "passthrough") or self.record.tls:
            route = await self._accept_tls(client_info, watch)
        else:  # the server speaks first, so a client would never send a ClientHello
            route = self._select_route(client_info)
        dispatch = self._start_dispatch(client_info, route, greeted)
        self._server_socket = await dispatch.connect(watch)
        gate = None
        if context.config.protocol != "tcp" and is_readable(record, self.listener):
            gate = make_gate(dispatch, in_clear=not record.tls)
        if dispatch.opening is not None or greeted is not None:
            greeting = context.greetings.for_client(dispatch.opening, greeted)
            record.bytes_in = join(self.client, self._server_socket, greeting, greeted, gate)
        self._open_tunnel(self._server_socket, dispatch, gate)

    async def _receive_proxy_header(self, client_info: ClientInfo) -> None:
        """Receive the PROXY header that trusted networks must send.

        Other clients may connect without one if the bind says ``proxy_optional``, and are rejected otherwise.
        """
        record = self.record
        record.phase = Phase.HEADER
        if not client_info.listener.trusts(client_info.source):
            if not client_info.listener.bind.proxy_optional:
                detail = f"{record.client} is in none of the networks of accept_proxy"
                raise SessionEndedError(end_reasons.UNTRUSTED, detail)
            return
        header = await receive_proxy_header(self.client, self.context.config.timeouts.proxy_header)
        client_info.apply_proxy_header(header)
        if client_info.name != record.client:
            record.peer, record.client = record.client, client_info.name

    async def _negotiate(self, client_info: ClientInfo, watch: Watch) -> Greeted:
        """Greet the client, and talk with it until it upgrades to TLS or is to be joined in clear text."""
        context, record, bind = self.context, self.record, client_info.listener.bind
        record.phase = Phase.NEGOTIATION
        route = context.routes.select(client_info)
        if route is not None and route.reject:
            raise SessionEndedError(end_reasons.REJECTED, context.routes.describe(route))
        name = (route and route.backend) or context.config.backend or context.config.backend_names[0]
        greeter = context.greetings.greeter(
            context.backends[name], required=context.config.requires_starttls(bind)
        )
        deadline = context.poller.clock() + context.config.timeouts.negotiation
        greeted = await negotiate(self.client, watch, greeter, deadline, context.config)
        record.tls = greeted.is_over_tls
        self._raise_if_unwanted()
        return greeted

    async def _accept_tls(self, client_info: ClientInfo, watch: Watch) -> config.Route | None:
        """Peek at the ClientHello, select the route, and make the TLS handshake unless TLS is passed through."""
        self.record.phase = Phase.HANDSHAKE
        is_upgraded = client_info.listener.bind.mode == "starttls"
        not_tls = end_reasons.INJECTION if is_upgraded else end_reasons.HANDSHAKE_FAILED
        hello = peek_client_hello_nowait(self.client, not_tls)
        started_at = self.context.poller.clock()
        # One deadline for all three.
        deadline = started_at + self.context.config.timeouts.handshake
        try:
            hello = hello or await peek_client_hello(self.client, watch, deadline, not_tls)
            client_info.set_client_hello(hello)
            terminator = client_info.listener.terminator
            if terminator is not None and terminator.challenges is not None and is_challenge(hello):
                await self._answer_challenge(client_info, terminator, hello, watch, deadline)
            try:
                route = self._select_route(client_info)
            except SessionEndedError as ended:
                if not ended.is_alerted:
                    await self._prepare_refusal(client_info, watch)  # noqa: ASYNC120 - as above, in ``_connect``
                raise
            if self.record.tls:
                await self._handshake(client_info, hello, watch, deadline)
                self.record.handshake_ms = ms(self.context.poller.clock() - started_at)
        except trio.TooSlowError:
            raise SessionEndedError(end_reasons.HANDSHAKE_TIMEOUT) from None
        return route

    async def _answer_challenge(
        self,
        client_info: ClientInfo,
        terminator: Terminator,
        hello: ClientHello,
        watch: Watch,
        deadline: float,
    ) -> None:
        self.record.sni = hello.server_name
        tls = await answer_challenge(self.client, terminator, hello, watch, deadline)
        if tls is not None:
            self.client = client_info.sock = tls
            raise SessionEndedError(end_reasons.ACME_CHALLENGE)

    def _select_route(self, client_info: ClientInfo) -> config.Route | None:
        """Select where the session goes and, from the route's mode, whether its TLS ends here."""
        routes, hello = self.context.routes, client_info.hello
        route = routes.select(client_info)
        if hello is not None:
            self.record.sni = hello.server_name
            self.record.tls = terminates_tls(client_info.listener.bind, route)
        if (refused := routes.refusal(self.context.config, route)) is not None:
            by_name = route is None or route.needs_client_hello
            raise self._rejection(*refused, hello, by_name=by_name)
        return route

    def _rejection(
        self, end: EndReason, detail: str, hello: ClientHello | None, *, by_name: bool
    ) -> SessionEndedError:
        """Send an alert to a client that waits for a TLS handshake, and return the error to raise."""
        is_alerted = hello is not None and (by_name or not self._can_refuse_over_tls)
        if is_alerted:
            send_alert(self.client, Alert.UNRECOGNIZED_NAME if by_name else Alert.ACCESS_DENIED)
        return SessionEndedError(end, detail, is_alerted=is_alerted)

    @property
    def _can_refuse_over_tls(self) -> bool:
        """Whether a TLS handshake would let the client read why it is refused."""
        context, record = self.context, self.record
        is_waiting = record.tls and record.tls_version is None and self.listener.terminator is not None
        return is_waiting and context.config.protocol != "tcp" and context.refusing < _REFUSING_MAX

    async def _prepare_refusal(self, client_info: ClientInfo, watch: Watch) -> None:
        """Make the TLS handshake of a client that is refused, so that it can read why. It may fail."""
        if not self._can_refuse_over_tls:
            return
        context, hello = self.context, client_info.hello
        context.refusing += 1
        try:
            deadline = context.poller.clock() + _REFUSING_S
            with contextlib.suppress(SessionEndedError, trio.TooSlowError):
                hello = (
                    hello
                    or peek_client_hello_nowait(self.client)
                    or await peek_client_hello(self.client, watch, deadline)
                )
                client_info.set_client_hello(hello)
                await self._handshake(client_info, hello, watch, deadline)
        finally:
            context.refusing -= 1

    async def _handshake(
        self, client_info: ClientInfo, hello: ClientHello, watch: Watch, deadline: float
    ) -> None:
        terminator, record = client_info.listener.terminator, self.record
        assert terminator is not None  # noqa: S101 - the configuration's rules demand certificates for mode tls
        tls = await tls_handshake(self.client, terminator, hello, watch, deadline)
        self.client = client_info.sock = tls
        client_info.tls = info = tls_info(tls)
        record.tls_version, record.tls_cipher = info.version, info.cipher
        record.alpn, record.client_cn = info.alpn, info.client_name

    def _start_dispatch(
        self, client_info: ClientInfo, route: config.Route | None, greeted: Greeted | None
    ) -> Dispatch:
        context, record = self.context, self.record
        self._raise_if_unwanted()
        name = (route and route.backend) or context.config.backend
        assert name is not None  # noqa: S101 - _select_route has checked it
        record.phase, record.backend = Phase.CONNECT, name
        context.counter.dispatch(name)
        wait = InterruptibleWait(context.poller)
        self._lease = SlotLease(context.backends[name], record, wait)
        return Dispatch(self._lease, wait, client_info, context.poller, context.config.protocol, greeted)

    def _open_tunnel(self, server_socket: socket.socket, dispatch: Dispatch, gate: Gate | None) -> None:
        self._raise_if_unwanted()
        lease, frontend = dispatch.lease, self.context.config
        self.record.phase = Phase.DATA
        timeouts, follower = frontend.timeouts, None
        if frontend.protocol != "tcp":
            greeted = dispatch.opening is not None
            follower = make_follower(frontend, self.record, self.listener, greeted=greeted)
        tunnel = Tunnel(
            self.client,
            server_socket,
            now=self.context.poller.clock(),
            client_timeout=timeouts.client,
            server_timeout=lease.backend.config.timeouts.server,
            half_closed_timeout=timeouts.half_closed,
            follower=follower,
        )
        if gate is not None:
            TunnelGate(tunnel, gate, follower).install()
        if self.context.config.log_start:
            log_start(self.context.log, self.record)
        lease.open_tunnel(tunnel)
        # From here on the relay unregisters the sockets from the poller.
        self._tunnel = tunnel

    # What an operator sees, and ends

    @property
    def is_connected(self) -> bool:
        """Whether it has a server, and relays bytes."""
        return self._tunnel is not None

    @property
    def server(self) -> BackendServer | None:
        """The server whose slot it has; None before it has one."""
        return self._lease.server if self._lease is not None else None

    @property
    def local_address(self) -> str:
        """The address and port that the client connected to here, empty for a Unix socket."""
        return local_address(self._fd)

    @property
    def age(self) -> float:
        """Seconds since it was accepted."""
        return self.context.poller.clock() - self._started_at

    @property
    def idle(self) -> float:
        """Seconds since the last byte in either direction. Before it is connected: since it was accepted."""
        tunnel = self._tunnel
        if tunnel is None:
            return self.age
        return self.context.poller.clock() - max(tunnel.client.last_activity, tunnel.server.last_activity)

    @property
    def bytes_in(self) -> int:
        """Bytes from the client so far, without TLS."""
        return self.record.bytes_in + (self._tunnel.to_server.received if self._tunnel is not None else 0)

    @property
    def bytes_out(self) -> int:
        """Bytes from the server so far, without TLS."""
        return self.record.bytes_out + (self._tunnel.to_client.received if self._tunnel is not None else 0)

    @property
    def has_unsent(self) -> bool:
        """Whether bytes of one side wait until the other one takes them."""
        tunnel = self._tunnel
        return tunnel is not None and (tunnel.to_client.is_blocked or tunnel.to_server.is_blocked)

    def end(self, reason: EndReason) -> None:
        """End it, because the operator wants that. Every drain and every kill comes here.

        Args:
            reason: Its end reason if it is connected: STOPPED, DRAINED or KILLED. Before that, it ends with the
                reason of its phase, such as STOPPED_QUEUED, and this one is the detail.
        """
        if self._tunnel is not None:
            self._tunnel.abort(reason)
            return
        self._wanted_end = reason
        if self._lease is not None and self._lease.wait is not None:
            self._lease.wait.end_session(END_IF_CANCELLED[self.record.phase])
        else:
            stop_reading(self._fd)

    def _raise_if_unwanted(self) -> None:
        """Raise SessionEndedError if the operator has ended the session in the phase before."""
        if self._wanted_end is not None:
            raise SessionEndedError(END_IF_CANCELLED[self.record.phase])

    # The end

    def _finish(self) -> None:
        """Release the counters, close both sockets and write the line.

        Faults of one of these steps do not keep the others from being done, and are logged as in ``run``.
        """
        record = self.record
        if self._wanted_end is not None and self._tunnel is None:
            # Whatever ended the phase, the reason was the operator.
            record.end, record.detail = END_IF_CANCELLED[record.phase], self._wanted_end.name
        elif record.end is None:
            record.end = END_IF_CANCELLED[record.phase]
        try:
            for step in (self._release_counters, self._close):
                try:
                    step()
                except Exception as fault:  # noqa: BLE001 - as in run
                    self._log_fault(fault)
        finally:
            self.context.registry.sessions.pop(record.id, None)
            self.context.limits.remove_session()

    def _release_counters(self) -> None:
        record, lease, context = self.record, self._lease, self.context
        if self._client_key is not None and context.clients is not None:
            context.clients.remove_session(self._client_key)
        if lease is not None:
            # As in HAProxy's line, these two are without this session, and without the waiter that gets its
            # slot. The next two count it.
            record.server_sessions = lease.other_sessions_on_server
            lease.close()
            record.backend_sessions = lease.backend.sessions
        limits = context.limits
        record.process_sessions, record.frontend_sessions = limits.process.sessions, limits.frontend.sessions

    def _close(self) -> None:
        record, context, tunnel = self.record, self.context, self._tunnel
        end = record.end
        assert end is not None  # noqa: S101 - _finish has set it
        if tunnel is None:  # with a tunnel the relay has unregistered both sockets
            context.poller.forget(self._fd)
            if end.phase in (Phase.CONNECT, Phase.QUEUE) and end.by is EndedBy.CLIENT:
                self._sent_nothing = not has_unread(self.client)
            words = refusal(record, self.listener, context.config.protocol, context.config.refusal)
            if words or end.phase in (Phase.NEGOTIATION, Phase.DATA):
                send_last_words(self.client, words)
        elif end.by is not EndedBy.CLIENT and end.by is not EndedBy.SERVER:
            words = goodbye(tunnel, end, context.config.protocol, context.config.refusal)
            if words:
                send_line(self.client, words)
            if words or end.by is EndedBy.ADMIN:
                close_in_order(tunnel)
        self.client.close()
        if self._server_socket is not None:
            if tunnel is None:
                context.poller.forget(self._server_socket.fileno())
            self._server_socket.close()
        if tunnel is not None:
            record.bytes_in += tunnel.to_server.received
            record.bytes_out += tunnel.to_client.received
            record.close_notify = tunnel.client.close_notify
            record.server_close_notify = tunnel.server.close_notify
        record.total_ms = int((context.poller.clock() - self._started_at) * 1000)
        was_started = context.config.log_start and tunnel is not None
        is_logged = bool(context.config.log_null or was_started or record.bytes_in or not self._is_null(end))
        context.counter.end(record, self.counted_in, self.counted_out, is_logged=is_logged)
        if is_logged:
            context.log.session(record)
            if context.config.log_steps:
                log_steps(context.log, record)

    def _is_null(self, end: EndReason) -> bool:
        """Whether the client has ended the session without a byte that is meant for a server.

        A client that breaks TLS has sent something, and the operator wants to see it.
        """
        if end is end_reasons.CLIENT_ABORTED and self.record.detail != CONNECTION_RESET:
            return False
        return end.by is EndedBy.CLIENT and (self._tunnel is not None or self._sent_nothing)

    def _log_fault(self, fault: Exception) -> None:
        number = f"{self.record.id:x}"
        log_fault(self.context.log, SESSION_FAULT, f"session {number}", fault, id=number)
