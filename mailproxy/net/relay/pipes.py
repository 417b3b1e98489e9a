"""Pipes that bulk goes through without being copied into this process, and that are used again."""

from __future__ import annotations

import contextlib
import fcntl
import os

# The most that anybody may ask for (pipe(7)). A quarter of it costs a third more: each move wakes who waits at the other end.
PIPE_BYTES = 1024 * 1024
# A user has 64 MiB of pipes in all processes together, and gets tiny ones after that: with those, copying is better.
_LEAST_BYTES = 256 * 1024
_LENT = 48  # at once
_KEPT = 16  # idle ones; a pipe takes two descriptors


class Pipe:
    """A pipe; ``held`` bytes are in it."""

    __slots__ = ("buffered", "inlet", "outlet")

    def __init__(self) -> None:
        """Raises OSError if there are no descriptors left."""
        self.outlet, self.inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.buffered = 0
        with contextlib.suppress(OSError):  # the user has too many of them
            fcntl.fcntl(self.inlet, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def is_tiny(self) -> bool:
        """Is it not worth its calls?"""
        return fcntl.fcntl(self.inlet, fcntl.F_GETPIPE_SZ) < _LEAST_BYTES

    def close(self) -> None:
        """Close both ends."""
        os.close(self.outlet)
        os.close(self.inlet)


class Pipes:
    """Lends pipes; a few that came back are kept."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._lent = 0
        self._is_closed = False

    def borrow(self) -> Pipe | None:
        """An empty pipe; None if too many are lent already, or there are no descriptors for one."""
        if self._lent >= _LENT:
            return None
        if self._idle:
            pipe = self._idle.pop()
        else:
            try:
                pipe = Pipe()
            except OSError:
                return None
            if pipe.is_tiny:
                pipe.close()
                return None
        self._lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """One that is not needed any more. What is in it is thrown away with it."""
        self._lent -= 1
        if pipe.buffered or self._is_closed or len(self._idle) >= _KEPT:
            pipe.close()
        else:
            self._idle.append(pipe)

    @property
    def in_use(self) -> int:
        """How many are lent."""
        return self._lent

    def reopen(self) -> None:
        """Keep pipes again that come back, after ``close``."""
        self._is_closed = False

    def close(self) -> None:
        """Close those that are idle, and from now on those that come back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()
