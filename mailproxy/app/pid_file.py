"""The file with the process id, for tools that send signals to the program."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from mailproxy.app.inheritance import Inheritance
from mailproxy.config import Config
from mailproxy.config.path import ROOT_PATH
from mailproxy.errors import Fault
from mailproxy.files import replace

_MODE = 0o644  # every user may ask which process it is
_BYTES_MAX = 100


@contextlib.contextmanager
def pid_file(config: Config, inheritance: Inheritance) -> Iterator[None]:
    """Write this process's id to ``process.pid_file``, and remove the file at the end.

    A file that is there is replaced: it belongs to a process that was killed, or that drains beside this one.
    At the end it is removed only if it still has this process's id. While the running instance is being
    replaced, the file has that one's id until this process has taken over. A write lock (fcntl(2)) keeps that
    one from removing the file meanwhile. Other users may read the file, so they can take no lock that matters.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = config.process.pid_file
    if path is None:
        yield
        return
    content = f"{os.getpid()}\n".encode()
    try:
        if inheritance.is_pending and path.is_file():
            # Opened here, since this process may not be allowed to when it has taken over.
            inheritance.on_taken_over(_Rewriter.open(path, content))
        else:
            replace(path, (content,), mode=_MODE)
    except OSError as error:
        fact = f"{path}: {error.strerror}"
        raise config.error([Fault(ROOT_PATH / "process" / "pid_file", fact)]) from None
    try:
        yield
    finally:
        # The folder may be root's, and this process has dropped privileges.
        with contextlib.suppress(OSError):
            _remove(path, content)


class _Rewriter:
    """Writes the file in place. It locks the file until then."""

    def __init__(self, fd: int, content: bytes) -> None:
        self._fd = fd
        self._content = content

    @classmethod
    def open(cls, path: Path, content: bytes) -> Self:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # the running instance is ending, and removes the file right now
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return cls(fd, content)

    def __call__(self) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end a process that serves
            os.pwrite(self._fd, self._content, 0)
            os.ftruncate(self._fd, len(self._content))
        os.close(self._fd)


def _remove(path: Path, content: bytes) -> None:
    if path.is_symlink():
        return
    with path.open("rb") as file:
        fcntl.lockf(
            file, fcntl.LOCK_SH | fcntl.LOCK_NB
        )  # fails if the next process is about to write the file
        if file.read(_BYTES_MAX) == content:
            path.unlink()
