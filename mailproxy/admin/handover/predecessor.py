"""The running instance, as the process reaches it that is to replace it. Blocks: it comes before trio."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from struct import Struct
from typing import Any

from attrs import define

from mailproxy.net.passing.packets import (
    SOCKETS_MAX,
    VERSION,
    HandoverError,
    Packet,
    receive,
    require,
    send,
    sockets_in,
)
from mailproxy.net.passing.sockets import PassedSocket
from mailproxy.proxy.signals import HANDED_OVER
from mailproxy.proxy.state.codec import StateError, decode
from mailproxy.proxy.state.file import read_memory
from mailproxy.proxy.state.value import ProxyState

_TIMEOUT_S = 10.0  # for the running instance to send everything
_TAKE_OVER_TIMEOUT_S = 2.0  # for it to confirm that it stops accepting
_ANSWER_MAX = 4096  # bytes, of an error
_CREDENTIALS = Struct("3i")  # pid, uid and gid (unix(7))


@define(eq=False)
class Predecessor:
    """A running instance that has passed its sockets, and goes on until ``take_over``.

    Attributes:
        pid: Its main process.
        version: The version of its program.
        sockets: Its listening sockets. The caller closes them.
        state: The states of its servers, and its stick tables; None if they cannot be used.
        state_error: Why they cannot.
    """

    pid: int
    version: str
    sockets: list[PassedSocket]
    state: ProxyState | None
    state_error: str
    _end: socket.socket
    _pidfd: int

    def take_over(self, unused: Collection[str]) -> str | None:
        """Have it stop accepting: this process accepts from now on. Blocks for 2 s at most.

        Args:
            unused: The addresses that this process does not listen on. It serves their queues first.

        Returns:
            None, or what went wrong.
        """
        deadline = time.monotonic() + _TAKE_OVER_TIMEOUT_S
        try:
            send(self._end, "take-over", deadline=deadline, unused=sorted(unused))
            reason = receive(self._end, deadline=deadline).type
        except HandoverError as error:
            reason = str(error)
        if reason == "ok":
            return None
        # Its control process has died or hangs. Its main process knows the signal.
        try:
            signal.pidfd_send_signal(self._pidfd, HANDED_OVER)
        except ProcessLookupError:
            return f"process {self.pid} has ended by itself"
        except OSError as error:
            return f"{reason}, and process {self.pid} gets no signal: {error.strerror}"
        return None

    def close(self) -> None:
        """Close the connection. Before ``take_over``, the running instance goes on as if nothing had happened."""
        self._end.close()
        os.close(self._pidfd)


def find_predecessor(path: Path, users: Collection[int]) -> Predecessor | None:
    """Get the sockets of the instance that serves an admin socket. Changes nothing there.

    Args:
        path: The admin socket.
        users: The users whose instance is trusted.

    Returns:
        None if no instance runs.

    Raises:
        HandoverError: It does not hand over to this process, or not in a way that this program knows.
    """
    deadline = time.monotonic() + _TIMEOUT_S
    with socket.socket(socket.AF_UNIX) as admin:
        admin.settimeout(_TIMEOUT_S)
        try:
            admin.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise HandoverError(error.strerror or str(error)) from None
        # The user that has called listen(2).
        credentials = admin.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        uid = _CREDENTIALS.unpack(credentials)[1]
        if uid not in users:
            raise HandoverError(f"it belongs to another user ({uid})")
        end = _ask(admin)
    with contextlib.ExitStack() as stack:
        stack.callback(end.close)
        predecessor = _receive_all(end, deadline)
        stack.pop_all()
        return predecessor


def _ask(admin: socket.socket) -> socket.socket:
    """Send the command, and return the end of the channel that comes with the answer."""
    try:
        admin.sendall(f"hand-over {VERSION}\n".encode())
        answer, fds, _, _ = socket.recv_fds(admin, _ANSWER_MAX, 1)
        if not fds:
            while len(answer) < _ANSWER_MAX and (more := admin.recv(_ANSWER_MAX)):
                answer += more
    except OSError as error:
        raise HandoverError(f"it does not answer: {error}") from None
    if not fds:
        text = answer.decode("utf-8", "replace").strip()
        if text.startswith("Unknown command"):
            text = "its version knows no hand-over"
        raise HandoverError(text.partition("\n")[0] or "it has closed the connection")
    end = socket.socket(fileno=fds[0])
    end.setblocking(False)
    return end


def _receive_all(end: socket.socket, deadline: float) -> Predecessor:
    sockets: list[PassedSocket] = []
    pidfd = -1
    try:
        hello = _next(end, "hello", deadline)
        pid: Any = hello.values.get("pid")
        version: Any = hello.values.get("version")
        require(type(pid) is int and isinstance(version, str), "a packet is damaged: hello")
        with contextlib.suppress(OSError, OverflowError):
            pidfd = os.pidfd_open(pid)
        require(pidfd != -1, f"its main process {pid} does not exist")
        state, state_error = _read_state(_next(end, "state", deadline))
        for packet in _until_end(end, deadline):
            sockets += sockets_in(packet)
            require(len(sockets) <= SOCKETS_MAX, f"it has more than {SOCKETS_MAX} sockets")
    except BaseException:
        for each in sockets:
            each.socket.close()
        if pidfd != -1:
            os.close(pidfd)
        raise
    return Predecessor(pid, version, sockets, state, state_error, end, pidfd)


def _until_end(end: socket.socket, deadline: float) -> Iterator[Packet]:
    """Yield the packets with sockets.

    Raises:
        HandoverError: The end is missing, or does not fit.
    """
    count = 0
    while True:
        packet = receive(end, deadline=deadline)
        if packet.type == "end":
            if packet.values.get("sockets") != count:
                raise HandoverError(f"{count} sockets came, and it has {packet.values.get('sockets')!r}")
            return
        _require_type(packet, "sockets")
        count += len(packet.descriptors)
        yield packet


def _next(end: socket.socket, type_: str, deadline: float) -> Packet:
    packet = receive(end, deadline=deadline)
    _require_type(packet, type_)
    return packet


def _require_type(packet: Packet, type_: str) -> None:
    if packet.type == type_:
        return
    for fd in packet.descriptors:
        os.close(fd)
    reason = packet.values.get("reason")
    raise HandoverError(
        reason if isinstance(reason, str) else f"it sends {packet.type!r} instead of {type_!r}"
    )


def _read_state(packet: Packet) -> tuple[ProxyState | None, str]:
    if len(packet.descriptors) != 1:
        for fd in packet.descriptors:
            os.close(fd)
        raise HandoverError("a packet is damaged: state")
    try:
        return decode(read_memory(packet.descriptors[0])), ""
    except (StateError, OSError) as error:
        return None, str(error)
