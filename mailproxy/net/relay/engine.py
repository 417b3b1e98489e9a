"""The engine: relays all sessions of a loop without a task, in calls of the poller.

The task of a session sleeps until the session ends. Deadlines are timers of the poller.

Each direction of a session is a ``Flow``. The poller reports what happens at the flow's source, and the flow
of the opposite direction what happens at its sink, in plain calls. A message costs no task switch, no nursery
and no scope: only receiving, sending and a dozen lines between.

Receiving. Events are edge-triggered (epoll(7)), so a flow receives until the source is drained. In clear a
short read has drained it, and the call that would confirm this is saved. That does not hold once the source
has closed its side or sent urgent data, where a read stops short (tcp(7)).
Under TLS a short read proves nothing, because a read returns one record at most. A read without data may have
consumed a record without application data, with more behind it. The poller is then asked to report the source
again, and too many such reads in a row end the session.

Back-pressure. What the sink does not take is kept (``pending``, or in a pipe), and nothing more is received
until the sink takes it. TCP then slows the sender down. Only then is epoll asked to report room at the sink:
a socket that never was full is never reported as writable.

Bulk. A read that fills the buffer is part of a bulk transfer. If both sides are clear (or the kernel encrypts for the sink), splice(2) moves the
rest through a pipe: the kernel moves pages, and no byte is copied into this process. The pipe is borrowed for
the transfer.

Turns. A flow moves a bounded amount, then defers the rest. The poller runs it again after all events that are
ready.

End of file. When its source has closed, a flow forwards that behind the last byte (close_notify under TLS,
then FIN), and the opposite flow goes on. A close_notify that does not fit the sink's buffer waits like data.
When both directions have forwarded their end, the session's task is woken.

Failures. A side often sends final data and closes at once: a server its refusal, a client its last command.
If bytes at that side are unread, the kernel sends a reset behind the final data, and sending to the side may
fail before the data is read. So when a side fails, the flow towards it is discarded, and the flow from it
delivers the final data. Then the session's task is woken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, Self

import trio
from attrs import define, field

from mailproxy.log.end_reasons import EndReason
from mailproxy.net.poller import Poller
from mailproxy.net.poller.timers import Timer
from mailproxy.net.relay.flow import BUFFER_BYTES, Flow
from mailproxy.net.relay.pipes import Pipes
from mailproxy.net.relay.transfer import SideAbortedError, discard_input
from mailproxy.net.relay.tunnel import Tunnel

if TYPE_CHECKING:
    from outcome import Outcome

# Silence that became too long is noticed at most this late.
_DEADLINE_UPDATE_DELAY_S = 0.05


class Engine:
    """Relays the sessions of one trio loop.

    Attributes:
        poller: Reports the sockets' events. Its ``serve`` and that of its timers must be running.
        buffer: Shared by all sessions: a flow fills and empties it within one call.
        pipes: Lent to flows for bulk transfers.
    """

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self.pipes = Pipes()
        self._deadline_updates: list[_Session] = []

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep idle pipes until cancelled.

        Closes:
            The idle pipes. ``serve`` may be started again.
        """
        try:
            self.pipes.reopen()  # a failure of this task may have closed them
            task_status.started()
            await trio.sleep_forever()
        finally:
            self.pipes.close()

    def set_deadline(self, session: _Session) -> None:
        """Set or replace the deadline of a session, after which it may be over."""
        self.remove_deadline(session)
        session.timer = self.poller.timers.add(min(session.tunnel.deadlines()), session)

    def remove_deadline(self, session: _Session) -> None:
        """Remove the deadline of a session, if it has one."""
        if session.timer is not None:
            self.poller.timers.remove(session.timer)

    def schedule_deadline_update(self, session: _Session) -> None:
        """Compute the session's deadline again in a moment.

        Not at once: most sessions with one closed side are over by then, and an earlier deadline makes trio's
        loop run.
        """
        if not self._deadline_updates:
            self.poller.timers.add(self.poller.now + _DEADLINE_UPDATE_DELAY_S, self)
        self._deadline_updates.append(session)

    def on_deadline(self, now: float) -> None:  # noqa: ARG002 - called by the timers
        """Compute the deadlines that are scheduled for it."""
        while self._deadline_updates:
            self._deadline_updates.pop().update_deadline()

    def run(self, tunnel: Tunnel) -> Awaitable[EndReason]:
        """Relay until both sides have closed, one fails, or one is idle for too long.

        Returns:
            The end reason. Byte counts and details are in ``tunnel``.

        Closes:
            Neither socket. The caller must close both soon: until then they are in epoll, though without a
            handler.

        Cancellation:
            The counts in ``tunnel`` stay as they are.
        """
        return _Session(self, tunnel)


def _sleep_request(abort: Callable[[Any], trio.lowlevel.Abort]) -> Any:
    """Return what ``trio.lowlevel.wait_task_rescheduled`` yields, without its coroutines."""
    coroutine = trio.lowlevel.wait_task_rescheduled(abort)  # noqa: ASYNC105 - the caller yields what it yields
    request = coroutine.send(None)
    coroutine.close()
    return request


@define(eq=False, weakref_slot=False)
class _Session(Generator[Any, Any, EndReason]):
    """A session in the engine. The session's task awaits it.

    It replaces a coroutine that awaits ``trio.lowlevel.wait_task_rescheduled``. With trio's own, that would take
    0.8 KiB for as long as the session lives.

    Attributes:
        to_server: The flow from the client to the server.
        to_client: The flow from the server to the client.
        task: The session's task, while it waits for the end.
        end: The end reason, once the session is over.
        fault: An exception that is a fault of mailproxy; the task raises it.
        timer: That of its deadline, once it has one.
    """

    engine: Engine
    tunnel: Tunnel
    to_server: Flow = field(init=False)
    to_client: Flow = field(init=False)
    task: trio.lowlevel.Task | None = None
    end: EndReason | None = None
    fault: Exception | None = None
    timer: Timer | None = None
    deadline_update_pending: bool = False

    def __attrs_post_init__(self) -> None:
        tunnel = self.tunnel
        notes = (tunnel.to_server.note, tunnel.to_client.note)
        tunnel.to_server = self.to_server = Flow(self, tunnel.client, tunnel.server)
        tunnel.to_client = self.to_client = Flow(self, tunnel.server, tunnel.client)
        self.to_server.note, self.to_client.note = notes
        if tunnel.gate is not None:
            tunnel.gate.push = self.to_server.push
        self.to_server.reverse, self.to_client.reverse = self.to_client, self.to_server

    # Awaiting it

    def __await__(self) -> Self:
        return self

    def send(self, outcome: Outcome[None] | None) -> Any:
        """Start to relay (None), or go on after the sleep with trio's outcome.

        Returns:
            What the task yields to trio to sleep.

        Raises:
            StopIteration: The session has ended; ``value`` is the end reason.
            Exception: The session's fault.
            trio.Cancelled: The task was cancelled.
        """
        try:
            if outcome is not None:
                outcome.unwrap()
            elif self._start():
                return _sleep_request(self)
            if self.fault is not None:
                raise self.fault  # noqa: TRY301 - it goes on
        except BaseException:
            del outcome  # the traceback of its error refers to this frame, which would be a cycle
            self.release()
            raise
        end = self.end
        self.release()
        raise StopIteration(end)

    def throw(self, *error: Any) -> Any:
        """Release, and raise the exception. Only the interpreter calls this, to close the task of a failed loop."""
        self.release()
        return super().throw(*error)

    def _start(self) -> bool:
        """Begin both directions. Return whether the session goes on."""
        engine, tunnel = self.engine, self.tunnel
        # The poller's clock may be older than this session. Bytes that move before the next events count from
        # now.
        engine.poller.now = max(engine.poller.now, tunnel.client.last_activity)
        tunnel.scope = self  # what is received already may end the session
        self.to_server.start()
        if not self.to_server.is_over:
            self.to_client.start()
        if self.to_server.is_over:
            return False
        engine.set_deadline(self)
        self.task = trio.lowlevel.current_task()
        return True

    def __call__(self, _: object) -> trio.lowlevel.Abort:
        """Stop the wait. Trio calls this when the task is cancelled."""
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    # Its end

    def _finish(self, end: EndReason | None, fault: Exception | None = None) -> None:
        """Stop both flows, and wake the task."""
        self.end, self.fault = end, fault
        self.to_server.is_over = self.to_client.is_over = True
        task, self.task = self.task, None
        if task is not None:
            self.engine.poller.wake(task)

    def fail(self, fault: Exception) -> None:
        """End the session for a fault of mailproxy."""
        self._finish(None, fault)

    def end_in_order(self) -> None:
        """End the session after both directions have forwarded their end."""
        self._finish(self.tunnel.closed_end())

    def on_side_aborted(self, error: SideAbortedError) -> None:
        """Discard what was on its way to a failed side, and deliver the side's final data.

        The end reason stays that of the side that failed first.
        """
        try:
            tunnel, side = self.tunnel, error.side
            tunnel.note_abort(side, error.detail, self.engine.poller.now)
            if side is tunnel.server:
                towards, away = self.to_server, self.to_client
            else:
                towards, away = self.to_client, self.to_server
                if tunnel.gate is not None:
                    tunnel.gate.drop()
                    self.engine.poller.defer(away)  # it may have waited for the gate
            if side is not tunnel.aborted_side:  # the other side has failed before, and takes no data
                self.end_after_failure()
                return
            towards.discard()
            away.deliver_final_data(is_drained=error.is_drained)
        except Exception as fault:  # noqa: BLE001 - the border of a session: its own task raises this, others go on
            self.fail(fault)

    def end_after_failure(self) -> None:
        """End the session after the final data was delivered as far as possible."""
        end = self.tunnel.aborted_end()
        discard_input(self.tunnel.surviving_side(), self.engine.buffer)
        self._finish(end)

    def deadlines_changed(self) -> None:
        """Schedule an update after a change that may bring the deadline forward.

        Such a change is a side that has closed, or that is read again.
        """
        if not self.deadline_update_pending:
            self.deadline_update_pending = True
            self.engine.schedule_deadline_update(self)

    def update_deadline(self) -> None:
        """Compute the deadline again."""
        self.deadline_update_pending = False
        if self.task is not None:
            self.engine.set_deadline(self)

    def on_deadline(self, now: float) -> None:
        """End the session if no byte has moved since the deadline was set; else set another one.

        A moved byte only notes the time.
        """
        if self.task is None:
            return
        end = self.tunnel.expired(now)
        if end is None:
            self.engine.set_deadline(self)
        else:
            self._finish(end)

    def cancel(self) -> None:
        """End the session with the end reason that ``Tunnel.abort`` was called with."""
        if not self.to_server.is_over:
            self._finish(self.tunnel.forced_end)

    def release(self) -> None:
        """Drop the handlers, give pipes back, and break reference cycles.

        The session is then freed at once.

        A scheduled deadline update may outlive the session, and must not keep its parts alive.
        """
        if self.tunnel.gate is not None:
            self.tunnel.gate.push = None
        for flow in (self.to_server, self.to_client):
            flow.is_over = True
            self.engine.poller.forget(flow.fd)
            if flow.pipe is not None:
                flow.give_pipe_back()
            del flow.reverse, flow.session
        self.engine.remove_deadline(self)
        self.tunnel.scope = self.fault = self.task = None
        del self.to_server, self.to_client, self.tunnel
