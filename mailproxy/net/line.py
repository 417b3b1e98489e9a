"""Lines between the processes of one proxy: messages in JSON, a packet each, some with descriptors.

Socket pairs of packets (SOCK_SEQPACKET) keep the bounds of messages and tell of the other side's end. Both sides are the
same program: what comes is read, not judged.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from typing import Any

import trio
from attrs import field, frozen

Message = dict[str, Any]

_PACKET_MAX = (
    128 * 1024
)  # bytes, less than a socket's buffer holds by default (net.core.wmem_default, 208 KiB)
_DESCRIPTORS_MAX = 4
_WAITING_MAX = 2000  # messages; whoever reads none of so many hangs
_ROOM = 20  # messages that may wait while somebody fills the line with many


def open_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a line; nonblocking."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends


def post(end: socket.socket, message: Mapping[str, object], *ends: socket.socket) -> bool:
    """Send without waiting, with copies of these sockets. False if the other side is gone, or reads nothing any more."""
    try:
        socket.send_fds(end, [_packet(message)], [sock.fileno() for sock in ends])
    except OSError:
        return False
    return True


def _packet(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


@frozen
class Heard:
    """A message, and the sockets that came with it: the receiver's to close."""

    message: Message
    sockets: tuple[socket.socket, ...] = field(default=(), repr=False)


class Line:
    """One end of a line in a trio loop; takes the socket over. Messages are kept in order, and sent by ``run``."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._waiting: OrderedDict[Hashable, Message] = OrderedDict()
        self._said = 0
        self._wake = trio.Event()
        self._parked = trio.lowlevel.ParkingLot()

    def say(self, message: Message, *, instead: Hashable = None) -> bool:
        """Send a message soon; False if too many wait, and it is not sent.

        ``instead``: it takes the place of one that was said under the same name and has not gone out yet.
        """
        if instead is None:
            if len(self._waiting) >= _WAITING_MAX:
                return False
            self._said += 1
            instead = self._said
        self._waiting.pop(instead, None)
        self._waiting[instead] = message
        self._wake.set()
        return True

    async def room(self) -> None:
        """Wait until few messages wait: for those who have many."""
        while len(self._waiting) >= _ROOM:
            await self._parked.park()

    async def send(self, message: Message) -> None:
        """Say a message when there is room for it."""
        await self.room()
        self.say(message)

    async def run(self) -> None:
        """Send what is said until cancelled, or the other side is gone."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._waiting:
                _, message = self._waiting.popitem(last=False)
                if not await self._send(_packet(message)):
                    return
                self._parked.unpark_all()

    async def _send(self, packet: bytes) -> bool:
        while True:
            try:
                self._end.send(packet)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._end)
            except OSError:
                return False
            else:
                return True

    def flush(self) -> None:
        """Send what waits without waiting, as far as that goes; at the end."""
        while self._waiting and post(self._end, self._waiting.popitem(last=False)[1]):
            pass

    async def hear(self) -> Heard | None:
        """The next message; None when the other side is gone."""
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._end, _PACKET_MAX, _DESCRIPTORS_MAX)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._end)
            except OSError:
                return None
            else:
                await trio.lowlevel.checkpoint()
                return (
                    Heard(json.loads(data), tuple(socket.socket(fileno=fd) for fd in fds)) if data else None
                )

    def close(self) -> None:
        """Close this end, which the other side notices."""
        with contextlib.suppress(OSError):
            self._end.close()
