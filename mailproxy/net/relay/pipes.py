"""Pipes that bulk goes through without being copied into this process, and that are used again."""

from __future__ import annotations

import contextlib
import fcntl
import os

# The most that anybody may ask for (pipe(7)). A quarter of it costs a third more: each move wakes who waits at the other end.
PIPE_BYTES = 1024 * 1024
_LENT = 48  # at once; a user has 64 MiB of pipes in all, and gets tiny ones after that. Others are copied
_KEPT = 16  # idle pipes; two descriptors each


class Pipe:
    """A pipe; ``held`` bytes are in it."""

    __slots__ = ("held", "inlet", "outlet")

    def __init__(self) -> None:
        """Raises OSError if there are no descriptors left."""
        self.outlet, self.inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.held = 0
        with contextlib.suppress(OSError):  # the user has many of them: it stays at 64 KiB
            fcntl.fcntl(self.inlet, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.outlet)
        os.close(self.inlet)


class Pipes:
    """Lends pipes; a few that came back are kept."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._lent = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe; None if too many are lent already, or there are no descriptors for one."""
        if self._lent >= _LENT:
            return None
        try:
            pipe = self._idle.pop() if self._idle else Pipe()
        except OSError:
            return None
        self._lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """One that is not needed any more. What is in it is thrown away with it."""
        self._lent -= 1
        if pipe.held or len(self._idle) >= _KEPT:
            pipe.close()
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            self._idle.pop().close()
