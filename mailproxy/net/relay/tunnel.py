"""A session that is relayed: its two sides, its two directions, and when which side has been silent for too long."""

from __future__ import annotations

import math
import socket
import ssl
from typing import Any

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
from mailproxy.net.tls.tls_socket import ssl_object

# A side whose connection was reset has often said something just before: an answer, or its last command. The other side gets
# it as long as it takes some of it at least every so often. A stopped server must not keep the sessions of clients that have
# given up.
LAST_WORDS_S = 5.0


@define(eq=False, weakref_slot=False)
class Side:
    """One end of a session. ``limit``: seconds of silence; ``close_notify``: did its TLS end with one?"""

    sock: socket.socket
    idle_timeout: float
    aborted: EndReason = field(kw_only=True)
    last_activity: float = field(default=0.0, kw_only=True)
    is_tls: bool = field(kw_only=True)
    # What bytes are read from and written to: OpenSSL's connection, or the socket. Every byte comes through here.
    connection: Any = field(kw_only=True)
    close_notify: bool | None = field(default=None, kw_only=True)


@define(eq=False, weakref_slot=False)
class Direction:
    """One direction of a session. ``received`` counts bytes, ``pending`` is what the sink did not take yet; ``is_held`` says
    that some of it was not, wherever it is kept. ``ended``: its source has. ``farewell`` is what is left of a close_notify
    that the sink had no room for, as it goes on the wire; it is held, too. ``empty_reads`` counts reads of TLS in a row that
    gave no data, the last of them when ``received`` was ``received_before``.
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

    @property
    def is_finished(self) -> bool:
        """Has it ended, and has the sink been told?"""
        return self.eof and not self.is_blocked


class Tunnel:
    """The two sides of a session, and what became of them: byte counts, and who closed first. ``now`` is trio's clock."""

    __slots__ = (
        "aborted",
        "client",
        "cut_short",
        "detail",
        "first_closed",
        "half_closed",
        "is_only_reset",
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
        client_limit: float,
        server_limit: float,
        half_closed: float,
    ) -> None:
        now = trio.current_time() if now is None else now
        is_tls = isinstance(client, ssl.SSLSocket)
        self.client = Side(
            client,
            client_limit,
            aborted=CLIENT_ABORTED,
            last_activity=now,
            is_tls=is_tls,
            connection=ssl_object(client) if is_tls else client,
        )
        is_tls = isinstance(server, ssl.SSLSocket)
        self.server = Side(
            server,
            server_limit,
            aborted=SERVER_ABORTED,
            last_activity=now,
            is_tls=is_tls,
            connection=ssl_object(server) if is_tls else server,
        )
        self.to_server = Direction(self.client, self.server)
        self.to_client = Direction(self.server, self.client)
        self.half_closed = half_closed
        self.first_closed: EndReason | None = None
        self.aborted: Side | None = None  # the side whose connection failed first
        self.is_only_reset = False  # which has been noted and has not yet shown in reading or sending
        self.detail = ""
        self.cut_short: EndReason | None = None
        self.scope: trio.CancelScope | None = None  # what the relay waits in

    def deadlines(self) -> tuple[float, float]:
        """When the client's and the server's silence are too long.

        The side that has closed owes nothing any more, and neither does one that is not read from because the other
        does not take its bytes. Once a side has failed, only the other one's taking of its last words is waited for.
        """
        if self.aborted is not None:
            due = self.other(self.aborted).last_activity + min(self.half_closed, LAST_WORDS_S)
            return due, due
        half_closed = self.to_server.eof or self.to_client.eof
        client = self.client.last_activity + (self.half_closed if half_closed else self.client.idle_timeout)
        server = self.server.last_activity + (self.half_closed if half_closed else self.server.idle_timeout)
        if self.to_server.is_blocked or self.to_client.is_blocked:
            return (
                client if self.to_client.is_blocked else math.inf,
                server if self.to_server.is_blocked else math.inf,
            )
        return math.inf if self.to_server.eof else client, math.inf if self.to_client.eof else server

    def other(self, side: Side) -> Side:
        """Return the opposite side."""
        return self.server if side is self.client else self.client

    def note_abort(self, side: Side, detail: str, now: float) -> None:
        """Remember which side's connection failed first, and why. The session ends once its last words are delivered."""
        if self.aborted is None or self.is_only_reset:
            self.aborted, self.detail, self.is_only_reset = side, detail, False
            self.other(side).last_activity = now

    def note_reset(self, side: Side, now: float) -> None:
        """Remember that a side was reset that is not read from. Until reading or sending fails, the session may end in order."""
        if self.aborted is None:
            self.note_abort(side, CONNECTION_RESET, now)
            self.is_only_reset = True

    def survivor(self) -> Side:
        """Return the side that did not fail first."""
        assert self.aborted is not None  # noqa: S101 - it was noted with the failure
        return self.other(self.aborted)

    def aborted_end(self) -> EndReason:
        """Return the end reason of a session whose one side has failed."""
        side = self.aborted
        assert side is not None  # noqa: S101 - it was noted with the failure
        if side.close_notify is False:  # where sending has failed, reading ends as with a FIN
            side.close_notify = None
        return side.aborted

    def closed(self) -> EndReason:
        """Return the end reason of a session whose two sides have ended in order."""
        assert self.first_closed is not None  # noqa: S101 - both directions are done
        self.detail = ""
        return self.first_closed

    def abort(self, end: EndReason) -> None:
        """Let it end now, for this reason."""
        self.cut_short = end
        if self.scope is not None:
            self.scope.cancel()

    def expired(self, now: float) -> EndReason | None:
        """Why the relay's scope was cancelled: it was cut short, or the end reason of a silence that is too long by now.

        None if bytes have moved since the limit was set. With equal limits the client's counts, as in HAProxy.
        """
        if self.cut_short is not None:
            return self.cut_short
        client_due, server_due = self.deadlines()
        if self.aborted is not None:
            return self.aborted_end() if client_due <= now else None
        if client_due <= now:
            return CLIENT_TIMEOUT
        return SERVER_TIMEOUT if server_due <= now else None
