"""Reading and replacing the state file. Both run in a thread."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from mailproxy import files
from mailproxy.proxy.state.codec import StateError

_BYTES_MAX = 64 * 1024 * 1024  # 500,000 stick entries of IPv4 have 11 MB
_MODE = 0o600  # it names the clients of the last minutes


def read_lines(path: Path) -> list[bytes] | None:
    """Return the lines of a state file, None if there is no file.

    Raises:
        StateError: It is not a regular file, or another user's, or too long.
        OSError: It cannot be read.
    """
    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(fd, "rb") as file:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise StateError("it is not a regular file")
        if info.st_uid not in (0, os.geteuid()):
            raise StateError(f"it belongs to another user ({info.st_uid})")
        if info.st_size > _BYTES_MAX:
            raise StateError(f"it has {info.st_size} bytes, and {_BYTES_MAX} are allowed")
        return file.read(_BYTES_MAX).splitlines()


def read_memory(fd: int) -> list[bytes]:
    """Return the lines of a state that another process has written to memory (memfd_create(2)). Closes it.

    Raises:
        StateError: It is too long.
        OSError: It cannot be read.
    """
    with os.fdopen(fd, "rb") as file:
        if os.fstat(fd).st_size > _BYTES_MAX:
            raise StateError(f"it has more than {_BYTES_MAX} bytes")
        file.seek(0)
        return file.read(_BYTES_MAX).splitlines()


def write_memory(lines: Iterable[bytes]) -> int:
    """Write the lines of a state to memory, and return its descriptor.

    Raises:
        OSError: There is not enough memory.
    """
    fd = os.memfd_create("mailproxy-state")
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.writelines(lines)
    except BaseException:
        os.close(fd)
        raise
    return fd


def replace(path: Path, lines: Iterable[bytes]) -> None:
    """Replace a state file: there is always a whole file of this name.

    Raises:
        OSError: It cannot be written. The old file stays.
    """
    files.replace(path, lines, mode=_MODE)
