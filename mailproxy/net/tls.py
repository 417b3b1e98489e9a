"""TLS on both sides: contexts from the configuration, handshakes on the descriptor, OpenSSL's reasons in our words.

``ssl`` is imported here, in the relay, and in ``app`` where files are tried. Connections are ``ssl.SSLSocket`` straight on the descriptor, never a
memory BIO: OpenSSL reads and writes the socket itself, which saves a copy and two calls per record.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - ssl asks for it with the first server name, when this process may have lost its rights
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path

import trio

from mailproxy.config import FrontendTls, ServerTls
from mailproxy.errors import ClientAbortError, ClientHandshakeError, ServerHandshakeError
from mailproxy.net.certificates import Certificate, choose

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


_CLOSE_NOTIFY_BYTES = 512  # an alert is two bytes, its record some 20 more


class TlsSocket(ssl.SSLSocket):
    """A TLS socket that remembers the server name which the client asked for."""

    sni: str | None = None


Context = ssl.SSLContext


class ClientLeftError(ClientAbortError):
    """The client closed in an orderly way before its handshake was done."""

    def __init__(self, message: str, *, said_something: bool) -> None:
        super().__init__(message)
        self.said_something = said_something


def terminating_context(tls: FrontendTls, certificates: Sequence[Certificate]) -> ssl.SSLContext:
    """The context of a bind: the first certificate's, which switches to the one for the client's server name.

    Raises OSError or ssl.SSLError (an OSError too) if a certificate, its key or the ciphers are no good.
    """
    contexts: dict[tuple[Certificate, ...], ssl.SSLContext] = {}

    def context_of(together: tuple[Certificate, ...]) -> ssl.SSLContext:
        if together not in contexts:
            contexts[together] = _server_side(tls, together)
        return contexts[together]

    choice = choose(certificates)
    default = context_of(choice.default)
    for together in choice.by_name.values():
        context_of(together)

    def choose_certificate(tls_socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        assert isinstance(tls_socket, TlsSocket)  # noqa: S101 - what sslsocket_class makes
        tls_socket.sni = name
        # This changes the certificate only: what the bind's own context demands of clients stays.
        tls_socket.context = contexts[choice.for_name(name)]

    default.sni_callback = choose_certificate
    return default


def _server_side(tls: FrontendTls, certificates: Sequence[Certificate]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    _limit(context, tls.min_version, tls.ciphers)
    if tls.alpn:
        context.set_alpn_protocols(list(tls.alpn))
    for certificate in certificates:  # one of each kind of key: OpenSSL takes what the client can verify
        load_chain(context, certificate.path, certificate.key)
    return context


def load_chain(context: ssl.SSLContext, path: Path, key: Path | None) -> None:
    """Load a chain and its key into a context. Raises OSError; never asks a terminal for a pass phrase."""
    context.load_cert_chain(path, key, password=_no_pass_phrase)


def _no_pass_phrase() -> str:
    raise OSError(
        "the private key is encrypted: a proxy that starts by itself cannot ask for its pass phrase"
    )


def connecting_context(tls: ServerTls) -> ssl.SSLContext:
    """The context towards a server: verifies chain and name unless told otherwise.

    Raises OSError or ssl.SSLError if the CA file or the ciphers are no good.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _limit(context, tls.min_version, tls.ciphers)
    context.check_hostname = tls.verify == "required"
    context.verify_mode = ssl.CERT_NONE if tls.verify == "none" else ssl.CERT_REQUIRED
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    elif tls.verify != "none":
        context.load_default_certs()
    return context


def _limit(context: ssl.SSLContext, min_version: str, ciphers: str | None) -> None:
    context.minimum_version = _VERSIONS[min_version]
    # A renegotiation would let one side make the other work at will, and would mix reading and writing in the relay.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Early CPython 3.11 (Debian 12's) sets this: an end without close_notify would pass for one with it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if ciphers is not None:
        context.set_ciphers(ciphers)


async def accept_tls(sock: socket.socket, context: ssl.SSLContext) -> TlsSocket:
    """Make the handshake with a client.

    Takes ``sock`` over: it is closed with what is returned, or here on an error. Raises ClientLeftError,
    ClientAbortError or ClientHandshakeError. The time limit is the caller's cancel scope.
    """
    tls: ssl.SSLSocket | None = None
    try:
        await trio.lowlevel.wait_readable(sock)  # the client opens: trying before it did would only fail
        if not sock.recv(1, socket.MSG_PEEK):
            raise ClientLeftError("left without a word", said_something=False)  # noqa: TRY301 - closed below as all are
        tls = context.wrap_socket(
            sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        await _handshake(tls)
    except ClientLeftError:
        sock.close()
        raise
    except ssl.SSLError as error:
        (tls or sock).close()
        if isinstance(error, ssl.SSLZeroReturnError) or is_bare_fin(error):
            raise ClientLeftError("left during the TLS handshake", said_something=True) from None
        if is_reset(error):
            raise ClientAbortError(reason(error)) from None
        raise ClientHandshakeError(reason(error)) from None
    except OSError as error:
        (tls or sock).close()
        raise ClientAbortError(error.strerror or str(error)) from None
    except BaseException:
        (tls or sock).close()
        raise
    assert isinstance(tls, TlsSocket)  # noqa: S101 - what sslsocket_class makes
    return tls


async def connect_tls(sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
    """Make the handshake with a server, which is asked for and verified by ``server_name``.

    Takes ``sock`` over: it is closed with what is returned, or here on an error. Raises ServerHandshakeError.
    """
    tls: ssl.SSLSocket | None = None
    try:
        tls = context.wrap_socket(
            sock, server_hostname=server_name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        await _handshake(tls)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        (tls or sock).close()
        text = reason(error) if isinstance(error, ssl.SSLError) else str(error)
        raise ServerHandshakeError(text) from None
    except BaseException:
        (tls or sock).close()
        raise
    return tls


async def _handshake(tls: ssl.SSLSocket) -> None:
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await trio.lowlevel.wait_readable(tls)
        except ssl.SSLWantWriteError:
            await trio.lowlevel.wait_writable(tls)
        else:
            return


def tls_facts(tls: TlsSocket) -> tuple[str | None, str | None, str | None]:
    """Version, cipher and server name of a finished handshake."""
    cipher = tls.cipher()
    return tls.version(), cipher[0] if cipher else None, tls.sni


def send_close_notify(tls: ssl.SSLSocket) -> None:
    """Send close_notify and nothing else: what the peer sends can still be read. Raises OSError if it cannot be sent.

    ``SSLSocket.unwrap`` sends it and then reads, looking for the peer's; application data that it meets there are lost,
    and all that follows with them. So while it works, its descriptor stands for one end of an empty socket pair, and
    what it wrote to that is sent from here. Nothing else runs meanwhile, and the descriptor's place in epoll stays,
    because the duplicate keeps the real socket open (epoll(7), question 6).
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        fd = tls.fileno()
        real = os.dup(fd)
        try:
            os.dup2(theirs.fileno(), fd, inheritable=False)
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.unwrap()
        finally:
            os.dup2(real, fd, inheritable=False)
            os.close(real)
        # A socket so full that not even this fits gets its FIN alone.
        with contextlib.suppress(BlockingIOError):
            socket.socket.send(tls, ours.recv(_CLOSE_NOTIFY_BYTES))


def has_left(sock: socket.socket) -> bool:
    """Has the peer closed or reset the connection, with nothing left to read?

    For a session that ends anyway: under TLS a byte may be taken to find out.
    """
    try:
        if isinstance(sock, ssl.SSLSocket):
            return not sock.recv(1)
        return not sock.recv(1, socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
        return False
    except OSError:
        return True


def is_bare_fin(error: ssl.SSLError) -> bool:
    """Did the peer close without close_notify? Which class that error has depends on the version of CPython."""
    if ssl.OPENSSL_VERSION_INFO < (3, 0):
        return isinstance(error, ssl.SSLEOFError)  # and nothing tells a reset from it
    return getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def is_reset(error: ssl.SSLError) -> bool:
    """Was it a reset? CPython before 3.12.3 calls that SSLEOFError, too."""
    return isinstance(error, ssl.SSLEOFError) and not is_bare_fin(error)


def reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason in words, such as ``wrong version number``; for certificates what is wrong with them."""
    if is_reset(error):
        return "connection reset by peer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    said = getattr(error, "reason", None)  # errors that Python itself raises have none
    return said.lower().replace("_", " ") if said else error.strerror or str(error)
