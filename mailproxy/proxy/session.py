"""A session: one task that runs once down the list in ``Session._proceed``, and ends with exactly one end reason.

A phase that cannot go on raises ``SessionEndedError`` with the reason; being cancelled is the operator's stop. Whatever
happens, ``run`` closes both sockets, gives every count back and writes one line.
"""

from __future__ import annotations

import itertools
import socket
import time
import traceback

import trio
from attrs import define, field

from mailproxy import config
from mailproxy.errors import (
    ClientAbortError,
    ClientHandshakeError,
    ProxyError,
    ServerHandshakeError,
    ServerRefusedError,
)
from mailproxy.log import Log, ends
from mailproxy.log.ends import End
from mailproxy.log.events import SESSION_FAULT, SESSION_STARTED
from mailproxy.log.record import SessionRecord
from mailproxy.net.dial import connect
from mailproxy.net.listener import Listener
from mailproxy.net.relay import Pair, PortableRelay
from mailproxy.net.tls import ClientLeftError, accept_tls, connect_tls, has_left, tls_facts
from mailproxy.proxy.backend import Backend, BackendServer
from mailproxy.proxy.limit import SessionLimit

_ids = itertools.count(1)


class SessionEndedError(Exception):
    """A session cannot go on. Caught in ``Session.run`` and nowhere else."""

    def __init__(self, end: End, detail: object = "") -> None:
        self.end = end
        self.detail = str(detail)


@define(kw_only=True, eq=False)
class Surroundings:
    """What the sessions of one frontend have in common; ``sessions`` counts them from accepting to the last line."""

    config: config.Frontend
    backend: Backend | None
    limit: SessionLimit
    relay: PortableRelay
    log: Log
    sessions: int = 0

    def enter(self) -> None:
        """A session begins."""
        self.sessions += 1
        self.limit.enter()

    def leave(self) -> None:
        """A session has written its line."""
        self.sessions -= 1
        self.limit.leave()


@define(eq=False)
class Session:
    """One client's connection and what it is proxied to. It has been counted already."""

    around: Surroundings
    listener: Listener
    client: socket.socket
    peer: object = field(kw_only=True)
    record: SessionRecord = field(init=False)
    _began: float = field(factory=trio.current_time, init=False)
    _backend: Backend | None = field(default=None, init=False)
    _server: BackendServer | None = field(default=None, init=False)
    _server_socket: socket.socket | None = field(default=None, init=False)
    _pair: Pair | None = field(default=None, init=False)
    _end: End = field(default=ends.STOPPED_CONNECTING, init=False)  # what it is if the operator stops it now

    def __attrs_post_init__(self) -> None:
        self.record = SessionRecord(
            id=next(_ids),
            accepted=time.time(),
            frontend=self.around.config.name,
            bind=self.listener.name,
            tls=self.listener.context is not None,
            client=self.listener.client_name(self.peer),
        )

    async def run(self) -> None:
        """Proxy the session to its end. Raises nothing but Cancelled."""
        try:
            await self._proceed()
        except SessionEndedError as ended:
            self._end, self.record.detail = ended.end, ended.detail
        except Exception as fault:  # noqa: BLE001 - the border: no fault of one session touches another
            self._end, self.record.detail = ends.INTERNAL_ERROR, repr(fault)
            self._report(fault)
        finally:
            self._finish()

    async def _proceed(self) -> None:
        if self.listener.context is not None:
            await self._shake_hands()
        server = self._choose_server()
        await self._connect(server)
        await self._relay()

    async def _shake_hands(self) -> None:
        assert self.listener.context is not None  # noqa: S101 - asked by the caller
        self._end = ends.HANDSHAKE_STOPPED
        with trio.move_on_after(self.around.config.timeouts.handshake) as limit:
            try:
                self.client = tls = await accept_tls(self.client, self.listener.context)
            except ClientLeftError as error:
                raise SessionEndedError(
                    ends.HANDSHAKE_LEFT if error.said_something else ends.HANDSHAKE_EMPTY
                ) from None
            except (ClientHandshakeError, ClientAbortError) as error:
                raise SessionEndedError(ends.HANDSHAKE_FAILED, error) from None
        if limit.cancelled_caught:
            raise SessionEndedError(ends.HANDSHAKE_TIMEOUT)
        self.record.tls_version, self.record.tls_cipher, self.record.sni = tls_facts(tls)

    def _choose_server(self) -> BackendServer:
        self._end = ends.STOPPED_CONNECTING
        backend = self.around.backend
        if backend is None:
            raise SessionEndedError(ends.NO_SERVER, "the frontend has no backend")
        self.record.backend = backend.name
        server = backend.choose()
        if server is None:
            raise SessionEndedError(ends.NO_SERVER, backend.why_none())
        self.record.server = server.name
        self.record.queue_ms = 0
        self._backend, self._server = backend, server
        backend.sessions += 1
        server.enter()
        return server

    async def _connect(self, server: BackendServer) -> None:
        assert self._backend is not None  # noqa: S101 - it has a server
        began = trio.current_time()
        with trio.move_on_after(self._backend.config.timeouts.connect) as limit:
            try:
                self._server_socket, endpoint = await connect(server.endpoints, self.listener.port)
                if server.context is not None:
                    self._server_socket = await connect_tls(
                        self._server_socket, server.context, server.server_name
                    )
            except ServerHandshakeError as error:
                raise self._not_connected(ends.SERVER_HANDSHAKE_FAILED, error) from None
            except ServerRefusedError as error:
                raise self._not_connected(ends.SERVER_REFUSED, error) from None
            except ProxyError as error:
                raise SessionEndedError(ends.OUT_OF_RESOURCES, error) from None
        if limit.cancelled_caught:
            raise self._not_connected(ends.CONNECT_TIMEOUT, "no answer in time")
        self.record.server_address = endpoint.text(self.listener.port)
        self.record.connect_ms = _ms(trio.current_time() - began)

    def _not_connected(self, end: End, detail: object = "") -> SessionEndedError:
        """The reason, unless the client has left meanwhile: then nobody waits for that server any more."""
        return SessionEndedError(ends.CLIENT_LEFT if has_left(self.client) else end, detail)

    async def _relay(self) -> None:
        assert self._backend is not None  # noqa: S101 - it is connected
        assert self._server_socket is not None  # noqa: S101 - it is connected
        self._end = ends.STOPPED
        limits = self.around.config.timeouts
        self._pair = Pair(
            self.client,
            self._server_socket,
            client_limit=limits.client,
            server_limit=self._backend.config.timeouts.server,
            half_closed=limits.half_closed,
        )
        if self.around.config.log_start:
            self._log_start()
        self._end = await self.around.relay.run(self._pair)
        self.record.detail = self._pair.detail

    def _finish(self) -> None:
        """Give the counts back, close, write the line. The border is here, too."""
        try:
            self._count_out()
            self._close()
        except Exception as fault:  # noqa: BLE001 - as in run
            self._report(fault)
        finally:
            self.around.leave()

    def _count_out(self) -> None:
        record = self.record
        if self._backend is not None and self._server is not None:
            self._backend.sessions -= 1
            self._server.leave()
            # HAProxy's line counts these without the session, the next two with it
            record.backend_sessions, record.server_sessions = self._backend.sessions, self._server.sessions
        record.process_sessions, record.frontend_sessions = (
            self.around.limit.sessions,
            self.around.sessions,
        )

    def _close(self) -> None:
        record, around = self.record, self.around
        self.client.close()
        if self._server_socket is not None:
            self._server_socket.close()
        if self._pair is not None:
            record.bytes_in, record.bytes_out = self._pair.up.received, self._pair.down.received
            record.close_notify = self._pair.client.close_notify
            record.server_close_notify = self._pair.server.close_notify
        record.end = self._end
        record.total_ms = _ms(trio.current_time() - self._began)
        started = around.config.log_start and self._pair is not None
        if around.config.log_null or started or record.bytes_in or not self._end.by_itself:
            around.log.session(record)

    def _log_start(self) -> None:
        record = self.record
        self.around.log.event(
            SESSION_STARTED,
            f"{record.client} {record.frontend} {record.backend}/{record.server} connected",
            frontend=record.frontend,
            backend=record.backend,
            server=record.server,
            client=record.client,
            server_address=record.server_address,
            id=f"{record.id:x}",
        )

    def _report(self, fault: Exception) -> None:
        cause: BaseException = fault
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        place = traceback.extract_tb(cause.__traceback__)[-1]
        self.around.log.event(
            SESSION_FAULT,
            f"a fault of mailproxy ended session {self.record.id:x}: {cause!r} at {place.filename}:{place.lineno}",
            id=f"{self.record.id:x}",
            fault=repr(cause),
            place=f"{place.filename}:{place.lineno}",
        )


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
