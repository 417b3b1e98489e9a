"""Sockets that are known only by their descriptor.

A handshake detaches the socket object that a session has, and returns another one at its end. The descriptor
stays the same for the session's whole life.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from mailproxy.address import join_host_port


def local_address(fd: int) -> str:
    """Return the local address and port of a connection, empty for a Unix socket."""
    with _socket(fd) as sock:
        address = sock.getsockname()
    return join_host_port(*address[:2]) if isinstance(address, tuple) else ""


def stop_reading(fd: int) -> None:
    """Let the next read that finds nothing return the end of file; it wakes the task that waits to read.

    Bytes that have arrived, or still arrive, can be read before (Linux does not reject them).
    """
    with contextlib.suppress(OSError), _socket(fd) as sock:  # OSError: the peer has reset the connection
        sock.shutdown(socket.SHUT_RD)


@contextlib.contextmanager
def _socket(fd: int) -> Iterator[socket.socket]:
    """Lend a socket object for a descriptor, which stays open."""
    sock = socket.socket(fileno=fd)
    try:
        yield sock
    finally:
        sock.detach()
