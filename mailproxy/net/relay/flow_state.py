"""The state of a flow: what an idle direction of a session keeps in memory."""

from __future__ import annotations

from typing import Protocol

from mailproxy.net.poller import Poller
from mailproxy.net.relay.pipes import Pipe, Pipes
from mailproxy.net.relay.transfer import SideAbortedError
from mailproxy.net.relay.tunnel import Direction, Note, Side, Tunnel


class FlowEngine(Protocol):
    """What a flow uses of the engine."""

    poller: Poller
    buffer: memoryview
    pipes: Pipes


class FlowSession(Protocol):
    """What a flow uses of its session."""

    tunnel: Tunnel

    @property
    def engine(self) -> FlowEngine: ...
    def end_in_order(self) -> None: ...
    def end_after_failure(self) -> None: ...
    def fail(self, fault: Exception) -> None: ...
    def on_side_aborted(self, error: SideAbortedError) -> None: ...
    def deadlines_changed(self) -> None: ...


class FlowState(Direction):
    """The state of a direction at work.

    While the session runs, three flags are its state:

    ===  =======  ========  =================================================================================
    eof  blocked  deferred  meaning
    ===  =======  ========  =================================================================================
    no   no       no        idle: the source is drained, and its next event has it read
    no   no       yes       the turn is used up, and there may be more to read: ``run`` goes on
    no   yes      no        the sink is full: ``pending`` or the pipe holds bytes, and the source is not read
    yes  yes      no        a part of the close_notify did not fit the sink: ``pending_close_notify``
    yes  no       no        finished: the end was forwarded, or the sink has failed
    yes  no       yes       the sink failed while the flow was deferred: ``run`` does nothing
    ===  =======  ========  =================================================================================

    The other flags only occur in some of these states:

    * ``write_wants_read``: blocked, under TLS at the sink. TLS has to read there before it can write.
    * ``read_wants_write``: not blocked, under TLS at the source. TLS has to write there before it can read,
      so ``wants_write`` is set.
    * ``lookahead``: blocked, deferred or finished, under TLS at the source.
    * ``is_bulk``: clear at the source; at the sink clear, or with TLS in the kernel. Without eof there is a pipe. A flow that is not in bulk has none.
    * ``is_reset``: ``short_read_inconclusive`` is set, too.
    * ``source_failed``: the reverse flow is finished.

    Attributes:
        fd: Descriptor of the source.
        reverse: The flow of the opposite direction.
        source_failed: The source's connection has failed. This flow delivers the final data.
        is_bulk: The last read filled the buffer, and the rest goes through a pipe.
        short_read_inconclusive: The source has closed or sent urgent data, so a short read may have left
            bytes.
        is_reset: The poller reported an error at the source, and no read has failed yet.
        is_over: The session has ended; the other flags mean nothing.
        is_deferred: ``run`` is due, and nothing else may pump before.
        read_wants_write: OpenSSL's SSL_ERROR_WANT_WRITE of a read.
        write_wants_read: OpenSSL's SSL_ERROR_WANT_READ of a write.
        lookahead: The result of a read that was made ahead: a count as of ``receive``, or the failure.
        wants_write: epoll reports room at the source, which is the sink of the reverse flow.
    """

    # With the slots of Direction, this is all that two flows of an idle session keep in memory.
    __slots__ = (
        "fd",
        "is_bulk",
        "is_deferred",
        "is_over",
        "is_reset",
        "lookahead",
        "pipe",
        "read_wants_write",
        "reverse",
        "session",
        "short_read_inconclusive",
        "source_failed",
        "wants_write",
        "write_wants_read",
    )  # fmt: skip

    def __init__(self, session: FlowSession, source: Side, sink: Side) -> None:
        self.session = session
        self.source = source
        self.sink = sink
        self.fd = source.sock.fileno()
        self.received = 0
        self.pending = self.pending_close_notify = b""
        self.empty_reads = self.received_before = 0
        self.eof = self.is_blocked = self.is_deferred = self.is_over = False
        self.source_failed = self.is_reset = self.short_read_inconclusive = False
        self.is_bulk = False
        self.pipe: Pipe | None = None
        self.read_wants_write = self.write_wants_read = self.wants_write = False
        self.lookahead: int | SideAbortedError | None = None
        self.note: Note | None = None
