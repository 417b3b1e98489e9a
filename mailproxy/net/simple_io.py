"""Sending and receiving a few bytes, in clear or over TLS: health checks, and the dialogues of sessions.

Health checks wait with trio. Sessions have their sockets in the poller, edge-triggered: these functions try first,
and wait at the socket's watch.
"""

from __future__ import annotations

import contextlib
import socket
import ssl

import trio

from mailproxy.errors import ClientAbortError, ServerError, ServerRefusedError
from mailproxy.net.poller import GONE, Watch
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


# Sockets in the poller

_DRAIN_BYTES = 64 * 1024  # read and dropped before a connection is closed

DIALOGUE_BYTES = 2048
"""Bytes that one call receives. A dialogue's buffers are bounded by it."""


async def receive_at(sock: socket.socket, watch: Watch) -> bytes:
    """Return the next bytes, at most DIALOGUE_BYTES; ``b""`` when the peer has closed.

    Args:
        sock: A nonblocking socket, with or without TLS.
        watch: Its watch.

    Raises:
        OSError: The connection failed.
    """
    while True:
        try:
            return sock.recv(DIALOGUE_BYTES)
        except (BlockingIOError, ssl.SSLWantReadError):
            await watch.readable()
        except ssl.SSLWantWriteError:
            await watch.writable()
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            if is_ragged_eof(error):
                return b""
            raise


async def send_all_at(sock: socket.socket, watch: Watch, data: bytes) -> None:
    """Send all of ``data``; arguments and errors as for ``receive_at``."""
    while data:
        try:
            data = data[sock.send(data) :]
        except (BlockingIOError, ssl.SSLWantWriteError):
            await watch.writable()
        except ssl.SSLWantReadError:
            await watch.readable()


def has_received_more(sock: socket.socket, watch: Watch) -> bool:
    """Whether a client in clear text has sent more. What it has sent stays in the socket.

    Raises:
        OSError: The connection failed.
    """
    try:
        if sock.recv(1, socket.MSG_PEEK):
            return True
    except BlockingIOError:
        watch.pending_events &= GONE  # those that were noted are of bytes that were read
    return False


def send_line(sock: socket.socket, line: bytes) -> None:
    """Send a line to a client as far as its buffer takes it, and whether it is still there or not."""
    with contextlib.suppress(OSError):
        sock.send(line)


def send_last_words(sock: socket.socket, words: bytes) -> None:
    """Send a line to a client and half-close, with close_notify under TLS. The caller closes.

    What the client has sent is dropped. Closing would otherwise reset the connection, and the line would be lost.
    """
    with contextlib.suppress(OSError):
        if words:
            sock.send(words)
        if isinstance(sock, ssl.SSLSocket):
            send_close_notify(sock)
        socket.socket.shutdown(sock, socket.SHUT_WR)
    with contextlib.suppress(OSError):
        socket.socket.recv(sock, _DRAIN_BYTES)


def send_to_server(sock: socket.socket, data: bytes) -> None:
    """Send a client's first bytes to a server that has been connected, whose buffer takes them at once.

    Raises:
        ServerRefusedError: The socket did not take them.
    """
    try:
        sent = sock.send(data)
    except OSError as error:
        raise ServerRefusedError(error_reason(error)) from None
    if sent < len(data):
        raise ServerRefusedError(f"the socket took {sent} of the client's first {len(data)} bytes")


def send_to_client(sock: socket.socket, data: bytes) -> None:
    """Send a greeting to a client that has had none, whose buffer takes it at once.

    Raises:
        ClientAbortError: The socket did not take it.
    """
    try:
        sent = sock.send(data)
    except OSError as error:
        raise ClientAbortError(error_reason(error)) from None
    if sent < len(data):
        raise ClientAbortError("takes no greeting")
