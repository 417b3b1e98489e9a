"""Boards: named blocks of whole numbers.

A block is found by its key and never moves or goes away, so a process that has looked it up adds to its
numbers without another look-up. Only one process writes a board, and in it only one thread. Readers may be
other processes (`mailproxy.ipc.board`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

Key = tuple[str, ...]
"""The name of a block: its kind, then what it belongs to, such as ``("dispatched", "dovecot")``."""


class Cells(Protocol):
    """The numbers of a block, to be added to."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class Board(Protocol):
    """Named blocks of whole numbers."""

    def block(self, key: Key, length: int) -> Cells:
        """Return the block with this key. A new one has ``length`` numbers, all 0."""

    def blocks(self) -> Iterator[tuple[Key, Sequence[int]]]:
        """Yield all blocks, with copies of their numbers."""


class LocalBoard:
    """A board of this process alone."""

    def __init__(self) -> None:
        self._blocks: dict[Key, list[int]] = {}

    def block(self, key: Key, length: int) -> list[int]:
        """Return the block with this key. A new one has ``length`` numbers, all 0."""
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = [0] * length
        return block

    def blocks(self) -> Iterator[tuple[Key, Sequence[int]]]:
        """Yield all blocks, with copies of their numbers."""
        for key, block in self._blocks.items():
            yield key, block.copy()
