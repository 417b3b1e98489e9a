"""Boards in shared memory: one process writes a board, and all can read it.

A board describes itself: each block has its key in front of its numbers. So processes need not agree on a
layout, and a process that takes the place of another goes on where that one has stopped: what a killed worker
has counted stays. The layout, in words of 8 bytes: the number of words in use, then blocks. A block has the
length of its key in bytes, the number of its cells, the key as JSON, and the cells.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Sequence

from mailproxy.metrics.board import Cells, Key

# 4 MB: enough for 2,000 pairs of frontend and server. The kernel provides only the pages in use.
_WORDS = 1 << 19
_WORD = 8
_HEAD = 2


class SharedBoard:
    """A board in shared memory. Make it before the processes are forked.

    If it is full, further blocks are the writing process's own, which readers do not see.
    """

    def __init__(self, words: int = _WORDS) -> None:
        memory = memoryview(mmap.mmap(-1, words * _WORD))
        self._bytes = memory
        self._words = memory.cast("q")
        self._known: dict[Key, memoryview[int]] = {}
        self._overflow: dict[Key, list[int]] = {}
        self._read_to = 1  # the first word behind the blocks in ``_known``

    def block(self, key: Key, length: int) -> Cells:
        """Return the block with this key. A new one has ``length`` numbers, all 0."""
        known: Cells | None = self._known.get(key) or self._overflow.get(key)
        if known is None:
            self._read_new()
            known = self._known.get(key) or self._append(key, length)
        return known

    def blocks(self) -> Iterator[tuple[Key, Sequence[int]]]:
        """Yield all blocks, with copies of their numbers."""
        self._read_new()
        for key, cells in self._known.items():
            yield key, cells.tolist()

    def _read_new(self) -> None:
        words, used = self._words, self._words[0] or 1
        while self._read_to < used:
            start = self._read_to
            key_length, length = words[start], words[start + 1]
            encoded = bytes(self._bytes[(start + _HEAD) * _WORD : (start + _HEAD) * _WORD + key_length])
            first = start + _HEAD + _words_for(key_length)
            self._known[tuple(json.loads(encoded))] = words[first : first + length]
            self._read_to = first + length

    def _append(self, key: Key, length: int) -> Cells:
        encoded = json.dumps(key).encode()
        start = self._read_to
        first = start + _HEAD + _words_for(len(encoded))
        if first + length > len(self._words):
            self._overflow[key] = own = [0] * length
            return own
        words = self._words
        words[start], words[start + 1] = len(encoded), length
        self._bytes[(start + _HEAD) * _WORD : (start + _HEAD) * _WORD + len(encoded)] = encoded
        # A process that was killed right here may have left its block behind.
        for index in range(first, first + length):
            words[index] = 0
        words[0] = first + length  # from now on readers see the block
        self._read_new()
        return self._known[key]


def _words_for(length: int) -> int:
    return -(-length // _WORD)
