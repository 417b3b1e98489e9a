"""Pipes for splice(2), which moves bulk data without copying it into this process. Pipes are reused."""

from __future__ import annotations

import contextlib
import fcntl
import os

# The largest pipe that an unprivileged process may ask for (pipe(7), pipe-max-size). A quarter of it costs a
# third more, because each splice wakes the process at the other end.
PIPE_BYTES = 1024 * 1024
# All processes of a user share 64 MiB of pipes (pipe(7), pipe-user-pages-soft). After that they get pipes of
# one or two pages, and copying is faster.
_MIN_PIPE_BYTES = 256 * 1024
_MAX_IN_USE = 48
_MAX_IDLE = 16  # a pipe takes two descriptors


class Pipe:
    """A pipe.

    Attributes:
        outlet: The descriptor to read from.
        inlet: The descriptor to write to.
        buffered: Bytes in the pipe, kept by the user of the pipe.
    """

    __slots__ = ("buffered", "inlet", "outlet")

    def __init__(self) -> None:
        """Open a pipe of ``PIPE_BYTES``, or of what the user may still have.

        Raises:
            OSError: No descriptors are left.
        """
        self.outlet, self.inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.buffered = 0
        with contextlib.suppress(OSError):  # the user's share of pipe memory is used up
            fcntl.fcntl(self.inlet, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def is_too_small(self) -> bool:
        """Whether copying is faster than this pipe."""
        return fcntl.fcntl(self.inlet, fcntl.F_GETPIPE_SZ) < _MIN_PIPE_BYTES

    def close(self) -> None:
        """Close both ends."""
        os.close(self.outlet)
        os.close(self.inlet)


class Pipes:
    """Lends pipes, and keeps up to 16 idle ones."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._in_use = 0
        self._is_closed = False

    def borrow(self) -> Pipe | None:
        """Return an empty pipe; None if 48 are in use, or no descriptors or pipe memory are left."""
        if self._in_use >= _MAX_IN_USE:
            return None
        if self._idle:
            pipe = self._idle.pop()
        else:
            try:
                pipe = Pipe()
            except OSError:
                return None
            if pipe.is_too_small:
                pipe.close()
                return None
        self._in_use += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back. One that still holds bytes is closed, and the bytes are lost."""
        self._in_use -= 1
        if pipe.buffered or self._is_closed or len(self._idle) >= _MAX_IDLE:
            pipe.close()
        else:
            self._idle.append(pipe)

    @property
    def in_use(self) -> int:
        """The number of pipes that are lent."""
        return self._in_use

    def reopen(self) -> None:
        """Keep pipes that come back again, after ``close``."""
        self._is_closed = False

    def close(self) -> None:
        """Close the idle pipes now, and those in use when they come back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()
