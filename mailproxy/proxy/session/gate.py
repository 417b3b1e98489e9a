"""The phase before a login, where a server trusts the proxy for the client's identity.

The parser is ``protocol/gate/``. It lasts until a login has succeeded, and for a whole session where none does.
"""

from __future__ import annotations

import socket

import trio
from attrs import define, field

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.log.record import SessionRecord
from mailproxy.net.poller import AnyPoller, Watch
from mailproxy.net.simple_io import ServerConnectionError, receive_at, send_all
from mailproxy.net.tls.errors import error_reason
from mailproxy.protocol.gate.gate import Gate
from mailproxy.protocol.gate.registry import GATES
from mailproxy.protocol.opening.identity import TTL_MAX
from mailproxy.proxy.session.dispatch import Dispatch
from mailproxy.proxy.session.errors import SessionEndedError


@define(eq=False)
class GatePhase:
    """One session at the gate. Both sides are in the poller.

    Attributes:
        client: The client's connection.
        server: The server's.
        gate: Its parser.
        record: The session's record, which counts the bytes.
        timeout: Seconds without a byte after which the session ends.
    """

    client: socket.socket
    server: socket.socket
    gate: Gate
    record: SessionRecord
    timeout: float
    _has_room: trio.Event = field(factory=trio.Event)
    _deadline: trio.CancelScope = field(factory=trio.CancelScope)
    _end: EndReason | None = None
    _detail: str = ""

    async def pass_through(self, poller: AnyPoller, unread: bytes) -> None:
        """Relay commands and answers until a login has succeeded.

        Args:
            poller: The poller.
            unread: What the client has sent already.

        Raises:
            SessionEndedError: One of the sides closed or failed before, or the gate refuses to go on.
        """
        client_watch = poller.watch(self.client.fileno())
        server_watch = poller.watch(self.server.fileno())
        self._deadline.deadline = trio.current_time() + self.timeout
        with self._deadline:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._from_client, client_watch, unread, nursery)
                await self._from_server(server_watch)
                nursery.cancel_scope.cancel()
        if self._deadline.cancelled_caught:
            raise SessionEndedError(end_reasons.CLIENT_TIMEOUT)
        if self._end is not None:
            raise SessionEndedError(self._end, self._detail)

    # A watch has one task that waits at it, the one that receives. So sending waits with trio.

    async def _from_client(self, watch: Watch, data: bytes, nursery: trio.Nursery) -> None:
        try:
            while True:
                if data:
                    self.record.bytes_in += len(data)
                    await send_all(self.server, self.gate.from_client(data))
                    if self.gate.failure:
                        self._fail(end_reasons.TOO_MANY_ERRORS, self.gate.failure, nursery)
                        return
                while not self.gate.has_room:
                    self._has_room = trio.Event()
                    await self._has_room.wait()
                data = await receive_at(self.client, watch)
                self._deadline.deadline = trio.current_time() + self.timeout
                if not data:
                    self._fail(end_reasons.CLIENT_CLOSED, "", nursery)
                    return
        except OSError as error:
            self._fail(end_reasons.CLIENT_ABORTED, error_reason(error), nursery)
        except ServerConnectionError as error:
            self._fail(end_reasons.SERVER_ABORTED, str(error), nursery)

    async def _from_server(self, watch: Watch) -> None:
        try:
            while not self.gate.is_open and self._end is None:
                data = await receive_at(self.server, watch)
                self._deadline.deadline = trio.current_time() + self.timeout
                self.record.bytes_out += len(data)
                if not data:
                    self._end = end_reasons.SERVER_CLOSED
                    return
                self.gate.from_server(data)
                await send_all(self.client, data)
                await send_all(self.server, self.gate.released())
                self._has_room.set()
                if self.gate.failure:
                    self._end, self._detail = end_reasons.SERVER_ABORTED, self.gate.failure
        except (OSError, ServerConnectionError) as error:
            detail = error_reason(error) if isinstance(error, OSError) else str(error)
            self._end, self._detail = end_reasons.SERVER_ABORTED, detail

    def _fail(self, end: EndReason, detail: str, nursery: trio.Nursery) -> None:
        self._end, self._detail = end, detail
        nursery.cancel_scope.cancel()


def make_gate(dispatch: Dispatch) -> Gate | None:
    """Return the gate of a session that is connected, None if its server does not take the proxy's word."""
    server = dispatch.lease.server
    if server is None or server.config.identity == "proxy" or dispatch.protocol not in GATES:
        return None
    greeted = dispatch.opening is not None
    ttl = TTL_MAX if server.config.identity == "id" else None
    return GATES[dispatch.protocol](ttl=ttl, greeted=greeted)
