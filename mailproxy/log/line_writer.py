"""Writing whole lines to a descriptor: none is ever part of another one, and how many arrived is known.

Two things leave a part of a line behind: a write that takes some of its bytes before it fails (a full disk, RLIMIT_FSIZE),
and a process that is killed in the midst of one, since the kernel writes page by page. What follows must begin a line of
its own then, whichever process of several writes it. So a file is asked for its last byte before each batch, under a lock
where others write, too. The lock is the kernel's record lock, which a killed process does not keep.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import time
from collections.abc import Iterator, Sequence

_LOCK_S = 1.0  # one that stops while it has the lock must not keep the others from writing
_AGAIN_S = 0.01


class LinesLostError(Exception):
    """Lines could not be written, but the first ``arrived`` of them, which arrived whole; ``__cause__`` says why not."""

    def __init__(self, reason: Exception, arrived: int) -> None:
        super().__init__(str(reason))
        self.arrived = arrived


class LineWriter:
    """Writes to ``fd``, which stays its owner's. ``shared``: other processes write there, too."""

    def __init__(self, fd: int, *, shared: bool) -> None:
        self._fd = fd
        self._shared = shared
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._reader = self._open_reader()
        self._is_torn = False  # the last write here stopped within a line

    def _open_reader(self) -> int | None:
        """The file again, for reading; None where that is not allowed."""
        if self._is_file:
            with contextlib.suppress(OSError):
                return os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        return None

    def close(self) -> None:
        """Close what was opened here; not ``fd``."""
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None

    def write(self, lines: Sequence[bytes]) -> None:
        """Write lines, each with its end. May block. Raises LinesLostError."""
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
        """All at once; or where it is shared and no file (which appends as a whole), as many as arrive as a whole: pipe(7),
        PIPE_BUF, and no more than that is asked of sockets.
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
        head = b"\n" if self._stopped_within_line() else b""
        data = memoryview(head + b"".join(lines))
        written = 0
        try:
            while written < len(data):
                try:
                    written += os.write(self._fd, data[written:])
                except BlockingIOError:
                    time.sleep(
                        _AGAIN_S
                    )  # in the writer's thread; something else made this descriptor nonblocking
        except OSError as error:
            raise LinesLostError(error, _whole(lines, written - len(head))) from error
        finally:
            if written:
                self._is_torn = data[written - 1] != ord("\n")

    def _stopped_within_line(self) -> bool:
        if self._reader is None:
            return self._is_torn
        try:
            size = os.fstat(self._reader).st_size
            return size > 0 and os.pread(self._reader, 1, size - 1) not in (b"\n", b"")
        except OSError:  # a disk that fails
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
        """Lock the file against the other processes, unless that takes too long or cannot be done."""
        end = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):  # lockf(3): either one, where another has it
                if time.monotonic() > end:
                    return False
                time.sleep(_AGAIN_S)
            except OSError:  # a file system without locks
                return False
            else:
                return True


def _whole(lines: Sequence[bytes], size: int) -> int:
    """How many lines the first ``size`` bytes have; one that lacks only its end gets that with the next one."""
    count = 0
    for line in lines:
        size -= len(line)
        if size < -1:
            break
        count += 1
    return count
