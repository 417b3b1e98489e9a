"""Clients for POP3 and SMTP (Python's) and a small client for ManageSieve."""

from __future__ import annotations

import base64
import poplib
import re
import smtplib
import ssl
from typing import TYPE_CHECKING, Self

import attrs

from tests.support.programs.dovecot import PASSWORD
from tests.support.programs.imap_clients import LONG_TIMEOUT_S

if TYPE_CHECKING:
    import socket

    from tests.support.programs.imap_clients import Endpoint, MailUser


class Pop3Connection(poplib.POP3):
    """A poplib connection that is opened as `MailUser.connection` does."""

    def __init__(self, endpoint: Endpoint, mail_user: MailUser) -> None:
        self._endpoint, self._mail_user = endpoint, mail_user
        super().__init__(endpoint.host, endpoint.port)

    def _create_socket(self, _timeout: float) -> socket.socket:
        return self._mail_user.connection(self._endpoint)


@attrs.frozen
class Poplib:
    """Python's poplib."""

    endpoint: Endpoint
    mail_user: MailUser

    def session(self) -> poplib.POP3:
        connection = Pop3Connection(self.endpoint, self.mail_user)
        try:
            if self.endpoint.security == "starttls":
                connection.stls(self.mail_user.tls_context(self.endpoint))
            connection.user(self.mail_user.name)
            connection.pass_(PASSWORD)
        except BaseException:
            connection.close()
            raise
        return connection

    def fetch(self) -> bytes:
        """Return the only message of the mailbox."""
        connection = self.session()
        try:
            _, lines, _ = connection.retr(1)
            connection.quit()
        finally:
            connection.close()
        return b"".join(line + b"\r\n" for line in lines)


class SmtpConnection(smtplib.SMTP):
    """An smtplib connection that is opened as `MailUser.connection` does."""

    def __init__(self, endpoint: Endpoint, mail_user: MailUser) -> None:
        self._endpoint, self._mail_user = endpoint, mail_user
        super().__init__(
            endpoint.host, endpoint.port, local_hostname="client.example", timeout=LONG_TIMEOUT_S
        )

    def _get_socket(self, _host: str, _port: int, _timeout: float) -> socket.socket:
        return self._mail_user.connection(self._endpoint)


@attrs.frozen
class Smtplib:
    """Python's smtplib."""

    endpoint: Endpoint
    mail_user: MailUser

    def submit(self, message: bytes) -> None:
        with SmtpConnection(self.endpoint, self.mail_user) as connection:
            if self.endpoint.security == "starttls":
                connection.starttls(context=self.mail_user.tls_context(self.endpoint))
            connection.login(self.mail_user.name, PASSWORD)
            connection.sendmail("a@mail.example", ["b@mail.example"], message)


@attrs.frozen
class Sieve:
    """The part of ManageSieve (RFC 5804) that storing a script needs."""

    endpoint: Endpoint
    mail_user: MailUser

    def session(self) -> SieveSession:
        """Return a session that is logged in."""
        session = SieveSession(self.mail_user.connection(self.endpoint))
        try:
            session.answer()  # the greeting
            session.command("STARTTLS")
            session.start_tls(self.mail_user.tls_context(self.endpoint), self.endpoint.host)
            session.answer()  # the capabilities over TLS
            initial = base64.b64encode(f"\0{self.mail_user.name}\0{PASSWORD}".encode()).decode()
            session.command(f'AUTHENTICATE "PLAIN" "{initial}"')
        except BaseException:
            session.close()
            raise
        return session

    def put(self, name: str, script: bytes) -> None:
        with self.session() as session:
            session.command(f'PUTSCRIPT "{name}" {{{len(script)}+}}\r\n{script.decode()}')

    def get(self, name: str) -> bytes:
        with self.session() as session:
            length, script = session.command(f'GETSCRIPT "{name}"').split(b"\r\n", 1)
        return script[: int(length.strip(b"{}"))]

    def names(self) -> set[str]:
        with self.session() as session:
            return {
                name.decode()
                for name in re.findall(rb'^"(.*)"', session.command("LISTSCRIPTS"), re.MULTILINE)
            }


class SieveSession:
    """A ManageSieve session. The `with` block ends in a logout."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if exception == (None, None, None):
                self.command("LOGOUT")
        finally:
            self.close()

    def close(self) -> None:
        self._file.close()
        self._connection.close()

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        self._file.close()
        self._connection = context.wrap_socket(self._connection, server_hostname=name)
        self._file = self._connection.makefile("rb")

    def command(self, line: str) -> bytes:
        self._connection.sendall(f"{line}\r\n".encode())
        return self.answer()

    def answer(self) -> bytes:
        """Return all lines before the OK."""
        lines: list[bytes] = []
        while not (line := self._file.readline()).startswith(b"OK"):
            assert line, lines
            assert not line.startswith((b"NO", b"BYE")), line
            lines.append(line)
        return b"".join(lines)
