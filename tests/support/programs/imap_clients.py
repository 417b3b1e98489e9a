"""IMAP clients of other projects, each with the same few actions of a user."""

from __future__ import annotations

import imaplib
import re
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Literal, Protocol, Self

import attrs

from tests.support.programs.dovecot import PASSWORD
from tests.support.programs.program import TIMEOUT_S, LogFile, find

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOST = "127.0.0.1"
LONG_TIMEOUT_S = 120.0  # for one client that moves 50 MB on a busy machine

Security = Literal["clear", "starttls", "tls"]


@attrs.frozen
class Endpoint:
    """Where a client connects, and the CA and name of the certificate that it expects there."""

    port: int
    security: Security
    ca: Path
    name: str = HOST
    host: str = attrs.field(default=HOST, kw_only=True)
    header: bytes = attrs.field(default=b"", kw_only=True)  # sent before everything else


@attrs.frozen
class MailUser:
    """The owner of a mailbox, with a folder for the programs that act for this user.

    Clients that can choose their source address use another one than the proxy's, which is 127.0.0.1.
    """

    name: str
    folder: Path
    address: str = attrs.field(default="127.0.0.9", kw_only=True)
    certificate: Path | None = attrs.field(default=None, kw_only=True)

    def tls_context(self, endpoint: Endpoint) -> ssl.SSLContext:
        """Return the TLS context of this user for an endpoint."""
        context = ssl.create_default_context(cafile=str(endpoint.ca))
        if self.certificate:
            context.load_cert_chain(self.certificate)
        return context

    def connection(self, endpoint: Endpoint) -> socket.socket:
        """Return an open connection, over TLS if the endpoint has implicit TLS."""
        connection = socket.create_connection(
            (endpoint.host, endpoint.port), LONG_TIMEOUT_S, (self.address, 0)
        )
        try:
            connection.sendall(endpoint.header)
            if endpoint.security == "tls":
                return self.tls_context(endpoint).wrap_socket(connection, server_hostname=endpoint.name)
        except BaseException:
            connection.close()
            raise
        return connection


def is_refused(mail_user: MailUser, endpoint: Endpoint) -> bool:
    """Whether the server ends the connection without a byte."""
    with mail_user.connection(endpoint) as connection:
        try:
            return not connection.recv(1)
        except ConnectionResetError:
            return True


class MailClient(Protocol):
    """A client of one user at one endpoint. Each call is a session of its own."""

    def __init__(self, endpoint: Endpoint, mail_user: MailUser) -> None: ...
    def folders(self) -> set[str]: ...
    def append(self, message: bytes) -> None: ...
    def fetch(self) -> bytes:
        """Return the only message of the mailbox."""


class Idle(Protocol):
    """A session in IDLE, which is notified of new mail."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def wait_for_new_mail(self) -> None:
        """Return when the server announces a message."""


@attrs.frozen
class Imaplib:
    """Python's imaplib."""

    endpoint: Endpoint
    mail_user: MailUser

    def session(self) -> imaplib.IMAP4:
        """Return a session that is logged in, by certificate if the user has one. The `with` block ends in a logout."""
        connection = ImaplibConnection(self.endpoint, self.mail_user)
        try:
            if self.endpoint.security == "starttls":
                connection.starttls(self.mail_user.tls_context(self.endpoint))
            if self.mail_user.certificate:
                connection.authenticate("EXTERNAL", lambda _: b"")
            else:
                connection.login(self.mail_user.name, PASSWORD)
        except BaseException:
            connection.shutdown()
            raise
        return connection

    def folders(self) -> set[str]:
        with self.session() as connection:
            return _listed(
                "\n".join(line.decode() for line in connection.list()[1] if isinstance(line, bytes))
            )

    def append(self, message: bytes) -> None:
        with self.session() as connection:
            status, answer = connection.append("INBOX", "", "", message)
            assert status == "OK", answer

    def fetch(self) -> bytes:
        with self.session() as connection:
            connection.select("INBOX", readonly=True)
            _, data = connection.fetch("1", "(BODY.PEEK[])")
        assert isinstance(data[0], tuple), data
        body = data[0][1]
        assert isinstance(body, bytes)
        return body

    def idle(self) -> Idle:
        """Return a session that has entered IDLE."""
        return ImaplibIdle(self.session())


class ImaplibConnection(imaplib.IMAP4):
    """An imaplib connection that is opened as `MailUser.connection` does."""

    def __init__(self, endpoint: Endpoint, mail_user: MailUser) -> None:
        self._endpoint, self._mail_user = endpoint, mail_user
        super().__init__(endpoint.name, endpoint.port)

    def open(self, host: str = "", port: int = 0, _timeout: float | None = None) -> None:
        self.host, self.port = host, port  # imaplib uses these later
        self.sock = self._mail_user.connection(self._endpoint)
        self.file = self.sock.makefile("rb")


class ImaplibIdle:
    """IDLE over imaplib's connection, because imaplib has no IDLE before Python 3.14."""

    def __init__(self, connection: imaplib.IMAP4) -> None:
        self._connection = connection
        connection.select("INBOX")
        connection.send(b"idle1 IDLE\r\n")
        assert connection.readline().startswith(b"+ ")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.shutdown()

    def wait_for_new_mail(self) -> None:
        self._connection.sock.settimeout(TIMEOUT_S)
        while not re.fullmatch(rb"\* [1-9]\d* EXISTS\r\n", line := self._connection.readline()):
            assert line.startswith(b"* "), line
        self._connection.send(b"DONE\r\n")
        while not (line := self._connection.readline()).startswith(b"idle1 OK"):
            assert line.startswith(b"* "), line


@attrs.frozen
class Curl:
    """curl, which fetches by URL."""

    endpoint: Endpoint
    mail_user: MailUser

    def _run(self, path: str, *options: str) -> bytes:
        scheme = "imaps" if self.endpoint.security == "tls" else "imap"
        starttls = ["--ssl-reqd"] if self.endpoint.security == "starttls" else []
        command = [find("curl"), "--silent", "--show-error", "--cacert", str(self.endpoint.ca), *starttls]
        command += ["--interface", self.mail_user.address]
        command += ["--resolve", f"{self.endpoint.name}:{self.endpoint.port}:{self.endpoint.host}"]
        command += [
            "--user",
            f"{self.mail_user.name}:{PASSWORD}",
            *options,
            f"{scheme}://{self.endpoint.name}:{self.endpoint.port}/{path}",
        ]
        return _output(command)

    def folders(self) -> set[str]:
        return _listed(self._run("").decode())

    def append(self, message: bytes) -> None:
        file = self.mail_user.folder / "to-append"
        file.write_bytes(message)
        self._run("INBOX", "--upload-file", str(file))

    def fetch(self) -> bytes:
        return self._run("INBOX;MAILINDEX=1")


@attrs.frozen
class Mbsync:
    """mbsync, which synchronizes a maildir with a mailbox. It does not support certificates for IP addresses."""

    endpoint: Endpoint
    mail_user: MailUser

    def _run(self, *arguments: str) -> bytes:
        security = {"clear": "None", "starttls": "STARTTLS", "tls": "IMAPS"}[self.endpoint.security]
        (self.mail_user.folder / "inbox").mkdir(exist_ok=True)
        file = self.mail_user.folder / "mbsyncrc"
        file.write_text(
            f"IMAPAccount remote\nHost localhost\nPort {self.endpoint.port}\nUser {self.mail_user.name}\nPass {PASSWORD}\n"
            f"AuthMechs PLAIN LOGIN\nSSLType {security}\nCertificateFile {self.endpoint.ca}\nTimeout {LONG_TIMEOUT_S:.0f}\n\n"
            f"IMAPStore far\nAccount remote\n\n"
            f"MaildirStore near\nPath {self.mail_user.folder}/\nInbox {self.mail_user.folder}/inbox\n\n"
            f"Channel all\nFar :far:\nNear :near:\nPatterns *\nCreate Near\nSync All\nSyncState *\n",
            encoding="utf-8",
        )
        return _output([find("mbsync"), "--config", str(file), *arguments])

    def _messages(self) -> Iterator[Path]:
        return (
            file for part in ("cur", "new") for file in (self.mail_user.folder / "inbox" / part).glob("*")
        )

    def folders(self) -> set[str]:
        return set(self._run("--list", "all").decode().split())

    def append(self, message: bytes) -> None:
        for part in ("cur", "new", "tmp"):
            (self.mail_user.folder / "inbox" / part).mkdir(parents=True, exist_ok=True)
        (self.mail_user.folder / "inbox" / "cur" / "1.here:2,S").write_bytes(message.replace(b"\r\n", b"\n"))
        self._run("--push", "all")

    def fetch(self) -> bytes:
        """Pull the message into an empty maildir. mbsync writes bare LF there, and a header field of its own."""
        other = Mbsync(self.endpoint, attrs.evolve(self.mail_user, folder=self.mail_user.folder / "pulled"))
        other.mail_user.folder.mkdir()
        other._run("--pull", "all")
        (file,) = other._messages()
        return re.sub(rb"^X-TUID: .*\n", b"", file.read_bytes(), count=1, flags=re.MULTILINE).replace(
            b"\n", b"\r\n"
        )


@attrs.frozen
class SClient:
    """`openssl s_client`, which gets a whole dialogue at once. It always uses TLS."""

    endpoint: Endpoint
    mail_user: MailUser

    def _command(self) -> list[str]:
        command = [
            find("openssl"),
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-CAfile",
            str(self.endpoint.ca),
        ]
        command += [
            "-connect",
            f"{self.endpoint.host}:{self.endpoint.port}",
            "-bind",
            f"{self.mail_user.address}:0",
        ]
        if self.endpoint.name == self.endpoint.host:
            command += ["-noservername", "-verify_ip", self.endpoint.host]
        else:
            command += ["-servername", self.endpoint.name, "-verify_hostname", self.endpoint.name]
        return [*command, "-starttls", "imap"] if self.endpoint.security == "starttls" else command

    def idle(self) -> Idle:
        return SClientIdle(self._command(), self.mail_user)

    def _run_dialogue(self, *commands: bytes) -> bytes:
        dialogue = b"".join(
            b"s%d %s\r\n" % (n, each)
            for n, each in enumerate(
                (b"LOGIN %s %s" % (self.mail_user.name.encode(), PASSWORD.encode()), *commands, b"LOGOUT")
            )
        )
        answer = _output(self._command(), dialogue)
        for n in range(len(commands) + 2):
            assert re.search(rb"^s%d OK" % n, answer, re.MULTILINE), answer[-2000:]
        return answer

    def folders(self) -> set[str]:
        return _listed(self._run_dialogue(b'LIST "" *').decode())

    def append(self, message: bytes) -> None:
        self._run_dialogue(b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))

    def fetch(self) -> bytes:
        answer = self._run_dialogue(b"EXAMINE INBOX", b"FETCH 1 BODY.PEEK[]")
        literal = re.search(rb"BODY\[\] \{(\d+)\}\r\n", answer)
        assert literal, answer[:2000]
        return answer[literal.end() : literal.end() + int(literal[1])]


class SClientIdle:
    """s_client with a simulated user that reads each answer before the next command."""

    def __init__(self, command: list[str], mail_user: MailUser) -> None:
        self._log = LogFile(mail_user.folder / "idle.log")
        with self._log.path.open("ab") as output:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
        try:
            self._type(f"idle1 LOGIN {mail_user.name} {PASSWORD}", "idle1 OK .*")
            self._type("idle2 SELECT INBOX", "idle2 OK .*")
            self._type("idle3 IDLE", r"\+ .*")
        except BaseException:
            self.__exit__()
            raise

    def _type(self, line: str, expected: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{line}\r\n".encode())
        self._process.stdin.flush()
        self._log.wait_for(re.compile(expected))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def wait_for_new_mail(self) -> None:
        self._log.wait_for(re.compile(r"\* [1-9]\d* EXISTS"))
        self._type("DONE", "idle3 OK .*")


def _listed(answer: str) -> set[str]:
    """Return the names in the answers to LIST."""
    return set(re.findall(r'"[./]" "?([^"\r\n]+?)"?\r?$', answer, re.MULTILINE))


def _output(command: list[str], stdin: bytes = b"") -> bytes:
    process = subprocess.run(command, input=stdin, capture_output=True, timeout=LONG_TIMEOUT_S, check=False)
    assert process.returncode == 0, (
        f"{command}: exit code {process.returncode}\n{process.stderr.decode(errors='replace')}"
    )
    return process.stdout
