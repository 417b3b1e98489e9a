"""The sockets of the runtime dialect: accepts clients, reads their lines, writes answers.

A client costs a task. What it can cost beyond that is bounded: the length of a line, the time without a
command, the time to take an answer, and the number of clients at once.
"""

from __future__ import annotations

import socket
from array import array
from collections.abc import Sequence
from struct import Struct

import trio

from mailproxy.admin.handover.giver import HandOver
from mailproxy.admin.history import History
from mailproxy.admin.runtime.call import Call, Client, CommandError, Stream
from mailproxy.admin.runtime.commands import execute
from mailproxy.admin.runtime.parser import split_commands
from mailproxy.admin.sockets import AdminListener
from mailproxy.admin.target import Target
from mailproxy.log import Log
from mailproxy.proxy.supervise import contained, supervise

_LINE_MAX = 16 * 1024  # bytes, as in HAProxy (tune.bufsize)
_CLIENTS_MAX = 256  # of each socket; each has a descriptor, and others wait in the accept queue
_WRITE_TIMEOUT_S = 10.0  # for a client to take the next part of an answer
_WRITE_BYTES = 64 * 1024
_STREAM_TIMEOUT_S = 600.0  # for a client to read on in a stream, as when its terminal was stopped
_GONE_INTERVAL_S = 1.0  # between two looks whether a client that sends nothing more has left
_HELPER = "admin socket"
_SEVERITY_MARKS = {"none": "", "number": "[3]:", "string": "[error]:"}
_ACCEPT_RETRY_S = 0.1
_CREDENTIALS = Struct("3i")  # pid, uid and gid (unix(7))


class RuntimeServer:
    """Serves the runtime dialect.

    Args:
        target: The proxy.
        history: What follows from its figures over time.
        log: The log.
        handover: Hands the sockets over to another process.
    """

    def __init__(self, target: Target, history: History, log: Log, handover: HandOver) -> None:
        self._target = target
        self._history = history
        self._log = log
        self._handover = handover
        self._streams: set[Stream] = set()

    async def run(self, listeners: Sequence[AdminListener]) -> None:
        """Serve clients of these sockets until cancelled. Closes none of the sockets."""
        async with trio.open_nursery() as nursery:
            for listener in listeners:
                # Clients of one socket, which may be any user's, cannot keep those of the others out.
                clients = trio.CapacityLimiter(_CLIENTS_MAX)
                nursery.start_soon(supervise, self._log, _HELPER, self._accept, listener, clients, nursery)

    async def _accept(
        self, listener: AdminListener, clients: trio.CapacityLimiter, nursery: trio.Nursery
    ) -> None:
        sock = trio.socket.from_stdlib_socket(listener.socket)
        while True:
            borrower = object()
            await clients.acquire_on_behalf_of(borrower)
            connection = None
            try:
                connection, _ = await sock.accept()
                nursery.start_soon(self._serve, connection, listener, clients, borrower)
            except OSError:  # out of descriptors, or the client has left already
                await trio.sleep(_ACCEPT_RETRY_S)
            finally:
                if connection is None:
                    clients.release_on_behalf_of(borrower)

    async def _serve(
        self,
        sock: trio.socket.SocketType,
        listener: AdminListener,
        clients: trio.CapacityLimiter,
        borrower: object,
    ) -> None:
        try:
            with sock, contained(self._log, _HELPER):
                try:
                    client = Client(listener.level, credentials=_credentials(sock))
                    call = Call(self._target, self._history, client, self._streams, self._handover)
                    await Conversation(sock, call).run()
                except* (OSError, trio.TooSlowError):
                    pass  # the client has left, or takes nothing
        finally:
            clients.release_on_behalf_of(borrower)


class Conversation:
    """One client's conversation."""

    def __init__(self, sock: trio.socket.SocketType, call: Call) -> None:
        self._sock = sock
        self._call = call
        self._received = b""
        self._write_timeout_s = _WRITE_TIMEOUT_S

    async def run(self) -> None:
        """Answer lines until the client leaves or is done: without a prompt, after the lines that came at once.

        Raises:
            OSError: The client has left.
            TooSlowError: It takes nothing of an answer.
        """
        client = self._call.client
        while not client.is_done and (line := await self._line()) is not None:
            await self._answer(line)
            if not client.is_interactive and b"\n" not in self._received:
                break
        await self._close_gracefully()

    async def _line(self) -> str | None:
        """Return the next line; None if the client has closed, is silent for too long, or sends too long a line."""
        with trio.move_on_after(self._call.client.idle_timeout):
            while b"\n" not in self._received:
                if len(self._received) > _LINE_MAX:
                    return None
                data = await self._sock.recv(_LINE_MAX)
                if not data:
                    return None
                self._received += data
            line, _, self._received = self._received.partition(b"\n")
            return line.decode("utf-8", "replace") if len(line) <= _LINE_MAX else None
        return None

    async def _answer(self, line: str) -> None:
        client = self._call.client
        for text in split_commands(line):
            if client.is_done:
                return
            try:
                answer = await execute(self._call, text)
            except CommandError as error:
                answer = f"{_SEVERITY_MARKS[client.severity]}{error}\n"
            if not isinstance(answer, str):
                await self._stream(answer)
                answer = ""
            if client.is_done:
                return
            if client.attachment is not None:
                await self._attach(client.attachment)
                client.attachment = None
            await self._send(f"{answer}\n{'> ' if client.is_interactive else ''}")

    async def _attach(self, attachment: socket.socket) -> None:
        """Send a socket with the first byte of the answer, which is an empty line more."""
        rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [attachment.fileno()])
        with attachment, trio.fail_after(_WRITE_TIMEOUT_S):
            await self._sock.sendmsg([b"\n"], [rights])

    async def _stream(self, stream: Stream) -> None:
        """Send a stream until the client sends a line, or leaves. Silence does not end it."""
        self._write_timeout_s = _STREAM_TIMEOUT_S
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.run, self._send)
            await self._wait_for_line()
            nursery.cancel_scope.cancel()
        self._write_timeout_s = _WRITE_TIMEOUT_S
        _, _, self._received = self._received.partition(b"\n")

    async def _wait_for_line(self) -> None:
        """Wait for a line, or until the client has left.

        A client that has sent all may still read, as ``echo tail | socat - SOCKET`` does.

        Raises:
            OSError: It has left.
        """
        while b"\n" not in self._received:
            data = await self._sock.recv(_LINE_MAX)
            if not data:
                break
            self._received = (self._received + data)[-_LINE_MAX:]
        while b"\n" not in self._received:
            await trio.sleep(_GONE_INTERVAL_S)
            await self._sock.send(b"")  # raises for a Unix socket whose other end is closed

    async def _send(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        for start in range(0, len(data), _WRITE_BYTES):
            part = data[start : start + _WRITE_BYTES]
            with trio.fail_after(self._write_timeout_s):
                while part:
                    part = part[await self._sock.send(part) :]

    async def _close_gracefully(self) -> None:
        """Close so that the client gets the last answer, although it may have sent more than was read."""
        self._sock.shutdown(socket.SHUT_WR)
        with trio.move_on_after(1.0):
            received = 0
            while received < _LINE_MAX and (data := await self._sock.recv(_LINE_MAX)):
                received += len(data)


def _credentials(sock: trio.socket.SocketType) -> tuple[int, int] | None:
    """Return the process id and the user of a client; None over TCP."""
    if sock.family != socket.AF_UNIX:
        return None
    pid, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return pid, uid
