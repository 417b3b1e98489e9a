"""The portable relay: two tasks a session, one for each direction. The simple one to read; the engine behaves the same.

Each direction is pumped by one task: read what is there, write it, wait. A direction keeps what the other side did not
take (``pending``) and does not read on until it is gone, so a slow reader holds its sender back through TCP itself.

Half-close. When a side ends, its end is passed on behind the last byte (close_notify where there is TLS, then FIN) and
the other direction goes on. A close_notify that finds the other side full waits for room as all else does.

Silence. A pump notes the time of the last byte on both sides, nothing more. When the earlier of the two limits comes up
the pumps are cancelled (they lose nothing: what they hold stands in their direction), the limits are worked out anew,
and either the session is over or the pumps go on. A side that is not read from, because the other one does not take
its bytes, is not the silent one.

This is the one place where a session opens a nursery.
"""

from __future__ import annotations

import trio

from mailproxy.log.ends import CLIENT_CLOSED, SERVER_CLOSED, End
from mailproxy.net.poller import TRIO, AnyPoller
from mailproxy.net.relay.moving import BLOCKED_WRITING, SideAbortedError, close_sending, receive, send
from mailproxy.net.relay.pair import Direction, Pair, Side

_BUFFER_BYTES = 64 * 1024  # a typical socket buffer's worth; more per call gains nothing measurable
_READS_PER_TURN = 16  # 1 MiB at most, then the other sessions have their turn

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.1


class PortableRelay:
    """Relays sessions of one trio loop; they share its buffer, which is never held across an await."""

    def __init__(self, poller: AnyPoller = TRIO) -> None:
        self._poller = poller
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing is to be done for all sessions together."""
        task_status.started()

    async def run(self, pair: Pair) -> End:
        """Relay until both sides are done, one fails, or one is silent for too long. Closes neither socket.

        Cancelled, it leaves the counts in ``pair`` as they are.
        """
        for side in (pair.client, pair.server):
            self._poller.release(side.sock.fileno())  # which would be told of every byte
        while True:
            with trio.CancelScope(deadline=min(pair.due())) as pair.scope:
                end = await self._pump_both(pair, pair.scope)
                if end is not None:
                    return end
            if pair.up.is_done and pair.down.is_done:
                break
            if (end := pair.over(trio.current_time())) is not None:
                return end
        assert pair.first_closed is not None  # noqa: S101 - both directions are done
        return pair.first_closed

    async def _pump_both(self, pair: Pair, scope: trio.CancelScope) -> End | None:
        failed: list[tuple[Side, str]] = []  # not the error: its traceback would have this list

        async def pump(direction: Direction) -> None:
            try:
                if not direction.ended:
                    await self._pump(pair, direction, scope)
                await _pass_end_on(pair, direction, scope)
            except SideAbortedError as error:
                failed.append((error.side, error.detail))
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if not pair.up.is_done:
                nursery.start_soon(pump, pair.up)
            if not pair.down.is_done:
                await pump(pair.down)
        if not failed:
            return None
        side, pair.detail = failed[0]
        return side.aborted

    async def _pump(self, pair: Pair, direction: Direction, scope: trio.CancelScope) -> None:
        source, sink, buffer = direction.source, direction.sink, self._buffer
        reads = 0
        while True:
            if direction.pending:
                await _flush(direction)
                scope.deadline = min(pair.due())  # the source was not counted meanwhile
                reads = 0
            count = receive(source, buffer)
            if count > 0:
                direction.received += count
                source.last = sink.last = trio.current_time()
                send(direction, buffer[:count])
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
            if count == BLOCKED_WRITING:
                await _until_writable(source)
            else:
                await trio.lowlevel.wait_readable(source.sock)
        direction.ended = True
        if pair.first_closed is None:
            pair.first_closed = CLIENT_CLOSED if source is pair.client else SERVER_CLOSED
        sink.last = trio.current_time()  # its silence counts from here on


async def _pass_end_on(pair: Pair, direction: Direction, scope: trio.CancelScope) -> None:
    """Tell the sink that the source has ended, as soon as it has room for that."""
    sink = direction.sink
    try:
        while True:
            before = len(direction.farewell)
            close_sending(direction)
            if len(direction.farewell) < before:
                sink.last = trio.current_time()
            scope.deadline = min(pair.due())
            if direction.is_done:
                return
            await _until_writable(sink)
    except SideAbortedError:
        if not (
            pair.up.ended and pair.down.ended
        ):  # who has said its own last word may leave before the answer
            raise
        scope.deadline = min(pair.due())


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
        writable = send(direction, memoryview(direction.pending))
        if len(direction.pending) < before:
            # The source could not be heard meanwhile: its silence, too, counts from when the last byte has left.
            direction.source.last = sink.last = trio.current_time()
            pause = _SHORTEST_PAUSE_S


async def _until_writable(side: Side) -> None:
    try:
        await trio.lowlevel.wait_writable(side.sock)
    except trio.BusyResourceError:  # both pumps want to write to it: one sends, and one's TLS has to answer
        await trio.sleep(_LONGEST_PAUSE_S)
