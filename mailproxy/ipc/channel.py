"""Channels between the processes of one proxy: one message a packet, some with descriptors.

A channel is a socket pair of packets (SOCK_SEQPACKET). It keeps the boundaries of messages, and each side
notices when the other one is gone. What a message is, and how it becomes bytes, is the user's: a channel
takes two functions for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import BinaryIO, Generic, Protocol, TypeVar

import trio
from attrs import field, frozen

M = TypeVar("M")

PACKET_MAX = 128 * 1024  # bytes
# Linux doubles it, so that a packet always fits, whatever net.core.wmem_default is.
_SEND_BUFFER = 128 * 1024  # bytes
DESCRIPTORS_MAX = 100  # of a message; the kernel allows 253
_QUEUE_MAX = 2000  # messages; a process that leaves this many unread hangs
_BULK_QUEUE_MAX = 20  # messages; a sender of many waits until there are fewer


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new channel, nonblocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    return ends


class HasDescriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int: ...


def try_send(end: socket.socket, packet: bytes, *descriptors: HasDescriptor) -> bool:
    """Send a packet without waiting, with duplicates of the descriptors of these sockets or files.

    Returns:
        False if nothing was sent: the other side is gone, or has left so much unread that the buffer is full.
    """
    try:
        socket.send_fds(end, [packet], [each.fileno() for each in descriptors])
    except OSError:
        return False
    return True


def try_receive(end: socket.socket) -> tuple[bytes, Descriptors] | None:
    """Receive a packet without waiting; None if there is none, or the other side is gone."""
    try:
        data, fds, _, _ = socket.recv_fds(end, PACKET_MAX, DESCRIPTORS_MAX)
    except OSError:
        return None
    descriptors = Descriptors.of(fds)
    return (data, descriptors) if data else None


@frozen
class Descriptors:
    """The sockets and the files that came with a message. The receiver closes them."""

    sockets: tuple[socket.socket, ...] = ()
    files: tuple[BinaryIO, ...] = ()

    @classmethod
    def of(cls, fds: Iterable[int]) -> Descriptors:
        """Return objects for these descriptors, which own them from then on."""
        sockets: list[socket.socket] = []
        files: list[BinaryIO] = []
        for fd in fds:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                sockets.append(socket.socket(fileno=fd))
            else:
                files.append(open(fd, "rb", buffering=0))  # noqa: SIM115, PTH123 - the receiver closes it
        return cls(tuple(sockets), tuple(files))

    def close(self) -> None:
        """Close all of them."""
        for sock in self.sockets:
            sock.close()
        for file in self.files:
            file.close()


@frozen
class Received(Generic[M]):
    """A message, and what came with it."""

    message: M
    descriptors: Descriptors = field(factory=Descriptors, repr=False)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that came with it. The receiver closes them."""
        return self.descriptors.sockets

    @property
    def files(self) -> tuple[BinaryIO, ...]:
        """The files that came with it. The receiver closes them."""
        return self.descriptors.files


class Channel(Generic[M]):
    """One end of a channel, in a trio loop. Takes the socket over.

    Messages wait in a queue that ``run`` sends from, in order. A message that is too long, or that ``decode``
    refuses, is dropped and the next one handled: the process that made it has a bug, and the channel is still
    good.

    Args:
        end: One of ``channel_pair``.
        encode: Returns the packet of a message.
        decode: Returns the message in a packet. Raises ValueError if it is none.
        on_drop: Called with a sentence about each message that is dropped.
    """

    def __init__(
        self,
        end: socket.socket,
        *,
        encode: Callable[[M], bytes],
        decode: Callable[[bytes], M],
        on_drop: Callable[[str], object],
    ) -> None:
        self._end = end
        self._encode = encode
        self._decode = decode
        self._on_drop = on_drop
        self._outgoing: OrderedDict[Hashable, M] = OrderedDict()
        self._last_key = 0
        self._wake = trio.Event()
        self._bulk_senders = trio.lowlevel.ParkingLot()

    def send_nowait(self, message: M, *, replaces: Hashable = None) -> bool:
        """Queue a message.

        Args:
            message: The message.
            replaces: A key. The message takes the place of one that was queued under the same key and is
                still unsent. Such messages are always queued, since there is at most one for each key.

        Returns:
            False if the queue is full. The message is lost then.
        """
        if replaces is None:
            if len(self._outgoing) >= _QUEUE_MAX:
                return False
            self._last_key += 1
            replaces = self._last_key
        self._outgoing.pop(replaces, None)
        self._outgoing[replaces] = message
        self._wake.set()
        return True

    async def wait_for_room(self) -> None:
        """Wait until the queue is short. For a sender of many messages."""
        while len(self._outgoing) >= _BULK_QUEUE_MAX:
            await self._bulk_senders.park()

    async def send(self, message: M) -> None:
        """Queue a message once the queue is short."""
        await self.wait_for_room()
        self.send_nowait(message)

    async def run(self) -> None:
        """Send what is queued, until cancelled or the other side is gone."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._outgoing:
                _, message = self._outgoing.popitem(last=False)
                if not await self._send(message):
                    return
                self._bulk_senders.unpark_all()

    async def _send(self, message: M) -> bool:
        packet = self._encode(message)
        if len(packet) > PACKET_MAX:
            return self._drop(message, packet)
        while True:
            try:
                self._end.send(packet)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._end)
            except OSError as error:
                return error.errno == errno.EMSGSIZE and self._drop(message, packet)
            else:
                return True

    def _drop(self, message: M, packet: bytes) -> bool:
        self._on_drop(f"a message ({type(message).__name__}) of {len(packet)} bytes is too long: not sent")
        return True

    def try_send(self, message: M, *descriptors: HasDescriptor) -> bool:
        """Send a message at once, ahead of what is queued. Return False if that is not possible."""
        return try_send(self._end, self._encode(message), *descriptors)

    def flush(self) -> None:
        """Send what is queued, as far as that is possible without waiting. For the end of a process."""
        while self._outgoing:
            _, message = self._outgoing.popitem(last=False)
            packet = self._encode(message)
            if len(packet) <= PACKET_MAX and not try_send(self._end, packet):
                return

    async def receive(self) -> Received[M] | None:
        """Wait for the next message and return it; None if the other side is gone.

        Cancellation:
            No message is lost.
        """
        while True:
            # Before the message is taken: after that, cancellation would lose it and leak its descriptors.
            await trio.lowlevel.checkpoint()
            try:
                data, fds, flags, _ = socket.recv_fds(self._end, PACKET_MAX, DESCRIPTORS_MAX)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._end)
                continue
            except OSError:
                return None
            descriptors = Descriptors.of(fds)
            if not data:
                return None
            if flags & socket.MSG_TRUNC:
                reason = f"a message of more than {PACKET_MAX} bytes is too long: not received"
            else:
                try:
                    return Received(self._decode(data), descriptors)
                except ValueError as error:
                    reason = str(error)
            descriptors.close()
            self._on_drop(reason)

    def close(self) -> None:
        """Close this end. The other side notices."""
        with contextlib.suppress(OSError):
            self._end.close()
