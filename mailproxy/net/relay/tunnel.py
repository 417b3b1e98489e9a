"""A session that is relayed: its two sides, its two directions, its byte counts and its idle timeouts."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from typing import Any, Protocol, Self

import trio
from attrs import define, field

from mailproxy.log.end_reasons import (
    CLIENT_ABORTED,
    CLIENT_TIMEOUT,
    SERVER_ABORTED,
    SERVER_TIMEOUT,
    EndReason,
)
from mailproxy.net.tls.errors import CONNECTION_RESET
from mailproxy.net.tls.tls_socket import TlsSocket, ssl_object

# A side whose connection was reset has often sent something just before: an answer, or its last command. The
# other side gets this final data as long as it takes some of it at least every 5 seconds. The limit keeps a
# stopped server from holding the sessions of clients that have given up.
FINAL_DATA_TIMEOUT_S = 5.0


Note = Callable[[memoryview], bool | bytes]
"""Gets bytes that pass. It returns True to get no more, or bytes that are sent in their place."""


@define(eq=False, weakref_slot=False)
class Side:
    """One end of a session.

    Attributes:
        sock: The socket, nonblocking.
        idle_timeout: Seconds without a byte after which the session ends.
        last_activity: Trio's clock when the last byte moved.
        is_tls: Whether ``sock`` is an ``ssl.SSLSocket``.
        connection: What bytes are read from and written to: OpenSSL's connection, or the socket.
        close_notify: Whether the side's TLS ended with a close_notify. None in clear, and while it has not
            ended.
    """

    sock: socket.socket
    idle_timeout: float
    last_activity: float = field(default=0.0, kw_only=True)
    is_tls: bool = field(kw_only=True)
    connection: Any = field(kw_only=True)
    close_notify: bool | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, sock: socket.socket, idle_timeout: float, now: float) -> Self:
        """Make the side of a connected socket; ``now`` is trio's clock."""
        is_tls = isinstance(sock, ssl.SSLSocket)
        return cls(
            sock,
            idle_timeout,
            last_activity=now,
            is_tls=is_tls,
            connection=ssl_object(sock) if is_tls else sock,
        )

    @property
    def takes_splice(self) -> bool:
        """Whether splice(2) may send to it: in clear, or with TLS in the kernel."""
        return not self.is_tls or (isinstance(self.sock, TlsSocket) and self.sock.is_kernel_tls)


@define(eq=False, weakref_slot=False)
class Direction:
    """One direction of a session.

    Attributes:
        source: The side that sends.
        sink: The side that receives.
        received: Bytes received from the source.
        pending: Bytes that the sink has not taken yet.
        eof: The source has closed its side.
        is_blocked: Something is unsent: in ``pending``, in a pipe, or in ``pending_close_notify``.
        pending_close_notify: The encrypted rest of a close_notify that did not fit the sink's buffer.
        empty_reads: TLS reads in a row that gave no data.
        received_before: ``received`` at the first of them.
        note: Gets each piece that is received, until it returns True. None: nothing follows the bytes.
    """

    source: Side
    sink: Side
    received: int = 0
    pending: bytes = b""
    eof: bool = False
    is_blocked: bool = False
    pending_close_notify: bytes = b""
    empty_reads: int = 0
    received_before: int = 0
    note: Note | None = None

    @property
    def is_finished(self) -> bool:
        """Whether the source has closed, and that was forwarded to the sink."""
        return self.eof and not self.is_blocked


class Follower(Protocol):
    """Follows the bytes of a session, such as to know where the server's responses end.

    Attributes:
        follows_commands: Whether it needs the client's bytes as well.
    """

    follows_commands: bool

    def from_server(self, data: memoryview) -> bool:
        """Take note of bytes, and keep no reference to them; return True to get no more."""

    def from_client(self, data: memoryview) -> bool:
        """Take note of bytes of the client; otherwise as for the server's."""

    def lose(self) -> None:
        """Take note that bytes have passed unseen."""


class Gate(Protocol):
    """Holds bytes of the client back. Its notes in both directions return what is sent, and ``push`` sends the rest.

    Attributes:
        push: Set by the relay: sends bytes to the server, and goes on to read from the client.
    """

    push: Callable[[bytes], None] | None

    @property
    def holds(self) -> bool:
        """Whether it holds bytes that the server is to get before the client's end."""

    @property
    def is_full(self) -> bool:
        """Whether no more of the client's bytes may be read."""

    def drop(self) -> None:
        """Drop what it holds, and all that the client sends from now on."""


class Cancellable(Protocol):
    """What can be cancelled, such as a ``trio.CancelScope``."""

    def cancel(self) -> object:
        """Cancel it."""


class Tunnel:
    """The two sides of a session, and how it ended.

    Attributes:
        client: The client's side.
        server: The server's side.
        to_server: The direction from the client to the server.
        to_client: The direction from the server to the client.
        half_closed_timeout: Idle timeout in seconds once one side has closed.
        first_closed: The end reason of the side that closed first in order.
        aborted_side: The side whose connection failed first.
        is_reset_unconfirmed: The failure is a reset that no read and no write has confirmed yet.
        detail: The reason of the failure, for the log.
        forced_end: The end reason that ``abort`` was called with.
        scope: What ``abort`` cancels; None while no relay waits.
        follower: What follows the session's bytes, None for nothing.
        gate: What holds bytes of the client back, None for nothing.
    """

    __slots__ = (
        "aborted_side",
        "client",
        "detail",
        "first_closed",
        "follower",
        "forced_end",
        "gate",
        "half_closed_timeout",
        "is_reset_unconfirmed",
        "scope",
        "server",
        "to_client",
        "to_server",
    )

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        now: float | None = None,
        client_timeout: float,
        server_timeout: float,
        half_closed_timeout: float,
        follower: Follower | None = None,
    ) -> None:
        """Make a tunnel of two connected, nonblocking sockets. It closes neither.

        Args:
            client: The client's socket.
            server: The server's socket.
            now: Trio's clock; None reads it.
            client_timeout: The client's idle timeout in seconds.
            server_timeout: The server's idle timeout in seconds.
            half_closed_timeout: The idle timeout in seconds once one side has closed.
            follower: What follows the bytes.
        """
        now = trio.current_time() if now is None else now
        self.client = Side.of(client, client_timeout, now)
        self.server = Side.of(server, server_timeout, now)
        self.to_server = Direction(self.client, self.server)
        self.to_client = Direction(self.server, self.client)
        self.follower = follower
        self.gate: Gate | None = None
        if follower is not None:
            self.to_client.note = follower.from_server
            if follower.follows_commands:
                self.to_server.note = follower.from_client
        self.half_closed_timeout = half_closed_timeout
        self.first_closed: EndReason | None = None
        self.aborted_side: Side | None = None
        self.is_reset_unconfirmed = False
        self.detail = ""
        self.forced_end: EndReason | None = None
        self.scope: Cancellable | None = None

    def deadlines(self) -> tuple[float, float]:
        """Return when the client's and when the server's idle timeout ends the session, in trio's clock.

        A side has no deadline once it has closed, and none while it is not read because the other side does
        not take its bytes. After a failure both values are the deadline for the final data.
        """
        if self.aborted_side is not None:
            survivor = self.other(self.aborted_side)
            deadline = survivor.last_activity + min(self.half_closed_timeout, FINAL_DATA_TIMEOUT_S)
            return deadline, deadline
        client, server = self.client, self.server
        if self.to_server.eof or self.to_client.eof:
            client_timeout = server_timeout = self.half_closed_timeout
        else:
            client_timeout, server_timeout = client.idle_timeout, server.idle_timeout
        client_deadline = client.last_activity + client_timeout
        server_deadline = server.last_activity + server_timeout
        if self.to_server.is_blocked or self.to_client.is_blocked:
            return (
                client_deadline if self.to_client.is_blocked else math.inf,
                server_deadline if self.to_server.is_blocked else math.inf,
            )
        return (
            math.inf if self.to_server.eof else client_deadline,
            math.inf if self.to_client.eof else server_deadline,
        )

    def shorten_timeouts(self) -> None:
        """Wait no longer than for a half-closed session: the client has closed, and a gate holds what it has sent."""
        for side in (self.client, self.server):
            side.idle_timeout = min(side.idle_timeout, self.half_closed_timeout)

    def other(self, side: Side) -> Side:
        """Return the opposite side."""
        return self.server if side is self.client else self.client

    def note_abort(self, side: Side, detail: str, now: float) -> None:
        """Note that a side's connection failed, unless another failure came first.

        The session ends once the side's final data is delivered.

        Args:
            side: The side that failed.
            detail: The reason, for the log.
            now: Trio's clock.
        """
        if self.aborted_side is None or self.is_reset_unconfirmed:
            self.aborted_side, self.detail, self.is_reset_unconfirmed = side, detail, False
            self.other(side).last_activity = now

    def note_reset(self, side: Side, now: float) -> None:
        """Note a reset of a side that is not read.

        Until a read or a write fails, the session may still end in order.
        """
        if self.aborted_side is None:
            self.note_abort(side, CONNECTION_RESET, now)
            self.is_reset_unconfirmed = True

    def surviving_side(self) -> Side:
        """Return the side opposite the one that failed first."""
        assert self.aborted_side is not None  # noqa: S101 - set by note_abort
        return self.other(self.aborted_side)

    def aborted_end(self) -> EndReason:
        """Return the end reason of a session whose one side has failed."""
        side = self.aborted_side
        assert side is not None  # noqa: S101 - set by note_abort
        if side.close_notify is False:  # after a failed send, reading ends as with a FIN: that proves nothing
            side.close_notify = None
        return CLIENT_ABORTED if side is self.client else SERVER_ABORTED

    def closed_end(self) -> EndReason:
        """Return the end reason of a session whose two sides have closed in order."""
        assert self.first_closed is not None  # noqa: S101 - both directions are finished
        self.detail = ""
        return self.first_closed

    def abort(self, end: EndReason) -> None:
        """End the session now, with this end reason."""
        self.forced_end = end
        if self.scope is not None:
            self.scope.cancel()

    def expired(self, now: float) -> EndReason | None:
        """Return the end reason after ``abort`` was called or a deadline has passed.

        With equal deadlines the client's counts, as in HAProxy.

        Args:
            now: Trio's clock.

        Returns:
            None if bytes have moved since the deadline was set: the session goes on.
        """
        if self.forced_end is not None:
            return self.forced_end
        client_deadline, server_deadline = self.deadlines()
        if self.aborted_side is not None:
            return self.aborted_end() if client_deadline <= now else None
        if client_deadline <= now:
            return CLIENT_TIMEOUT
        return SERVER_TIMEOUT if server_deadline <= now else None
