"""Where lines go: a stream, a file that can be reopened, or syslog. All of it may block, so only the writer's thread calls."""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from mailproxy.files import create
from mailproxy.log.lines import syslog_date

_MODE = 0o640  # of a log file that is made here
_LOCAL0 = 16  # the facility that HAProxy's documentation uses
_SEVERITY = {"debug": 7, "info": 6, "warning": 4, "error": 3}  # RFC 5424 section 6.2.1

Line = tuple[str, str]
"""A level and a line without its end."""


class Target(Protocol):
    """Takes lines. ``write`` and ``reopen`` may block and raise OSError."""

    def write(self, lines: Sequence[Line]) -> None: ...

    def reopen(self) -> None: ...

    def close(self) -> None: ...


class StreamTarget:
    """Standard error or output, by descriptor: Python's own buffers would be shared with others.

    ``shared``: other processes write there, too, and no line may come between the parts of another one.
    """

    def __init__(self, fd: int, *, shared: bool = False) -> None:
        self._fd = fd
        self._shared = shared

    def write(self, lines: Sequence[Line]) -> None:
        write_lines(self._fd, lines, shared=self._shared)

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


class FileTarget:
    """A file, opened for appending; made with mode 0640, and given to ``owner`` (uid, gid) if it was made here.

    With an owner, who may own the folder too, root follows no link: it could lead to any file of the machine.
    """

    def __init__(self, path: Path, owner: tuple[int, int] | None = None, *, shared: bool = False) -> None:
        self._path = path
        self._owner = owner
        self._shared = shared
        self._fd = self._open()

    def _open(self) -> int:
        # Nonblocking for the sake of named pipes: without a reader, opening one would wait for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            # given to the owner, or it could not be reopened after the change of user
            return create(self._path, flags, _MODE, self._owner)
        except FileExistsError:
            if self._owner is not None:
                return os.open(self._path, flags | os.O_NOFOLLOW)
            return os.open(
                self._path, flags | os.O_CREAT, _MODE
            )  # a link may lead to a file that is not there yet

    def write(self, lines: Sequence[Line]) -> None:
        write_lines(self._fd, lines, shared=self._shared)

    def reopen(self) -> None:
        """Open the path anew; raises OSError and keeps the old file if that fails."""
        fd = self._open()
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)


class SyslogTarget:
    """Datagrams in RFC 3164's local form, as HAProxy sends them; connected anew when syslog was restarted."""

    def __init__(self, where: tuple[str, int] | str) -> None:
        self._where = where
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
        for level, line in lines:
            priority = _LOCAL0 * 8 + _SEVERITY[level]
            self._send(_encode(f"<{priority}>{syslog_date(time.time())} mailproxy[{os.getpid()}]: {line}\n"))

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
) -> Target:
    """The target that ``log.to`` names; ``shared``: several processes will write to it. Raises OSError if a file cannot be
    opened.
    """
    if where in ("stderr", "stdout"):
        return StreamTarget(2 if where == "stderr" else 1, shared=shared)
    if syslog is not None:
        return SyslogTarget(syslog)
    return FileTarget(Path(where), owner, shared=shared)


def _encode(text: str) -> bytes:
    # words from the environment may hold bytes that were no UTF-8; a line must never fail
    return text.encode("utf-8", "backslashreplace")


def write_lines(fd: int, lines: Sequence[Line], *, shared: bool) -> None:
    """Write lines in one go. Where the descriptor is ``shared`` and not that of a file (which appends as a whole), in as many
    as it takes for each to arrive as a whole, too: pipe(7), PIPE_BUF, and no more than that is asked of sockets.
    """
    data = [_encode(f"{line}\n") for _, line in lines]
    if not shared or stat.S_ISREG(os.fstat(fd).st_mode):
        write_all(fd, b"".join(data))
        return
    batch: list[bytes] = []
    size = 0
    for line in data:
        if size + len(line) > select.PIPE_BUF:
            write_all(fd, b"".join(batch))
            batch, size = [], 0
        batch.append(line)
        size += len(line)
    write_all(fd, b"".join(batch))


def write_all(fd: int, data: bytes) -> None:
    """Write everything; standard error may be a pipe or a terminal that takes a part, or is nonblocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            time.sleep(0.01)  # in the writer's thread; whoever shares this descriptor made it nonblocking
