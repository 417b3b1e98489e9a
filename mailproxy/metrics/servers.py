"""The blocks of servers: what has happened there, and how long their health checks took."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.metrics.board import Board
from mailproxy.metrics.histogram import MILLISECONDS, cells_for, observe

SERVER = "server"  # backend, server: as below
CHECK_DURATIONS = "check"  # backend, server: a histogram of milliseconds

# Positions in SERVER. MOST is the most sessions at once, which each process counts over all of them.
(
    SESSIONS, CONNECT_ERRORS, RETRIES, REDISPATCHES, CHECKS, CHECK_FAILURES, DOWNS, DOWN_MS, MOST, SERVER_CELLS,
) = range(10)  # fmt: skip


def merge_servers(one: Sequence[int], other: Sequence[int]) -> Sequence[int]:
    """Add up what two processes have counted of a server."""
    merged = [mine + theirs for mine, theirs in zip(one, other, strict=True)]
    merged[MOST] = max(one[MOST], other[MOST])
    return merged


def count_check(board: Board, backend: str, server: str, ms: int) -> None:
    """Count how long a health check took."""
    observe(board.block((CHECK_DURATIONS, backend, server), cells_for(MILLISECONDS)), 0, MILLISECONDS, ms)
