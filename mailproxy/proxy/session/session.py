"""A session: one task that runs once down the list in ``Session.run``, and ends with exactly one end reason.

A phase that cannot go on raises ``SessionEndedError`` with the reason; being cancelled is the operator's stop. Whatever
happens, ``run`` closes both sockets, gives every count back and writes one line.
"""

from __future__ import annotations

import itertools
import socket
import time
import traceback
from collections.abc import Mapping

import trio
from attrs import define, field

from mailproxy import config
from mailproxy.errors import ProxyError
from mailproxy.log import Log, end_reasons
from mailproxy.log.end_reasons import EndedBy, EndReason, Phase
from mailproxy.log.events import SESSION_FAULT, SESSION_STARTED
from mailproxy.log.record import SessionRecord
from mailproxy.net.listener import Listener
from mailproxy.net.poller import AnyPoller, Watch
from mailproxy.net.relay import Relay, Tunnel
from mailproxy.net.tls.close import Alert, has_unread, send_alert
from mailproxy.net.tls.errors import CONNECTION_RESET
from mailproxy.net.tls.handshake import tls_info
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.limits import SessionLimits
from mailproxy.proxy.session.client_setup import (
    peek_client_hello,
    peek_client_hello_nowait,
    receive_proxy_header,
    tls_handshake,
)
from mailproxy.proxy.session.dispatch import Dispatch
from mailproxy.proxy.session.errors import SessionEndedError
from mailproxy.proxy.session.routing import Routes

# No id comes twice, not even after a restart: counting begins at the second of the start, times more sessions than a
# second can have.
_ids = itertools.count((int(time.time()) << 24) + 1)


def seed_session_ids(epoch: int, slot: int, slots: int) -> None:
    """Let this process be one of several that count from the same second on, each in steps of its own."""
    global _ids  # noqa: PLW0603 - the numbers are the process's
    _ids = itertools.count((epoch << 24) + 1 + slot, slots)


@define(kw_only=True, eq=False)
class SessionContext:
    """What the sessions of one frontend have in common.

    ``limits`` counts them from accepting to the last line. ``clients`` counts those of each client, if that has limits.
    """

    config: config.Frontend
    backends: Mapping[str, Backend]
    routes: Routes
    limits: SessionLimits
    clients: Clients | None
    relay: Relay
    poller: AnyPoller
    log: Log


@define(eq=False, weakref_slot=False)
class Session:
    """One client's connection and what it is proxied to. It has been counted already.

    What is there for as long as a session is, is counted in bytes: a thousand of them have a thousand times as much.
    """

    context: SessionContext
    listener: Listener
    client: socket.socket
    peer: object = field(kw_only=True, repr=False)
    client_info: ClientInfo = field(init=False, repr=False)
    record: SessionRecord = field(init=False)
    _began: float = field(init=False)
    _fd: int = field(init=False)  # the client's
    _client: int | None = field(default=None, init=False)  # that the session is counted for
    _watch: Watch = field(init=False, repr=False)
    _dispatch: Dispatch | None = field(default=None, init=False)
    _server_socket: socket.socket | None = field(default=None, init=False)
    _tunnel: Tunnel | None = field(default=None, init=False)
    _said_nothing: bool = field(default=False, init=False)
    _end: EndReason = field(
        default=end_reasons.STOPPED_CONNECTING, init=False
    )  # what it is if the operator stops it now

    def __attrs_post_init__(self) -> None:
        number, peer = next(_ids), self.peer
        self._began = self.context.poller.clock()
        self._fd = self.client.fileno()
        source = peer[:2] if isinstance(peer, tuple) else None  # a Unix socket's has none
        self.client_info = ClientInfo(self.listener, source, self.client, id=number)
        self.record = SessionRecord(
            id=number,
            accepted=time.time(),
            frontend=self.context.config.name,
            bind=self.listener.name,
            tls=self.listener.bind.mode == "tls",
            client=self.client_info.name,
        )

    async def run(self) -> None:
        """Proxy the session to its end. Raises nothing but Cancelled.

        What lasts is awaited here and nowhere in between: each coroutine on the way is kept for as long as the session.
        """
        bind = self.listener.bind
        try:
            self._watch = self.context.poller.add(self._fd)
            if bind.accept_proxy:
                await self._receive_proxy_header()
            if self.context.clients is not None:
                self._client = self.context.clients.enter(self.client_info)
            if bind.mode in ("tls", "passthrough"):
                route = await self._accept_tls()
            else:  # servers speak first there, and no hello would ever come
                route = self._select_route()
            visit = self._start_dispatch(route)
            self._server_socket = await visit.connect(self._watch)
            pair = self._open_tunnel(visit)
            self._end = await self.context.relay.run(pair)
            self.record.detail = pair.detail
        except SessionEndedError as ended:
            self._end, self.record.detail = ended.end, ended.detail
            self._said_nothing = ended.said_nothing
            ended.__traceback__ = None  # whose frames have it among their variables: a cycle
        except ProxyError as error:
            self._end, self.record.detail = end_reasons.OUT_OF_RESOURCES, str(error)
        except Exception as fault:  # noqa: BLE001 - the border: no fault of one session touches another
            self._end, self.record.detail = end_reasons.INTERNAL_ERROR, repr(fault)
            self._log_fault(fault)
        finally:
            self._finish()

    async def _receive_proxy_header(self) -> None:
        """A PROXY header is demanded of trusted networks; nobody else may connect unless that is said."""
        self._end = end_reasons.HEADER_STOPPED
        caller, record = self.client_info, self.record
        if not self.listener.trusts(caller.source):
            if not self.listener.bind.proxy_optional:
                raise SessionEndedError(
                    end_reasons.UNTRUSTED, f"{record.client} is in none of the networks of accept_proxy"
                )
            return
        caller.apply_proxy_header(
            await receive_proxy_header(self.client, self.context.config.timeouts.proxy_header)
        )
        if caller.name != record.client:
            record.peer, record.client = record.client, caller.name

    async def _accept_tls(self) -> config.Route | None:
        """Where the session goes, by its name where the client opens with TLS; and the handshake, if TLS ends here.

        One limit holds for all that, in one scope: they cost.
        """
        self._end = end_reasons.HANDSHAKE_STOPPED
        hello = peek_client_hello_nowait(self.client)
        if hello is not None and self.listener.terminator is None:  # there is nothing to wait for
            self.client_info.set_client_hello(hello)
            return self._select_route()
        deadline = self.context.poller.clock() + self.context.config.timeouts.handshake
        with trio.CancelScope(deadline=deadline):
            hello = hello or await peek_client_hello(self.client, self._watch)
            self.client_info.set_client_hello(hello)
            route = self._select_route()
            if self.record.tls:
                await self._handshake(hello)
            return route
        raise SessionEndedError(end_reasons.HANDSHAKE_TIMEOUT)

    def _select_route(self) -> config.Route | None:
        """Where it goes and whether its TLS ends here."""
        routes, bind, caller = self.context.routes, self.listener.bind, self.client_info
        if caller.hello is not None:
            self.record.sni = caller.hello.server_name
        route = routes.select(caller)
        if caller.hello is not None:
            self.record.tls = ((route and route.mode) or bind.mode) == "tls"
        if route is not None and route.reject:
            detail = routes.describe(route)
            raise self._rejection(end_reasons.REJECTED, detail, by_name=route.needs_client_hello)
        if route is None and self.context.config.backend is None:
            detail = "no route fits, and the frontend has no backend"
            raise self._rejection(end_reasons.NO_SERVER, detail, by_name=True)
        return route

    def _rejection(self, end: EndReason, detail: str, *, by_name: bool) -> SessionEndedError:
        """Where a handshake is waited for, the client is told that there is none."""
        if self.client_info.hello is not None:
            send_alert(self.client, Alert.UNRECOGNIZED_NAME if by_name else Alert.ACCESS_DENIED)
        return SessionEndedError(end, detail)

    async def _handshake(self, hello: ClientHello) -> None:
        assert self.listener.terminator is not None  # noqa: S101 - as the configuration's rules have it
        self.client = tls = await tls_handshake(self.client, self.listener.terminator, hello, self._watch)
        caller, record = self.client_info, self.record
        caller.sock, caller.tls = tls, tls_info(tls)
        facts = caller.tls
        record.tls_version, record.tls_cipher = facts.version, facts.cipher
        record.alpn, record.client_cn = facts.alpn, facts.client_name

    def _start_dispatch(self, route: config.Route | None) -> Dispatch:
        self._end = end_reasons.STOPPED_CONNECTING
        name = (route and route.backend) or self.context.config.backend
        assert name is not None  # noqa: S101 - it was asked for
        self.record.backend = name
        self._dispatch = Dispatch(
            self.context.backends[name], self.client_info, self.record, self.context.poller
        )
        return self._dispatch

    def _open_tunnel(self, visit: Dispatch) -> Tunnel:
        assert self._server_socket is not None  # noqa: S101 - it is connected
        self._end = end_reasons.STOPPED
        limits = self.context.config.timeouts
        pair = Tunnel(
            self.client,
            self._server_socket,
            now=self.context.poller.clock(),
            client_timeout=limits.client,
            server_timeout=visit.backend.config.timeouts.server,
            half_closed_timeout=limits.half_closed,
        )
        # What only the beginning needs: strangers decide how much that is, and sessions live for days.
        del self.client_info, self.peer, self._watch, visit.client_info
        if self.context.config.log_start:
            self._log_start()
        self._tunnel = visit.tunnel = pair
        return pair

    def _finish(self) -> None:
        """Give the counts back, close, write the line. The border is here, too."""
        try:
            for finish in (self._release_counters, self._close):
                try:
                    finish()
                except Exception as fault:  # noqa: BLE001 - as in run
                    self._log_fault(fault)
        finally:
            self.context.limits.leave()

    def _release_counters(self) -> None:
        record, visit, limits = self.record, self._dispatch, self.context.limits
        if self._client is not None and self.context.clients is not None:
            self.context.clients.leave(self._client)
        if visit is not None:
            if self._end is end_reasons.STOPPED_CONNECTING:
                self._end = visit.end_if_cancelled
            # HAProxy's line counts these without the session, the next two with it; and without who gets its place
            record.server_sessions = visit.other_sessions_on_server
            visit.release()
            record.backend_sessions = visit.backend.sessions
        record.process_sessions, record.frontend_sessions = limits.process.sessions, limits.frontend.sessions

    def _close(self) -> None:
        record, around, pair = self.record, self.context, self._tunnel
        if pair is None:  # or the relay has let go of them
            around.poller.forget(self._fd)
            if self._end.phase in (Phase.CONNECT, Phase.QUEUE) and self._end.by is EndedBy.CLIENT:
                self._said_nothing = not has_unread(self.client)
        self.client.close()
        if self._server_socket is not None:
            if pair is None:
                around.poller.forget(self._server_socket.fileno())
            self._server_socket.close()
        if pair is not None:
            record.bytes_in, record.bytes_out = pair.to_server.received, pair.to_client.received
            record.close_notify, record.server_close_notify = (
                pair.client.close_notify,
                pair.server.close_notify,
            )
        record.end = self._end
        record.total_ms = int((around.poller.clock() - self._began) * 1000)
        started = around.config.log_start and pair is not None
        if around.config.log_null or started or record.bytes_in or not self._is_null():
            around.log.session(record)

    def _is_null(self) -> bool:
        """Whether the client has ended it without having sent a byte that is meant for a server.

        A client that breaks TLS has sent something, and the operator wants to know.
        """
        if self._end is end_reasons.CLIENT_ABORTED and self.record.detail != CONNECTION_RESET:
            return False
        return self._end.by is EndedBy.CLIENT and (self._tunnel is not None or self._said_nothing)

    def _log_start(self) -> None:
        record = self.record
        self.context.log.event(
            SESSION_STARTED,
            f"{record.client} {record.frontend} {record.backend}/{record.server} connected",
            frontend=record.frontend,
            backend=record.backend,
            server=record.server,
            client=record.client,
            server_address=record.server_address,
            id=f"{record.id:x}",
        )

    def _log_fault(self, fault: Exception) -> None:
        cause: BaseException = fault
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        place = traceback.extract_tb(cause.__traceback__)[-1]
        self.context.log.event(
            SESSION_FAULT,
            f"a fault of mailproxy ended session {self.record.id:x}: {cause!r} at {place.filename}:{place.lineno}",
            id=f"{self.record.id:x}",
            fault=repr(cause),
            place=f"{place.filename}:{place.lineno}",
        )
