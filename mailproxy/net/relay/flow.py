"""A flow: one direction of a session in the engine. Every relayed byte passes through here.

``engine`` explains the ideas. This module is the hot path: ``_pump`` is one long function on purpose.
"""

from __future__ import annotations

import os
from ssl import SSLWantReadError, SSLWantWriteError

from mailproxy.log.end_reasons import CLIENT_CLOSED, SERVER_CLOSED
from mailproxy.net.poller import BOTH_WAYS, ERR, HUP, IN, OUT, PRI, RDHUP, READING
from mailproxy.net.relay.flow_state import FlowState
from mailproxy.net.relay.pipes import PIPE_BYTES, Pipe
from mailproxy.net.relay.transfer import (
    BLOCKED,
    BLOCKED_WRITING,
    RECORD_BYTES,
    SideAbortedError,
    classify_read_error,
    count_empty_read,
    receive,
    send,
    shutdown_write,
    side_aborted,
)

BUFFER_BYTES = 64 * 1024  # a typical socket buffer; more per call gains nothing measurable
_READS_PER_TURN = 8  # half a MiB at most
_SPLICE_FLAGS = getattr(os, "SPLICE_F_MOVE", 0) | getattr(os, "SPLICE_F_NONBLOCK", 0)
_MIN_BULK_BYTES = 32 * 1024  # a splice of less ends the bulk transfer: the next bytes are copied

_SOURCE_EVENTS = IN | PRI | RDHUP | ERR | HUP
_ROOM_EVENTS = OUT | ERR | HUP
_UNUSUAL_EVENTS = RDHUP | PRI | ERR


class Flow(FlowState):
    """A direction at work. ``FlowState`` explains its flags."""

    __slots__ = ()

    reverse: Flow

    def start(self) -> None:
        """Take over the source's events, and act on those that its watch has noted."""
        poller = self.session.engine.poller
        noted = poller.set_handler(self.fd, self)
        if noted is None:
            poller.add_handler(self.fd, self)
        elif self.source.is_tls:  # the handshake has used up what was reported: have it reported again
            poller.rearm(self.fd, READING)
        elif noted & _SOURCE_EVENTS:
            self.on_events(noted & _SOURCE_EVENTS)

    # Called by the poller

    def on_events(self, events: int) -> None:
        """Receive from the source, and send to it what the reverse flow holds."""
        if self.is_over:
            return
        try:
            if events & _UNUSUAL_EVENTS:
                self.short_read_inconclusive = True
                if events & ERR:
                    self.is_reset = True
                    if self.is_blocked or self.eof:
                        self._note_reset()
            reverse = self.reverse
            if reverse.is_blocked and (events & _ROOM_EVENTS):
                reverse.resume()
            if not (self.is_blocked or self.is_deferred or self.eof or self.is_over) and (
                events & _SOURCE_EVENTS or self.read_wants_write
            ):
                self._pump()
                if reverse.write_wants_read and not self.is_over:
                    reverse.resume()
        except SideAbortedError as error:
            self.session.on_side_aborted(error)
        except Exception as fault:  # noqa: BLE001 - the border of a session: its own task raises this, others go on
            self.session.fail(fault)

    def run(self) -> None:
        """Go on after a turn that was used up."""
        self.is_deferred = False
        try:
            if self.source_failed:
                self._continue_final_data()
            elif not (self.is_over or self.is_blocked or self.eof):
                self._pump()
        except SideAbortedError as error:
            self.session.on_side_aborted(error)
        except Exception as fault:  # noqa: BLE001 - as in on_events
            self.session.fail(fault)

    # Failures

    def _note_reset(self) -> None:
        """Note a reset of the source while it is not read, so that no read fails.

        What the source has sent is still delivered, and data on its way to the sink may end the session in
        order. The deadline for this is short.
        """
        tunnel = self.session.tunnel
        tunnel.note_reset(self.source, self.session.engine.poller.now)
        self.session.deadlines_changed()

    def discard(self) -> None:
        """Drop what is held for a sink that has failed, and read nothing more."""
        self.pending = self.pending_close_notify = b""
        self.eof, self.is_blocked, self.write_wants_read = True, False, False
        if self.pipe is not None:
            self.give_pipe_back()

    def deliver_final_data(self, *, is_drained: bool) -> None:
        """Deliver what the source had sent before it failed, in turns; then end the session.

        Args:
            is_drained: All of it has been read.
        """
        self.source_failed = True
        self.eof = self.eof or is_drained
        if self.is_blocked:
            self.session.deadlines_changed()
        elif self.eof:
            self.session.end_after_failure()
        elif not self.is_deferred:
            self._defer()

    @property
    def _is_waiting(self) -> bool:
        return self.is_over or self.is_blocked or self.is_deferred

    def _continue_final_data(self) -> None:
        if self._is_waiting:
            return
        before = self.received
        if not self.eof:
            self._pump()
        if not self._is_waiting:
            # Under TLS a read without data may have consumed a record without any, with more behind it.
            # There, only an end or an error is the last.
            if self.eof or (self.received == before and not self.source.is_tls):
                self.session.end_after_failure()
            else:
                self._defer()

    # Moving bytes

    def resume(self) -> None:
        """Send what is held to a sink that may have room, and go on."""
        if self.eof:
            self._forward_eof()
        elif self._flush():
            if self.source_failed:
                self._continue_final_data()
            else:
                self._pump()

    def _pump(self) -> None:
        """Move what there is, at most one turn's worth."""
        if self.is_bulk:
            self._splice()
            return
        source, sink, engine = self.source, self.sink, self.session.engine
        poller, buffer = engine.poller, engine.buffer
        self.read_wants_write = False
        for _ in range(_READS_PER_TURN):
            # ``receive`` and ``send``, written out: the two calls would be a tenth of what a message costs.
            if self.lookahead is not None:
                count = self._take_lookahead()
            else:
                try:
                    if source.is_tls:
                        count = source.connection.read(BUFFER_BYTES, buffer)
                    else:
                        count = source.connection.recv_into(buffer)
                except BlockingIOError:
                    return
                except SSLWantReadError:
                    count_empty_read(self)
                    self._recheck_tls()
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
                    count, is_drained = self._read_more_records(buffer)
                else:
                    # Most likely all there is. If it is not, the poller reports the source again. Rearming
                    # costs a quarter of a read that finds nothing.
                    is_drained = True
                    poller.rearm(self.fd, BOTH_WAYS if self.wants_write else READING)
            elif count < BUFFER_BYTES:
                is_drained = not self.short_read_inconclusive
            self.received += count
            source.last_activity = sink.last_activity = poller.now
            if self.note is not None and (verdict := self.note(buffer[:count])) is not False:
                if verdict is True:
                    self.note = None
                elif not self._send_instead(verdict) or is_drained:
                    return
                else:
                    continue
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
                    raise side_aborted(sink, error) from None
                if sent < count:
                    self.pending = bytes(buffer[sent:count])
            if sent < count:
                self._on_blocked()
                return
            if is_drained:
                return
            if (
                count == BUFFER_BYTES
                and sink.takes_splice
                and not (source.is_tls or self.session.tunnel.gate)
            ):
                self._splice()
                return
        self._defer()

    # A gate

    def _send_instead(self, data: bytes) -> bool:
        """Send what a gate has made of the last read; return True if the source may be read again."""
        self.write_wants_read = not send(self, memoryview(data))
        if self.pending:
            self._on_blocked()
            return False
        gate = self.session.tunnel.gate
        if gate is not None and gate.is_full:
            self.is_deferred = True  # until ``push``
        return not self.is_deferred

    def push(self, data: bytes) -> None:
        """Send bytes that the gate has held, and read from the source if that has waited for the gate.

        Raises:
            SideAbortedError: The sink's connection failed.
        """
        if self.eof or self.is_over:
            return
        if self.is_blocked:
            self.pending += data
            return
        if data:
            self.write_wants_read = not send(self, memoryview(data))
            if self.pending:
                self._on_blocked()
        if self.is_deferred and not self._must_wait():
            self.session.engine.poller.defer(self)

    def _must_wait(self) -> bool:
        gate = self.session.tunnel.gate
        return gate is not None and gate.is_full

    def _recheck_tls(self) -> None:
        """After a TLS read without data, have the poller report the source again if the socket holds more."""
        self.session.engine.poller.rearm(self.fd, BOTH_WAYS if self.wants_write else READING)

    def _defer(self) -> None:
        self.is_deferred = True
        self.session.engine.poller.defer(self)

    def _read_more_records(self, buffer: memoryview) -> tuple[int, bool]:
        """Fill the buffer with more records behind a full one, which one send then takes.

        Returns:
            The number of bytes in the buffer, and whether the source is drained.
        """
        filled = RECORD_BYTES
        while filled <= BUFFER_BYTES - RECORD_BYTES:
            try:
                count = receive(self.source, buffer[filled:])
            except SideAbortedError as error:
                # A new one: the traceback of ``error`` refers to this flow, and the cycle would keep both
                # alive.
                self.lookahead = SideAbortedError(error.side, error.detail, is_drained=True)
                break
            if count == BLOCKED:
                # Not counted as an empty read. It follows data, which the limit of empty reads must not lose.
                self._recheck_tls()
                return filled, True
            if count <= 0:
                self.lookahead = count
                break
            filled += count
        return filled, False

    def _take_lookahead(self) -> int:
        count, self.lookahead = self.lookahead, None
        if isinstance(count, SideAbortedError):
            raise SideAbortedError(count.side, count.detail, is_drained=True)
        assert count is not None  # noqa: S101 - the caller has checked
        return count

    def _splice(self) -> None:
        """Move a pipe full by splice(2), and defer the rest. The source is clear, and the sink takes it."""
        pipe = self.pipe or self.session.engine.pipes.borrow()
        self.is_bulk = pipe is not None
        if pipe is None:
            self._defer()
            return
        self.pipe = pipe
        try:
            count = os.splice(self.fd, pipe.inlet, PIPE_BYTES, flags=_SPLICE_FLAGS)
        except BlockingIOError:
            self.is_bulk = False
            self.give_pipe_back()
            # splice(2) also reports EAGAIN in front of urgent data, which a read that copies goes past.
            if self.short_read_inconclusive:
                self._defer()
            return
        except OSError as error:
            raise side_aborted(self.source, error, is_drained=True) from None
        if not count:
            self.give_pipe_back()
            self._on_eof()
            return
        pipe.buffered = count
        self.received += count
        if self.note is not None and self.session.tunnel.follower is not None:
            self.note = None
            self.session.tunnel.follower.lose()  # the bytes pass unseen
        self.source.last_activity = self.sink.last_activity = self.session.engine.poller.now
        if not self._empty_pipe(pipe):
            self._on_blocked()
            return
        if count < _MIN_BULK_BYTES:
            self.is_bulk = False
            self.give_pipe_back()
        self._defer()

    def _empty_pipe(self, pipe: Pipe) -> bool:
        """Send what is in the pipe; return True if the sink took all of it."""
        while pipe.buffered:
            try:
                pipe.buffered -= os.splice(pipe.outlet, self.reverse.fd, pipe.buffered, flags=_SPLICE_FLAGS)
            except BlockingIOError:
                return False
            except OSError as error:
                raise side_aborted(self.sink, error) from None
        return True

    def give_pipe_back(self) -> None:
        """Return the borrowed pipe, if there is one, with whatever it still holds."""
        pipe, self.pipe = self.pipe, None
        if pipe is not None:
            self.session.engine.pipes.give_back(pipe)

    # Back-pressure

    def _on_blocked(self) -> None:
        self.is_blocked = True
        if self.is_reset:
            self._note_reset()
        elif self.source_failed:
            self.session.deadlines_changed()
        self.reverse.want_write()

    def want_write(self) -> None:
        """Have the poller report room at this flow's source, the sink of the reverse flow, from now on."""
        if not self.wants_write:
            self.wants_write = True
            self.session.engine.poller.rearm(self.fd, BOTH_WAYS)

    def _flush(self) -> bool:
        """Send what is held; return True if the sink took all of it."""
        pipe = self.pipe
        if pipe is not None and pipe.buffered:
            before = pipe.buffered
            is_flushed = self._empty_pipe(pipe)
            has_moved = pipe.buffered < before
        else:
            before = len(self.pending)
            self.write_wants_read = not send(self, memoryview(self.pending))
            is_flushed = not self.pending
            has_moved = len(self.pending) < before
        if has_moved:
            # The source was not read meanwhile. Its idle time, too, starts when the last byte has left.
            self.source.last_activity = self.sink.last_activity = self.session.engine.poller.now
        if is_flushed:
            self.is_blocked = False
            self.session.deadlines_changed()
        return is_flushed

    # End of file

    def _on_eof(self) -> None:
        """Note that the source has closed, after all that it sent has left; forward that."""
        tunnel = self.session.tunnel
        if tunnel.gate is not None and self.source is tunnel.client and tunnel.gate.holds:
            self.lookahead, self.is_deferred = 0, True  # until ``push``: the end comes behind what is held
            tunnel.shorten_timeouts()
            self.session.deadlines_changed()
            return
        self.eof = True
        if self.source_failed:  # forwarded, the failure would look like an orderly end
            return
        if self.is_reset:
            self._note_reset()
        if tunnel.first_closed is None:
            tunnel.first_closed = CLIENT_CLOSED if self.source is tunnel.client else SERVER_CLOSED
        self.sink.last_activity = self.session.engine.poller.now  # the sink's idle time starts now
        self._forward_eof()

    def _forward_eof(self) -> None:
        """Close the sink for writing, as far as it has room for the close_notify."""
        reverse, session = self.reverse, self.session
        before = self.pending_close_notify
        is_last = reverse.is_finished
        try:
            # With both directions done, the session closes the sockets now. That sends the FIN and saves a
            # call; only TLS has a close_notify to send.
            if self.sink.is_tls or not is_last:
                shutdown_write(self)
        except SideAbortedError:
            # A side that has closed its own direction may go without waiting for the answer.
            if not reverse.eof:
                raise
        if before and len(self.pending_close_notify) < len(before):
            self.sink.last_activity = session.engine.poller.now
        if self.is_blocked:
            self._on_blocked()
        if is_last and not self.is_blocked:
            if self.source_failed:
                session.end_after_failure()
            else:
                session.end_in_order()
        else:
            session.deadlines_changed()
