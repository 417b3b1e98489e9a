"""A hash table of fixed size in memory that processes share: one process writes it, all read it, nothing is locked."""

from __future__ import annotations

_CELLS = 8  # of a bucket
_BUCKET = 2 * _CELLS  # words: the keys of its cells, then their values


def words_for(keys: int) -> int:
    """The number of words of a table that holds so many keys: a power of two, with at least twice the cells."""
    cells = 2 * _CELLS
    while cells < 2 * keys:
        cells *= 2
    return 2 * cells


class CountTable:
    """Numbers by key. Keys are hashes of 64 bits and not 0; values are 64 bits, and 0 for a key that is absent.

    Each key has two buckets, and a new one takes a free cell of the emptier bucket. At most half full, the table then has
    room practically always; where both buckets are full, the key stays out.

    Readers in other processes are safe because an entry never moves, and each word is read and written as a whole. A cell
    is published by its key, which is written last and cleared first. A reader compares the key again after it has read
    the value, so it never takes the value of another key.
    """

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._mask = len(words) // _BUCKET - 1
        if self._mask < 0 or len(words) % _BUCKET or self._mask & (self._mask + 1):
            raise ValueError(f"{len(words)} words are not a power of two of buckets")

    def get(self, key: int) -> int:
        """The value of a key."""
        place = self._find(key)
        if place < 0:
            return 0
        value = self._words[place + _CELLS]
        return value if self._words[place] == key else 0  # else the writer has replaced it meanwhile

    def put(self, key: int, value: int) -> bool:
        """Set the value of a key; False if there is no room for a new one."""
        place = self._find(key)
        if place >= 0:
            self._words[place + _CELLS] = value
            return True
        place = self._find_free(key)
        if place < 0:
            return False
        self._words[place + _CELLS] = value
        self._words[place] = key
        return True

    def delete(self, key: int) -> None:
        """Remove a key; does nothing if it is absent."""
        place = self._find(key)
        if place >= 0:
            self._words[place] = 0

    def _find(self, key: int) -> int:
        """The place of a key, negative if it is absent."""
        for start in ((key & self._mask) * _BUCKET, (key >> 32 & self._mask) * _BUCKET):
            keys = self._words[start : start + _CELLS].tolist()
            if key in keys:
                return start + keys.index(key)
        return -1

    def _find_free(self, key: int) -> int:
        """A free place for a key, negative if there is none."""
        best, most = -1, 0
        for start in ((key & self._mask) * _BUCKET, (key >> 32 & self._mask) * _BUCKET):
            keys = self._words[start : start + _CELLS].tolist()
            if (free := keys.count(0)) > most:
                best, most = start + keys.index(0), free
        return best
