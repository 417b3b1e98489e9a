"""Sending and receiving a few bytes, in clear or over TLS. Health checks use this instead of the relay."""

from __future__ import annotations

import contextlib
import socket
import ssl

import trio

from mailproxy.errors import ServerError
from mailproxy.net.tls.close import send_close_notify
from mailproxy.net.tls.errors import error_reason, is_ragged_eof

_READ_BYTES = 16 * 1024
_MAX_DRAINED_BYTES = 256 * 1024  # read from a server after the own side was closed


class ServerConnectionError(ServerError):
    """The connection failed: it was reset, or TLS failed."""


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of ``data``.

    Raises:
        ServerConnectionError: The connection failed.
    """
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            await trio.lowlevel.wait_writable(sock)
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(sock)
        except OSError as error:
            raise _connection_failed(error) from None


async def receive(sock: socket.socket) -> bytes:
    """Return the next bytes, at most 16 KiB; ``b""`` when the server has closed.

    Raises:
        ServerConnectionError: The connection failed.
    """
    while True:
        try:
            data = sock.recv(_READ_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            await trio.lowlevel.wait_readable(sock)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(sock)
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            if is_ragged_eof(error):
                return b""
            raise _connection_failed(error) from None
        except OSError as error:
            raise _connection_failed(error) from None
        else:
            # A server that never stops sending must not keep a timeout from its effect.
            await trio.lowlevel.checkpoint()
            return data


def _connection_failed(error: OSError) -> ServerConnectionError:
    return ServerConnectionError(error_reason(error))


async def close_gracefully(sock: socket.socket, seconds: float) -> None:
    """Close the own side, drain what the server still sends until it closes, and close the socket.

    Closing a socket with unread bytes sends a reset, and servers log that.

    Args:
        sock: A nonblocking socket.
        seconds: How long the server may take to close.

    Closes:
        The socket, also when cancelled.
    """
    try:
        with trio.move_on_after(seconds), contextlib.suppress(OSError, ServerConnectionError):
            if isinstance(sock, ssl.SSLSocket):
                send_close_notify(sock)
            socket.socket.shutdown(sock, socket.SHUT_WR)
            drained = 0
            while drained < _MAX_DRAINED_BYTES and (data := await receive(sock)):
                drained += len(data)
    finally:
        sock.close()
