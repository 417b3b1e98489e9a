"""One connection of a test, seen from either end: clear or TLS, with everything that came over it.

TLS goes through memory BIOs, not through ``trio.SSLStream``: a test's peer must be able to do what a well-behaved
stream hides, such as close_notify while it goes on reading, or an end without close_notify.
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

_asked_names: WeakKeyDictionary[ssl.SSLObject, str] = WeakKeyDictionary()


@define(eq=False)
class Connection:
    """A connection; ``received`` is all that came, ``end`` how the peer ended it as far as anybody has read.

    ``end`` is ``eof`` (a FIN; under TLS one without close_notify), ``close_notify``, ``reset``, ``tls`` (TLS broke;
    ``tls_fault`` has OpenSSL's words), or None while it goes on. One task may send while another receives.
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
        """The name that a TLS client asked this end for; None without one."""
        return _asked_names.get(self.tls) if self.tls else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.drop()

    async def accept_tls(self, context: ssl.SSLContext) -> None:
        """Take the server's part in a TLS handshake. Raises trio.BrokenResourceError if it fails."""
        if context.sni_callback is None:
            context.sni_callback = _note_name
        await self._shake_hands(context.wrap_bio(self._incoming, self._outgoing, server_side=True))

    async def start_tls(self, context: ssl.SSLContext, server_name: str | None = "localhost") -> None:
        """Take the client's part in a TLS handshake. Raises trio.BrokenResourceError if it fails."""
        await self._shake_hands(context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name))

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises trio.BrokenResourceError if the peer has gone; ``end`` is then ``reset``."""
        if self.tls is None:
            await self._put(data)
        elif data:
            try:
                self.tls.write(data)
            except ssl.SSLError as error:  # TLS is over since the peer's connection has ended
                raise trio.BrokenResourceError("the peer has gone") from error
            await self._flush()

    async def send_in_pieces(self, data: bytes, size: int = 1, pause: float = 0.0) -> None:
        """Send ``size`` bytes at a time (each a TLS record of its own), with so many seconds between."""
        for start in range(0, len(data), size):
            await self.send(data[start : start + size])
            await trio.sleep(pause)

    async def receive(self, size: int = _CHUNK_BYTES) -> bytes:
        """Return what is there, at most ``size`` bytes, or wait for it; ``b""`` at the end, however it came."""
        if not self._unread and self.end is None:
            await self._take()
        return self._pop(size)

    async def receive_exactly(self, size: int) -> bytes:
        """Return ``size`` bytes, or fewer if the end comes first."""
        while len(self._unread) < size and self.end is None:
            await self._take()
        return self._pop(size)

    async def receive_line(self) -> bytes:
        """Return a line with its end, or what there was of it if the end comes first."""
        start = 0
        while (found := self._unread.find(b"\n", start)) < 0 and self.end is None:
            start = len(self._unread)
            await self._take()
        return self._pop(found + 1 if found >= 0 else len(self._unread))

    async def receive_until_end(self) -> bytes:
        """Return all that is still to come."""
        while self.end is None:
            await self._take()
        return self._pop(len(self._unread))

    async def wait_received(self, what: int | bytes) -> None:
        """Wait until so many bytes, or these bytes, have come since the start; some other task must be receiving."""
        while not (len(self.received) >= what if isinstance(what, int) else what in self.received):
            await self._arrivals.park()

    async def half_close(self) -> None:
        """Say that nothing more will be sent: close_notify under TLS, then a FIN. Receiving goes on."""
        if self.tls is not None:
            self._queue_close_notify(self.tls)
            await self._flush()
        async with self._sending:
            await self.stream.send_eof()

    async def close(self) -> None:
        """Close in order, with close_notify under TLS. What came and was not received makes the kernel reset instead."""
        try:
            if self.tls is not None and self.end != "reset":
                self._queue_close_notify(self.tls)
                with suppress(trio.BrokenResourceError):
                    await self._flush()
        finally:
            self.drop()

    def drop(self) -> None:
        """Close at once: a FIN, and under TLS no close_notify."""
        self.stream.socket.close()
        self.closed.set()
        self._arrivals.unpark_all()

    def reset(self) -> None:
        """Close with a reset. Unix sockets know none: there the peer sees one only if it sent what was not received."""
        self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
        self.drop()

    async def _shake_hands(self, tls: ssl.SSLObject) -> None:
        self.tls = tls
        await self._drive(tls.do_handshake)

    async def _take(self) -> None:
        """Wait for bytes and note them, or note the end."""
        with suppress(trio.BrokenResourceError):  # _drive, _feed and _put have noted why
            if self.tls is None:
                data = await self._feed()
            else:
                data = await self._drive(partial(_read_tls, self.tls))
            if data:
                self._note(data)
            else:
                self.end = "eof" if self.tls is None else "close_notify"

    async def _drive(self, step: Callable[[], _T]) -> _T:
        """Take one step of TLS to its end. Raises trio.BrokenResourceError and notes why."""
        try:
            return await self._repeat(step)
        except ssl.SSLError as error:
            # which class it has depends on the version of CPython
            if isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING":
                self.end = "eof"
                raise trio.BrokenResourceError("the peer left without close_notify") from error
            fault = error
        self.end, self.tls_fault = "tls", fault.reason or str(fault)
        with suppress(trio.BrokenResourceError):
            await self._flush()  # the alert that tells the peer
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
            if data := await self._feed():
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    async def _feed(self) -> bytes:
        try:
            return await self.stream.receive_some(_CHUNK_BYTES)
        except trio.BrokenResourceError:
            self.end = "reset"
            raise

    async def _flush(self) -> None:
        # Read before the lock: a receiver that found a sender's bytes here would wait behind it, and both for ever
        # when the peer reads no more until we do.
        if data := self._outgoing.read():
            await self._put(data)

    async def _put(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self.stream.send_all(data)
        except trio.BrokenResourceError:
            self.end = self.end or "reset"
            raise

    def _queue_close_notify(self, tls: ssl.SSLObject) -> None:
        # unwrap() fails on application data that has come and was not read, so that is taken out first.
        with suppress(ssl.SSLError):
            while data := tls.read(_CHUNK_BYTES):
                self._note(data)
        with suppress(ssl.SSLError):  # WantRead is success: close_notify is written, the peer's has not come
            tls.unwrap()

    def _note(self, data: bytes) -> None:
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
    except ssl.SSLZeroReturnError:  # instead of b"" once this end has sent its close_notify
        return b""


async def dial(
    address: str,
    *,
    tls: ssl.SSLContext | None = None,
    server_name: str | None = "localhost",
    receive_buffer_bytes: int | None = None,
) -> Connection:
    """Connect to ``127.0.0.1:143``, ``[::1]:143``, ``localhost:143`` or ``unix:/path``, with a TLS handshake if asked.

    The connection is an ``async with`` that closes at once. Raises OSError if nobody listens, and
    trio.BrokenResourceError if the handshake fails; nothing stays open then.
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
    where = parse_server(address)
    if isinstance(where, UnixAddress):
        sock = trio.socket.socket(socket.AF_UNIX)
    else:
        sock = trio.socket.socket(socket.AF_INET6 if ":" in where.host else socket.AF_INET)
    try:
        if receive_buffer_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        await sock.connect(where.path if isinstance(where, UnixAddress) else (where.host, where.port))
    except BaseException:
        sock.close()
        raise
    return sock


def _peer_name(stream: trio.SocketStream) -> str:
    try:
        name = stream.socket.getpeername()
    except OSError:  # it has gone already
        return "unknown"
    return join_host_port(name[0], name[1]) if isinstance(name, tuple) else f"unix:{name}"


def _note_name(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
    if name is not None and isinstance(tls, ssl.SSLObject):
        _asked_names[tls] = name
