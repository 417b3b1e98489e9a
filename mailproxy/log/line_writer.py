"""Writes whole lines to a descriptor, so that lines are never mixed, and counts how many arrived.

Two things leave a partial line behind: a write that stores some of its bytes and then fails (a full disk,
RLIMIT_FSIZE), and a process that is killed during a write, because the kernel writes page by page. The next
line must then begin on a line of its own, whichever process writes it. So the last byte of a file is read
before each batch. Where several processes write, this and the write happen under a lock. It is the kernel's
record lock, which ends with a killed process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import time
from collections.abc import Iterator, Sequence

_LOCK_TIMEOUT_S = 1.0  # a process that is stopped while it has the lock must not keep the others from writing
_RETRY_S = 0.01


class LinesLostError(Exception):
    """Lines could not be written. The message and ``__cause__`` say why.

    Attributes:
        arrived: How many of them, from the first one, were written completely.
    """

    def __init__(self, reason: Exception, arrived: int) -> None:
        super().__init__(str(reason))
        self.arrived = arrived


class LineWriter:
    """Writes lines to a descriptor, which it does not close.

    Args:
        fd: The descriptor.
        shared: Whether other processes write to the same file, pipe or socket.
    """

    def __init__(self, fd: int, *, shared: bool) -> None:
        self._fd = fd
        self._shared = shared
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._reader = self._open_reader()
        self._is_torn = False  # whether the last write here ended within a line

    def _open_reader(self) -> int | None:
        """Open the file for reading; None if it is no file or that is not allowed."""
        if self._is_file:
            with contextlib.suppress(OSError):
                return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        return None

    def close(self) -> None:
        """Close what was opened here, but not ``fd``."""
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, each with its line end. May block.

        Raises:
            LinesLostError: If some of them could not be written.
        """
        arrived = 0
        for batch in self._batches(lines):
            try:
                with self._locked():
                    self._write_batch(batch)
            except LinesLostError as error:
                error.arrived += arrived
                raise
            arrived += len(batch)

    def _batches(self, lines: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
        """Yield the lines in batches that are written as a whole.

        A file appends a batch of any size, and one writer alone needs no limit. In a shared pipe, writes up
        to PIPE_BUF are not mixed with those of other processes (pipe(7)). Sockets are treated the same.
        """
        if self._is_file or not self._shared:
            yield lines
            return
        batch: list[bytes] = []
        size = 0
        for line in lines:
            if batch and size + len(line) > select.PIPE_BUF:
                yield batch
                batch, size = [], 0
            batch.append(line)
            size += len(line)
        yield batch

    def _write_batch(self, lines: Sequence[bytes]) -> None:
        head = b"\n" if self._ends_within_line() else b""
        data = memoryview(head + b"".join(lines))
        written = 0
        try:
            while written < len(data):
                try:
                    written += os.write(self._fd, data[written:])
                except BlockingIOError:
                    # Another program made the descriptor nonblocking. This is the writer's thread, so it may
                    # sleep.
                    time.sleep(_RETRY_S)
        except OSError as error:
            raise LinesLostError(error, _count_complete(lines, written - len(head))) from error
        finally:
            if written:
                self._is_torn = data[written - 1] != ord("\n")

    def _ends_within_line(self) -> bool:
        if self._reader is None:
            return self._is_torn
        try:
            size = os.fstat(self._reader).st_size
            return size > 0 and os.pread(self._reader, 1, size - 1) not in (b"\n", b"")
        except OSError:  # the disk fails
            return self._is_torn

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        if not (self._shared and self._is_file):
            yield
            return
        is_locked = self._lock()
        try:
            yield
        finally:
            if is_locked:
                with contextlib.suppress(OSError):
                    fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        """Lock the file against other processes. Return False if that takes too long or is not possible."""
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # lockf(3): either, if another process has it
                if time.monotonic() > deadline:
                    return False
                time.sleep(_RETRY_S)
            except OSError:  # a file system without locks
                return False
            else:
                return True


def _count_complete(lines: Sequence[bytes], size: int) -> int:
    """Count the lines in the first ``size`` bytes.

    One that lacks only its line end counts, because the next write adds that.
    """
    count = 0
    for line in lines:
        size -= len(line)
        if size < -1:
            break
        count += 1
    return count
