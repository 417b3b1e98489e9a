"""Peeking at the first bytes of a connection. They stay in the kernel, so the next reader finds them.

Peeked bytes keep the socket readable, so a wait for more than these would return at once, and spin.
``SO_RCVLOWAT`` (socket(7)) prevents that. Unix sockets do not support the option, so there a growing pause
replaces it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from typing import TypeVar

import trio

from mailproxy.errors import ClientAbortError, ClientLeftError
from mailproxy.net.tls.errors import error_reason
from mailproxy.protocol import NeedMore

_FIRST_PEEK_BYTES = 2048  # enough for a PROXY header or a ClientHello, in all but rare cases
_MIN_PAUSE_S, _MAX_PAUSE_S = 0.001, 0.01

T = TypeVar("T")


def peek_nowait(
    sock: socket.socket, parse: Callable[[bytes], tuple[T, int] | NeedMore]
) -> tuple[T, int] | None:
    """Parse what has already arrived, like ``peek`` but without waiting.

    Usually the bytes have arrived with the connection. Then the session needs no timeout and no task switch
    for them.

    Returns:
        None if ``parse`` needs more, or nothing has arrived.

    Raises:
        ClientAbortError: The connection has failed.
        Exception: Whatever ``parse`` raises.
    """
    try:
        data = sock.recv(_FIRST_PEEK_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError as error:
        raise ClientAbortError(error_reason(error), has_sent=False) from None
    answer = parse(data) if data else None
    return answer if isinstance(answer, tuple) else None


async def peek(sock: socket.socket, parse: Callable[[bytes], tuple[T, int] | NeedMore]) -> tuple[T, int]:
    """Wait until ``parse`` understands the first bytes of the connection. Nothing is consumed.

    Args:
        sock: A nonblocking socket.
        parse: Returns a value and the number of bytes it takes, or how many bytes it needs. It limits that
            number.

    Returns:
        What ``parse`` returned.

    Raises:
        ClientLeftError: The client closed first.
        ClientAbortError: The client's connection failed.
        Exception: Whatever ``parse`` raises.

    Cancellation:
        The timeout is the caller's cancel scope. ``SO_RCVLOWAT`` is set back to 1 in every case.
    """
    needed, low_water_mark = 1, 0
    pause = _MIN_PAUSE_S
    try:
        while True:
            size = max(needed, _FIRST_PEEK_BYTES)
            try:  # before waiting, because the bytes usually arrive with the connection
                data = sock.recv(size, socket.MSG_PEEK)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(sock)
                continue
            if not data:
                raise ClientLeftError("closed without sending anything", has_sent=False)
            have = len(data)
            if have >= needed:
                answer = parse(data)
                if not isinstance(answer, NeedMore):
                    return answer
                needed = answer.total
                if have == size:  # the peek was full: there may be more
                    continue
            # The second peek makes sure that no bytes have arrived between the first one and the end.
            elif _has_ended(sock) and len(sock.recv(size, socket.MSG_PEEK)) == have:
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ClientAbortError(error_reason(OSError(code, os.strerror(code))))
                raise ClientLeftError(f"closed after {have} bytes", has_sent=True)
            if low_water_mark < needed:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, needed)
                low_water_mark = needed
            else:  # the socket became readable too early: it does not support the option
                await trio.sleep(pause)
                pause = min(pause * 2, _MAX_PAUSE_S)
            await trio.lowlevel.wait_readable(sock)
    except OSError as error:
        # Bytes that arrived before the error are reported first. Without any, the low-water mark was never
        # set.
        raise ClientAbortError(error_reason(error), has_sent=low_water_mark > 0) from None
    finally:
        if low_water_mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _has_ended(sock: socket.socket) -> bool:
    """Return True if the peer has closed or reset the connection. Unread bytes hide that from a peek."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def consume(sock: socket.socket, count: int) -> None:
    """Read this number of bytes, which a peek has seen, and drop them."""
    while count:
        count -= len(sock.recv(count))
