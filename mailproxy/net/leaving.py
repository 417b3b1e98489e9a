"""Notices that clients leave while their session waits for a server: nobody reads from them then.

An epoll object of its own, watched by one task: a session's task waits for its server meanwhile, and trio can wait for a
socket to be readable, which it stays when a client has sent something and not left.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable

import trio

_EVENTS_PER_TURN = 256

# What a client sends that closes TLS in order is one record with an alert of two bytes (RFC 8446 section 6.1). In TLS 1.2 it
# says what it is and is never longer than this; in 1.3 it looks like application data of two bytes, which nobody sends.
_RECORD_HEAD_BYTES = 5
_ALERT = 21
_CLOSE_NOTIFY_MAX = 57
_CLOSE_NOTIFY_BYTES = (
    _RECORD_HEAD_BYTES + 2 + 1 + 16
)  # its type behind it, and the tag of every cipher that is usual


class LeaveWatch:
    """Calls back when a client ends its side or its connection fails; once, and only while it is watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[socket.socket, Callable[[], None]]] = {}

    async def run(self) -> None:
        """Watch until cancelled. Closes what it watches with."""
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                for fd, events in self._epoll.poll(0, _EVENTS_PER_TURN):
                    self._look_at(fd, events)
        finally:
            self._epoll.close()

    def watch(self, client: socket.socket, left: Callable[[], None]) -> None:
        """From now on call ``left`` when this client leaves; at once if it has left already."""
        if self._epoll.closed:
            return  # the proxy is being stopped, and the session with it
        fd = client.fileno()
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        self._watched[fd] = (client, left)

    def forget(self, client: socket.socket) -> None:
        """Watch it no longer; to be called before it is closed."""
        fd = client.fileno()
        if self._watched.pop(fd, None) is not None and not self._epoll.closed:
            self._epoll.unregister(fd)

    def _look_at(self, fd: int, events: int) -> None:
        client, left = self._watched.get(fd, (None, None))
        if client is None or left is None:
            return
        if events & (select.EPOLLERR | select.EPOLLHUP) or _is_gone(client):
            left()
        else:
            self._epoll.modify(fd, select.EPOLLONESHOT)  # of failures epoll tells always


def _is_gone(client: socket.socket) -> bool:
    """Has it ended its side with nothing left to read? One that asked for something, and then ended, may read on."""
    try:
        # SSLSocket takes no flags; nothing is consumed, so TLS does not miss it
        data = socket.socket.recv(client, _CLOSE_NOTIFY_MAX + 1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    if not data or not isinstance(client, ssl.SSLSocket):
        return not data
    if len(data) != _RECORD_HEAD_BYTES + int.from_bytes(data[3:5], "big"):
        return False
    return data[0] == _ALERT or len(data) == _CLOSE_NOTIFY_BYTES
