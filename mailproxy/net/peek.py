"""Looking at what a peer says first without taking it, so that whoever reads next finds it in the kernel.

Waiting for *more* than has been seen needs ``SO_RCVLOWAT``: bytes that are only looked at stay readable, and waiting for
them would return at once, for ever. Unix sockets do not know that option; there a growing pause stands in for it.
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

_FIRST_LOOK_BYTES = 2048  # a PROXY header or a ClientHello, in all but rare cases
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.01

T = TypeVar("T")


def peek_nowait(
    sock: socket.socket, parse: Callable[[bytes], tuple[T, int] | NeedMore]
) -> tuple[T, int] | None:
    """What is there already, if ``parse`` makes something of it; None if it has to be waited for.

    Mostly it is there, and this costs no time limit and no task switch. Raises ClientAbortError if the connection has
    failed, and what ``parse`` raises.
    """
    try:
        data = sock.recv(_FIRST_LOOK_BYTES, socket.MSG_PEEK)
    except BlockingIOError:
        return None
    except OSError as error:
        raise ClientAbortError(error_reason(error), has_sent=False) from None
    answer = parse(data) if data else None
    return answer if isinstance(answer, tuple) else None


async def peek(sock: socket.socket, parse: Callable[[bytes], tuple[T, int] | NeedMore]) -> tuple[T, int]:
    """Wait until ``parse`` makes something of what the client sent first; return that and the bytes it takes.

    Nothing is consumed. Raises ClientLeftError if the client closes before, ClientAbortError if its connection fails,
    and what ``parse`` raises, which bounds what it asks for. The time limit is the caller's cancel scope.
    """
    wanted, held_back = 1, 0
    pause = _SHORTEST_PAUSE_S
    try:
        while True:
            size = max(wanted, _FIRST_LOOK_BYTES)
            try:
                data = sock.recv(size, socket.MSG_PEEK)
            except BlockingIOError:  # tried first all the same: mostly it is there with the connection
                await trio.lowlevel.wait_readable(sock)
                continue
            if not data:
                raise ClientLeftError("left without a word", has_sent=False)
            have = len(data)
            if have >= wanted:
                answer = parse(data)
                if not isinstance(answer, NeedMore):
                    return answer
                wanted = answer.total
                if have == size:  # there may be more than was looked at
                    continue
            elif _has_ended(sock) and len(sock.recv(size, socket.MSG_PEEK)) == have:  # not: came just now
                if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise ClientAbortError(error_reason(OSError(code, os.strerror(code))))
                raise ClientLeftError(f"left after {have} bytes", has_sent=True)
            if held_back < wanted:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
                held_back = wanted
            else:  # the option does not hold it back
                await trio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            await trio.lowlevel.wait_readable(sock)
    except OSError as error:
        # What has been sent is seen before the error, and stays to be seen.
        raise ClientAbortError(error_reason(error), has_sent=held_back > 0) from None
    finally:
        if held_back:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def _has_ended(sock: socket.socket) -> bool:
    """Does no more come, in order or by a reset? What the peer sent before hides that from a look."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(0))


def consume(sock: socket.socket, count: int) -> None:
    """Take so many bytes that a look has seen."""
    while count:
        count -= len(sock.recv(count))
