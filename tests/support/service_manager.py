"""A service manager that keeps descriptors and restarts its service, as systemd does."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.socket_activation import SocketActivatedProgram
from tests.support.worker_group import is_running, wait_until

_CREDENTIALS = struct.Struct("3i")
_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(4 * 253)


class Service(SocketActivatedProgram):
    """A process of the service: it gets the manager's variables, its sockets and what it has stored."""

    def __init__(
        self,
        text: str,
        folder: Path,
        manager: ServiceManager,
        options: Sequence[str] = (),
        *,
        starts: bool = True,
    ) -> None:
        folder.mkdir()
        units = list(manager.units.items()) if starts else []
        stored = [(name, manager.duplicate(fd)) for name, fd in manager.stored] if starts else []
        self._sockets = [sock for _, sock in stored]
        names = ":".join(name for name, _ in [*units, *stored])
        super().__init__(text, folder, [sock for _, sock in [*units, *stored]], names, options=options)
        environment = {**os.environ, **self._environment, "NOTIFY_SOCKET": str(manager.path)}
        environment.pop("FDSTORE", None)
        if manager.capacity:
            environment["FDSTORE"] = str(manager.capacity)
        self._options["env"] = environment

    def __enter__(self) -> Self:
        super().__enter__()
        for sock in self._sockets:
            sock.close()
        return self


class ServiceManager:
    """Receives messages until the end of the `with` block. Takes them from the main process only.

    Args:
        folder: where its socket and the folders of its processes are made.
        capacity: ``FileDescriptorStoreMax=``.

    Attributes:
        units: the sockets of ``.socket`` units, by name.
        stored: name and descriptor of what it keeps.
        messages: the messages of main processes: process id and lines.
        main_pid: the main process.
    """

    def __init__(self, folder: Path, *, capacity: int = 512) -> None:
        self.path = folder / "notify"
        self.capacity = capacity
        self.units: dict[str, socket.socket] = {}
        self.stored: list[tuple[str, int]] = []
        self.messages: list[tuple[int, list[str]]] = []
        self.rejected: list[tuple[int, list[str]]] = []
        self.main_pid = 0
        self._folder = folder
        self._count = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(self.path))
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()
        self._forget(lambda _: True)
        for sock in self.units.values():
            sock.close()

    def start(self, text: str, *options: str, is_main: bool = True) -> Service:
        """Return the next process of the service, not started yet. `run` makes it the main process."""
        self._count += 1
        return Service(text, self._folder / f"service-{self._count}", self, options, starts=is_main)

    def run(self, service: Service) -> None:
        """Note that this process, which has been started, is the main process."""
        self.main_pid = service.process.pid

    @property
    def names(self) -> list[str]:
        return sorted(name for name, _ in self.stored)

    @property
    def is_ready(self) -> bool:
        return any(pid == self.main_pid and "READY=1" in lines for pid, lines in self.messages)

    def duplicate(self, fd: int) -> socket.socket:
        return socket.socket(fileno=os.dup(fd))

    def _receive(self) -> None:
        while True:
            data, ancillary, _, _ = self._socket.recvmsg(8192, _SPACE)
            fds: list[int] = []
            pid = 0
            for level, kind, value in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds = list(struct.unpack(f"{len(value) // 4}i", value))
                elif kind == socket.SCM_CREDENTIALS:
                    pid = _CREDENTIALS.unpack(value)[0]
            if not data:
                return
            self._handle(pid, data.decode().splitlines(), fds)

    def _handle(self, pid: int, lines: list[str], fds: list[int]) -> None:
        values = dict(line.partition("=")[::2] for line in lines)
        # A process that has just been started: `run` comes in a moment.
        if not self.main_pid:
            wait_until(lambda: self.main_pid or None)
        if pid != self.main_pid:
            self.rejected.append((pid, lines))
            for fd in fds:
                os.close(fd)
            return
        name = values.get("FDNAME", "stored")
        if "FDSTOREREMOVE" in values:
            self._forget(lambda stored: stored == name)
        for fd in fds:
            self._store(name, fd)
        self.main_pid = int(values.get("MAINPID", self.main_pid))
        self.messages.append((pid, lines))

    def _store(self, name: str, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if len(self.stored) >= self.capacity or any(
            os.fstat(known).st_ino == inode for _, known in self.stored
        ):
            os.close(fd)
        else:
            assert ":" not in name
            assert len(name) <= 255
            self.stored.append((name, fd))

    def _forget(self, matches: Callable[[str], bool]) -> None:
        for name, fd in [each for each in self.stored if matches(each[0])]:
            os.close(fd)
            self.stored.remove((name, fd))  # after that: tests wait for it


def wait_for_exit(pid: int) -> None:
    """Wait until a process of the test has ended, also if another one reaps it."""
    wait_until(lambda: not is_running(pid) or None)
