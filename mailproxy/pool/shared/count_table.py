"""A hash table of fixed size in shared memory: one process writes it, all read it, nothing is locked."""

from __future__ import annotations

_CELLS = 8  # of a bucket
_BUCKET = 2 * _CELLS  # words: the keys of its cells, then their values


def words_for(keys: int) -> int:
    """Return the words of a table for this many keys: a power of two, with at least twice the cells."""
    cells = 2 * _CELLS
    while cells < 2 * keys:
        cells *= 2
    return 2 * cells


class CountTable:
    """Numbers by key.

    Keys are hashes of 64 bits and not 0. Values are 64 bits, and 0 for a key that is absent.

    Each key has two buckets, and a new one takes a free cell of the emptier bucket. A table that is at most
    half full has room practically always. If both buckets are full, the key is left out.

    Readers in other processes are safe because an entry never moves, and each word is read and written as a
    whole. A cell is published by its key, which is written last and cleared first. A reader compares the key
    again after it has read the value, so it never takes the value of another key.
    """

    def __init__(self, words: memoryview[int]) -> None:
        """Use these words, ``words_for(keys)`` of them.

        Raises:
            ValueError: Their number is not a power of two of buckets.
        """
        self._words = words
        self._mask = len(words) // _BUCKET - 1
        if self._mask < 0 or len(words) % _BUCKET or self._mask & (self._mask + 1):
            raise ValueError(f"{len(words)} words are not a power of two of buckets")

    def get(self, key: int) -> int:
        """Return the value of a key."""
        index = self._find(key)
        if index < 0:
            return 0
        value = self._words[index + _CELLS]
        return value if self._words[index] == key else 0  # the writer may have replaced the key meanwhile

    def put(self, key: int, value: int) -> bool:
        """Set the value of a key. Return False if there is no room for a new key."""
        index = self._find(key)
        if index >= 0:
            self._words[index + _CELLS] = value
            return True
        index = self._find_free(key)
        if index < 0:
            return False
        self._words[index + _CELLS] = value
        self._words[index] = key
        return True

    def delete(self, key: int) -> None:
        """Remove a key. Do nothing if it is absent."""
        index = self._find(key)
        if index >= 0:
            self._words[index] = 0

    def _find(self, key: int) -> int:
        """Return the index of a key, negative if it is absent."""
        for start in ((key & self._mask) * _BUCKET, (key >> 32 & self._mask) * _BUCKET):
            keys = self._words[start : start + _CELLS].tolist()
            if key in keys:
                return start + keys.index(key)
        return -1

    def _find_free(self, key: int) -> int:
        """Return the index of a free cell for a key, negative if there is none."""
        best, most_free = -1, 0
        for start in ((key & self._mask) * _BUCKET, (key >> 32 & self._mask) * _BUCKET):
            keys = self._words[start : start + _CELLS].tolist()
            if (free := keys.count(0)) > most_free:
                best, most_free = start + keys.index(0), free
        return best
