"""The portable relay: two tasks for each session, one for each direction.

It behaves like the engine, and is easier to read.

One task pumps each direction: it reads what is there, writes it, and waits. What the sink does not take stays
in ``pending``, and the task reads no more until it is sent. TCP then slows the sender down.

Half-close. When a side closes, its end is forwarded behind the last byte (close_notify under TLS, then FIN),
and the other direction goes on. A close_notify that does not fit the sink's buffer waits like data.

Idle timeouts. A pump only notes the time of the last byte on both sides. When the earlier deadline passes,
the pumps are cancelled. They lose nothing, because all state is in their direction. Then the deadlines are
computed again, and either the session is over or the pumps go on. A side that is not read because the other
side does not take its bytes is not idle.

Failures. When sending to a side fails, the side may have sent final data before: a server its refusal, a
client its last command. It is read and delivered before the session ends. A side that is not read is polled
for a reset every second, because nothing else would show it.

This is the one place where a session opens a nursery.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from functools import partial

import trio

from mailproxy.log.end_reasons import CLIENT_CLOSED, SERVER_CLOSED, EndReason
from mailproxy.net.poller import TRIO, AnyPoller
from mailproxy.net.relay.transfer import (
    BLOCKED,
    BLOCKED_WRITING,
    SideAbortedError,
    count_empty_read,
    discard_input,
    receive,
    send,
    shutdown_write,
)
from mailproxy.net.relay.tunnel import Direction, Side, Tunnel

_BUFFER_BYTES = 64 * 1024  # a typical socket buffer's worth; more per call gains nothing measurable
_READS_PER_TURN = 16  # 1 MiB at most, then the other sessions have their turn

_RESET_POLL_INTERVAL_S = 1.0  # of sides that are not read

_MIN_PAUSE_S, _MAX_PAUSE_S = 0.001, 0.1


class PortableRelay:
    """Relays the sessions of one trio loop. They share one buffer, whose content never outlives an await."""

    def __init__(self, poller: AnyPoller = TRIO) -> None:
        self._poller = poller
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Return at once: the sessions share no work."""
        task_status.started()

    async def run(self, tunnel: Tunnel) -> EndReason:
        """Relay until both sides have closed, one fails, or one is idle for too long.

        Returns:
            The end reason. Byte counts and details are in ``tunnel``.

        Closes:
            Neither socket.

        Cancellation:
            The counts in ``tunnel`` stay as they are.
        """
        for side in (tunnel.client, tunnel.server):
            self._poller.unregister(side.sock.fileno())  # otherwise each byte would also wake the poller
        if tunnel.gate is not None:
            tunnel.gate.push = partial(_push, tunnel.to_server)
        failed: Side | None = None
        while True:
            with trio.CancelScope(deadline=_deadline(tunnel)) as scope:
                tunnel.scope = scope
                failed = failed or await self._pump_both(tunnel, scope)
                if failed is not None:
                    await self._deliver_final_data(tunnel, failed, scope)
                    discard_input(tunnel.surviving_side(), self._buffer)
                    return tunnel.aborted_end()
            if tunnel.to_server.is_finished and tunnel.to_client.is_finished:
                return tunnel.closed_end()
            if (end := tunnel.expired(trio.current_time())) is not None:
                return end
            _note_resets(tunnel)

    async def _pump_both(self, tunnel: Tunnel, scope: trio.CancelScope) -> Side | None:
        """Pump until both directions have forwarded their end, or a side fails, which is returned."""
        failed: list[Side] = []

        async def pump(direction: Direction) -> None:
            try:
                if not direction.eof:
                    await self._pump(tunnel, direction, scope)
                await _forward_eof(tunnel, direction, scope)
            except SideAbortedError as error:
                failed.append(error.side)
                tunnel.note_abort(error.side, error.detail, trio.current_time())
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if not tunnel.to_server.is_finished:
                nursery.start_soon(pump, tunnel.to_server)
            if not tunnel.to_client.is_finished:
                await pump(tunnel.to_client)
        return failed[0] if failed else None

    async def _deliver_final_data(self, tunnel: Tunnel, failed: Side, scope: trio.CancelScope) -> None:
        """Send on what the failed side had sent before, as far as the other side takes it in time."""
        if failed is not tunnel.aborted_side:
            return  # the other side failed first, and takes no data
        if tunnel.gate is not None:
            tunnel.gate.drop()
        away, towards = tunnel.to_server, tunnel.to_client
        if failed is tunnel.server:
            away, towards = towards, away
        towards.pending, towards.eof, towards.is_blocked = b"", True, False
        scope.deadline = min(tunnel.deadlines())
        try:
            if away.eof:
                await _forward_eof(tunnel, away, scope)
            else:
                await self._pump(tunnel, away, scope, is_final=True)
        except SideAbortedError:
            pass  # either the failed side is drained, or the other side has failed, too

    async def _pump(
        self, tunnel: Tunnel, direction: Direction, scope: trio.CancelScope, *, is_final: bool = False
    ) -> None:
        """Move bytes until the source closes; with ``is_final``, also until it is drained."""
        source, sink, buffer = direction.source, direction.sink, self._buffer
        reads = 0
        while True:
            if direction.pending:
                scope.deadline = _deadline(tunnel)
                await _flush(direction)
                scope.deadline = _deadline(tunnel)  # the source had no deadline meanwhile
                reads = 0
            count = receive(source, buffer)
            if count > 0:
                direction.received += count
                data = buffer[:count]
                if direction.note is not None and (verdict := direction.note(data)) is not False:
                    if verdict is True:
                        direction.note = None
                    else:
                        data = memoryview(verdict)
                source.last_activity = sink.last_activity = trio.current_time()
                send(direction, data)
                if direction.pending:
                    continue
                if tunnel.gate is not None and not is_final and source is tunnel.client:
                    await _until(lambda: tunnel.gate is None or not tunnel.gate.is_full)
                reads += 1
                if reads == _READS_PER_TURN:
                    reads = 0
                    await trio.lowlevel.checkpoint()
                # In clear, a short read has drained the source. Another one would only cost a call.
                if source.is_tls or count == _BUFFER_BYTES or is_final:
                    continue
            elif count == 0:
                if tunnel.gate is not None and not is_final and source is tunnel.client:
                    tunnel.shorten_timeouts()
                    scope.deadline = _deadline(tunnel)
                    await _until(lambda: tunnel.gate is None or not tunnel.gate.holds)
                break
            reads = 0
            if count == BLOCKED and source.is_tls:
                count_empty_read(direction)
            elif is_final:
                return
            if count == BLOCKED_WRITING:
                await _until_writable(source)
            else:
                await trio.lowlevel.wait_readable(source.sock)
        direction.eof = True
        if is_final:
            return
        if tunnel.first_closed is None:
            tunnel.first_closed = CLIENT_CLOSED if source is tunnel.client else SERVER_CLOSED
        sink.last_activity = trio.current_time()  # the sink's idle time starts now


async def _forward_eof(tunnel: Tunnel, direction: Direction, scope: trio.CancelScope) -> None:
    """Close the sink for writing, as soon as it has room for the close_notify."""
    sink = direction.sink
    try:
        while True:
            before = len(direction.pending_close_notify)
            shutdown_write(direction)
            if len(direction.pending_close_notify) < before:
                sink.last_activity = trio.current_time()
            scope.deadline = _deadline(tunnel)
            if direction.is_finished:
                return
            await _until_writable(sink)
    except SideAbortedError:
        # A side that has closed its own direction may go without waiting for the answer.
        if not (tunnel.to_server.eof and tunnel.to_client.eof):
            raise
        scope.deadline = _deadline(tunnel)


async def _flush(direction: Direction) -> None:
    """Send all of ``pending``."""
    sink, pause = direction.sink, _MIN_PAUSE_S
    can_write = True
    while direction.pending:
        if can_write:
            await _until_writable(sink)
        else:
            # TLS has to read first: the peer has sent a part of a handshake message. The pump of the other
            # direction reads the rest, but the peer may never send it. Waiting for writable would spin then,
            # so the pauses grow until a deadline passes.
            await trio.sleep(pause)
            pause = min(pause * 2, _MAX_PAUSE_S)
        before = len(direction.pending)
        can_write = send(direction, memoryview(direction.pending))
        if len(direction.pending) < before:
            # The source was not read meanwhile. Its idle time, too, starts when the last byte has left.
            direction.source.last_activity = sink.last_activity = trio.current_time()
            pause = _MIN_PAUSE_S


def _push(direction: Direction, data: bytes) -> None:
    """Send bytes that a gate has held. What the sink does not take goes out with the next bytes."""
    if direction.pending:
        direction.pending += data
    elif data and not direction.eof:
        send(direction, memoryview(data))


async def _until(is_so: Callable[[], bool]) -> None:
    """Wait for a gate, which only the other direction moves."""
    pause = _MIN_PAUSE_S
    while not is_so():
        await trio.sleep(pause)
        pause = min(pause * 2, _MAX_PAUSE_S)


async def _until_writable(side: Side) -> None:
    try:
        await trio.lowlevel.wait_writable(side.sock)
    except trio.BusyResourceError:
        # Both pumps wait to write here: one has data, the TLS of the other an answer.
        await trio.sleep(_MAX_PAUSE_S)


def _deadline(tunnel: Tunnel) -> float:
    """Return when to leave the pumps: at a deadline, or to poll a side that is not read."""
    deadline = min(tunnel.deadlines())
    if tunnel.aborted_side is None and (_is_unread(tunnel.to_server) or _is_unread(tunnel.to_client)):
        return min(deadline, trio.current_time() + _RESET_POLL_INTERVAL_S)
    return deadline


def _is_unread(direction: Direction) -> bool:
    return direction.eof or direction.is_blocked


def _note_resets(tunnel: Tunnel) -> None:
    """Note resets of sides that are not read. Their data is still delivered, within a short deadline."""
    for direction in (tunnel.to_server, tunnel.to_client):
        if _is_unread(direction):
            poll = select.poll()
            poll.register(direction.source.sock, 0)  # errors are reported always (poll(2))
            if any(events & select.POLLERR for _, events in poll.poll(0)):
                tunnel.note_reset(direction.source, trio.current_time())
