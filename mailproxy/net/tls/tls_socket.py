"""TLS connections as ``ssl.SSLSocket`` straight on the descriptor, without the parts of it that cost time.

A memory BIO would need a copy and two calls more for each record: here OpenSSL reads and writes the socket
itself.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - ssl imports it with the first server name, perhaps after the change of user
import socket
import ssl
import traceback
from typing import Any, Self

from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.openssl import clear_auto_retry


class TlsSocket(ssl.SSLSocket):
    """The TLS connection of a client.

    Attributes:
        certificates: The certificates that the handshake could use, one for each key type.
        is_kernel_tls: Whether the kernel encrypts what is sent.
    """

    # Slots save a dictionary for each session.
    __slots__ = ("_context", "_sslobj", "certificates", "is_kernel_tls")
    certificates: tuple[Certificate, ...]
    is_kernel_tls: bool

    # ``ssl`` sets these for each of its sockets. Here they are the same for all.
    server_side = True
    server_hostname = None
    do_handshake_on_connect = suppress_ragged_eofs = False
    _connected = True
    _session = None

    @classmethod
    def wrap(cls, sock: socket.socket, context: ssl.SSLContext) -> Self:
        """Make a TLS socket of a nonblocking connection of a client. The handshake is left to the caller.

        This does what ``context.wrap_socket`` does, which makes four system calls to learn what is known
        here, and turns their results into enumerations.

        Raises:
            OSError: If it cannot be made (also as ``ssl.SSLError``).

        Closes:
            ``sock`` is detached. On an error the descriptor is closed, or still in ``sock`` for the caller to
            close.
        """
        tls = cls.__new__(cls)
        socket.socket.__init__(tls, -1, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, sock.fileno())
        sock.detach()
        tls.certificates = ()
        tls.is_kernel_tls = False
        tls._context = context  # type: ignore[attr-defined]  # noqa: SLF001 - SSLSocket's own
        try:
            tls._sslobj = context._wrap_socket(tls, True)  # type: ignore[attr-defined]  # noqa: SLF001 - as wrap_socket does
        except BaseException:
            tls.close()
            raise
        clear_auto_retry(ssl_object(tls))
        return tls


def wrap_client(sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
    """Make a TLS socket of a connection to a server, without a handshake.

    Args:
        sock: A connected, nonblocking socket. It is detached.
        context: A client context.
        server_name: What SNI names and the certificate is verified against.

    Raises:
        OSError: If the server has reset the connection already.
        ValueError: If the name is no valid host name.
    """
    try:
        tls = context.wrap_socket(
            sock, server_hostname=server_name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except OSError as error:
        _close_sockets_in_traceback(error)
        raise
    clear_auto_retry(ssl_object(tls))
    return tls


def _close_sockets_in_traceback(error: OSError) -> None:
    """Close the ``SSLSocket`` whose construction failed.

    If the server has reset the connection already, ``wrap_socket`` has detached its argument and then drops
    its own object without closing the descriptor. Only the frames of the traceback still refer to that
    object.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        sock = frame.f_locals.get("self")
        if isinstance(sock, ssl.SSLSocket):
            sock.close()


def ssl_object(tls: socket.socket) -> Any:
    """Return the ``_ssl._SSLSocket`` on which the methods of ``SSLSocket`` are built.

    Its ``read``, ``write``, ``do_handshake`` and so on raise the same errors. The methods of ``SSLSocket``
    first check what is known here (closed, connected, blocking), some with system calls. With fifteen calls a
    session that is a tenth of what its TLS costs in Python.
    """
    return tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - see the docstring


def client_certificate(sock: socket.socket) -> bytes | None:
    """Return the certificate that the client has sent, in DER; None if it sent none or does not use TLS."""
    return sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None
