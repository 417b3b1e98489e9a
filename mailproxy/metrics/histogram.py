"""Histograms with fixed bounds: a sum, then the number of values in each bucket.

A value belongs to the first bucket whose bound it does not exceed, as in Prometheus. The last bucket has no
bound.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from attrs import frozen

from mailproxy.metrics.board import Cells

MILLISECONDS: tuple[int, ...] = (
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 3_600_000,
    21_600_000, 86_400_000, 604_800_000,
)  # fmt: skip
"""Bounds of durations: from 1 ms to 7 days, because a session in IMAP IDLE lives for days."""

BYTES: tuple[int, ...] = tuple(4**power for power in range(4, 18))
"""Bounds of bytes: from 256 bytes to 16 GiB."""


def cells_for(bounds: Sequence[int]) -> int:
    """Return how many numbers a histogram needs."""
    return len(bounds) + 2


def observe(cells: Cells, start: int, bounds: tuple[int, ...], value: int) -> None:
    """Count a value in the histogram that begins at ``start``.

    Args:
        cells: The block.
        start: The position of the sum; the buckets follow.
        bounds: The bounds.
        value: The value, 0 or more. 0 is the most frequent one of queue and connect, and costs one addition.
    """
    if value:
        cells[start] += value
        cells[start + 1 + bisect_left(bounds, value)] += 1
    else:
        cells[start + 1] += 1


@frozen
class Histogram:
    """A histogram as a value.

    Attributes:
        sum: The sum of the values.
        bounds: The bounds of all buckets but the last.
        counts: The number of values up to each bound, then that of all.
    """

    sum: int
    bounds: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def read(cls, cells: Sequence[int], start: int, bounds: tuple[int, ...]) -> Histogram:
        """Read the histogram that begins at ``start``."""
        buckets = cells[start + 1 : start + cells_for(bounds)]
        return cls(cells[start], bounds, tuple(accumulate(buckets)))

    @property
    def count(self) -> int:
        """The number of values."""
        return self.counts[-1]
