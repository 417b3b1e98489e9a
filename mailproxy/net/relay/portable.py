"""The portable relay: two tasks a session, one for each direction. The simple one to read; the engine behaves the same.

Each direction is pumped by one task: read what is there, write it, wait. A direction keeps what the other side did not
take (``pending``) and does not read on until it is gone, so a slow reader holds its sender back through TCP itself.

Half-close. When a side ends, its end is passed on behind the last byte (close_notify where there is TLS, then FIN) and
the other direction goes on. A close_notify that finds the other side full waits for room as all else does.

Silence. A pump notes the time of the last byte on both sides, nothing more. When the earlier of the two limits comes up
the pumps are cancelled (they lose nothing: what they hold stands in their direction), the limits are worked out anew,
and either the session is over or the pumps go on. A side that is not read from, because the other one does not take
its bytes, is not the silent one.

Failures. When sending to a side fails, that side may have said something before: a server its refusal, a client its last
command. It is read and delivered before the session ends. A side that is not read from is looked at now and then, for its
reset would not show.

This is the one place where a session opens a nursery.
"""

from __future__ import annotations

import select

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

_LOOK_S = 1.0  # between looks at sides that are not read from

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.1


class PortableRelay:
    """Relays sessions of one trio loop; they share its buffer, which is never held across an await."""

    def __init__(self, poller: AnyPoller = TRIO) -> None:
        self._poller = poller
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Nothing is to be done for all sessions together."""
        task_status.started()

    async def run(self, pair: Tunnel) -> EndReason:
        """Relay until both sides are done, one fails, or one is silent for too long. Closes neither socket.

        Cancelled, it leaves the counts in ``pair`` as they are.
        """
        for side in (pair.client, pair.server):
            self._poller.unregister(side.sock.fileno())  # which would be told of every byte
        failed: Side | None = None
        while True:
            with trio.CancelScope(deadline=_deadline(pair)) as pair.scope:
                failed = failed or await self._pump_both(pair, pair.scope)
                if failed is not None:
                    await self._deliver_last_words(pair, failed, pair.scope)
                    discard_input(pair.survivor(), self._buffer)
                    return pair.aborted_end()
            if pair.to_server.is_finished and pair.to_client.is_finished:
                return pair.closed()
            if (end := pair.expired(trio.current_time())) is not None:
                return end
            _look_for_resets(pair)

    async def _pump_both(self, pair: Tunnel, scope: trio.CancelScope) -> Side | None:
        """Pump until both directions are done or a side fails, which is returned."""
        failed: list[Side] = []

        async def pump(direction: Direction) -> None:
            try:
                if not direction.eof:
                    await self._pump(pair, direction, scope)
                await _forward_eof(pair, direction, scope)
            except SideAbortedError as error:
                failed.append(error.side)
                pair.note_abort(error.side, error.detail, trio.current_time())
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            if not pair.to_server.is_finished:
                nursery.start_soon(pump, pair.to_server)
            if not pair.to_client.is_finished:
                await pump(pair.to_client)
        return failed[0] if failed else None

    async def _deliver_last_words(self, pair: Tunnel, failed: Side, scope: trio.CancelScope) -> None:
        """Read what the side that failed has sent before, and send it on as far as the other side takes it in time."""
        if failed is not pair.aborted:
            return  # the other side failed first and is not heard out either: nothing takes its bytes any more
        last, lost = (
            (pair.to_server, pair.to_client) if failed is pair.client else (pair.to_client, pair.to_server)
        )
        lost.pending, lost.eof, lost.is_blocked = b"", True, False
        scope.deadline = min(pair.deadlines())
        try:
            if last.eof:
                await _forward_eof(pair, last, scope)
            else:
                await self._pump(pair, last, scope, is_last=True)
        except SideAbortedError:
            pass  # of the failed side: it has been read; of the other: it takes nothing any more

    async def _pump(
        self, pair: Tunnel, direction: Direction, scope: trio.CancelScope, *, is_last: bool = False
    ) -> None:
        """Move bytes until the source has ended; with ``is_last``, or until it has nothing more."""
        source, sink, buffer = direction.source, direction.sink, self._buffer
        reads = 0
        while True:
            if direction.pending:
                scope.deadline = _deadline(pair)
                await _flush(direction)
                scope.deadline = _deadline(pair)  # the source was not counted meanwhile
                reads = 0
            count = receive(source, buffer)
            if count > 0:
                direction.received += count
                source.last_activity = sink.last_activity = trio.current_time()
                send(direction, buffer[:count])
                if direction.pending:
                    continue
                reads += 1
                if reads == _READS_PER_TURN:
                    reads = 0
                    await trio.lowlevel.checkpoint()
                # A short read of clear text means drained: asking again would only cost a call.
                if source.is_tls or count == _BUFFER_BYTES or is_last:
                    continue
            elif count == 0:
                break
            reads = 0
            if count == BLOCKED and source.is_tls:
                count_empty_read(direction)
            elif is_last:
                return
            if count == BLOCKED_WRITING:
                await _until_writable(source)
            else:
                await trio.lowlevel.wait_readable(source.sock)
        direction.eof = True
        if is_last:
            return
        if pair.first_closed is None:
            pair.first_closed = CLIENT_CLOSED if source is pair.client else SERVER_CLOSED
        sink.last_activity = trio.current_time()  # its silence counts from here on


async def _forward_eof(pair: Tunnel, direction: Direction, scope: trio.CancelScope) -> None:
    """Tell the sink that the source has ended, as soon as it has room for that."""
    sink = direction.sink
    try:
        while True:
            before = len(direction.pending_close_notify)
            shutdown_write(direction)
            if len(direction.pending_close_notify) < before:
                sink.last_activity = trio.current_time()
            scope.deadline = _deadline(pair)
            if direction.is_finished:
                return
            await _until_writable(sink)
    except SideAbortedError:
        if not (
            pair.to_server.eof and pair.to_client.eof
        ):  # who has said its own last word may leave before the answer
            raise
        scope.deadline = _deadline(pair)


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
            direction.source.last_activity = sink.last_activity = trio.current_time()
            pause = _SHORTEST_PAUSE_S


async def _until_writable(side: Side) -> None:
    try:
        await trio.lowlevel.wait_writable(side.sock)
    except trio.BusyResourceError:  # both pumps want to write to it: one sends, and one's TLS has to answer
        await trio.sleep(_LONGEST_PAUSE_S)


def _deadline(pair: Tunnel) -> float:
    """When to leave the pumps: for a limit, or to look at a side that is not read from."""
    due = min(pair.deadlines())
    if pair.aborted is None and any(_is_unread(direction) for direction in (pair.to_server, pair.to_client)):
        return min(due, trio.current_time() + _LOOK_S)
    return due


def _is_unread(direction: Direction) -> bool:
    return direction.eof or direction.is_blocked


def _look_for_resets(pair: Tunnel) -> None:
    """Note a reset of a side that is not read from. What it has sent is still delivered, if that does not take long."""
    for direction in (pair.to_server, pair.to_client):
        if _is_unread(direction):
            poll = select.poll()
            poll.register(direction.source.sock, 0)  # which leaves errors
            if any(events & select.POLLERR for _, events in poll.poll(0)):
                pair.note_reset(direction.source, trio.current_time())
