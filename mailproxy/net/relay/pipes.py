"""Pipes that bulk goes through without being copied into this process, and that are used again."""

from __future__ import annotations

import contextlib
import fcntl
import os

PIPE_BYTES = (
    256 * 1024
)  # what a pipe is asked to hold; more gains nothing measurable, and users may have 64 MiB in all
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

    def borrow(self) -> Pipe | None:
        """An empty pipe; None if there are no descriptors for one."""
        if self._idle:
            return self._idle.pop()
        try:
            return Pipe()
        except OSError:
            return None

    def give_back(self, pipe: Pipe) -> None:
        """One that is not needed any more. What is in it is thrown away with it."""
        if pipe.held or len(self._idle) >= _KEPT:
            pipe.close()
        else:
            self._idle.append(pipe)

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            self._idle.pop().close()
