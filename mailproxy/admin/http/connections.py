"""Connections of HTTP clients, bounded in number and time."""

from __future__ import annotations

from collections import OrderedDict

import trio

_WRITE_TIMEOUT_S = 10.0
_HTTP2 = b"PRI "


class Connection(trio.abc.HalfCloseableStream):
    """A client's connection. A client that takes nothing of an answer for 10 s is disconnected.

    Attributes:
        socket: The socket, which the server asks for the client's address.
    """

    def __init__(self, stream: trio.SocketStream, connections: Connections) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._connections = connections
        self._is_first = True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, within 10 s."""
        self._connections.touch(self)
        # The server shields its writes, so this is the only bound.
        with trio.move_on_after(_WRITE_TIMEOUT_S, shield=True):
            await self._stream.send_all(data)
            return
        self.close()
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive. HTTP/2 in clear, which the server would speak, is refused at the start of a connection."""
        data = bytes(await self._stream.receive_some(max_bytes))
        self._connections.touch(self)
        if self._is_first and data.startswith(_HTTP2):
            self.close()
            return b""
        self._is_first = False
        return data

    def close(self) -> None:
        """Close at once. Tasks that wait for the socket notice."""
        self._connections.remove(self)
        self.socket.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Connections:
    """All connections. At the limit, the one that has been silent longest makes room for a new one.

    So idle connections, however many, keep no scraper out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._connections: OrderedDict[Connection, None] = OrderedDict()  # the longest silent one first

    def __len__(self) -> int:
        return len(self._connections)

    def add(self, stream: trio.SocketStream) -> Connection:
        """Add a connection."""
        while len(self._connections) >= self._limit:
            next(iter(self._connections)).close()
        connection = Connection(stream, self)
        self._connections[connection] = None
        return connection

    def touch(self, connection: Connection) -> None:
        """Note that bytes have moved."""
        if connection in self._connections:
            self._connections.move_to_end(connection)

    def remove(self, connection: Connection) -> None:
        """Remove a connection, if it is there."""
        self._connections.pop(connection, None)

    def close_all(self) -> None:
        """Close all connections."""
        for connection in tuple(self._connections):
            connection.close()
