"""A few bytes back and forth with a server, in clear or over TLS: for health checks, where the relay's art is not needed."""

from __future__ import annotations

import contextlib
import socket
import ssl

import trio

from mailproxy.errors import ServerError
from mailproxy.net.tls.close import send_close_notify
from mailproxy.net.tls.errors import error_reason, is_ragged_eof

_READ_BYTES = 16 * 1024
_DRAINED_BYTES_MAX = 256 * 1024  # of what a server still says to somebody who has said goodbye


class ServerConnectionError(ServerError):
    """The connection failed: reset, or TLS broken."""


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send everything. Raises ServerBrokeOffError."""
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
    """What comes next, ``b""`` when the server has closed. Raises ServerBrokeOffError."""
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
            await (
                trio.lowlevel.checkpoint()
            )  # who never stops talking must not keep time limits from their due
            return data


def _connection_failed(error: OSError) -> ServerConnectionError:
    return ServerConnectionError(error_reason(error))


async def close_gracefully(sock: socket.socket, seconds: float) -> None:
    """End the own side, let the server end its own for so long, and close; also when cancelled.

    Whoever closes over bytes that were not read sends a reset, and that is a line in the server's log.
    """
    try:
        with trio.move_on_after(seconds), contextlib.suppress(OSError, ServerConnectionError):
            if isinstance(sock, ssl.SSLSocket):
                send_close_notify(sock)
            socket.socket.shutdown(sock, socket.SHUT_WR)
            drained = 0
            while drained < _DRAINED_BYTES_MAX and (data := await receive(sock)):
                drained += len(data)
    finally:
        sock.close()
