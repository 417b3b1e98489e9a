"""Memory that processes share: whole numbers in rows, one for each process, made before they are forked."""

from __future__ import annotations

import contextlib
import mmap
import os

import trio


class SharedMemory:
    """``rows`` times ``columns`` numbers of 64 bits, all 0. Who writes a row is agreed upon outside; nothing is locked."""

    def __init__(self, rows: int, columns: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, rows * columns * 8)).cast("q")
        self._columns = columns

    def column(self, number: int) -> memoryview[int]:
        """The numbers of all rows in one column; what is written there, everybody sees."""
        return self._cells[number :: self._columns]

    def clear(self, row: int) -> None:
        """Set a row to 0, when whoever wrote it is gone."""
        for place in range(row * self._columns, (row + 1) * self._columns):
            self._cells[place] = 0


class SharedWords:
    """``rows`` times ``words`` numbers of 64 bits without sign, all 0: a row for each process, which it alone writes."""

    def __init__(self, rows: int, words: int) -> None:
        self._words = memoryview(mmap.mmap(-1, max(1, rows * words) * 8)).cast("Q")
        self._length = words

    def row(self, number: int) -> memoryview[int]:
        """The words of one row."""
        return self._words[number * self._length : (number + 1) * self._length]

    def clear(self, number: int) -> None:
        """Set a row to 0, when its writer is gone."""
        self.row(number)[:] = memoryview(bytes(self._length * 8)).cast("Q")


class Wakeups:
    """One bell for each worker, which any process rings; made before they are forked."""

    def __init__(self, workers: int) -> None:
        self._eventfds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers)]

    def wake(self, slot: int) -> None:
        """Wake a worker. A bell that rings already goes on ringing."""
        with contextlib.suppress(BlockingIOError):  # nobody has heard 2^64 - 2 of them
            os.eventfd_write(self._eventfds[slot], 1)

    async def wait(self, slot: int) -> None:
        """Wait until this bell rings, or has rung since the last time."""
        bell = self._eventfds[slot]
        while True:
            try:
                os.eventfd_read(bell)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(bell)
            else:
                await trio.lowlevel.checkpoint()
                return
