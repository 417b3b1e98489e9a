"""The file with the process id, for tools that send signals to the program."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from mailproxy.app.inheritance import Inheritance
from mailproxy.config import Config
from mailproxy.config.path import ROOT_PATH
from mailproxy.errors import Fault
from mailproxy.files import remove, replace

_BYTES_MAX = 100
_MODE = 0o644  # every user may ask which process it is


@contextlib.contextmanager
def pid_file(config: Config, inheritance: Inheritance) -> Iterator[None]:
    """Write this process's id to ``process.pid_file``, and remove the file at the end.

    A file that is there is replaced: it belongs to a process that was killed, or that drains beside this one.
    At the end it is removed only if it is still the file that was made here. If this process did not come to
    replace the running one, the file gets back that one's id.

    Raises:
        ConfigError: The file cannot be written.
    """
    path = config.process.pid_file
    if path is None:
        yield
        return
    try:
        predecessor = path.read_bytes()[:_BYTES_MAX] if inheritance.is_pending and path.exists() else b""
        created = replace(path, (f"{os.getpid()}\n".encode(),), mode=_MODE)
    except OSError as error:
        fact = f"{path}: {error.strerror}"
        raise config.error([Fault(ROOT_PATH / "process" / "pid_file", fact)]) from None
    try:
        yield
    finally:
        # The folder may be root's, and this process has dropped privileges.
        with contextlib.suppress(OSError):
            if inheritance.is_pending and predecessor:
                replace(path, (predecessor,), mode=_MODE)
            else:
                remove(path, created)
