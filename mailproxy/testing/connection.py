"""One connection of a test, seen from either end, in clear text or TLS.

TLS goes through memory BIOs and not through ``trio.SSLStream``. A test's peer must be able to do what a well-behaved stream
hides, such as sending close_notify and reading on, or closing without close_notify.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Literal, Self, TypeVar
from weakref import WeakKeyDictionary

import trio
from attrs import Factory, define, field

from mailproxy.address import UnixAddress, join_host_port, parse_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

End = Literal["eof", "close_notify", "reset", "tls"]

_T = TypeVar("_T")
_CHUNK_BYTES = 65536
_LINGER_NONE = struct.pack("ii", 1, 0)  # close() then sends a reset instead of a FIN (socket(7), SO_LINGER)

_requested_names: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()


@define(eq=False)
class Connection:
    """A connection. One task may send while another receives.

    It is an async context manager, which closes at once (``drop``) when the block ends.

    Attributes:
        stream: The TCP or Unix connection. TLS is above it.
        peer: The address of the other end.
        received: All bytes that were received so far, decrypted.
        end: How the peer has ended the connection, as far as it was read. ``eof`` is a FIN, under TLS without close_notify.
            ``close_notify`` is an orderly end of TLS. ``reset`` is a reset, ``tls`` an error of TLS. None: it is open.
        tls: The TLS connection, None in clear text.
        tls_fault: OpenSSL's words if ``end`` is ``tls``.
        closed: Set when this end has closed.
    """

    stream: trio.SocketStream = field(repr=False)
    peer: str = field(init=False, default=Factory(lambda self: _peer_name(self.stream), takes_self=True))
    received: bytearray = field(init=False, factory=bytearray, repr=lambda data: f"<{len(data)} bytes>")
    end: End | None = field(init=False, default=None)
    tls: ssl.SSLObject | None = field(init=False, default=None, repr=False)
    tls_fault: str = field(init=False, default="")
    closed: trio.Event = field(init=False, factory=trio.Event, repr=False)
    _unread: bytearray = field(init=False, factory=bytearray, repr=False)
    _incoming: ssl.MemoryBIO = field(init=False, factory=ssl.MemoryBIO, repr=False)
    _outgoing: ssl.MemoryBIO = field(init=False, factory=ssl.MemoryBIO, repr=False)
    _sending: trio.StrictFIFOLock = field(init=False, factory=trio.StrictFIFOLock, repr=False)
    _arrivals: trio.lowlevel.ParkingLot = field(init=False, factory=trio.lowlevel.ParkingLot, repr=False)

    @property
    def server_name(self) -> str | None:
        """The host name in the ClientHello (SNI) that this end received as a TLS server, None without one."""
        return _requested_names.get(self.tls) if self.tls else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drop()

    async def accept_tls(self, context: ssl.SSLContext) -> None:
        """Make a TLS handshake as the server.

        Args:
            context: A server's context. It gets an ``sni_callback`` if it has none, for ``server_name``.

        Raises:
            trio.BrokenResourceError: The handshake failed. ``end`` and ``tls_fault`` say why.
        """
        if context.sni_callback is None:
            context.sni_callback = _store_requested_name
        await self._handshake(context.wrap_bio(self._incoming, self._outgoing, server_side=True))

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None = "localhost") -> None:
        """Make a TLS handshake as the client.

        Args:
            context: A client's context.
            server_name: The name to ask for and to verify.

        Raises:
            trio.BrokenResourceError: The handshake failed. ``end`` and ``tls_fault`` say why.
        """
        await self._handshake(context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name))

    async def send(self, data: bytes) -> None:
        """Send all of these bytes.

        Raises:
            trio.BrokenResourceError: The peer has closed the connection, and ``end`` is set.
        """
        if self.tls is None:
            await self._send_bytes(data)
        elif data:
            try:
                self.tls.write(data)
            except ssl.SSLError as error:  # TLS has ended with the peer's connection
                raise trio.BrokenResourceError("the peer has gone") from error
            await self._flush()

    async def send_in_pieces(self, data: bytes, size: int = 1, pause: float = 0.0) -> None:
        """Send ``size`` bytes at a time, each piece as a TLS record of its own, with ``pause`` seconds in between."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await trio.sleep(pause)

    async def receive(self, size: int = _CHUNK_BYTES) -> bytes:
        """Return what has come, at most ``size`` bytes, or wait for more.

        Returns:
            ``b""`` if the connection has ended. ``end`` says how; no error is raised.
        """
        if not self._unread and self.end is None:
            await self._receive_more()
        return self._pop(size)

    async def receive_exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, or fewer if the connection ends first."""
        while len(self._unread) < size and self.end is None:
            await self._receive_more()
        return self._pop(size)

    async def receive_line(self) -> bytes:
        """Return a line with its line ending, or a part of it if the connection ends first."""
        start = 0
        while (line_end := self._unread.find(b"\n", start)) < 0 and self.end is None:
            start = len(self._unread)
            await self._receive_more()
        return self._pop(line_end + 1 if line_end >= 0 else len(self._unread))

    async def receive_until_end(self) -> bytes:
        """Return all bytes that come until the connection ends."""
        while self.end is None:
            await self._receive_more()
        return self._pop(len(self._unread))

    async def wait_received(self, what: int | bytes) -> None:
        """Wait until something is in ``received``. Another task must be receiving.

        Args:
            what: A number of bytes since the start, or bytes to search for.
        """
        while not (len(self.received) >= what if isinstance(what, int) else what in self.received):
            await self._arrivals.park()

    async def half_close(self) -> None:
        """Send close_notify under TLS, then a FIN. Receiving goes on."""
        if self.tls is not None:
            self._queue_close_notify(self.tls)
            await self._flush()
        async with self._sending:
            await self.stream.send_eof()

    async def close(self) -> None:
        """Close in order, with close_notify under TLS.

        Unread bytes make the kernel send a reset instead of a FIN.

        Closes:
            The socket, also if this is cancelled.
        """
        try:
            if self.tls is not None and self.end != "reset":
                self._queue_close_notify(self.tls)
                with suppress(trio.BrokenResourceError):
                    await self._flush()
        finally:
            self.drop()

    def drop(self) -> None:
        """Close at once with a FIN, and under TLS without close_notify."""
        self.stream.socket.close()
        self.closed.set()
        self._arrivals.unpark_all()

    def reset(self) -> None:
        """Close with a reset.

        Unix sockets have no reset. There the peer sees one only if it has sent bytes that were not received.
        """
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.drop()

    async def _handshake(self, tls: ssl.SSLObject) -> None:
        self.tls = tls
        await self._drive(tls.do_handshake)

    async def _receive_more(self) -> None:
        """Wait for bytes and store them, or store how the connection ended."""
        with suppress(trio.BrokenResourceError):  # the methods that raise it have set end
            if self.tls is None:
                data = await self._receive_bytes()
            else:
                data = await self._drive(partial(_read_tls, self.tls))
            if data:
                self._store(data)
            else:
                self.end = "eof" if self.tls is None else "close_notify"

    async def _drive(self, step: Callable[[], _T]) -> _T:
        """Complete one step of TLS.

        Raises:
            trio.BrokenResourceError: It failed, and ``end`` is set.
        """
        try:
            return await self._repeat(step)
        except ssl.SSLError as error:
            # The class depends on the version of CPython.
            if isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING":
                self.end = "eof"
                raise trio.BrokenResourceError("the peer left without close_notify") from error
            fault = error
        self.end, self.tls_fault = "tls", fault.reason or str(fault)
        with suppress(trio.BrokenResourceError):
            await self._flush()  # the TLS alert
        raise trio.BrokenResourceError(f"TLS failed: {self.tls_fault}") from fault

    async def _repeat(self, step: Callable[[], _T]) -> _T:
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                pass
            else:
                await self._flush()
                return result
            await self._flush()
            if data := await self._receive_bytes():
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _receive_bytes(self) -> bytes:
        try:
            return await self.stream.receive_some(_CHUNK_BYTES)
        except trio.BrokenResourceError:
            self.end = "reset"
            raise

    async def _flush(self) -> None:
        # Read before the lock is taken. A receiver that found a sender's bytes here would wait for the lock behind it. That
        # is a deadlock if the peer does not read until this end does.
        if data := self._outgoing.read():
            await self._send_bytes(data)

    async def _send_bytes(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self.stream.send_all(data)
        except trio.BrokenResourceError:
            self.end = self.end or "reset"
            raise

    def _queue_close_notify(self, tls: ssl.SSLObject) -> None:
        # unwrap() fails while application data is unread, so it is read first.
        with suppress(ssl.SSLError):
            while data := tls.read(_CHUNK_BYTES):
                self._store(data)
        # SSLWantReadError is a success here: close_notify is written, and that of the peer has not come.
        with suppress(ssl.SSLError):
            tls.unwrap()

    def _store(self, data: bytes) -> None:
        self.received += data
        self._unread += data
        self._arrivals.unpark_all()

    def _pop(self, size: int) -> bytes:
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data


def _read_tls(tls: ssl.SSLObject) -> bytes:
    try:
        return tls.read(_CHUNK_BYTES)
    except ssl.SSLZeroReturnError:  # raised instead of b"" after this end has sent its close_notify
        return b""


async def dial(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = "localhost",
    receive_buffer_bytes: int | None = None,
) -> Connection:
    """Connect to an address, with a TLS handshake if a context is given.

    Args:
        address: ``127.0.0.1:143``, ``[::1]:143``, ``localhost:143`` or ``unix:/path``.
        tls: A client's context.
        server_name: The name that TLS asks for and verifies.
        receive_buffer_bytes: The size of the kernel's receive buffer, small for a client that does not read.

    Returns:
        The connection, to be used with ``async with``, or closed by the caller.

    Raises:
        OSError: No connection was made.
        trio.BrokenResourceError: The handshake failed.

    Cancellation:
        The connection is closed, as after an error.
    """
    connection = Connection(trio.SocketStream(await _connect(address, receive_buffer_bytes)))
    if tls is not None:
        try:
            await connection.start_tls(tls, server_name)
        except BaseException:
            connection.drop()
            raise
    return connection


async def _connect(address: str, receive_buffer_bytes: int | None) -> trio.socket.SocketType:
    target = parse_server(address)
    if isinstance(target, UnixAddress):
        sock = trio.socket.socket(socket.AF_UNIX)
    else:
        sock = trio.socket.socket(socket.AF_INET6 if ":" in target.host else socket.AF_INET)
    try:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await sock.connect(target.path if isinstance(target, UnixAddress) else (target.host, target.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _peer_name(stream: trio.SocketStream) -> str:
    try:
        name = stream.socket.getpeername()
    except OSError:  # it has closed the connection already
        return "unknown"
    return join_host_port(name[0], name[1]) if isinstance(name, tuple) else f"unix:{name}"


def _store_requested_name(
    tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
) -> None:
    if name is not None and isinstance(tls, ssl.SSLObject):
        _requested_names[tls] = name
