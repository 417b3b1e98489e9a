"""A socket and its peer's, without a network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A session's socket, and its peer's, both nonblocking. Sent data has arrived when the call returns."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs
