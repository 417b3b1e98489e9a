"""The dialogue in which a running program hands its listening sockets over to its successor.

The successor sends the command ``hand-over VERSION`` to the admin socket. The answer has one end of a channel
(SOCK_SEQPACKET), on which both sides send packets. A packet is one JSON object, some with descriptors:

    packet     from         descriptors   has
    ---------  -----------  ------------  ------------------------------------------------------------
    hello      predecessor                version of the program, process id of its main process
    state      predecessor  a memfd       what the state file has (`mailproxy.proxy.state`)
    sockets    predecessor  one for each  purpose, frontend, number and address of the bind, file
    end        predecessor                the number of sockets
    take-over  successor                  the addresses that it does not use
    ok         predecessor                it stops accepting

The predecessor goes on until it gets ``take-over``. If the channel closes before, nothing has changed.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from typing import Any

from attrs import frozen

from mailproxy.files import FileId
from mailproxy.net.passing.sockets import PassedSocket

VERSION = 1
"""The version of the dialogue. Another one is refused, and the running program goes on."""

PACKET_MAX = 64 * 1024  # bytes
SOCKETS_MAX = 4096  # in all; 100 binds of 40 workers
_SOCKETS_PER_PACKET = 100  # the kernel passes 253 at once
_DESCRIPTORS_MAX = 253


class HandoverError(Exception):
    """The dialogue cannot go on. The message says why."""


@frozen
class Packet:
    """A packet.

    Attributes:
        type: What it is.
        values: Its other members.
        descriptors: The descriptors that came with it. The receiver closes them.
    """

    type: str
    values: dict[str, Any]
    descriptors: tuple[int, ...] = ()


def send(end: socket.socket, type_: str, *descriptors: int, deadline: float, **values: object) -> None:
    """Send a packet. Blocks until it is sent.

    Args:
        end: An end of the channel.
        type_: What it is.
        descriptors: Sent along.
        deadline: On the monotonic clock.
        values: Its other members.

    Raises:
        HandoverError: The other side is gone, or does not read.
    """
    data = json.dumps({"type": type_, **values}, separators=(",", ":")).encode()
    while True:
        try:
            socket.send_fds(end, [data], descriptors, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            _wait(end, select.POLLOUT, deadline)
        except OSError as error:
            raise HandoverError(f"the other process cannot be reached: {error.strerror}") from None
        else:
            return


def receive(end: socket.socket, *, deadline: float) -> Packet:
    """Wait for the next packet and return it. Blocks.

    Raises:
        HandoverError: The other side is gone, sends nothing, or sends what is no packet.
    """
    while True:
        try:
            return receive_nowait(end)
        except BlockingIOError:
            _wait(end, select.POLLIN, deadline)


def receive_nowait(end: socket.socket) -> Packet:
    """Return the next packet.

    Raises:
        BlockingIOError: There is none yet.
        HandoverError: As ``receive``.
    """
    try:
        data, fds, flags, _ = socket.recv_fds(end, PACKET_MAX, _DESCRIPTORS_MAX, socket.MSG_DONTWAIT)
    except BlockingIOError:
        raise
    except OSError as error:
        raise HandoverError(f"the other process cannot be reached: {error.strerror}") from None
    try:
        require(bool(data), "the other process has closed the connection")
        require(not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC), "a packet is too long")
        return _decode(data, tuple(fds))
    except HandoverError:
        for fd in fds:
            os.close(fd)
        raise


def _decode(data: bytes, descriptors: tuple[int, ...]) -> Packet:
    try:
        values = json.loads(data)
        type_ = values.pop("type")
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise HandoverError(f"a packet is damaged: {error!r}") from None
    if not isinstance(type_, str):
        raise HandoverError("a packet has no type")
    return Packet(type_, values, descriptors)


def require(condition: bool, reason: str) -> None:
    """Raise HandoverError unless the condition holds."""
    if not condition:
        raise HandoverError(reason)


def _wait(end: socket.socket, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(end, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise HandoverError("the other process does not answer")


# Sockets


def send_sockets(end: socket.socket, sockets: Sequence[PassedSocket], *, deadline: float) -> None:
    """Send all sockets, and that these are all. Blocks.

    Raises:
        HandoverError: As ``send``.
    """
    for start in range(0, len(sockets), _SOCKETS_PER_PACKET):
        part = sockets[start : start + _SOCKETS_PER_PACKET]
        described = [_describe(each) for each in part]
        send(end, "sockets", *(each.socket.fileno() for each in part), deadline=deadline, sockets=described)
    send(end, "end", deadline=deadline, sockets=len(sockets))


def _describe(each: PassedSocket) -> list[object]:
    file = None if each.file is None else [each.file.device, each.file.inode]
    return [each.purpose, each.frontend, each.number, each.address, file]


def sockets_in(packet: Packet) -> list[PassedSocket]:
    """Return the sockets of a packet.

    Raises:
        HandoverError: The packet is damaged. Its descriptors are closed.
    """
    sockets: list[PassedSocket] = []
    free = list(packet.descriptors)
    try:
        described = packet.values["sockets"]
        require(len(described) == len(free), f"{len(described)} sockets were described, and {len(free)} came")
        for purpose, frontend, number, address, file in described:
            is_text = isinstance(frontend, str) and isinstance(address, str)
            require(purpose in ("bind", "admin") and is_text, "a socket has no purpose or no address")
            created = None if file is None else FileId(int(file[0]), int(file[1]))
            index = int(number)
            sock = socket.socket(fileno=free[0])
            del free[0]
            sockets.append(
                PassedSocket(
                    socket=sock,
                    purpose=purpose,
                    frontend=frontend,
                    number=index,
                    address=address,
                    file=created,
                )
            )
            require(sock.type == socket.SOCK_STREAM, f"the socket of {address} is no stream socket")
            sock.setblocking(False)
    except (ValueError, TypeError, LookupError, OSError) as error:
        _close(sockets, free)
        raise HandoverError(f"a packet is damaged: {error!r}") from None
    except HandoverError:
        _close(sockets, free)
        raise
    return sockets


def _close(sockets: Iterable[PassedSocket], descriptors: Iterable[int]) -> None:
    for each in sockets:
        each.socket.close()
    for fd in descriptors:
        os.close(fd)
