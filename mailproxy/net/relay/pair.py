"""A session that is relayed: its two sides, its two directions, and when which side has been silent for too long."""

from __future__ import annotations

import math
import socket
import ssl
from typing import Any

import trio
from attrs import define, field

from mailproxy.log.ends import CLIENT_ABORTED, CLIENT_SILENT, SERVER_ABORTED, SERVER_SILENT, End
from mailproxy.net.tls import openssl


@define(eq=False, weakref_slot=False)
class Side:
    """One end of a session. ``limit``: seconds of silence; ``close_notify``: did its TLS end with one?"""

    sock: socket.socket
    limit: float
    aborted: End = field(kw_only=True)
    last: float = field(default=0.0, kw_only=True)
    is_tls: bool = field(kw_only=True)
    # What bytes are read from and written to: OpenSSL's connection, or the socket. Every byte comes through here.
    connection: Any = field(kw_only=True)
    close_notify: bool | None = field(default=None, kw_only=True)


@define(eq=False, weakref_slot=False)
class Direction:
    """One direction of a session. ``received`` counts bytes, ``pending`` is what the sink did not take yet; ``is_held`` says
    that some of it was not, wherever it is kept. ``ended``: its source has. ``farewell`` is what is left of a close_notify
    that the sink had no room for, as it goes on the wire; it is held, too.
    """

    source: Side
    sink: Side
    received: int = 0
    pending: bytes = b""
    ended: bool = False
    is_held: bool = False
    farewell: bytes = b""

    @property
    def is_done(self) -> bool:
        """Has it ended, and has the sink been told?"""
        return self.ended and not self.is_held


class Pair:
    """The two sides of a session, and what became of them: byte counts, and who closed first. ``now`` is trio's clock."""

    __slots__ = (
        "client",
        "cut_short",
        "detail",
        "down",
        "first_closed",
        "half_closed",
        "scope",
        "server",
        "up",
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
            last=now,
            is_tls=is_tls,
            connection=openssl(client) if is_tls else client,
        )
        is_tls = isinstance(server, ssl.SSLSocket)
        self.server = Side(
            server,
            server_limit,
            aborted=SERVER_ABORTED,
            last=now,
            is_tls=is_tls,
            connection=openssl(server) if is_tls else server,
        )
        self.up = Direction(self.client, self.server)
        self.down = Direction(self.server, self.client)
        self.half_closed = half_closed
        self.first_closed: End | None = None
        self.detail = ""
        self.cut_short: End | None = None
        self.scope: trio.CancelScope | None = None  # what the relay waits in

    def due(self) -> tuple[float, float]:
        """When the client's and the server's silence are too long.

        The side that has closed owes nothing any more, and neither does one that is not read from because the other
        does not take its bytes.
        """
        half_closed = self.up.ended or self.down.ended
        client = self.client.last + (self.half_closed if half_closed else self.client.limit)
        server = self.server.last + (self.half_closed if half_closed else self.server.limit)
        if self.up.is_held or self.down.is_held:
            return client if self.down.is_held else math.inf, server if self.up.is_held else math.inf
        return math.inf if self.up.ended else client, math.inf if self.down.ended else server

    def cut(self, end: End) -> None:
        """Let it end now, for this reason."""
        self.cut_short = end
        if self.scope is not None:
            self.scope.cancel()

    def over(self, now: float) -> End | None:
        """Why the relay's scope was cancelled: it was cut short, or the end reason of a silence that is too long by now.

        None if bytes have moved since the limit was set. With equal limits the client's counts, as in HAProxy.
        """
        if self.cut_short is not None:
            return self.cut_short
        client_due, server_due = self.due()
        if client_due <= now:
            return CLIENT_SILENT
        return SERVER_SILENT if server_due <= now else None
