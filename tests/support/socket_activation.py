"""A small service manager that passes sockets to mailproxy as systemd does."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.program import Program

# LISTEN_PID must name the process that gets the sockets, so that process sets it before exec.
_HAND_OVER = """
import fcntl, os, sys
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[1].split(",") if fd]
for number, fd in enumerate(fds, 3):
    os.dup2(fd, number)
os.closerange(3 + len(fds), 256)
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[2]))
os.execv(sys.executable, [sys.executable, "-m", "mailproxy", "run", *sys.argv[3:]])
"""


class SocketActivatedProgram(Program):
    """mailproxy with these sockets under these names. With `other_pid`, LISTEN_PID names another process."""

    def __init__(
        self,
        text: str,
        folder: Path,
        sockets: Sequence[socket.socket],
        names: str | None,
        *,
        other_pid: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        fds = [each.fileno() for each in sockets]
        self._environment = {"LISTEN_FDS": str(len(fds))}
        if names is not None:
            self._environment["LISTEN_FDNAMES"] = names
        super().__init__(text, folder, pass_fds=fds, env={**os.environ, **self._environment})
        numbers = ",".join(map(str, fds))
        self.command = [
            sys.executable,
            "-c",
            _HAND_OVER,
            numbers,
            str(int(other_pid)),
            *options,
            str(self.file),
        ]
