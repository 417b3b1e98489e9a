"""Memory that processes share, a row of whole numbers for each. Make it before they are forked."""

from __future__ import annotations

import mmap
import os

_WORD = 8  # bytes
_PAGE_WORDS = mmap.PAGESIZE // _WORD


def _sparse_memory(words: int) -> mmap.mmap:
    """Return shared memory of which the kernel provides, and accounts for, only the pages in use."""
    fd = os.memfd_create("mailproxy")
    try:
        os.ftruncate(fd, max(1, words) * _WORD)
        return mmap.mmap(fd, max(1, words) * _WORD)
    finally:
        os.close(fd)


class SharedMemory:
    """A table of signed 64-bit numbers, all 0 at first.

    Nothing is locked. Each number has one process that writes it, which the users of this class agree on. All
    processes read it.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self._cells = memoryview(_sparse_memory(rows * columns)).cast("q")
        self._columns = columns

    def column(self, number: int, rows: int | None = None) -> memoryview[int]:
        """Return the numbers of the first rows, or of all, in one column. Writes are seen by all processes."""
        end = len(self._cells) if rows is None else rows * self._columns
        return self._cells[number : end : self._columns]

    def clear(self, row: int) -> None:
        """Set a row to 0, when the process that wrote it has exited."""
        start, length = row * self._columns, self._columns
        self._cells[start : start + length] = memoryview(bytes(length * _WORD)).cast("q")


class SharedWords:
    """Rows of unsigned 64-bit numbers, all 0 at first; one process writes a row, and all read it."""

    def __init__(self, rows: int, words: int) -> None:
        self._row_words = -(-words // _PAGE_WORDS) * _PAGE_WORDS  # rows have pages of their own
        self._memory = _sparse_memory(rows * self._row_words)
        self._words = memoryview(self._memory).cast("Q")
        self._length = words

    def row(self, number: int) -> memoryview[int]:
        """Return the words of one row. Writes are seen by all processes."""
        start = number * self._row_words
        return self._words[start : start + self._length]

    def clear(self, number: int) -> None:
        """Set a row to 0, when the process that wrote it has exited."""
        if self._row_words:
            row_bytes = self._row_words * _WORD
            self._memory.madvise(mmap.MADV_REMOVE, number * row_bytes, row_bytes)  # gives the pages back, too
