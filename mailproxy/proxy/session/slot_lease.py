"""A session's slot at a server: acquire it, wait for it in the queue, release it."""

from __future__ import annotations

from collections.abc import Collection

import trio
from attrs import define, field

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import Phase
from mailproxy.log.record import SessionRecord, ms
from mailproxy.net.relay import Tunnel
from mailproxy.pool import Waiter
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.session.errors import SessionEndedError
from mailproxy.proxy.session.wait import InterruptibleWait


@define(eq=False, weakref_slot=False)
class SlotLease:
    """A session's claim on one slot of a backend, from dispatch to the session's end.

    It counts the session at the backend from its creation until ``close``.

    Attributes:
        server: The server whose slot the session holds, if it holds one.
        tunnel: The session's tunnel once that is open. Until then a server that goes down ends ``wait``,
            later it may end the tunnel.
    """

    backend: Backend
    record: SessionRecord
    wait: InterruptibleWait | None = field(repr=False)
    server: BackendServer | None = field(default=None, init=False)
    tunnel: Tunnel | None = field(default=None, init=False)
    _queued_for: BackendServer | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.backend.add_sessions(1)

    def open_tunnel(self, tunnel: Tunnel) -> None:
        """Note that the session is connected: it waits for nothing now, and has a tunnel."""
        self.wait, self.tunnel = None, tunnel

    def close(self) -> None:
        """Release the slot and stop counting the session."""
        self.backend.add_sessions(-1)
        self.release()

    def release(self) -> None:
        """Release the slot, if there is one."""
        server, self.server = self.server, None
        if server is not None:
            server.active_sessions.discard(self)
            self.backend.pool.release(server)

    @property
    def other_sessions_on_server(self) -> int:
        """The other sessions of the server whose slot this is, or that the session has queued for in vain."""
        if self.server is not None:
            return self.server.sessions - 1
        return self._queued_for.sessions if self._queued_for is not None else 0

    def on_server_down(self, *, close_sessions: bool) -> None:
        """End the wait for a server that is down, or the tunnel to it if sessions there are to be closed."""
        if self.wait is not None:
            self.wait.end_wait()
        elif self.tunnel is not None and close_sessions:
            self.tunnel.abort(end_reasons.SERVER_DOWN)

    async def acquire(
        self,
        wait: InterruptibleWait,
        key: int | None,
        *,
        required: BackendServer | None = None,
        excluded: Collection[BackendServer] = (),
    ) -> BackendServer:
        """Acquire a slot, after a wait in the queue if none is free.

        Args:
            wait: What the session waits in.
            key: The client key, for balance methods that go by the client.
            required: The only server that will do. If it goes down meanwhile, any will.
            excluded: Servers to avoid as long as others have a free slot.

        Returns:
            The server. It is up, but the caller must check that again after each wait.

        Raises:
            SessionEndedError: NO_SERVER, QUEUE_FULL, QUEUE_TIMEOUT or QUEUE_LEFT.
        """
        backend, record = self.backend, self.record
        while True:
            server = backend.acquire(key, required=required, excluded=excluded)
            if server is None:
                if required is None and not backend.pool.has_usable_server:
                    raise SessionEndedError(end_reasons.NO_SERVER, backend.no_server_reason())
                server = await self._wait_in_queue(wait, required)
            self.server = server
            server.active_sessions.add(self)
            if server.accepts_persistent:
                break
            # It went down between assigning the slot and this scheduler step.
            self.release()
            required = None
        record.server = server.name
        record.queue_ms = max(record.queue_ms, 0)
        return server

    async def _wait_in_queue(self, wait: InterruptibleWait, required: BackendServer | None) -> BackendServer:
        """Queue for a slot, first come, first served; it is this session's on return."""
        backend, record, started_at, woken = self.backend, self.record, trio.current_time(), trio.Event()
        waiter = Waiter(woken.set, required)
        if not backend.pool.enqueue(waiter):
            detail = f"{backend.pool.waiting} wait already, which is max_queue"
            raise SessionEndedError(end_reasons.QUEUE_FULL, detail)
        record.phase = Phase.QUEUE
        if required is not None:
            record.server, self._queued_for = required.name, required
        try:
            if wait.has_client_closed:
                raise SessionEndedError(end_reasons.QUEUE_LEFT)
            with wait.timeout(backend.config.timeouts.queue):
                await woken.wait()
            wait.raise_if_ended()
            server, waiter.server = waiter.server, None
        finally:
            backend.pool.cancel(waiter)  # a slot that came too late goes on to the next waiter
            record.queue_ms = max(record.queue_ms, 0) + ms(trio.current_time() - started_at)
            record.server_queue, record.backend_queue = waiter.server_queue, waiter.backend_queue
        # The pool moves a waiter to the queue for any server when its server goes down.
        if required is not None and waiter.required is None:
            required.counts.redispatches += 1
            record.redispatched = True
        if server is None:
            raise SessionEndedError(end_reasons.QUEUE_TIMEOUT)
        record.phase = Phase.CONNECT
        return server
