"""TLS handshakes with clients and servers, and what is known after them."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Iterable
from sys import intern
from typing import Any

from attrs import frozen

from mailproxy.errors import (
    ClientAbortError,
    ClientCertificateError,
    ClientHandshakeError,
    ClientLeftError,
    ServerHandshakeError,
)
from mailproxy.net.poller import TrioWatch, Watch
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.close import drain_and_close
from mailproxy.net.tls.errors import error_reason, is_ragged_eof, is_reset
from mailproxy.net.tls.tls_socket import TlsSocket, ssl_object, wrap_client

# OpenSSL's X509_V_ERR_… codes that concern a certificate above the client's own (x509_vfy.h). Python does not
# report the depth of a failure, so an expired or revoked certificate higher in the chain counts as the
# client's own.
_CHAIN_ERROR_CODES = {
    2,  # UNABLE_TO_GET_ISSUER_CERT
    19,  # SELF_SIGNED_CERT_IN_CHAIN
    22,  # CERT_CHAIN_TOO_LONG
    24,  # INVALID_CA
    25,  # PATH_LENGTH_EXCEEDED
    32,  # KEYUSAGE_NO_CERTSIGN
}


@frozen(kw_only=True)
class TlsInfo:
    """What is known of a client's TLS connection after the handshake.

    Attributes:
        version: Such as ``TLSv1.3``.
        cipher: In OpenSSL's words, such as ``TLS_AES_256_GCM_SHA384``.
        alpn: The application protocol that was agreed upon.
        has_client_certificate: Whether the client has sent a certificate.
        client_name: The common name of that certificate, None without one.
        is_resumed: Whether the TLS session was resumed. Then the certificate was sent on an earlier
            connection.
        certificate: The certificate that the client got, None if it could have been one of several.
    """

    version: str | None
    cipher: str | None
    alpn: str | None
    has_client_certificate: bool = False
    client_name: str | None = None
    is_resumed: bool = False
    certificate: Certificate | None = None


async def accept_tls(
    sock: socket.socket, context: ssl.SSLContext, watch: Watch | None = None, deadline: float = math.inf
) -> TlsSocket:
    """Make the handshake with a client.

    Args:
        sock: A nonblocking connection.
        context: A server context.
        watch: The watch of ``sock``, if it has one. Without it trio waits for the socket.
        deadline: Of the handshake, in trio's clock.

    Raises:
        trio.TooSlowError: After the deadline.
        ClientLeftError: If the client closed during the handshake.
        ClientAbortError: If its connection was reset or failed.
        ClientCertificateError: If its certificate is not accepted.
        ClientHandshakeError: If the handshake failed for another reason.

    Closes:
        ``sock`` passes into the returned socket. On any error, and when cancelled, it is closed.
    """
    tls: TlsSocket | None = None
    try:
        tls = TlsSocket.wrap(sock, context)
        await _handshake(tls, watch, deadline)
    except ssl.SSLError as error:
        (tls or sock).close()
        if isinstance(error, ssl.SSLZeroReturnError) or is_ragged_eof(error):
            raise ClientLeftError("left during the TLS handshake", has_sent=True) from None
        if is_reset(error):
            raise ClientAbortError(error_reason(error)) from None
        if isinstance(error, ssl.SSLCertVerificationError):
            in_chain = error.verify_code in _CHAIN_ERROR_CODES
            raise ClientCertificateError(error_reason(error), in_chain=in_chain) from None
        raise ClientHandshakeError(error_reason(error)) from None
    except OSError as error:
        (tls or sock).close()
        raise ClientAbortError(error_reason(error)) from None
    except BaseException:
        (tls or sock).close()
        raise
    return tls


async def connect_tls(
    sock: socket.socket, context: ssl.SSLContext, server_name: str | None, watch: Watch | None = None
) -> ssl.SSLSocket:
    """Make the handshake with a server.

    Args:
        sock: A connected, nonblocking socket.
        context: A client context.
        server_name: What SNI names and the server's certificate is verified against.
        watch: The watch of ``sock``, if it has one. Without it trio waits for the socket.

    Raises:
        ServerHandshakeError: If the handshake failed, the certificate is not accepted, or ``server_name`` is
            no host name.

    Closes:
        ``sock`` passes into the returned socket. On any error, and when cancelled, it is closed.

    Cancellation:
        The handshake has no timeout of its own: put a cancel scope around the call.
    """
    tls: ssl.SSLSocket | None = None
    try:
        tls = wrap_client(sock, context, server_name)
        await _handshake(tls, watch)
    except (OSError, ValueError) as error:
        drain_and_close(tls or sock)
        text = error_reason(error) if isinstance(error, OSError) else str(error)
        raise ServerHandshakeError(text) from None
    except BaseException:
        (tls or sock).close()
        raise
    return tls


async def _handshake(tls: ssl.SSLSocket, watch: Watch | None, deadline: float = math.inf) -> None:
    watch = watch or TrioWatch(tls.fileno())
    if ssl_object(tls) is None:  # the server closed before the socket was wrapped
        tls.getpeername()  # raises the error that says why
    await watch.repeat(ssl_object(tls).do_handshake, deadline)


def tls_info(tls: TlsSocket) -> TlsInfo:
    """Return what is known of a client's TLS connection. The handshake must be finished."""
    connection = ssl_object(tls)
    version, cipher = connection.version(), connection.cipher()
    certificate = connection.getpeercert()
    has_certificate = bool(certificate)
    name = _common_name(certificate) if certificate else None
    return TlsInfo(
        # Shared copies: OpenSSL makes a new one for each session, which keeps it for hours.
        version=intern(version) if version is not None else None,
        cipher=intern(cipher[0]) if cipher is not None else None,
        alpn=connection.selected_alpn_protocol(),
        has_client_certificate=has_certificate,
        client_name=name,
        is_resumed=connection.session_reused,
        certificate=tls.certificates[0] if len(tls.certificates) == 1 else None,
    )


def _common_name(certificate: Any) -> str | None:
    subject: Iterable[Iterable[tuple[str, str]]] = certificate.get("subject", ())
    name = next((value for part in subject for key, value in part if key == "commonName"), None)
    # A receiver written in C ends the name at a zero byte, and would take it for another user's.
    return name if name is not None and name.isprintable() else None
