"""Memory that processes share, a row of whole numbers for each. Make it before they are forked."""

from __future__ import annotations

import mmap


class SharedMemory:
    """A table of signed 64-bit numbers, all 0 at first.

    Nothing is locked. Each number has one process that writes it, which the users of this class agree on. All
    processes read it.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._cells = memoryview(mmap.mmap(-1, rows * columns * 8)).cast("q")
        self._columns = columns

    def column(self, number: int) -> memoryview[int]:
        """Return the numbers of all rows in one column. Writes are seen by all processes."""
        return self._cells[number :: self._columns]

    def clear(self, row: int) -> None:
        """Set a row to 0, when the process that wrote it has exited."""
        for index in range(row * self._columns, (row + 1) * self._columns):
            self._cells[index] = 0


class SharedWords:
    """Rows of unsigned 64-bit numbers, all 0 at first; one process writes a row, and all read it."""

    def __init__(self, rows: int, words: int) -> None:
        self._words = memoryview(mmap.mmap(-1, max(1, rows * words) * 8)).cast("Q")
        self._length = words

    def row(self, number: int) -> memoryview[int]:
        """Return the words of one row. Writes are seen by all processes."""
        return self._words[number * self._length : (number + 1) * self._length]

    def clear(self, number: int) -> None:
        """Set a row to 0, when the process that wrote it has exited."""
        self.row(number)[:] = memoryview(bytes(self._length * 8)).cast("Q")
