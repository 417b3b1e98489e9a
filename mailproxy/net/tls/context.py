"""``SSLContext`` objects from the configuration: versions, ciphers, curves, tickets, certificates and CAs."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
import sysconfig
from collections.abc import Iterator

from mailproxy.config import FrontendTls, ServerTls
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.kernel import OP_ENABLE_KTLS

Context = ssl.SSLContext
"""For packages that pass contexts on and must not import ``ssl``."""

_VERSIONS = {
    "1.2": ssl.TLSVersion.TLSv1_2,
    "1.3": ssl.TLSVersion.TLSv1_3,
    None: ssl.TLSVersion.MAXIMUM_SUPPORTED,
}

# NIST's names, which ``set_ecdh_curve`` does not accept.
_CURVES = {
    "P-256": "prime256v1",
    "P-384": "secp384r1",
    "P-521": "secp521r1",
}

# Python built with --with-ssl-default-suites=openssl has this number in pyconfig.h. The ciphers of
# openssl.cnf then stay in use. Any other Python sets default ciphers of its own, fewer than OpenSSL's.
_OPENSSL_DEFAULT_SUITES = 2
_PYTHON_SETS_CIPHERS = sysconfig.get_config_var("PY_SSL_DEFAULT_CIPHERS") != _OPENSSL_DEFAULT_SUITES


class TlsKeyError(ValueError):
    """A key of a ``tls`` table has a value that OpenSSL or this Python's ``ssl`` module does not support.

    Attributes:
        key: The name of the key. The message says what is wrong with its value.
    """

    def __init__(self, key: str, fact: str) -> None:
        self.key = key
        super().__init__(fact)


def make_client_context(tls: ServerTls, certificate: Certificate | None) -> ssl.SSLContext:
    """Make the context for connections to a server.

    It verifies the server's chain and name as ``tls.verify`` says. Without ``tls.ca`` the system's CAs are
    trusted.

    Args:
        tls: The ``tls`` table of a server, backend or check.
        certificate: What the server gets if it asks for a client certificate.

    Raises:
        OSError: If the CA file, the certificate or its key cannot be read or used (also as ``ssl.SSLError``).
        TlsKeyError: If another key of the table has an unsupported value.
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


def load_chain(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Load a certificate chain and its key into a context, from the bytes that were read before.

    ``ssl`` accepts files only. The files on disk may have changed since they were read, or their folder may
    have become inaccessible with the change of user. So the bytes go through a file in memory.

    Raises:
        OSError: If OpenSSL does not accept them (``ssl.SSLError``), or if the key is encrypted: the terminal
            is never asked for a pass phrase.
    """
    with _memory_file(certificate.chain_pem) as chain, _memory_file(certificate.key_pem) as key:
        context.load_cert_chain(chain or "", key, password=_no_pass_phrase)


@contextlib.contextmanager
def _memory_file(content: bytes | None) -> Iterator[str | None]:
    """Make a file in memory that only this process can open, yield its path, and remove it."""
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


def set_parameters(context: ssl.SSLContext, tls: FrontendTls | ServerTls) -> None:
    """Set the versions, ciphers, curves and tickets of a context.

    Raises:
        TlsKeyError: If one of these keys has an unsupported value.
    """
    if tls.max_version is not None and tls.max_version < tls.min_version:
        fact = f'"{tls.max_version}" is below min_version, which is "{tls.min_version}"'
        raise TlsKeyError("max_version", fact)
    context.minimum_version, context.maximum_version = _VERSIONS[tls.min_version], _VERSIONS[tls.max_version]
    # With renegotiation one side could make the other work at will, and the relay would have to read in order
    # to write.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    # Early CPython 3.11 (Debian 12's) sets this option: an end without close_notify would look like one with
    # it.
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if not tls.tickets:
        context.options |= ssl.OP_NO_TICKET
    if isinstance(tls, FrontendTls) and tls.ktls:
        context.options |= OP_ENABLE_KTLS
    _set_ciphers(context, tls.ciphers)
    if tls.ciphersuites is not None:
        _set_ciphersuites(context, tls.ciphersuites)
    if tls.curves is not None:
        _set_curves(context, tls.curves)


def _set_ciphers(context: ssl.SSLContext, ciphers: str | None) -> None:
    if ciphers is None and _PYTHON_SETS_CIPHERS:
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
        raise TlsKeyError("ciphersuites", _needs_newer_python("ciphers of TLS 1.3", "Ciphersuites"))
    try:
        context.set_ciphersuites(ciphersuites)
    except ssl.SSLError:
        fact = f'"{ciphersuites}": OpenSSL knows no such cipher of TLS 1.3'
        raise TlsKeyError("ciphersuites", fact) from None


def _set_curves(context: ssl.SSLContext, curves: str) -> None:
    try:
        if hasattr(context, "set_groups"):
            context.set_groups(curves)
        elif ":" in curves:
            raise TlsKeyError("curves", _needs_newer_python("more than one curve", "Groups"))
        else:
            context.set_ecdh_curve(_CURVES.get(curves, curves))
    except (ssl.SSLError, ValueError) as error:
        if isinstance(error, TlsKeyError):
            raise
        raise TlsKeyError("curves", f'"{curves}": OpenSSL knows no such curve') from None


def _needs_newer_python(choice: str, option: str) -> str:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (
        f"the ssl module of Python {version} cannot choose {choice}, that of Python 3.15 can; "
        f"until then set {option} in openssl.cnf, for the whole process"
    )
