"""Wakeups between processes: one eventfd for each worker."""

from __future__ import annotations

import contextlib
import os

import trio


class Wakeups:
    """Lets any process wake any worker. Make it before the workers are forked.

    Args:
        workers: The number of workers, whose slots count from 0.
    """

    def __init__(self, workers: int) -> None:
        self._eventfds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers)]

    def wake(self, slot: int) -> None:
        """Wake a worker. Several wakeups before it waits again count as one."""
        with contextlib.suppress(BlockingIOError):  # the eventfd holds 2^64 - 2 unread wakeups
            os.eventfd_write(self._eventfds[slot], 1)

    async def wait(self, slot: int) -> None:
        """Wait for a wakeup of this worker; returns at once if one has come since the last call."""
        eventfd = self._eventfds[slot]
        while True:
            try:
                os.eventfd_read(eventfd)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(eventfd)
            else:
                await trio.lowlevel.checkpoint()
                return
