"""http-01 (RFC 8555 section 8.3): a small listener, or files in a folder that a web server shows."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import trio
from attrs import define, field, frozen

from mailproxy.acme.challenges.solver import Proof
from mailproxy.acme.errors import AcmeError
from mailproxy.address import TcpAddress

_PATH = "/.well-known/acme-challenge/"
_REQUEST_MAX = 8192  # bytes; an authority's request has some hundred
_REQUEST_TIMEOUT_S = 10.0
_CONNECTIONS_MAX = 100  # Let's Encrypt asks from five places at once
_BACKLOG = 64
_FILE_MODE = 0o644  # for the web server
_FOLDER_MODE = 0o755


class HttpSocket:
    """A socket that is bound from the start and listens only while a certificate is obtained.

    Binding a port below 1024 needs privileges, which the proxy gives up before it obtains certificates. A
    bound socket that does not listen refuses connections as if it were not there. With SO_REUSEADDR, Linux
    lets other programs bind and use the port meanwhile.
    """

    def __init__(self, address: TcpAddress) -> None:
        self.address = address
        self.lock = trio.Lock()  # one order at a time answers here
        self._socket: socket.socket | None = None
        self._first_failure: OSError | None = None

    def bind(self) -> None:
        """Bind the socket, if it is not bound yet.

        Raises:
            OSError: If that fails.
        """
        if self._socket is not None:
            return
        is_v6 = ":" in self.address.host
        sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("" if self.address.host == "*" else self.address.host, self.address.port or 80))
        except OSError as error:
            sock.close()
            self._first_failure = self._first_failure or error
            raise
        self._socket = sock

    def _reason(self, error: OSError) -> str:
        """Return why listening failed, with the remedy where it is known."""
        reason = error.strerror or str(error)
        if not isinstance(error, PermissionError):
            return reason
        first = self._first_failure
        if first is None or isinstance(first, PermissionError):
            return f"{reason}: this port needs privileges, which the proxy has at its start only; restart it"
        return f"{first.strerror or first} at the start, when the proxy had privileges; free the port and restart it"

    def stop(self) -> None:
        """Stop listening, also if a process that was killed has left the socket so. The address stays bound.

        On a socket that does not listen, shutdown would fail and spoil it: it could never accept again.
        """
        sock = self._socket
        if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[socket.socket]:
        """Listen in the block.

        Raises:
            AcmeError: If the address cannot be listened on.
        """
        try:
            self.bind()
            assert self._socket is not None  # noqa: S101 - bind has made it
            self._socket.listen(_BACKLOG)
        except OSError as error:
            reason = self._reason(error)
            raise AcmeError(f"cannot listen on {self.address} for http-01: {reason}") from None
        try:
            # A copy: trio closes what it gets.
            with self._socket.dup() as copy:
                copy.setblocking(False)
                yield copy
        finally:
            # The kernel ends listening, keeps the address, and lets it listen again later.
            self.stop()


@define(eq=False)
class HttpListenerSolver:
    """Answers http-01 by a listener of its own.

    Attributes:
        socket: Where it listens.
    """

    socket: HttpSocket
    type: str = field(default="http-01", init=False)

    @contextlib.asynccontextmanager
    async def answering(self, proofs: list[Proof]) -> AsyncIterator[None]:
        """Answer requests in the block."""
        answers = {_PATH + proof.token: proof.key_authorization for proof in proofs}
        failure: Exception | None = None
        async with self.socket.lock:
            with self.socket.listening() as sock:
                listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_serve, listener, answers)
                    try:
                        yield
                    except Exception as error:  # noqa: BLE001 - raised below, without the nursery's group around it
                        failure = error
                    nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _serve(listener: trio.SocketListener, answers: Mapping[str, str]) -> None:
    limiter = trio.CapacityLimiter(_CONNECTIONS_MAX)

    async def handle(stream: trio.SocketStream) -> None:
        async with limiter, stream:
            with (
                trio.move_on_after(_REQUEST_TIMEOUT_S),
                contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await _answer(stream, answers)

    await trio.serve_listeners(handle, [listener])


async def _answer(stream: trio.SocketStream, answers: Mapping[str, str]) -> None:
    """Answer one request. The client's address and Host do not matter: the token is the secret."""
    request = bytearray()
    while b"\r\n\r\n" not in request:
        chunk = await stream.receive_some(4096)
        request += chunk
        if not chunk or len(request) > _REQUEST_MAX:
            return
    line = bytes(request.partition(b"\r\n")[0]).decode("latin-1").split(" ")
    answer = answers.get(line[1]) if len(line) == 3 and line[0] in ("GET", "HEAD") else None
    status, body = ("200 OK", answer) if answer is not None else ("404 Not Found", "")
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    await stream.send_all((head + ("" if line[0] == "HEAD" else body)).encode())


@frozen
class WebrootSolver:
    """Answers http-01 with files in a web server's folder.

    Attributes:
        folder: The folder that the web server shows at ``/``.
    """

    folder: Path
    type: str = "http-01"

    @contextlib.asynccontextmanager
    async def answering(self, proofs: list[Proof]) -> AsyncIterator[None]:
        """Have the files there in the block."""
        try:
            await trio.to_thread.run_sync(self._write, proofs)
            yield
        finally:
            for proof in proofs:
                with contextlib.suppress(OSError):
                    self._file(proof).unlink()

    def _file(self, proof: Proof) -> Path:
        return self.folder / _PATH.strip("/") / proof.token

    def _write(self, proofs: list[Proof]) -> None:
        try:
            for proof in proofs:
                file = self._file(proof)
                for folder in (file.parent.parent, file.parent):
                    if not folder.is_dir():
                        folder.mkdir(_FOLDER_MODE)
                        folder.chmod(_FOLDER_MODE)
                file.unlink(missing_ok=True)
                fd = os.open(
                    file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE
                )
                with os.fdopen(fd, "w") as opened:
                    os.fchmod(fd, _FILE_MODE)
                    opened.write(proof.key_authorization)
        except OSError as error:
            raise AcmeError(
                f"webroot {self.folder} cannot be written: {error.strerror or error} ({error.filename})"
            ) from None
