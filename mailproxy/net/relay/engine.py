"""The engine: relays all sessions of a loop in one task, the poller's. A session is parked until it is over.

Each direction of a session is a flow. The poller tells it what happens at its source, and the other flow of the session
what happens at its sink, in plain calls: a message costs no task switch, no nursery and no scope, but receiving, sending
and a dozen lines between.

Receiving. Sockets are told of once (edge-triggered), so a flow receives until nothing is left. In clear a short read has
taken all there was, and the call that says so is saved, unless the source has ended, too, or sent urgent data, where a read
stops short (tcp(7)).
Under TLS a short read means nothing, one record comes at a time. One that gives no data may have handled a record that has
none, with more behind it: the poller is asked to tell again, and too many of these in a row end the session.

Holding back. What the sink does not take is kept (``pending``, or in a pipe) and nothing more is received until the sink
has room again, so a slow reader holds its sender back through TCP itself. Room is asked for only then: a socket that never
was full is never told to have some.

Bulk. A read that fills the buffer is part of much. If both sides are clear the rest goes through a pipe by splice(2): the
kernel moves pages, this process never sees a byte. The pipe is borrowed for that and given back when the source is drained.

Turns. A flow moves so much and lets the others have their turn then, behind all that the poller has to tell.

Ends. A flow whose source has ended passes that on behind its last byte (close_notify where there is TLS, then FIN), and the
other flow goes on. A close_notify that finds the sink full is held back as all else is. When both ends have been passed on
the session's task is woken.

Failures. A side often says something and closes at once: a server its refusal, a client its last command. With bytes unread
at that side the kernel sends a reset behind these last words, and sending to it may fail before they are read. So when a side
fails, the flow towards it is given up, and the flow from it goes on until it is empty. Then the task is woken.
"""

from __future__ import annotations

import os
from ssl import SSLWantReadError, SSLWantWriteError

import trio
from attrs import define, field

from mailproxy.log.end_reasons import CLIENT_CLOSED, SERVER_CLOSED, EndReason
from mailproxy.net.poller import BOTH_WAYS, ERR, HUP, IN, OUT, PRI, RDHUP, READING, Poller
from mailproxy.net.relay.pipes import PIPE_BYTES, Pipe, Pipes
from mailproxy.net.relay.transfer import (
    BLOCKED,
    BLOCKED_WRITING,
    RECORD_BYTES,
    SideAbortedError,
    aborted,
    classify_read_error,
    count_empty_read,
    discard_input,
    receive,
    send,
    shutdown_write,
)
from mailproxy.net.relay.tunnel import Direction, Side, Tunnel

_BUFFER_BYTES = 64 * 1024  # a typical socket buffer's worth; more per call gains nothing measurable
_READS_PER_TURN = 8  # half a MiB at most, then the other sessions have their turn
_SPLICE = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)
_BULK_MIN_BYTES = 32 * 1024  # so little in a splice: the next bytes are copied again
_DEADLINE_UPDATE_DELAY_S = 0.05  # later than said, silence that has become too long sooner may be noticed

_TO_READ = IN | PRI | RDHUP | ERR | HUP
_TO_WRITE = OUT | ERR | HUP


class Engine:
    """Relays the sessions of one trio loop; they share its buffer, which is never held across a turn."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.pipes = Pipes()
        self._changed: list[_Session] = []
        self._has_changed = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep pipes and bring limits up to date until cancelled. The poller must be running, too."""
        try:
            self.pipes.reopen()  # a failure of this task may have closed them
            task_status.started()
            while True:
                if not self._changed:
                    await self._has_changed.wait()
                await trio.sleep(_DEADLINE_UPDATE_DELAY_S)
                self._has_changed = trio.Event()
                while self._changed:
                    self._changed.pop().update_deadline()
        finally:
            self.pipes.close()

    def schedule_deadline_update(self, session: _Session) -> None:
        """Work out its limits anew in a moment: most sessions whose one side has ended are over by then, and giving a scope
        another deadline costs as much as moving a message.
        """
        if not self._changed:
            self._has_changed.set()
        self._changed.append(session)

    async def run(self, pair: Tunnel) -> EndReason:
        """Relay until both sides are done, one fails, or one is silent for too long. Closes neither socket.

        They must be closed soon after: until then epoll has them, though nobody is told of them. Cancelled, it leaves the
        counts in ``pair`` as they are.
        """
        # What is done before the poller tells anything is of now, and not of when it last did.
        self.poller.now = max(self.poller.now, pair.client.last_activity)
        session = _Session(self, pair)
        try:
            # Both flows are told from now on, and do what was told before.
            session.up.begin()
            if not session.up.is_over:
                session.down.begin()
            while True:
                # Idle time costs nothing per byte: flows note when the last one moved, and only when the limit of before
                # comes up is it worked out anew.
                with trio.CancelScope(deadline=min(pair.deadlines())) as pair.scope:
                    if not session.up.is_over:
                        session.task = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(session.abort_wait)
                    if session.fault is not None:
                        raise session.fault
                    assert session.end is not None  # noqa: S101 - nothing else wakes it
                    return session.end
                if (end := pair.expired(trio.current_time())) is not None:
                    return end
        finally:
            session.release()


@define(eq=False, weakref_slot=False)
class _Session:
    """A session in the engine. ``end`` is there when it is over, ``task`` waits for it."""

    engine: Engine
    pair: Tunnel
    up: _Flow = field(init=False)
    down: _Flow = field(init=False)
    task: trio.lowlevel.Task | None = None
    end: EndReason | None = None
    fault: Exception | None = None
    deadline_update_pending: bool = False

    def __attrs_post_init__(self) -> None:
        pair = self.pair
        pair.to_server = self.up = _Flow(self, pair.client, pair.server)
        pair.to_client = self.down = _Flow(self, pair.server, pair.client)
        self.up.reverse, self.down.reverse = self.down, self.up

    def abort_wait(self, _: object) -> trio.lowlevel.Abort:
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def finish(self, end: EndReason | None, fault: Exception | None = None) -> None:
        """It is over; its task goes on."""
        self.end, self.fault = end, fault
        self.up.is_over = self.down.is_over = True
        task, self.task = self.task, None
        if task is not None:
            self.engine.poller.wake(task)

    def finish_in_order(self) -> None:
        """Both ends have been passed on."""
        self.finish(self.pair.closed())

    def abort(self, error: SideAbortedError) -> None:
        """A side's connection failed: give up what was on its way there, and deliver what it has said before.

        The end reason stays that side's, whatever the other one does meanwhile.
        """
        pair, side = self.pair, error.side
        pair.note_abort(side, error.detail, self.engine.poller.now)
        lost, last = (self.up, self.down) if side is pair.server else (self.down, self.up)
        if side is not pair.aborted:  # the other one has failed, too, and takes nothing any more
            self.finish_aborted()
            return
        lost.give_up()
        last.begin_last_words(is_drained=error.is_drained)

    def finish_aborted(self) -> None:
        """The side that failed first has been heard out as far as possible."""
        end = self.pair.aborted_end()
        discard_input(self.pair.survivor(), self.engine.buffer)
        self.finish(end)

    def deadlines_changed(self) -> None:
        """A side has ended, or is heard again: its silence may be too long sooner than was said."""
        if not self.deadline_update_pending:
            self.deadline_update_pending = True
            self.engine.schedule_deadline_update(self)

    def update_deadline(self) -> None:
        """Give the scope that the session waits in the deadline of now."""
        self.deadline_update_pending = False
        if self.task is not None and self.pair.scope is not None:
            self.pair.scope.deadline = min(self.pair.deadlines())

    def release(self) -> None:
        """Be told of nothing any more, give back what was borrowed, leave no cycles for the collector, and keep nothing alive
        until the limits are worked out anew.
        """
        for flow in (self.up, self.down):
            flow.is_over = True
            self.engine.poller.forget(flow.fd)
            if flow.pipe is not None:
                flow.give_pipe_back()
            del flow.reverse, flow.session
        self.fault = None
        del self.up, self.down, self.pair


class _Flow(Direction):
    """A direction at work. ``fd`` is its source's, and ``back`` the other direction."""

    # All that the two of a session keep, with what Direction has: nothing that is known otherwise.
    __slots__ = (
        "fd",
        "has_last_words",
        "is_bulk",
        "is_over",
        "is_queued",
        "is_reset",
        "lookahead",
        "may_stop_short",
        "pipe",
        "read_wants_write",
        "reverse",
        "session",
        "wants_write",
        "write_wants_read",
    )  # fmt: skip

    reverse: _Flow

    def __init__(self, session: _Session, source: Side, sink: Side) -> None:
        self.session = session
        self.source = source
        self.sink = sink
        self.fd = source.sock.fileno()
        self.received = 0
        self.pending = self.pending_close_notify = b""
        self.empty_reads = self.received_before = 0
        self.eof = self.is_blocked = False
        self.has_last_words = False  # the source has failed, and this is what it said before
        self.pipe: Pipe | None = None
        self.is_bulk = False  # the last read filled the buffer
        # The source has ended, or sent urgent data: less than was asked for is not all there is.
        self.may_stop_short = False
        self.is_reset = False  # the poller has said so, and reading has not yet come to it
        self.is_over = False
        self.is_queued = False  # it has its turn later, and must not have another one before
        self.read_wants_write = False  # TLS has to answer before it can go on reading
        self.write_wants_read = False  # TLS has to read before it can go on writing
        self.lookahead: int | SideAbortedError | None = None  # what a read came to that was made ahead
        self.wants_write = False  # of the source, on behalf of the other flow

    def begin(self) -> None:
        poller = self.session.engine.poller
        before = poller.set_handler(self.fd, self)
        if before is None:
            poller.add_handler(self.fd, self)
        elif self.source.is_tls:  # what came with the handshake was told then
            poller.rearm(self.fd, READING)
        elif seen := getattr(before, "pending_events", 0) & _TO_READ:
            self.on_events(seen)

    # What the poller tells

    def on_events(self, events: int) -> None:
        """Something happened at the source: there is something to read, or room for what the other flow holds."""
        if self.is_over:
            return
        try:
            if events & (RDHUP | PRI | ERR):
                self.may_stop_short = True
                if events & ERR:
                    self.is_reset = True
                    if self.is_blocked or self.eof:
                        self._note_reset()
            back = self.reverse
            if back.is_blocked and (events & _TO_WRITE):
                back.resume()
            if not (self.is_blocked or self.is_queued or self.eof or self.is_over) and (
                events & _TO_READ or self.read_wants_write
            ):
                self._pump()
                if back.write_wants_read and not self.is_over:
                    back.resume()
        except SideAbortedError as error:
            self._abort(error)
        except Exception as fault:  # noqa: BLE001 - the border of this session, whose task has it; others go on
            self.session.finish(None, fault)

    def run(self) -> None:
        """Go on where the last turn has ended."""
        self.is_queued = False
        try:
            if self.has_last_words:
                self._go_on_with_last_words()
            elif not (self.is_over or self.is_blocked or self.eof):
                self._pump()
        except SideAbortedError as error:
            self._abort(error)
        except Exception as fault:  # noqa: BLE001 - as above
            self.session.finish(None, fault)

    def _abort(self, error: SideAbortedError) -> None:
        try:
            self.session.abort(error)
        except Exception as fault:  # noqa: BLE001 - as above
            self.session.finish(None, fault)

    # Failures

    def _note_reset(self) -> None:
        """The source was reset, and nothing is read from it that would tell.

        What it has sent is still delivered, and an answer that is on its way may end the session in order. Neither takes long.
        """
        pair = self.session.pair
        pair.note_reset(self.source, self.session.engine.poller.now)
        self.session.deadlines_changed()

    def give_up(self) -> None:
        """The sink has failed: nothing more is read for it, and what is held is thrown away."""
        self.pending = self.pending_close_notify = b""
        self.eof, self.is_blocked, self.write_wants_read = True, False, False
        if self.pipe is not None:
            self.give_pipe_back()

    def begin_last_words(self, *, is_drained: bool) -> None:
        """The source has failed: move on what it sent before, in turns as ever. ``is_drained``: all of it has been read."""
        self.has_last_words = True
        self.eof = self.eof or is_drained
        if self.is_blocked:
            self.session.deadlines_changed()
        elif self.eof:
            self.session.finish_aborted()
        elif not self.is_queued:
            self._defer()

    def _waits(self) -> bool:
        return self.is_over or self.is_blocked or self.is_queued

    def _go_on_with_last_words(self) -> None:
        if self._waits():
            return
        before = self.received
        if not self.eof:
            self._pump()
        if not self._waits():
            # Under TLS a read without data may have handled a record that has none: only an end or an error is the last.
            if self.eof or (self.received == before and not self.source.is_tls):
                self.session.finish_aborted()
            else:
                self._defer()

    # Moving

    def resume(self) -> None:
        """The sink may have room again."""
        if self.eof:
            self._forward_eof()
        elif self._flush():
            if self.has_last_words:
                self._go_on_with_last_words()
            else:
                self._pump()

    def _pump(self) -> None:
        """Move what there is, within a turn."""
        if self.is_bulk:
            self._splice()
            return
        source, sink, engine = self.source, self.sink, self.session.engine
        poller, buffer = engine.poller, engine.buffer
        self.read_wants_write = False
        for _ in range(_READS_PER_TURN):
            # As ``receive`` and ``send`` do it, and written out: those two calls would be a tenth of what a message costs.
            if self.lookahead is not None:
                count = self._take_lookahead()
            else:
                try:
                    if source.is_tls:
                        count = source.connection.read(_BUFFER_BYTES, buffer)
                    else:
                        count = source.connection.recv_into(buffer)
                except BlockingIOError:
                    return
                except SSLWantReadError:
                    self._look_behind()
                    return
                except OSError as error:
                    count = classify_read_error(source, error)
            if count <= 0:
                if count == 0:
                    if source.is_tls and source.close_notify is None:
                        source.close_notify = True
                    self._on_eof()
                elif count == BLOCKED_WRITING:
                    self.read_wants_write = True
                    self.want_write()
                return
            is_drained = False
            if source.is_tls:
                if count == RECORD_BYTES:
                    count, is_drained = self._more_records(buffer)
                else:  # most likely all there is: being told again if not costs a quarter of what reading in vain does
                    is_drained = True
                    poller.rearm(self.fd, BOTH_WAYS if self.wants_write else READING)
            elif count < _BUFFER_BYTES:
                is_drained = not self.may_stop_short
            self.received += count
            source.last_activity = sink.last_activity = poller.now
            if count > RECORD_BYTES and sink.is_tls:
                self.write_wants_read = not send(self, buffer[:count])
                sent = count - len(self.pending)
            else:
                try:
                    if sink.is_tls:
                        sent = sink.connection.write(buffer[:count])
                    else:
                        sent = sink.connection.send(buffer[:count])
                except (BlockingIOError, SSLWantWriteError):
                    sent = 0
                except SSLWantReadError:
                    sent, self.write_wants_read = 0, True
                except OSError as error:
                    raise aborted(sink, error) from None
                if sent < count:
                    self.pending = bytes(buffer[sent:count])
            if sent < count:
                self._on_blocked()
                return
            if is_drained:
                return
            if count == _BUFFER_BYTES and not (source.is_tls or sink.is_tls):
                self._splice()
                return
        self._defer()

    def _look_behind(self) -> None:
        """TLS had no data: have the poller tell if there is more in the socket, behind a record without any."""
        count_empty_read(self)
        self.session.engine.poller.rearm(self.fd, BOTH_WAYS if self.wants_write else READING)

    def _defer(self) -> None:
        self.is_queued = True
        self.session.engine.poller.defer(self)

    def _more_records(self, buffer: memoryview) -> tuple[int, bool]:
        """TLS gives a record at a time; a full one is part of much, and what follows is sent together with it.

        Returns the bytes that are in the buffer, and whether the source is drained.
        """
        have = RECORD_BYTES
        while have <= _BUFFER_BYTES - RECORD_BYTES:
            try:
                count = receive(self.source, buffer[have:])
            except SideAbortedError as error:
                # Not this one: its traceback has this flow.
                self.lookahead = SideAbortedError(error.side, error.detail, is_drained=True)
                break
            if count == BLOCKED:
                self._look_behind()
                return have, True
            if count <= 0:
                self.lookahead = count
                break
            have += count
        return have, False

    def _take_lookahead(self) -> int:
        count, self.lookahead = self.lookahead, None
        if isinstance(count, SideAbortedError):
            raise SideAbortedError(count.side, count.detail, is_drained=True)
        assert count is not None  # noqa: S101 - it was asked
        return count

    def _splice(self) -> None:
        """Let the kernel move a pipe full of it; more in the next turn. Both sides are clear."""
        pipe = self.pipe or self.session.engine.pipes.borrow()
        self.is_bulk = pipe is not None
        if pipe is None:
            self._defer()
            return
        self.pipe = pipe
        try:
            count = os.splice(self.fd, pipe.inlet, PIPE_BYTES, flags=_SPLICE)
        except BlockingIOError:
            self.is_bulk = False
            self.give_pipe_back()
            if self.may_stop_short:  # splice(2) says so at urgent data, too; a read that copies goes past it
                self._defer()
            return
        except OSError as error:
            raise aborted(self.source, error, is_drained=True) from None
        if not count:
            self.give_pipe_back()
            self._on_eof()
            return
        pipe.buffered = count
        self.received += count
        self.source.last_activity = self.sink.last_activity = self.session.engine.poller.now
        if not self._empty_pipe(pipe):
            self._on_blocked()
            return
        if count < _BULK_MIN_BYTES:
            self.is_bulk = False
            self.give_pipe_back()
        self._defer()

    def _empty_pipe(self, pipe: Pipe) -> bool:
        while pipe.buffered:
            try:
                pipe.buffered -= os.splice(pipe.outlet, self.reverse.fd, pipe.buffered, flags=_SPLICE)
            except BlockingIOError:
                return False
            except OSError as error:
                raise aborted(self.sink, error) from None
        return True

    def give_pipe_back(self) -> None:
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            self.session.engine.pipes.give_back(pipe)

    # Holding back

    def _on_blocked(self) -> None:
        self.is_blocked = True
        if self.is_reset:
            self._note_reset()
        elif self.has_last_words:
            self.session.deadlines_changed()
        self.reverse.want_write()

    def want_write(self) -> None:
        """Have the poller tell when this flow's source, which is the other one's sink, has room; from now on always."""
        if not self.wants_write:
            self.wants_write = True
            self.session.engine.poller.rearm(self.fd, BOTH_WAYS)

    def _flush(self) -> bool:
        """Send what is held; is all of it gone?"""
        pipe = self.pipe
        if pipe is not None and pipe.buffered:
            before = pipe.buffered
            is_gone = self._empty_pipe(pipe)
            has_moved = pipe.buffered < before
        else:
            before = len(self.pending)
            self.write_wants_read = not send(self, memoryview(self.pending))
            is_gone = not self.pending
            has_moved = len(self.pending) < before
        if has_moved:
            # The source could not be heard meanwhile: its silence, too, counts from when the last byte has left.
            self.source.last_activity = self.sink.last_activity = self.session.engine.poller.now
        if is_gone:
            self.is_blocked = False
            self.session.deadlines_changed()
        return is_gone

    def _on_eof(self) -> None:
        """The source has ended, and all that it sent has left."""
        pair = self.session.pair
        self.eof = True
        if self.has_last_words:  # its connection has failed: passed on, this would look like an end in order
            return
        if self.is_reset:
            self._note_reset()
        if pair.first_closed is None:
            pair.first_closed = CLIENT_CLOSED if self.source is pair.client else SERVER_CLOSED
        self.sink.last_activity = self.session.engine.poller.now  # its silence counts from here on
        self._forward_eof()

    def _forward_eof(self) -> None:
        """Tell the sink that the source has ended, as far as it has room for that."""
        back, session = self.reverse, self.session
        before = len(self.pending_close_notify)
        is_last = back.is_finished
        try:
            # Both are done and the sockets are closed now: that sends the FIN, and saves a call. TLS has a word to say.
            if self.sink.is_tls or not is_last:
                shutdown_write(self)
        except SideAbortedError:
            if not back.eof:  # who has said its own last word may leave before the answer
                raise
        if len(self.pending_close_notify) < before:
            self.sink.last_activity = session.engine.poller.now
        if self.is_blocked:
            self._on_blocked()
        if is_last and not self.is_blocked:
            if self.has_last_words:
                session.finish_aborted()
            else:
                session.finish_in_order()
        else:
            session.deadlines_changed()
