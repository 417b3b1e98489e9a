"""A server of a test: the address that it listens on, and the connections that it has accepted."""

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
    """Listens on one address and serves each connection with ``converse``, which a subclass defines.

    Start it with ``address = await nursery.start(server.serve)``. It serves until it is cancelled.

    Attributes:
        address: The address, as a configuration takes it. While the server listens it has the true port instead of 0.
        connections: All connections so far, also those that have ended, in the order in which they were accepted.
    """

    def __init__(
        self,
        bind: str = "127.0.0.1:0",
        *,
        tls: ssl.SSLContext | None = None,
        receive_buffer_bytes: int | None = None,
    ) -> None:
        """Prepare a server, which does not listen yet.

        Args:
            bind: ``HOST:PORT`` or ``unix:PATH``. Port 0 is any free one.
            tls: A server's context. Each connection then begins with a TLS handshake.
            receive_buffer_bytes: The size of the kernel's receive buffer, small for a server that does not read.
        """
        self.address = bind
        self.connections: list[Connection] = []
        self._tls = tls
        self._receive_buffer_bytes = receive_buffer_bytes
        self._changes = trio.lowlevel.ParkingLot()
        self._ended = 0
        self._has_stopped = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} accepted={self.accepted}>"

    @property
    def accepted(self) -> int:
        """The number of connections so far."""
        return len(self.connections)

    @abstractmethod
    async def converse(self, connection: Connection) -> None:
        """Serve one connection.

        It is closed in order when this returns, and dropped when it raises. trio.BrokenResourceError ends the connection
        only: its peer has gone. Any other error ends ``serve``.
        """

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled. Report the address as started when the server listens.

        Raises:
            OSError: The address cannot be bound.
            ValueError: ``bind`` is not an address.

        Closes:
            The listening socket and all connections. The path of a Unix socket is removed.
        """
        try:
            with listening_socket(self.address, self._receive_buffer_bytes) as (sock, self.address):
                async with trio.open_nursery() as nursery:
                    task_status.started(self.address)
                    await self._accept(trio.SocketListener(trio.socket.from_stdlib_socket(sock)), nursery)
        finally:
            self._has_stopped = True
            self._changes.unpark_all()

    async def wait_for(self, number: int = 1) -> Connection:
        """Wait for a connection and return it.

        Args:
            number: Which one, counted from 1.

        Raises:
            trio.ClosedResourceError: The server has stopped.
        """
        await self._wait_until(lambda: self.accepted >= number)
        return self.connections[number - 1]

    async def wait_ended(self, number: int = 1) -> None:
        """Wait until this many connections have ended.

        Raises:
            trio.ClosedResourceError: The server has stopped.
        """
        await self._wait_until(lambda: self._ended >= number)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            connection = Connection(await listener.accept())
            self.connections.append(connection)
            self._changes.unpark_all()
            nursery.start_soon(self._serve_connection, connection)

    async def _serve_connection(self, connection: Connection) -> None:
        try:
            with suppress(trio.BrokenResourceError):  # the peer has gone, and connection.end says how
                if self._tls is not None:
                    await connection.accept_tls(self._tls)
                await self.converse(connection)
                if not connection.closed.is_set():
                    await connection.close()
        finally:
            connection.drop()
            self._ended += 1
            self._changes.unpark_all()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._has_stopped:
                raise trio.ClosedResourceError("the server has stopped")
            await self._changes.park()


@contextmanager
def listening_socket(
    bind: str, receive_buffer_bytes: int | None = None, *, backlog: int | None = _BACKLOG
) -> Iterator[tuple[socket.socket, str]]:
    """Open a socket that listens on an address.

    Args:
        bind: ``HOST:PORT`` or ``unix:PATH``.
        receive_buffer_bytes: The size of the kernel's receive buffer, None for its default.
        backlog: The size of the accept queue. None: the socket is bound and does not listen.

    Yields:
        The socket, and its address as a configuration takes it.

    Raises:
        OSError: The address cannot be bound.
        ValueError: ``bind`` is not an address.

    Closes:
        The socket, at the end of the block. The path of a Unix socket is removed.
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
