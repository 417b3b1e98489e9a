"""A session that is relayed: its two sides, its two directions, and when which side has been silent for too long."""

from __future__ import annotations

import math
import socket
import ssl

import trio
from attrs import define, field

from mailproxy.log.ends import CLIENT_ABORTED, CLIENT_SILENT, SERVER_ABORTED, SERVER_SILENT, End


@define(eq=False)
class Side:
    """One end of a session. ``limit``: seconds of silence; ``close_notify``: did its TLS end with one?"""

    sock: socket.socket
    limit: float
    aborted: End = field(kw_only=True)
    last: float = field(default=0.0, kw_only=True)
    is_tls: bool = field(default=False, kw_only=True)
    close_notify: bool | None = field(default=None, kw_only=True)


@define(eq=False)
class Direction:
    """One direction of a session. ``received`` counts bytes, ``pending`` is what the sink did not take yet."""

    source: Side
    sink: Side
    received: int = 0
    pending: bytes = b""
    ended: bool = False


class Pair:
    """The two sides of a session, and what became of them: byte counts, and who closed first."""

    __slots__ = ("client", "detail", "down", "first_closed", "half_closed", "server", "up")

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        *,
        client_limit: float,
        server_limit: float,
        half_closed: float,
    ) -> None:
        now = trio.current_time()
        self.client = Side(
            client, client_limit, aborted=CLIENT_ABORTED, last=now, is_tls=isinstance(client, ssl.SSLSocket)
        )
        self.server = Side(
            server, server_limit, aborted=SERVER_ABORTED, last=now, is_tls=isinstance(server, ssl.SSLSocket)
        )
        self.up = Direction(self.client, self.server)
        self.down = Direction(self.server, self.client)
        self.half_closed = half_closed
        self.first_closed: End | None = None
        self.detail = ""

    def due(self) -> tuple[float, float]:
        """When the client's and the server's silence are too long.

        The side that has closed owes nothing any more, and neither does one that is not read from because the other
        does not take its bytes.
        """
        half_closed = self.up.ended or self.down.ended
        client = self.client.last + (self.half_closed if half_closed else self.client.limit)
        server = self.server.last + (self.half_closed if half_closed else self.server.limit)
        if self.up.pending or self.down.pending:
            return client if self.down.pending else math.inf, server if self.up.pending else math.inf
        return math.inf if self.up.ended else client, math.inf if self.down.ended else server

    def silent(self, now: float) -> End | None:
        """The end reason of a silence that is too long by now; with equal limits the client's counts, as in HAProxy."""
        client_due, server_due = self.due()
        if client_due <= now:
            return CLIENT_SILENT
        return SERVER_SILENT if server_due <= now else None
