"""The relay: bytes from client to server and back until both are done; the portable form with two tasks a session.

Each direction is pumped by one task: read what is there, write it, wait. A direction keeps what the other side did not
take (``pending``) and does not read on until it is gone, so a slow reader holds its sender back through TCP itself.

Half-close. When a side ends, its end is passed on behind the last byte (close_notify where there is TLS, then FIN) and
the other direction goes on.

Silence. A pump notes the time of the last byte on both sides, nothing more. When the earlier of the two limits comes up
the pumps are cancelled (they lose nothing: what they hold stands in their direction), the limits are worked out anew,
and either the session is over or the pumps go on. A side that is not read from, because the other one does not take
its bytes, is not the silent one.

This is the one place where a session opens a nursery.
"""

from __future__ import annotations

import contextlib
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
from mailproxy.net.tls import is_bare_fin, reason, send_close_notify

_BUFFER_BYTES = 64 * 1024  # a typical socket buffer's worth; more per call gains nothing measurable
_RECORD_BYTES = 16 * 1024  # the largest TLS record (RFC 8446 section 5.1)
_READS_PER_TURN = 16  # 1 MiB at most, then the other sessions have their turn

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.1

# What _receive gives instead of a count.
_BLOCKED, _BLOCKED_WRITING = -1, -2


class _AbortedError(Exception):
    """A side's connection failed. Never leaves this module."""

    def __init__(self, side: Side, detail: str) -> None:
        self.side = side
        self.detail = detail


@define(eq=False)
class Side:
    """One end of a session. ``limit``: seconds of silence; ``close_notify``: did its TLS end with one?"""

    sock: socket.socket
    limit: float
    aborted: End = field(kw_only=True)
    last: float = field(default=0.0, kw_only=True)
    is_tls: bool = field(default=False, kw_only=True)
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
        """When the client's and the server's silence are too long.

        The side that has closed owes nothing any more, and neither does one that is not read from because the other
        does not take its bytes.
        """
        half_closed = self.up.ended or self.down.ended
        client = self.client.last + (self.half_closed if half_closed else self.client.limit)
        server = self.server.last + (self.half_closed if half_closed else self.server.limit)
        if self.up.pending or self.down.pending:
            return client if self.down.pending else math.inf, server if self.up.pending else math.inf
        return math.inf if self.up.ended else client, math.inf if self.down.ended else server


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

        async def pump(direction: Direction) -> None:
            try:
                await self._pump(pair, direction, scope)
            except _AbortedError as error:
                failed.append(error)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if not pair.up.ended:
                nursery.start_soon(pump, pair.up)
            if not pair.down.ended:
                await pump(pair.down)
        if not failed:
            return None
        pair.detail = failed[0].detail
        return failed[0].side.aborted

    async def _pump(self, pair: Pair, direction: Direction, scope: trio.CancelScope) -> None:
        source, sink, buffer = direction.source, direction.sink, self._buffer
        reads = 0
        while True:
            if direction.pending:
                await _flush(direction)
                scope.deadline = min(pair.due())  # the source was not counted meanwhile
                reads = 0
            count = _receive(source, buffer)
            if count > 0:
                direction.received += count
                source.last = sink.last = trio.current_time()
                _send(direction, buffer[:count])
                if direction.pending:
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
            reads = 0
            if count == _BLOCKED_WRITING:
                await _until_writable(source)
            else:
                await trio.lowlevel.wait_readable(source.sock)
        direction.ended = True
        if pair.first_closed is None:
            pair.first_closed = CLIENT_CLOSED if source is pair.client else SERVER_CLOSED
        sink.last = trio.current_time()  # its silence counts from here on
        _close_sending(sink)
        scope.deadline = min(pair.due())


def _is_tls(sock: socket.socket) -> bool:
    return isinstance(sock, ssl.SSLSocket)


def _receive(side: Side, buffer: memoryview) -> int:
    """Bytes read into ``buffer``, 0 at the end; _BLOCKED, or _BLOCKED_WRITING when TLS has to answer first."""
    try:
        count = side.sock.recv_into(buffer)
    except (BlockingIOError, ssl.SSLWantReadError):
        return _BLOCKED
    except ssl.SSLWantWriteError:  # the answer to a key update (RFC 8446 section 4.6.3) finds the socket full
        return _BLOCKED_WRITING
    except ssl.SSLZeroReturnError:
        count = 0
    except ssl.SSLError as error:
        if not is_bare_fin(error):
            raise _AbortedError(side, reason(error)) from None
        side.close_notify = False  # a FIN without close_notify is orderly, too; the log tells them apart
        return 0
    except OSError as error:
        raise _AbortedError(side, error.strerror or str(error)) from None
    if count == 0 and side.is_tls:
        side.close_notify = True
    return count


def _send(direction: Direction, data: memoryview) -> bool:
    """Send what the sink takes; the rest is copied out of the shared buffer and kept as pending.

    False if TLS has to read before it can write.
    """
    sink = direction.sink
    sent, writable = 0, True
    while sent < len(data):
        # OpenSSL wants a blocked write repeated with the same bytes: one record at a time is either sent or is not.
        piece = data[sent : sent + _RECORD_BYTES] if sink.is_tls else data[sent:]
        try:
            sent += sink.sock.send(piece)
        except (BlockingIOError, ssl.SSLWantWriteError):
            break
        except ssl.SSLWantReadError:
            writable = False
            break
        except ssl.SSLError as error:
            raise _AbortedError(sink, reason(error)) from None
        except OSError as error:
            raise _AbortedError(sink, error.strerror or str(error)) from None
    direction.pending = bytes(data[sent:])
    return writable


async def _flush(direction: Direction) -> None:
    sink, pause = direction.sink, _SHORTEST_PAUSE_S
    writable = True
    while direction.pending:
        if writable:
            await _until_writable(sink)
        else:
            # The peer is in the middle of a message of TLS itself, which the pump that reads from it will take. It may
            # never finish it: waiting for writable would spin then, so the pauses grow until the limits end it.
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
        before = len(direction.pending)
        writable = _send(direction, memoryview(direction.pending))
        if len(direction.pending) < before:
            # The source could not be heard meanwhile: its silence, too, counts from when the last byte has left.
            direction.source.last = sink.last = trio.current_time()
            pause = _SHORTEST_PAUSE_S


async def _until_writable(side: Side) -> None:
    try:
        await trio.lowlevel.wait_writable(side.sock)
    except trio.BusyResourceError:  # both pumps want to write to it: one sends, and one's TLS has to answer
        await trio.sleep(_LONGEST_PAUSE_S)


def _close_sending(side: Side) -> None:
    """Tell a side that no more comes: close_notify where there is TLS, then FIN."""
    with contextlib.suppress(
        OSError
    ):  # it has gone already; the pump that reads from it learns that in its own way
        if isinstance(side.sock, ssl.SSLSocket):
            send_close_notify(side.sock)
    with contextlib.suppress(OSError):
        # ssl.SSLSocket.shutdown would forget the TLS state, and what still comes could not be read
        socket.socket.shutdown(side.sock, socket.SHUT_WR)
