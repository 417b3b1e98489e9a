"""A client for one short connection: clear or TLS, with a name, an ALPN or a certificate, over IPv4 or IPv6."""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import attrs

from tests.support.interop.scripted_session import GREETING, HOST
from tests.support.programs.program import TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.interop.certificate_set import CertificateSet

Address = tuple[str, int]


@attrs.frozen
class Connection:
    """An open connection, after the TLS handshake if there is one."""

    end: socket.socket
    own: Address
    other: Address

    def receive_until_eof(self) -> bytes:
        """Return the greeting, or all bytes before the end, which may also be a reset."""
        received = b""
        with suppress(ConnectionError, ssl.SSLError):
            while received != GREETING and (chunk := self.end.recv(4096)):
                received += chunk
        return received


@attrs.frozen(kw_only=True)
class ProbeClient:
    """A client with the given TLS version, or None for clear text. It accepts every certificate of a server."""

    host: str = HOST
    tls: ssl.TLSVersion | None = ssl.TLSVersion.TLSv1_3
    server_name: str | None = None
    alpn: tuple[str, ...] = ()
    certificate: str | None = None
    resumes: bool = False

    @contextmanager
    def connect(self, port: int, certificates: CertificateSet) -> Iterator[Connection]:
        """Connect and make the TLS handshake.

        Raises:
            OSError: the connection or the handshake (`ssl.SSLError`) fails.
        """
        context = self._context(certificates, self.tls) if self.tls else None
        session = self._session(context, port) if context and self.resumes else None
        with self._connect(port) as connection:
            own, other = connection.getsockname()[:2], connection.getpeername()[:2]
            if context is None:
                yield Connection(connection, own, other)
                return
            with context.wrap_socket(connection, server_hostname=self.server_name, session=session) as end:
                assert end.session_reused == self.resumes
                yield Connection(end, own, other)

    def _connect(self, port: int) -> socket.socket:
        return socket.create_connection((self.host, port), TIMEOUT_S)

    def _session(self, context: ssl.SSLContext, port: int) -> ssl.SSLSession:
        """Return the TLS session of a first connection. Tickets of TLS 1.3 arrive with the first bytes."""
        with (
            self._connect(port) as connection,
            context.wrap_socket(connection, server_hostname=self.server_name) as end,
        ):
            assert end.recv(len(GREETING)) == GREETING
            assert end.session
            return end.session

    def _context(self, certificates: CertificateSet, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.certificate:
            context.load_cert_chain(certificates.path(self.certificate))
        return context
