"""The relay: bytes from client to server and back until both are done; the portable form with two tasks a session.

Each direction is pumped by one task: read what is there, write it, wait. A direction keeps what the other side did not
take (``pending``) and does not read on until it is gone, so a slow reader holds its sender back through TCP itself.

Half-close. When a side ends, its end is passed on behind the last byte and the other direction goes on. Towards a
clear-text peer that is ``shutdown(SHUT_WR)``. Towards a TLS peer ``close_notify`` comes first, and OpenSSL's call for it
also reads: application data that it meets there are lost. So that peer has to be read dry in the same breath, and only
the pump that reads from it can do that; it is woken and told (``closing``). What arrives within the call itself is
lost, and Python offers no way round.

Silence. A pump notes the time of the last byte on both sides, nothing more. When the earlier of the two limits comes up
the pumps are cancelled (they lose nothing: what they hold stands in their direction), the limits are worked out anew,
and either the session is over or the pumps go on. A side that is not read from, because the other one does not take
its bytes, is not the silent one.

This is the one place where a session opens a nursery.
"""

from __future__ import annotations

import math
import socket
import ssl

import trio
from attrs import define, field

from mailproxy.log.ends import (
    CLIENT_ABORTED,
    CLIENT_CLOSED,
    CLIENT_SILENT,
    SERVER_ABORTED,
    SERVER_CLOSED,
    SERVER_SILENT,
    End,
)
from mailproxy.net.tls import is_reset, reason

_BUFFER_BYTES = 64 * 1024  # a typical socket buffer's worth; more per call gains nothing measurable
_RECORD_BYTES = 16 * 1024  # the largest TLS record (RFC 8446 section 5.1)
_READS_PER_TURN = 16  # 1 MiB at most, then the other sessions have their turn

_NOTHING_YET = -1


class _AbortedError(Exception):
    """A side's connection failed. Never leaves this module."""

    def __init__(self, side: Side, detail: str) -> None:
        self.side = side
        self.detail = detail


@define(eq=False)
class Side:
    """One end of a session.

    ``limit``: seconds of silence. ``closing``: its sending side is to be closed by whoever reads from it; ``closed``: it
    is. ``over``: its end came within OpenSSL's call, nothing more can be read. ``close_notify``: did its TLS end so?
    """

    sock: socket.socket
    limit: float
    aborted: End = field(kw_only=True)
    last: float = field(default=0.0, kw_only=True)
    is_tls: bool = field(default=False, kw_only=True)
    closing: bool = field(default=False, kw_only=True)
    closed: bool = field(default=False, kw_only=True)
    over: bool = field(default=False, kw_only=True)
    close_notify: bool | None = field(default=None, kw_only=True)


@define(eq=False)
class Direction:
    """One direction of a session. ``received`` counts bytes, ``pending`` is what the sink did not take yet."""

    source: Side
    sink: Side
    received: int = 0
    pending: bytes = b""
    ended: bool = False


class Pair:
    """The two sides of a session, and what became of them: byte counts, and who closed first."""

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        client_limit: float,
        server_limit: float,
        half_closed: float,
    ) -> None:
        now = trio.current_time()
        self.client = Side(client, client_limit, aborted=CLIENT_ABORTED, last=now, is_tls=_is_tls(client))
        self.server = Side(server, server_limit, aborted=SERVER_ABORTED, last=now, is_tls=_is_tls(server))
        self.up = Direction(self.client, self.server)
        self.down = Direction(self.server, self.client)
        self.half_closed = half_closed
        self.first_closed: End | None = None
        self.detail = ""

    def due(self) -> tuple[float, float]:
        """When the client's and the server's silence are too long."""
        if self.up.ended:
            return math.inf, self.server.last + self.half_closed
        if self.down.ended:
            return self.client.last + self.half_closed, math.inf
        client, server = self.client.last + self.client.limit, self.server.last + self.server.limit
        if self.up.pending and not self.down.pending:
            return math.inf, server
        if self.down.pending and not self.up.pending:
            return client, math.inf
        return client, server


class PortableRelay:
    """Relays sessions of one trio loop; they share its buffer, which is never held across an await."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def run(self, pair: Pair) -> End:
        """Relay until both sides are done, one fails, or one is silent for too long. Closes neither socket.

        Cancelled, it leaves the counts in ``pair`` as they are.
        """
        while True:
            with trio.CancelScope(deadline=min(pair.due())) as scope:
                end = await self._pump_both(pair, scope)
                if end is not None:
                    return end
            if pair.up.ended and pair.down.ended:
                break
            client_due, server_due = pair.due()
            now = trio.current_time()
            if client_due <= now:  # with equal limits the client's counts, as in HAProxy
                return CLIENT_SILENT
            if server_due <= now:
                return SERVER_SILENT
        assert pair.first_closed is not None  # noqa: S101 - both directions have ended
        return pair.first_closed

    async def _pump_both(self, pair: Pair, scope: trio.CancelScope) -> End | None:
        failed: list[_AbortedError] = []

        async def pump(direction: Direction, reverse: Direction) -> None:
            try:
                await self._pump(pair, direction, reverse, scope)
            except _AbortedError as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if not pair.up.ended:
                nursery.start_soon(pump, pair.up, pair.down)
            if not pair.down.ended:
                await pump(pair.down, pair.up)
        if not failed:
            return None
        pair.detail = failed[0].detail
        return failed[0].side.aborted

    async def _pump(
        self, pair: Pair, direction: Direction, reverse: Direction, scope: trio.CancelScope
    ) -> None:
        source, sink, buffer = direction.source, direction.sink, self._buffer
        if direction.pending:
            await _flush(direction)
        reads = 0
        while True:
            count = _receive(source, buffer)
            if count > 0:
                direction.received += count
                source.last = sink.last = trio.current_time()
                _send(direction, buffer[:count])
                if direction.pending:
                    await _flush(direction)
                    reads = 0
                    continue
                reads += 1
                if reads == _READS_PER_TURN:
                    reads = 0
                    await trio.lowlevel.checkpoint()
                # A short read of clear text means drained: asking again would only cost a call.
                if source.is_tls or count == _BUFFER_BYTES:
                    continue
            elif count == 0:
                break
            if source.closing and not source.closed:
                if count > 0:  # not read dry yet for certain
                    continue
                _close_sending(source)
                if source.over:
                    break
            reads = 0
            try:
                await trio.lowlevel.wait_readable(source.sock)
            except trio.ClosedResourceError:
                pass  # woken by the reverse direction: source.closing is set
            except trio.BusyResourceError:
                await trio.sleep(
                    0.001
                )  # its sender waits for the same event, which TLS makes possible but rare
        self._end_direction(pair, direction, reverse)
        scope.deadline = min(pair.due())

    def _end_direction(self, pair: Pair, direction: Direction, reverse: Direction) -> None:
        direction.ended = True
        source, sink = direction.source, direction.sink
        if pair.first_closed is None:
            pair.first_closed = CLIENT_CLOSED if source is pair.client else SERVER_CLOSED
        sink.last = trio.current_time()  # its silence counts from here on
        if source.closing and not source.closed:
            _close_sending(source)
        if not sink.is_tls or reverse.ended:
            _close_sending(sink)
        else:
            sink.closing = True
            trio.lowlevel.notify_closing(sink.sock)


def _is_tls(sock: socket.socket) -> bool:
    return isinstance(sock, ssl.SSLSocket)


def _receive(side: Side, buffer: memoryview) -> int:
    """Bytes read into ``buffer``, 0 at the end, _NOTHING_YET if it would block."""
    if side.over:
        return 0
    try:
        count = side.sock.recv_into(buffer)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        # A read that wants to write answers a key update; the socket is full, and will be asked again with what comes.
        return _NOTHING_YET
    except ssl.SSLZeroReturnError:
        count = 0
    except ssl.SSLEOFError as error:
        if is_reset(error):
            raise _AbortedError(side, reason(error)) from None
        side.close_notify = False  # a FIN without close_notify is orderly, too; the log tells them apart
        return 0
    except ssl.SSLError as error:
        raise _AbortedError(side, reason(error)) from None
    except OSError as error:
        raise _AbortedError(side, error.strerror or str(error)) from None
    if count == 0 and side.is_tls:
        side.close_notify = True
    return count


def _send(direction: Direction, data: memoryview) -> None:
    """Send what the sink takes; the rest is copied out of the shared buffer and kept as pending."""
    sink = direction.sink
    sent = 0
    while sent < len(data):
        # OpenSSL wants a blocked write repeated with the same bytes: one record at a time is either sent or is not.
        piece = data[sent : sent + _RECORD_BYTES] if sink.is_tls else data[sent:]
        try:
            sent += sink.sock.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            break
        except ssl.SSLError as error:
            raise _AbortedError(sink, reason(error)) from None
        except OSError as error:
            raise _AbortedError(sink, error.strerror or str(error)) from None
    direction.pending = bytes(data[sent:])


async def _flush(direction: Direction) -> None:
    sink = direction.sink
    while direction.pending:
        try:
            await trio.lowlevel.wait_writable(sink.sock)
        except trio.BusyResourceError:
            await trio.sleep(0.001)
        except trio.ClosedResourceError:
            pass  # woken by chance with the pump that reads from there
        before = len(direction.pending)
        _send(direction, memoryview(direction.pending))
        if len(direction.pending) < before:
            sink.last = trio.current_time()


def _close_sending(side: Side) -> None:
    """Tell a side that no more comes: close_notify where there is TLS, then FIN."""
    side.closed = True
    try:
        if side.is_tls:
            _send_close_notify(side)
        # ssl.SSLSocket.shutdown would forget the TLS state, and what still comes could not be read
        socket.socket.shutdown(side.sock, socket.SHUT_WR)
    except OSError:
        pass  # it has gone already; the pump that reads from it learns that in its own way


def _send_close_notify(side: Side) -> None:
    assert isinstance(side.sock, ssl.SSLSocket)  # noqa: S101 - is_tls says so
    try:
        side.sock.unwrap()
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
        pass  # sent, and the peer's own close_notify has not come yet; or the socket is full and the FIN must do
    except ssl.SSLEOFError as error:
        # Its FIN came within the call. Asked again, OpenSSL would call that a reset.
        side.over = not is_reset(error)
        side.close_notify = False
    else:
        # Its close_notify came within the call, and OpenSSL is done: what is read now would be ciphertext.
        side.over = side.close_notify = True
