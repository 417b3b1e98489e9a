"""Connecting to a server: a nonblocking socket, or the project's own error."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

import trio
from attrs import frozen

from mailproxy.address import join
from mailproxy.errors import ProxyError, ServerRefusedError

# Faults of this side: the server has not been asked.
_OUR_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
_LONGEST_PAUSE_S = 0.01


@frozen
class Endpoint:
    """A socket address to connect to; ``port`` None takes the one that the client connected to."""

    family: int
    host: str
    port: int | None = None

    def at(self, port: int | None) -> tuple[str, int] | str:
        """The address for the socket, with the client's port where the server has none."""
        if self.family == socket.AF_UNIX:
            return self.host
        return self.host, self.port or port or 0

    def text(self, port: int | None) -> str:
        """The address for people."""
        return (
            f"unix:{self.host}" if self.family == socket.AF_UNIX else join(self.host, self.port or port or 0)
        )


async def connect(endpoints: Sequence[Endpoint], port: int | None) -> tuple[socket.socket, Endpoint]:
    """Connect to the first endpoint that takes the connection, in their order.

    ``port``: the port that the client connected to, for endpoints without one. Returns a nonblocking socket, which the
    caller closes. Raises ServerRefusedError when all refuse, ProxyError when this side has no descriptor, port or
    memory left. Cancelled, it leaves nothing open.
    """
    refusals = []
    for endpoint in endpoints:
        try:
            return await _connect(endpoint, port), endpoint
        except ServerRefusedError as error:
            refusals.append(error)
    if len(refusals) == 1:
        raise refusals[0]
    raise ServerRefusedError("; ".join(map(str, refusals)) or "has no address") from (
        ExceptionGroup("every address refused", refusals) if refusals else None
    )


async def _connect(endpoint: Endpoint, port: int | None) -> socket.socket:
    try:
        sock = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise ProxyError(f"no socket: {error.strerror}") from None
    try:
        if endpoint.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(endpoint.at(port))
        if code == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        pause = 0.001
        while (
            code == errno.EAGAIN
        ):  # a Unix socket's queue is full, and nothing tells when there is room (unix(7))
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
            code = sock.connect_ex(endpoint.at(port))
    except BaseException:
        sock.close()
        raise
    if not code:
        return sock
    sock.close()
    reason = f"{endpoint.text(port)}: {os.strerror(code)}"
    raise ProxyError(reason) if code in _OUR_FAULT else ServerRefusedError(reason)
