"""Targets of the log: a stream, a file that can be reopened, or syslog.

They may block, so only a writer's thread uses them.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mailproxy.files import create
from mailproxy.log.formats import syslog_date
from mailproxy.log.line_writer import LinesLostError, LineWriter

_FILE_MODE = 0o640

# Facilities and severities: RFC 5424 section 6.2.1.
_FACILITIES = {
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
_SEVERITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}

Line = tuple[str, str]
"""A level, and a line without its line end."""


class Target(Protocol):
    """Where lines go.

    Attributes:
        has_own_date: Whether it adds a date to each line itself.
    """

    has_own_date: bool

    def write(self, lines: Sequence[Line]) -> None:
        """Write lines. May block.

        Raises:
            LinesLostError: If some of them could not be written.
        """

    def reopen(self) -> None:
        """Open the target again after log rotation. May block.

        Raises:
            OSError: If that fails. Then the old file stays in use.
        """

    def close(self) -> None:
        """Close what was opened here."""


class StreamTarget:
    """Standard error or output, by descriptor: Python's buffered streams are shared with other code.

    Args:
        fd: 1 or 2.
        shared: Whether other processes write there, too.
    """

    has_own_date = False

    def __init__(self, fd: int, *, shared: bool = False) -> None:
        self.fd = fd
        self._writer = LineWriter(fd, shared=shared)

    def write(self, lines: Sequence[Line]) -> None:
        self._writer.write(_encoded(lines))

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        self._writer.close()


class FileTarget:
    """A file, opened for appending.

    A new file gets the mode 0640. If there is an owner, root does not follow a link: the folder may belong to
    that user, and the link could lead to any file of the machine.

    Args:
        path: The file.
        owner: User and group id for a new file. Without them it could not be reopened after the change of
            user.
        shared: Whether other processes write to it, too.

    Raises:
        OSError: If it cannot be opened.
    """

    has_own_date = False

    def __init__(self, path: Path, owner: tuple[int, int] | None = None, *, shared: bool = False) -> None:
        self._path = path
        self._owner = owner
        self._shared = shared
        self._fd = self._open()
        self._writer = LineWriter(self._fd, shared=shared)

    def _open(self) -> int:
        # Nonblocking because of named pipes: opening one without a reader would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            return create(self._path, flags, _FILE_MODE, self._owner)
        except FileExistsError:
            if self._owner is not None:
                return os.open(self._path, flags | os.O_NOFOLLOW)
            # A link may lead to a file that does not exist yet.
            return os.open(self._path, flags | os.O_CREAT, _FILE_MODE)

    def write(self, lines: Sequence[Line]) -> None:
        self._writer.write(_encoded(lines))

    def reopen(self) -> None:
        fd = self._open()
        self.close()
        self._fd = fd
        self._writer = LineWriter(fd, shared=self._shared)

    def close(self) -> None:
        self._writer.close()
        os.close(self._fd)


class SyslogTarget:
    """Syslog datagrams in the local form of RFC 3164, as HAProxy sends them.

    Reconnects after a restart of syslog.

    Args:
        destination: The path of a Unix socket, or a host and a UDP port.
        facility: The name of a facility.
        tag: The program name in each datagram.
    """

    has_own_date = True

    def __init__(
        self, destination: tuple[str, int] | str, *, facility: str = "local0", tag: str = "mailproxy"
    ) -> None:
        self._destination = destination
        self._facility = _FACILITIES[facility]
        self._tag = tag
        self._socket: socket.socket | None = None

    def _connect(self) -> socket.socket:
        if isinstance(self._destination, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            address: tuple[object, ...] | str = self._destination
        else:
            family, _, _, _, address = socket.getaddrinfo(*self._destination, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def write(self, lines: Sequence[Line]) -> None:
        for index, (level, line) in enumerate(lines):
            priority = self._facility * 8 + _SEVERITIES[level]
            head = f"<{priority}>{syslog_date(time.time())} {self._tag}[{os.getpid()}]: "
            try:
                self._send(_encode(head + line))
            except (OSError, ValueError) as error:  # ValueError: an invalid host name
                raise LinesLostError(error, index) from error

    def _send(self, datagram: bytes) -> None:
        for attempt in (1, 2):
            try:
                if self._socket is None:
                    self._socket = self._connect()
                self._socket.send(datagram)
            except OSError:
                self.close()
                if attempt == 2:
                    raise
            else:
                return

    def reopen(self) -> None:
        self.close()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def open_target(
    to: str,
    syslog: tuple[str, int] | str | None,
    owner: tuple[int, int] | None = None,
    *,
    shared: bool = False,
    facility: str = "local0",
    tag: str = "mailproxy",
) -> Target:
    """Open the target that ``log.to`` names.

    Args:
        to: ``stderr``, ``stdout`` or the path of a file.
        syslog: The destination of syslog, which takes precedence over a path.
        owner: User and group id for a new file.
        shared: Whether several processes will write to it.
        facility: For syslog.
        tag: For syslog.

    Raises:
        OSError: If a file cannot be opened.
    """
    if to in ("stderr", "stdout"):
        return StreamTarget(2 if to == "stderr" else 1, shared=shared)
    if syslog is not None:
        return SyslogTarget(syslog, facility=facility, tag=tag)
    return FileTarget(Path(to), owner, shared=shared)


def _encoded(lines: Sequence[Line]) -> list[bytes]:
    return [_encode(f"{line}\n") for _, line in lines]


def _encode(text: str) -> bytes:
    # Words from the environment may hold bytes that are not UTF-8. No line may fail because of them.
    return text.encode("utf-8", "backslashreplace")
