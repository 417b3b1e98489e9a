"""Where lines go: a stream, a file that can be reopened, or syslog. All of it may block, so only the writer's thread calls."""

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

_MODE = 0o640  # of a log file that is made here
_FACILITIES = {  # RFC 5424 section 6.2.1
    "kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7, "uucp": 8, "cron": 9,
    "authpriv": 10, "ftp": 11, **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
_SEVERITY = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # the same section

Line = tuple[str, str]
"""A level and a line without its end."""


class Target(Protocol):
    """Takes lines. ``write`` and ``reopen`` may block; ``write`` raises LinesLostError, ``reopen`` OSError.

    ``has_own_date``: it writes a date in front of each line by itself.
    """

    has_own_date: bool

    def write(self, lines: Sequence[Line]) -> None: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class StreamTarget:
    """Standard error or output, by descriptor: Python's own buffers would be shared with others.

    ``shared``: other processes write there, too, and no line may come between the parts of another one.
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
    """A file, opened for appending; made with mode 0640, and given to ``owner`` (uid, gid) if it was made here.

    With an owner, who may own the folder too, root follows no link: it could lead to any file of the machine.
    """

    has_own_date = False

    def __init__(self, path: Path, owner: tuple[int, int] | None = None, *, shared: bool = False) -> None:
        self._path = path
        self._owner = owner
        self._shared = shared
        self._fd = self._open()
        self._writer = LineWriter(self._fd, shared=shared)

    def _open(self) -> int:
        # Nonblocking for the sake of named pipes: without a reader, opening one would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            # given to the owner, or it could not be reopened after the change of user
            return create(self._path, flags, _MODE, self._owner)
        except FileExistsError:
            if self._owner is not None:
                return os.open(self._path, flags | os.O_NOFOLLOW)
            # A link may lead to a file that is not there yet.
            return os.open(self._path, flags | os.O_CREAT, _MODE)

    def write(self, lines: Sequence[Line]) -> None:
        self._writer.write(_encoded(lines))

    def reopen(self) -> None:
        """Open the path anew; raises OSError and keeps the old file if that fails."""
        fd = self._open()
        self.close()
        self._fd = fd
        self._writer = LineWriter(fd, shared=self._shared)

    def close(self) -> None:
        self._writer.close()
        os.close(self._fd)


class SyslogTarget:
    """Datagrams in RFC 3164's local form, as HAProxy sends them; connected anew when syslog was restarted."""

    has_own_date = True

    def __init__(
        self, where: tuple[str, int] | str, *, facility: str = "local0", tag: str = "mailproxy"
    ) -> None:
        self._where = where
        self._facility = _FACILITIES[facility]
        self._tag = tag
        self._socket: socket.socket | None = None

    def _connect(self) -> socket.socket:
        if isinstance(self._where, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            address: tuple[object, ...] | str = self._where
        else:
            family, _, _, _, address = socket.getaddrinfo(*self._where, type=socket.SOCK_DGRAM)[0]
            sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def write(self, lines: Sequence[Line]) -> None:
        for number, (level, line) in enumerate(lines):
            priority = self._facility * 8 + _SEVERITY[level]
            head = f"<{priority}>{syslog_date(time.time())} {self._tag}[{os.getpid()}]: "
            try:
                self._send(_encode(head + line))
            except (OSError, ValueError) as error:  # no syslog; ValueError: a name that cannot be one
                raise LinesLostError(error, number) from error

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
    where: str,
    syslog: tuple[str, int] | str | None,
    owner: tuple[int, int] | None = None,
    *,
    shared: bool = False,
    facility: str = "local0",
    tag: str = "mailproxy",
) -> Target:
    """The target that ``log.to`` names; ``shared``: several processes will write to it. Raises OSError if a file cannot be
    opened.
    """
    if where in ("stderr", "stdout"):
        return StreamTarget(2 if where == "stderr" else 1, shared=shared)
    if syslog is not None:
        return SyslogTarget(syslog, facility=facility, tag=tag)
    return FileTarget(Path(where), owner, shared=shared)


def _encoded(lines: Sequence[Line]) -> list[bytes]:
    return [_encode(f"{line}\n") for _, line in lines]


def _encode(text: str) -> bytes:
    # words from the environment may hold bytes that were no UTF-8; a line must never fail
    return text.encode("utf-8", "backslashreplace")
