"""Mail clients that nobody here wrote, each doing the same few things a user does."""

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
LONG_S = 120.0  # for one client moving 50 MB on a busy machine

Security = Literal["clear", "starttls", "tls"]


@attrs.frozen
class ClientAddress:
    """Where a client enters, whose certificate it must meet there, and for which name."""

    port: int
    security: Security
    ca: Path
    name: str = HOST
    host: str = attrs.field(default=HOST, kw_only=True)
    header: bytes = attrs.field(default=b"", kw_only=True)  # goes before all else


@attrs.frozen
class MailUser:
    """Whose mailbox it is, and where the programs that act for this mail_user may write.

    Who can choose comes from another address than the proxy's, which is 127.0.0.1.
    """

    name: str
    folder: Path
    address: str = attrs.field(default="127.0.0.9", kw_only=True)
    certificate: Path | None = attrs.field(default=None, kw_only=True)

    def trust(self, door: ClientAddress) -> ssl.SSLContext:
        """What this mail_user's TLS there begins with."""
        context = ssl.create_default_context(cafile=str(door.ca))
        if self.certificate:
            context.load_cert_chain(self.certificate)
        return context

    def connection(self, door: ClientAddress) -> socket.socket:
        """Open, and with TLS on it where it begins with that."""
        connection = socket.create_connection((door.host, door.port), LONG_S, (self.address, 0))
        try:
            connection.sendall(door.header)
            if door.security == "tls":
                return self.trust(door).wrap_socket(connection, server_hostname=door.name)
        except BaseException:
            connection.close()
            raise
        return connection


def is_refused(mail_user: MailUser, door: ClientAddress) -> bool:
    """Does the connection end without a byte?"""
    with mail_user.connection(door) as connection:
        try:
            return not connection.recv(1)
        except ConnectionResetError:
            return True


class MailClient(Protocol):
    """One mail_user at one door; every call is a session of its own."""

    def __init__(self, door: ClientAddress, mail_user: MailUser) -> None: ...
    def folders(self) -> set[str]: ...
    def append(self, message: bytes) -> None: ...
    def fetch(self) -> bytes:
        """The only message of the mailbox."""


class Idle(Protocol):
    """A session that stays, told of new mail without asking."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def wait_for_new_mail(self) -> None:
        """Return when the server tells of a message, by itself."""


@attrs.frozen
class Imaplib:
    """Python's own."""

    door: ClientAddress
    mail_user: MailUser

    def session(self) -> imaplib.IMAP4:
        """Logged in, by the certificate if the mail_user has one; leaving the `with` logs out."""
        connection = ImaplibConnection(self.door, self.mail_user)
        try:
            if self.door.security == "starttls":
                connection.starttls(self.mail_user.trust(self.door))
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
        """A session that waits for news; it is waiting when this returns."""
        return ImaplibIdle(self.session())


class ImaplibConnection(imaplib.IMAP4):
    """Made as the mail_user makes it."""

    def __init__(self, door: ClientAddress, mail_user: MailUser) -> None:
        self._door, self._person = door, mail_user
        super().__init__(door.name, door.port)

    def open(self, host: str = "", port: int = 0, _timeout: float | None = None) -> None:
        self.host, self.port = host, port  # of these it makes use later
        self.sock = self._person.connection(self._door)
        self.file = self.sock.makefile("rb")


class ImaplibIdle:
    """imaplib has no IDLE before Python 3.14, but lends its connection."""

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

    door: ClientAddress
    mail_user: MailUser

    def _run(self, path: str, *options: str) -> bytes:
        scheme = "imaps" if self.door.security == "tls" else "imap"
        starttls = ["--ssl-reqd"] if self.door.security == "starttls" else []
        command = [find("curl"), "--silent", "--show-error", "--cacert", str(self.door.ca), *starttls]
        command += ["--interface", self.mail_user.address]
        command += ["--resolve", f"{self.door.name}:{self.door.port}:{self.door.host}"]
        command += [
            "--user",
            f"{self.mail_user.name}:{PASSWORD}",
            *options,
            f"{scheme}://{self.door.name}:{self.door.port}/{path}",
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
    """mbsync, which keeps a maildir here and a mailbox there alike. It knows no certificates for IP addresses."""

    door: ClientAddress
    mail_user: MailUser

    def _run(self, *arguments: str) -> bytes:
        security = {"clear": "None", "starttls": "STARTTLS", "tls": "IMAPS"}[self.door.security]
        (self.mail_user.folder / "inbox").mkdir(exist_ok=True)
        file = self.mail_user.folder / "mbsyncrc"
        file.write_text(
            f"IMAPAccount there\nHost localhost\nPort {self.door.port}\nUser {self.mail_user.name}\nPass {PASSWORD}\n"
            f"AuthMechs PLAIN LOGIN\nSSLType {security}\nCertificateFile {self.door.ca}\nTimeout {LONG_S:.0f}\n\n"
            f"IMAPStore far\nAccount there\n\n"
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
        """Pulled into an empty maildir; mbsync keeps lines with a bare LF there, and a mark of its own."""
        other = Mbsync(self.door, attrs.evolve(self.mail_user, folder=self.mail_user.folder / "pulled"))
        other.mail_user.folder.mkdir()
        other._run("--pull", "all")
        (file,) = other._messages()
        return re.sub(rb"^X-TUID: .*\n", b"", file.read_bytes(), count=1, flags=re.MULTILINE).replace(
            b"\n", b"\r\n"
        )


@attrs.frozen
class SClient:
    """`openssl s_client`, given a whole dialogue at once. It cannot speak without TLS."""

    door: ClientAddress
    mail_user: MailUser

    def _command(self) -> list[str]:
        command = [
            find("openssl"),
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-CAfile",
            str(self.door.ca),
        ]
        command += ["-connect", f"{self.door.host}:{self.door.port}", "-bind", f"{self.mail_user.address}:0"]
        if self.door.name == self.door.host:
            command += ["-noservername", "-verify_ip", self.door.host]
        else:
            command += ["-servername", self.door.name, "-verify_hostname", self.door.name]
        return [*command, "-starttls", "imap"] if self.door.security == "starttls" else command

    def idle(self) -> Idle:
        return SClientIdle(self._command(), self.mail_user)

    def _talk(self, *commands: bytes) -> bytes:
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
        return _listed(self._talk(b'LIST "" *').decode())

    def append(self, message: bytes) -> None:
        self._talk(b"APPEND INBOX {%d+}\r\n%s" % (len(message), message))

    def fetch(self) -> bytes:
        answer = self._talk(b"EXAMINE INBOX", b"FETCH 1 BODY.PEEK[]")
        literal = re.search(rb"BODY\[\] \{(\d+)\}\r\n", answer)
        assert literal, answer[:2000]
        return answer[literal.end() : literal.end() + int(literal[1])]


class SClientIdle:
    """s_client with a mail_user at its keyboard, who reads before typing."""

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
    """The names in LIST's answers."""
    return set(re.findall(r'"[./]" "?([^"\r\n]+?)"?\r?$', answer, re.MULTILINE))


def _output(command: list[str], stdin: bytes = b"") -> bytes:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=LONG_S, check=False)
    assert done.returncode == 0, (
        f"{command}: exit code {done.returncode}\n{done.stderr.decode(errors='replace')}"
    )
    return done.stdout
