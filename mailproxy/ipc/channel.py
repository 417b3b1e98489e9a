"""Lines between the processes of one proxy: messages in JSON, a packet each, some with descriptors.

Socket pairs of packets (SOCK_SEQPACKET) keep the bounds of messages and tell of the other side's end. Both sides are the
same program: what comes is read, not judged.
"""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import trio
from attrs import field, frozen

Message = dict[str, Any]

Entry = TypeVar("Entry")

_PACKET_MAX = 128 * 1024  # bytes
_BATCH_MAX = (
    64 * 1024
)  # bytes of a message's entries, which leaves room for one that is long, and for other words
_BUFFER = (
    128 * 1024
)  # bytes, of which Linux makes twice as many: a packet fits, whatever net.core.wmem_default is
_DESCRIPTORS_MAX = 4
_WAITING_MAX = 2000  # messages; whoever reads none of so many hangs
_ROOM_MESSAGES = 20  # messages that may wait while somebody fills the line with many


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a line; nonblocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ends


def try_send(end: socket.socket, message: Mapping[str, object], *ends: socket.socket) -> bool:
    """Send without waiting, with copies of these sockets. False if the other side is gone, or reads nothing any more."""
    try:
        socket.send_fds(end, [_packet(message)], [sock.fileno() for sock in ends])
    except OSError:
        return False
    return True


def _packet(message: object) -> bytes:
    # What UTF-8 has no octets for is escaped as JSON does it, too.
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")


def batch_by_size(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """As many as a message holds at a time, by their size."""
    part: list[Entry] = []
    size = 0
    for entry in entries:
        more = len(_packet(entry)) + 1
        if part and size + more > _BATCH_MAX:
            yield part
            part, size = [], 0
        part.append(entry)
        size += more
    if part:
        yield part


def _ignore(fact: str) -> None:
    pass


@frozen
class Received:
    """A message, and the sockets that came with it: the receiver's to close."""

    message: Message
    sockets: tuple[socket.socket, ...] = field(default=(), repr=False)


class Channel:
    """One end of a line in a trio loop; takes the socket over. Messages are kept in order, and sent by ``run``.

    One that is too long is dropped on either side, which ``dropped`` is told: whoever made it is at fault, and not the line.
    """

    def __init__(self, end: socket.socket, *, dropped: Callable[[str], object] = _ignore) -> None:
        self._end = end
        self._dropped = dropped
        self._outgoing: OrderedDict[Hashable, Message] = OrderedDict()
        self._last_key = 0
        self._wake = trio.Event()
        self._parked = trio.lowlevel.ParkingLot()

    def send_nowait(self, message: Message, *, replaces: Hashable = None) -> bool:
        """Send a message soon; False if too many wait, and it is not sent.

        ``instead``: it takes the place of one that was said under the same name and has not gone out yet.
        """
        if replaces is None:
            if len(self._outgoing) >= _WAITING_MAX:
                return False
            self._last_key += 1
            replaces = self._last_key
        self._outgoing.pop(replaces, None)
        self._outgoing[replaces] = message
        self._wake.set()
        return True

    async def wait_for_room(self) -> None:
        """Wait until few messages wait: for those who have many."""
        while len(self._outgoing) >= _ROOM_MESSAGES:
            await self._parked.park()

    async def send(self, message: Message) -> None:
        """Say a message when there is room for it."""
        await self.wait_for_room()
        self.send_nowait(message)

    async def run(self) -> None:
        """Send what is said until cancelled, or the other side is gone."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._outgoing:
                _, message = self._outgoing.popitem(last=False)
                if not await self._send(message):
                    return
                self._parked.unpark_all()

    async def _send(self, message: Message) -> bool:
        packet = _packet(message)
        if len(packet) > _PACKET_MAX:
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

    def _drop(self, message: Message, packet: bytes) -> bool:
        self._dropped(f"a message ({', '.join(message)}) of {len(packet)} bytes is too long: not sent")
        return True

    def flush(self) -> None:
        """Send what waits without waiting, as far as that goes; at the end."""
        while self._outgoing:
            _, message = self._outgoing.popitem(last=False)
            if len(_packet(message)) <= _PACKET_MAX and not try_send(self._end, message):
                return

    async def receive(self) -> Received | None:
        """The next message; None when the other side is gone."""
        while True:
            try:
                data, fds, flags, _ = socket.recv_fds(self._end, _PACKET_MAX, _DESCRIPTORS_MAX)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._end)
            except OSError:
                return None
            else:
                await trio.lowlevel.checkpoint()
                sockets = tuple(socket.socket(fileno=fd) for fd in fds)
                if not flags & socket.MSG_TRUNC:
                    return Received(json.loads(data), sockets) if data else None
                for sock in sockets:
                    sock.close()
                self._dropped(f"a message of more than {_PACKET_MAX} bytes is too long: not heard")

    def close(self) -> None:
        """Close this end, which the other side notices."""
        with contextlib.suppress(OSError):
            self._end.close()
