"""A client that only looks in: clear or TLS, with a name, an ALPN or a certificate, over IPv4 or IPv6."""

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
    """Connected, and its handshake made."""

    end: socket.socket
    own: Address
    other: Address

    def receive_until_eof(self) -> bytes:
        """The greeting, or what comes before the end, whichever way that comes."""
        got = b""
        with suppress(ConnectionError, ssl.SSLError):
            while got != GREETING and (chunk := self.end.recv(4096)):
                got += chunk
        return got


@attrs.frozen(kw_only=True)
class ProbeClient:
    """Who it is: ``tls`` is the version, None for clear text. It trusts everybody, which is not what is looked at here."""

    host: str = HOST
    tls: ssl.TLSVersion | None = ssl.TLSVersion.TLSv1_3
    asks_for: str | None = None
    alpn: tuple[str, ...] = ()
    shows: str | None = None
    comes_back: bool = False

    @contextmanager
    def connect(self, port: int, papers: CertificateSet) -> Iterator[Connection]:
        """Raises OSError, which ssl.SSLError is, from a handshake that fails."""
        context = self._context(papers, self.tls) if self.tls else None
        session = self._session(context, port) if context and self.comes_back else None
        with self._connect(port) as connection:
            own, other = connection.getsockname()[:2], connection.getpeername()[:2]
            if context is None:
                yield Connection(connection, own, other)
                return
            with context.wrap_socket(connection, server_hostname=self.asks_for, session=session) as end:
                assert end.session_reused == self.comes_back
                yield Connection(end, own, other)

    def _connect(self, port: int) -> socket.socket:
        return socket.create_connection((self.host, port), TIMEOUT_S)

    def _session(self, context: ssl.SSLContext, port: int) -> ssl.SSLSession:
        """Of a visit before; tickets of TLS 1.3 come with the first bytes."""
        with (
            self._connect(port) as connection,
            context.wrap_socket(connection, server_hostname=self.asks_for) as end,
        ):
            assert end.recv(len(GREETING)) == GREETING
            assert end.session
            return end.session

    def _context(self, papers: CertificateSet, version: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        if self.alpn:
            context.set_alpn_protocols(list(self.alpn))
        if self.shows:
            context.load_cert_chain(papers.path(self.shows))
        return context
