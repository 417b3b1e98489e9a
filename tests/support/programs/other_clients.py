"""Clients of the protocols besides IMAP: Python's own for POP3 and SMTP, a few lines for ManageSieve."""

from __future__ import annotations

import base64
import poplib
import re
import smtplib
import ssl
from typing import TYPE_CHECKING, Self

import attrs

from tests.support.programs.dovecot import PASSWORD
from tests.support.programs.imap_clients import LONG_S

if TYPE_CHECKING:
    import socket

    from tests.support.programs.imap_clients import ClientAddress, MailUser


class Pop3Connection(poplib.POP3):
    """Made as the mail_user makes it."""

    def __init__(self, door: ClientAddress, mail_user: MailUser) -> None:
        self._door, self._person = door, mail_user
        super().__init__(door.host, door.port)

    def _create_socket(self, _timeout: float) -> socket.socket:
        return self._person.connection(self._door)


@attrs.frozen
class Poplib:
    """Python's own."""

    door: ClientAddress
    mail_user: MailUser

    def session(self) -> poplib.POP3:
        connection = Pop3Connection(self.door, self.mail_user)
        try:
            if self.door.security == "starttls":
                connection.stls(self.mail_user.trust(self.door))
            connection.user(self.mail_user.name)
            connection.pass_(PASSWORD)
        except BaseException:
            connection.close()
            raise
        return connection

    def fetch(self) -> bytes:
        """The only message of the mailbox."""
        connection = self.session()
        try:
            _, lines, _ = connection.retr(1)
            connection.quit()
        finally:
            connection.close()
        return b"".join(line + b"\r\n" for line in lines)


class SmtpConnection(smtplib.SMTP):
    """Made as the mail_user makes it."""

    def __init__(self, door: ClientAddress, mail_user: MailUser) -> None:
        self._door, self._person = door, mail_user
        super().__init__(door.host, door.port, local_hostname="client.example", timeout=LONG_S)

    def _get_socket(self, _host: str, _port: int, _timeout: float) -> socket.socket:
        return self._person.connection(self._door)


@attrs.frozen
class Smtplib:
    """Python's own."""

    door: ClientAddress
    mail_user: MailUser

    def submit(self, message: bytes) -> None:
        with SmtpConnection(self.door, self.mail_user) as connection:
            if self.door.security == "starttls":
                connection.starttls(context=self.mail_user.trust(self.door))
            connection.login(self.mail_user.name, PASSWORD)
            connection.sendmail("a@mail.example", ["b@mail.example"], message)


@attrs.frozen
class Sieve:
    """As much of ManageSieve (RFC 5804) as it takes to keep a script."""

    door: ClientAddress
    mail_user: MailUser

    def session(self) -> SieveSession:
        """Logged in."""
        session = SieveSession(self.mail_user.connection(self.door))
        try:
            session.answer()  # the greeting
            session.command("STARTTLS")
            session.begin_tls(self.mail_user.trust(self.door), self.door.host)
            session.answer()  # what it can do now
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
    """A line at a time; leaving the `with` logs out."""

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

    def begin_tls(self, trust: ssl.SSLContext, name: str) -> None:
        self._file.close()
        self._connection = trust.wrap_socket(self._connection, server_hostname=name)
        self._file = self._connection.makefile("rb")

    def command(self, line: str) -> bytes:
        self._connection.sendall(f"{line}\r\n".encode())
        return self.answer()

    def answer(self) -> bytes:
        """All before the OK."""
        lines: list[bytes] = []
        while not (line := self._file.readline()).startswith(b"OK"):
            assert line, lines
            assert not line.startswith((b"NO", b"BYE")), line
            lines.append(line)
        return b"".join(lines)
