"""The end of a connection: alerts, close_notify, and the test whether the peer has closed already."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import ssl
from enum import IntEnum

from mailproxy.net.tls.openssl import shutdown_once
from mailproxy.net.tls.tls_socket import TlsSocket, ssl_object

_CLOSE_NOTIFY_BYTES = 512  # an alert is two bytes, its record some 20 more

# The header of an unencrypted alert, as TLS 1.2 and 1.3 write it (RFC 8446 section 5.1).
_ALERT_RECORD = b"\x15\x03\x03\x00\x02"
_FATAL = 2
_DRAIN_BYTES = 64 * 1024  # read and dropped before a connection is closed


class Alert(IntEnum):
    """Why a client gets no handshake (RFC 8446 section 6.2)."""

    DECODE_ERROR = 50
    ACCESS_DENIED = 49
    UNRECOGNIZED_NAME = 112


def send_alert(sock: socket.socket, alert: Alert) -> None:
    """Send a fatal alert to a client in place of a handshake, then half-close. The caller closes."""
    # A ClientHello that was only peeked at is still unread. Closing would then reset the connection and lose
    # the alert.
    with contextlib.suppress(OSError):
        sock.recv(_DRAIN_BYTES)
    with contextlib.suppress(OSError):
        sock.send(_ALERT_RECORD + bytes([_FATAL, alert]))
        sock.shutdown(socket.SHUT_WR)


def drop_unread(sock: socket.socket) -> None:
    """Drop what the peer has sent, so that closing sends FIN and not RST."""
    with contextlib.suppress(OSError):
        socket.socket.recv(sock, _DRAIN_BYTES)


def drain_and_close(sock: socket.socket) -> None:
    """Drop what the peer has sent, then close. With unread data the kernel would send RST instead of FIN."""
    with contextlib.suppress(OSError):
        socket.socket.recv(sock, _DRAIN_BYTES)
    sock.close()


def send_close_notify(tls: ssl.SSLSocket) -> bytes:
    """Send close_notify without reading, so that what the peer still sends can be read afterwards.

    ``SSLSocket.unwrap`` sends close_notify and then reads, looking for the peer's. Application data that it meets there
    are lost, and all that follows with them.

    Returns:
        The part of the record that did not fit the socket's buffer, usually ``b""``. Pass it to
        ``send_record`` when the socket is writable.

    Raises:
        OSError: If it cannot be sent.
    """
    if shutdown_once(ssl_object(tls)):
        return b""
    if isinstance(tls, TlsSocket) and tls.is_kernel_tls:
        return b""  # only the kernel can make the record, and has no room for it: the peer gets a FIN alone
    # Either OpenSSL cannot be called here, or it has kept a part of the record that did not fit.
    return send_record(tls, _make_close_notify(tls))


def _make_close_notify(tls: ssl.SSLSocket) -> bytes:
    """Return the record of a close_notify that OpenSSL then believes to be sent, empty if it refuses.

    One end of an empty socket pair takes the place of the connection's descriptor while OpenSSL works. No other task
    runs meanwhile. The registration of the descriptor in epoll survives, because the duplicate keeps the real socket
    open (epoll(7), question 6).

    Raises:
        OSError: As ``SSLSocket.unwrap``.
    """
    fd = tls.fileno()
    try:
        ours, theirs = dummy_socketpair()
        real = os.dup(fd)
    except OSError:
        return b""  # out of descriptors, which is not the peer's fault: it gets only a FIN
    try:
        os.dup2(theirs.fileno(), fd, inheritable=False)
        ssl_object(tls).shutdown()
    except ssl.SSLWantReadError:
        pass  # OpenSSL found no close_notify of the peer in the empty pair
    except ssl.SSLError:
        with contextlib.suppress(BlockingIOError):
            ours.recv(_CLOSE_NOTIFY_BYTES)  # leave the pair empty for the next session
        raise
    finally:
        os.dup2(real, fd, inheritable=False)
        os.close(real)
    try:
        return ours.recv(_CLOSE_NOTIFY_BYTES)
    except BlockingIOError:
        return b""


def send_record(tls: ssl.SSLSocket, record: bytes) -> bytes:
    """Send a record that OpenSSL believes to be sent already.

    Returns:
        The part that did not fit the socket's buffer.

    Raises:
        OSError: If it cannot be sent.
    """
    try:
        return record[socket.socket.send(tls, record) :] if record else b""
    except BlockingIOError:
        return record


@functools.cache
def dummy_socketpair() -> tuple[socket.socket, socket.socket]:
    """Return the socket pair of ``_make_close_notify``, one for the whole process.

    It is empty between uses. Making one takes four system calls.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


os.register_at_fork(after_in_child=dummy_socketpair.cache_clear)  # two processes must not write to one


def peer_closed(sock: socket.socket) -> bool:
    """Whether the peer has closed or reset the connection, with nothing left to read.

    Only for a session that ends in any case: under TLS the test may consume a byte.
    """
    try:
        if isinstance(sock, ssl.SSLSocket):
            return not sock.recv(1)
        return not sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except OSError:
        return True


def has_unread(sock: socket.socket) -> bool:
    """Whether the peer has sent something that was not read yet. Consumes a byte as ``peer_closed`` does."""
    try:
        if isinstance(sock, ssl.SSLSocket):
            return bool(sock.recv(1))
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False
