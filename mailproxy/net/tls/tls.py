"""TLS on both sides: handshakes on the descriptor, what they came to, OpenSSL's reasons in our words.

``ssl`` is imported here, in ``termination``, in the relay, and in ``app`` where files are tried. Connections are ``ssl.SSLSocket`` straight on the descriptor, never a
memory BIO: OpenSSL reads and writes the socket itself, which saves a copy and two calls per record.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - ssl asks for it with the first server name, when this process may have lost its rights
import errno
import functools
import os
import socket
import ssl
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any, Self

from attrs import frozen

from mailproxy.config import FrontendTls, ServerTls
from mailproxy.errors import (
    ClientAbortError,
    ClientCertificateError,
    ClientHandshakeError,
    ClientLeftError,
    ServerHandshakeError,
)
from mailproxy.net.poller import TrioWatch, Watch
from mailproxy.net.tls.auto_retry import clear_auto_retry
from mailproxy.net.tls.certificate import Certificate

_VERSIONS = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
    None: ssl.TLSVersion.MAXIMUM_SUPPORTED,
}
_CURVES = {
    "P-256": "prime256v1",
    "P-384": "secp384r1",
    "P-521": "secp521r1",
}  # NIST's names, which a single curve has not
_OPENSSLS_LIST = 2  # what --with-ssl-default-suites=openssl makes of this in pyconfig.h
_HAS_OWN_LIST = sysconfig.get_config_var("PY_SSL_DEFAULT_CIPHERS") != _OPENSSLS_LIST
"""Has this Python default ciphers of its own, fewer than OpenSSL's? Where not, those of openssl.cnf stay."""

_CLOSE_NOTIFY_BYTES = 512  # an alert is two bytes, its record some 20 more

_ALERT_RECORD = b"\x15\x03\x03\x00\x02"  # an alert in clear, of TLS 1.2's form (RFC 8446 section 5.1)
_FATAL = 2
_TAKEN_BYTES = 64 * 1024  # that are read away before a socket is closed with an alert


# OpenSSL's X509_V_ERR_… that are about a certificate above the client's own (x509_vfy.h). Python does not tell the depth, so
# that dates and revocations in the chain pass for the client's.
_CODES_ABOUT_CHAIN = {
    2,  # UNABLE_TO_GET_ISSUER_CERT
    19,  # SELF_SIGNED_CERT_IN_CHAIN
    22,  # CERT_CHAIN_TOO_LONG
    24,  # INVALID_CA
    25,  # PATH_LENGTH_EXCEEDED
    32,  # KEYUSAGE_NO_CERTSIGN
}


class Alert(IntEnum):
    """What a client is told that gets no handshake (RFC 8446 section 6.2)."""

    DECODE_ERROR = 50
    ACCESS_DENIED = 49
    UNRECOGNIZED_NAME = 112


class TlsSocket(ssl.SSLSocket):
    """A client's TLS, with the certificates that it was offered."""

    __slots__ = ("_context", "_sslobj", "certificates")  # which saves the dictionary
    certificates: tuple[Certificate, ...]

    # What ``ssl`` has for each of its sockets, is the same for all of these.
    server_side = True
    server_hostname = None
    do_handshake_on_connect = suppress_ragged_eofs = False
    _connected = True
    _session = None

    @classmethod
    def around(cls, sock: socket.socket, context: ssl.SSLContext) -> Self:
        """Take over a nonblocking connection: what ``context.wrap_socket`` does, which asks the kernel four times for what
        is known, and makes enumerations of the answers. Raises OSError; ``sock`` is closed then, or there to be closed.
        """
        tls = cls.__new__(cls)
        socket.socket.__init__(tls, -1, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0, sock.fileno())
        sock.detach()
        tls.certificates = ()
        tls._context = context  # type: ignore[attr-defined]  # noqa: SLF001 - SSLSocket's own
        try:
            tls._sslobj = context._wrap_socket(tls, True)  # type: ignore[attr-defined]  # noqa: SLF001 - as wrap_socket does
        except BaseException:
            tls.close()
            raise
        clear_auto_retry(ssl_object(tls))
        return tls


@frozen(kw_only=True)
class TlsInfo:
    """What a finished handshake with a client came to.

    ``client_name`` is the common name of its certificate, None without one; ``is_resumed`` says that the certificate was
    shown when the TLS session began and not on this connection. ``certificate`` is the one that the client got, None if
    it could have been one of several.
    """

    version: str | None
    cipher: str | None
    alpn: str | None
    has_client_certificate: bool = False
    client_name: str | None = None
    is_resumed: bool = False
    certificate: Certificate | None = None


Context = ssl.SSLContext


def load_chain(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Load a chain and its key into a context. Raises OSError; never asks a terminal for a pass phrase.

    From memory: ``ssl`` takes files only, and those may have changed since they were read, or be out of reach.
    """
    with _as_file(certificate.chain_pem) as chain, _as_file(certificate.key_pem) as key:
        context.load_cert_chain(chain or "", key, password=_no_pass_phrase)


@contextlib.contextmanager
def _as_file(content: bytes | None) -> Iterator[str | None]:
    """The path of a file in memory that nobody else can open, gone afterwards."""
    if content is None:
        yield None
        return
    fd = os.memfd_create("pem")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def _no_pass_phrase() -> str:
    raise OSError(
        "the private key is encrypted: a proxy that starts by itself cannot ask for its pass phrase"
    )


def make_client_context(tls: ServerTls, certificate: Certificate | None) -> ssl.SSLContext:
    """The context towards a server: verifies chain and name unless told otherwise, shows ``certificate`` if asked.

    Raises OSError or ssl.SSLError if the CA file, the certificate or its key is no good, TlsKeyError for other keys.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    set_parameters(context, tls)
    context.check_hostname = tls.verify == "required"
    context.verify_mode = ssl.CERT_NONE if tls.verify == "none" else ssl.CERT_REQUIRED
    if tls.ca is not None:
        context.load_verify_locations(tls.ca)
    elif tls.verify != "none":
        context.load_default_certs()
    if certificate is not None:
        load_chain(context, certificate)
    return context


class TlsKeyError(ValueError):
    """A key of ``tls`` has a value that OpenSSL, or this Python's ``ssl``, cannot do; the message says why."""

    def __init__(self, key: str, fact: str) -> None:
        self.key = key
        super().__init__(fact)


def set_parameters(context: ssl.SSLContext, tls: FrontendTls | ServerTls) -> None:
    """Versions, ciphers, curves and tickets. Raises TlsKeyError."""
    if tls.max_version is not None and tls.max_version < tls.min_version:
        fact = f'"{tls.max_version}" is below min_version, which is "{tls.min_version}"'
        raise TlsKeyError("max_version", fact)
    context.minimum_version, context.maximum_version = _VERSIONS[tls.min_version], _VERSIONS[tls.max_version]
    # A renegotiation would let one side make the other work at will, and would mix reading and writing in the relay.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Early CPython 3.11 (Debian 12's) sets this: an end without close_notify would pass for one with it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if not tls.tickets:
        context.options |= ssl.OP_NO_TICKET
    _set_ciphers(context, tls.ciphers)
    if tls.ciphersuites is not None:
        _set_ciphersuites(context, tls.ciphersuites)
    if tls.curves is not None:
        _set_curves(context, tls.curves)


def _set_ciphers(context: ssl.SSLContext, ciphers: str | None) -> None:
    if ciphers is None and _HAS_OWN_LIST:
        ciphers = "DEFAULT"
    try:
        if ciphers is not None:
            context.set_ciphers(ciphers)
    except ssl.SSLError:
        fact = (
            f'"{ciphers}": OpenSSL knows no such cipher of TLS 1.2 (those of 1.3 are named by ciphersuites)'
        )
        raise TlsKeyError("ciphers", fact) from None


def _set_ciphersuites(context: ssl.SSLContext, ciphersuites: str) -> None:
    if not hasattr(context, "set_ciphersuites"):
        fact = _needs_newer("ciphers of TLS 1.3", "Ciphersuites")
        raise TlsKeyError("ciphersuites", fact)
    try:
        context.set_ciphersuites(ciphersuites)
    except ssl.SSLError:
        raise TlsKeyError(
            "ciphersuites", f'"{ciphersuites}": OpenSSL knows no such cipher of TLS 1.3'
        ) from None


def _set_curves(context: ssl.SSLContext, curves: str) -> None:
    try:
        if hasattr(context, "set_groups"):
            context.set_groups(curves)
        elif ":" in curves:
            raise TlsKeyError("curves", _needs_newer("more than one curve", "Groups"))
        else:
            context.set_ecdh_curve(_CURVES.get(curves, curves))
    except (ssl.SSLError, ValueError) as error:
        if isinstance(error, TlsKeyError):
            raise
        raise TlsKeyError("curves", f'"{curves}": OpenSSL knows no such curve') from None


def _needs_newer(what: str, option: str) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"the ssl module of Python {version} cannot choose {what}, that of Python 3.15 can; "
        f"until then set {option} in openssl.cnf, for the whole process"
    )


async def accept_tls(sock: socket.socket, context: ssl.SSLContext, watch: Watch | None = None) -> TlsSocket:
    """Make the handshake with a client.

    Takes ``sock`` over: it is closed with what is returned, or here on an error; ``watch`` is its watch, if it has one.
    Raises ClientLeftError, ClientAbortError or ClientHandshakeError, for its certificate ClientCertificateError. The time
    limit is the caller's cancel scope.
    """
    tls: TlsSocket | None = None
    try:
        tls = TlsSocket.around(sock, context)
        await _handshake(tls, watch)
    except ssl.SSLError as error:
        (tls or sock).close()
        if isinstance(error, ssl.SSLZeroReturnError) or is_ragged_eof(error):
            raise ClientLeftError("left during the TLS handshake", said_something=True) from None
        if is_reset(error):
            raise ClientAbortError(reason(error)) from None
        if isinstance(error, ssl.SSLCertVerificationError):
            in_chain = error.verify_code in _CODES_ABOUT_CHAIN
            raise ClientCertificateError(reason(error), in_chain=in_chain) from None
        raise ClientHandshakeError(reason(error)) from None
    except OSError as error:
        (tls or sock).close()
        raise ClientAbortError(reason(error)) from None
    except BaseException:
        (tls or sock).close()
        raise
    return tls


async def connect_tls(
    sock: socket.socket, context: ssl.SSLContext, server_name: str | None, watch: Watch | None = None
) -> ssl.SSLSocket:
    """Make the handshake with a server, which is asked for and verified by ``server_name``.

    Takes ``sock`` over: it is closed with what is returned, or here on an error; ``watch`` is its watch, if it has one.
    Raises ServerHandshakeError.
    """
    tls: ssl.SSLSocket | None = None
    try:
        tls = _wrap(sock, context, server_name)
        await _handshake(tls, watch)
    except (OSError, ValueError) as error:  # ValueError: a name that cannot be one
        _drain_and_close(tls or sock)
        text = reason(error) if isinstance(error, OSError) else str(error)
        raise ServerHandshakeError(text) from None
    except BaseException:
        (tls or sock).close()
        raise
    return tls


def _wrap(sock: socket.socket, context: ssl.SSLContext, server_name: str | None) -> ssl.SSLSocket:
    try:
        tls = context.wrap_socket(
            sock, server_hostname=server_name, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
    except OSError as error:
        _close_half_made(error)
        raise
    clear_auto_retry(ssl_object(tls))
    return tls


def _close_half_made(error: OSError) -> None:
    """Where the server has reset the connection already, the socket that was being made is forgotten with its descriptor."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        half_made = frame.f_locals.get("self")
        if isinstance(half_made, ssl.SSLSocket):
            half_made.close()


def _drain_and_close(sock: socket.socket) -> None:
    """Close to somebody who has spoken on: what is there is read away, or the connection would be reset instead."""
    with contextlib.suppress(OSError):
        socket.socket.recv(sock, _TAKEN_BYTES)
    sock.close()


def ssl_object(tls: socket.socket) -> Any:
    """What the methods of ``SSLSocket`` are made of; ``read``, ``write``, ``do_handshake`` and the like raise the same errors.

    Those ask first what is known here (is it closed, is it connected, does it block), some with system calls. Fifteen times
    a session that comes to a tenth of what its TLS costs in Python.
    """
    return tls._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - as said


async def _handshake(tls: ssl.SSLSocket, watch: Watch | None) -> None:
    watch = watch or TrioWatch(tls.fileno())
    if ssl_object(tls) is None:  # the server was gone before it could begin
        tls.getpeername()  # which says why it has none
    shake_hands = ssl_object(tls).do_handshake
    while True:
        try:
            shake_hands()
        except ssl.SSLWantReadError:
            await watch.readable()
        except ssl.SSLWantWriteError:
            await watch.writable()
        else:
            return


def tls_info(tls: TlsSocket) -> TlsInfo:
    """What there is to know of a finished handshake with a client."""
    connection = ssl_object(tls)
    cipher = connection.cipher()
    has_certificate, name = False, None
    if tls.context.verify_mode is not ssl.CERT_NONE and (shown := tls.getpeercert()):
        has_certificate, name = True, _common_name(shown)
    return TlsInfo(
        version=_shared(connection.version()),
        cipher=_shared(cipher[0]) if cipher else None,
        alpn=connection.selected_alpn_protocol(),
        has_client_certificate=has_certificate,
        client_name=name,
        is_resumed=connection.session_reused,
        certificate=tls.certificates[0] if len(tls.certificates) == 1 else None,
    )


def _shared(word: str | None) -> str | None:
    """OpenSSL's few words are made anew for each session, which then keeps them for hours."""
    return sys.intern(word) if word is not None else None


def _common_name(certificate: Any) -> str | None:
    subject: Iterable[Iterable[tuple[str, str]]] = certificate.get("subject", ())
    name = next((value for part in subject for key, value in part if key == "commonName"), None)
    # A receiver in C ends it at a zero byte, which would make another user of it.
    return name if name is not None and name.isprintable() else None


def client_certificate(sock: socket.socket) -> bytes | None:
    """The certificate that the client has shown, DER; None without one or without TLS."""
    return sock.getpeercert(binary_form=True) if isinstance(sock, ssl.SSLSocket) else None


def send_alert(sock: socket.socket, alert: Alert) -> None:
    """Tell a client that waits for a handshake that there is none. The caller closes."""
    # What was only looked at must be read away, or closing resets the connection and the alert is lost with it.
    with contextlib.suppress(OSError):
        sock.recv(_TAKEN_BYTES)
    with contextlib.suppress(OSError):
        sock.send(_ALERT_RECORD + bytes([_FATAL, alert]))
        sock.shutdown(socket.SHUT_WR)


def send_close_notify(tls: ssl.SSLSocket) -> bytes:
    """Send close_notify and nothing else: what the peer sends can still be read. Raises OSError if it cannot be sent.

    Returns what the socket was too full for, usually nothing: for ``send_record``, if the caller can wait for room.

    ``SSLSocket.unwrap`` sends it and then reads, looking for the peer's; application data that it meets there are lost,
    and all that follows with them. So while it works, its descriptor stands for one end of an empty socket pair, and
    what it wrote to that is sent from here. Nothing else runs meanwhile, and the descriptor's place in epoll stays,
    because the duplicate keeps the real socket open (epoll(7), question 6).
    """
    fd = tls.fileno()
    try:
        ours, theirs = dummy_socketpair()
        real = os.dup(fd)
    except OSError:
        return b""  # no descriptor is left: that is not the peer's fault, and it gets its FIN alone
    try:
        os.dup2(theirs.fileno(), fd, inheritable=False)
        ssl_object(tls).shutdown()
    except ssl.SSLWantReadError:
        pass  # which is what looking for the peer's comes to
    except ssl.SSLError:
        with contextlib.suppress(BlockingIOError):
            ours.recv(_CLOSE_NOTIFY_BYTES)  # nobody else's
        raise
    finally:
        os.dup2(real, fd, inheritable=False)
        os.close(real)
    try:
        record = ours.recv(_CLOSE_NOTIFY_BYTES)
    except BlockingIOError:
        return b""  # OpenSSL refused, and wrote nothing
    return send_record(tls, record)


def send_record(tls: ssl.SSLSocket, record: bytes) -> bytes:
    """Send what OpenSSL made and believes to have left. Returns what the socket was too full for. Raises OSError."""
    try:
        return record[socket.socket.send(tls, record) :]
    except BlockingIOError:
        return record


@functools.cache
def dummy_socketpair() -> tuple[socket.socket, socket.socket]:
    """A socket pair that is empty whenever nobody uses it; one for the whole process, since making it takes four calls."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


os.register_at_fork(after_in_child=dummy_socketpair.cache_clear)  # two processes must not write to one


def peer_closed(sock: socket.socket) -> bool:
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


def has_unread(sock: socket.socket) -> bool:
    """Whether the peer has sent something that was not read yet. For a session that ends anyway, as ``has_left``."""
    try:
        if isinstance(sock, ssl.SSLSocket):
            return bool(sock.recv(1))
        return bool(sock.recv(1, socket.MSG_PEEK))
    except OSError:
        return False


def is_ragged_eof(error: ssl.SSLError) -> bool:
    """Did the peer close without close_notify? Which class that error has depends on the version of CPython."""
    if ssl.OPENSSL_VERSION_INFO < (3, 0):
        return isinstance(error, ssl.SSLEOFError)  # and nothing tells a reset from it
    return getattr(error, "reason", None) == "UNEXPECTED_EOF_WHILE_READING"


def is_reset(error: ssl.SSLError) -> bool:
    """Was it a reset? CPython before 3.12.3 calls that SSLEOFError, too."""
    return isinstance(error, ssl.SSLEOFError) and not is_ragged_eof(error)


CONNECTION_RESET = os.strerror(errno.ECONNRESET)


def reason(error: OSError) -> str:
    """Why a connection failed: the system's words, or OpenSSL's reason, such as ``wrong version number``.

    For certificates it is what is wrong with them. A reset has the same words however it shows: in reading or writing, in
    clear or under TLS.
    """
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return CONNECTION_RESET
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    if is_reset(error):
        return CONNECTION_RESET
    if isinstance(error, ssl.SSLZeroReturnError):
        return "the peer closed the connection"
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    said = getattr(error, "reason", None)  # errors that Python itself raises have none
    return said.lower().replace("_", " ") if said else error.strerror or str(error)
