"""A server of a test: one address it listens on, and the connections it has met."""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from mailproxy.address import TcpAddress, UnixAddress, join_host_port, parse_bind
from mailproxy.testing.connection import Connection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

_BACKLOG = 1024


class LoopbackServer(ABC):
    """Accepts on one address and has a conversation on each connection.

    Started with ``await nursery.start(server.serve)``, which returns ``address``, written as a configuration takes
    it. Lives until it is cancelled; then the listener and all connections are closed and a Unix socket's path is
    gone. ``connections`` has every connection there ever was, in the order of their coming.

    With ``tls`` each connection begins with a handshake. ``receive_buffer_bytes`` makes the kernel hold little for a
    server that does not read.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        self.address = bind
        self.connections: list[Connection] = []
        self._tls = tls
        self._receive_buffer_bytes = receive_buffer_bytes
        self._changes = trio.lowlevel.ParkingLot()
        self._ended = 0
        self._is_over = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} accepted={self.accepted}>"

    @property
    def accepted(self) -> int:
        """How many connections there have been."""
        return len(self.connections)

    @abstractmethod
    async def converse(self, connection: Connection) -> None:
        """Say and hear what this server does on one connection, which is closed in order afterwards."""

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen and converse until cancelled. Raises OSError if the address cannot be bound."""
        try:
            with listening_socket(self.address, self._receive_buffer_bytes) as (sock, self.address):
                async with trio.open_nursery() as nursery:
                    task_status.started(self.address)
                    await self._accept(trio.SocketListener(trio.socket.from_stdlib_socket(sock)), nursery)
        finally:
            self._is_over = True
            self._changes.unpark_all()

    async def wait_for(self, number: int = 1) -> Connection:
        """Wait until so many connections have come; return that one, counted from 1.

        Raises trio.ClosedResourceError if the server stops before.
        """
        await self._wait_until(lambda: self.accepted >= number)
        return self.connections[number - 1]

    async def wait_ended(self, number: int = 1) -> None:
        """Wait until so many connections are over. Raises trio.ClosedResourceError if the server stops before."""
        await self._wait_until(lambda: self._ended >= number)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            connection = Connection(await listener.accept())
            self.connections.append(connection)
            self._changes.unpark_all()
            nursery.start_soon(self._meet, connection)

    async def _meet(self, connection: Connection) -> None:
        try:
            with suppress(trio.BrokenResourceError):  # the peer has gone; connection.end says how
                if self._tls is not None:
                    await connection.accept_tls(self._tls)
                await self.converse(connection)
                if not connection.closed.is_set():
                    await connection.close()
        finally:
            connection.drop()
            self._ended += 1
            self._changes.unpark_all()

    async def _wait_until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            if self._is_over:
                raise trio.ClosedResourceError("the server has stopped")
            await self._changes.park()


@contextmanager
def listening_socket(
    bind: str, receive_buffer_bytes: int | None = None, *, backlog: int | None = _BACKLOG
) -> Iterator[tuple[socket.socket, str]]:
    """Give a socket that listens on ``bind``, with its address in a configuration's words; it is closed afterwards.

    With ``backlog=None`` it is bound and does not listen. Raises OSError if the address cannot be had.
    """
    family, target = _target(bind)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        if isinstance(target, tuple):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
        try:
            if backlog is not None:
                sock.listen(backlog)
            yield sock, bind if isinstance(target, str) else join_host_port(*sock.getsockname()[:2])
        finally:
            if isinstance(target, str):
                Path(target).unlink(missing_ok=True)


def _target(bind: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    match parse_bind(bind):
        case UnixAddress(path):
            return socket.AF_UNIX, path
        case TcpAddress(host, port) if port is not None:
            return socket.AF_INET6 if ":" in host else socket.AF_INET, ("" if host == "*" else host, port)
    raise ValueError(f"{bind!r}: a test's server takes HOST:PORT or unix:PATH")
