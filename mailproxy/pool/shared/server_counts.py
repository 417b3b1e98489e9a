"""What has happened at a server, counted on a board, so that it outlives the process that has counted it."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.metrics.board import Board, Cells
from mailproxy.metrics.servers import (
    CHECK_FAILURES,
    CHECKS,
    CONNECT_ERRORS,
    DOWN_MS,
    DOWNS,
    MOST,
    REDISPATCHES,
    RETRIES,
    SERVER,
    SERVER_CELLS,
    SESSIONS,
)
from mailproxy.pool.server import Counts


def _cell(position: int) -> property:
    def get(counts: SharedCounts) -> int:
        return counts.cells[position]

    def set_(counts: SharedCounts, value: int) -> None:
        counts.cells[position] = value

    return property(get, set_)


class SharedCounts(Counts):
    """The counts of this process, as cells of its board. Readers add up those of all processes."""

    __slots__ = ("cells",)

    def __init__(self, board: Board, backend: str, server: str) -> None:
        self.cells: Cells = board.block((SERVER, backend, server), SERVER_CELLS)

    sessions = _cell(SESSIONS)
    most_sessions = _cell(MOST)
    connect_errors = _cell(CONNECT_ERRORS)
    retries = _cell(RETRIES)
    redispatches = _cell(REDISPATCHES)
    checks = _cell(CHECKS)
    check_failures = _cell(CHECK_FAILURES)
    downs = _cell(DOWNS)

    @property
    def down_seconds(self) -> float:
        """How long it was down, to the millisecond."""
        return self.cells[DOWN_MS] / 1000

    @down_seconds.setter
    def down_seconds(self, value: float) -> None:
        self.cells[DOWN_MS] = round(value * 1000)

    def copy(self) -> Counts:
        """Return what this process has counted so far, as a value."""
        return read_counts([self.cells[position] for position in range(SERVER_CELLS)])

    def add_session(self, sessions: int) -> None:
        """Count a session, of which there are ``sessions`` now. Each session comes here."""
        cells = self.cells
        cells[SESSIONS] += 1
        cells[MOST] = max(cells[MOST], sessions)


def read_counts(cells: Sequence[int] | None) -> Counts:
    """Return sums over the boards of all processes as a value."""
    if cells is None:
        return Counts()
    return Counts(
        sessions=cells[SESSIONS],
        most_sessions=cells[MOST],
        connect_errors=cells[CONNECT_ERRORS],
        retries=cells[RETRIES],
        redispatches=cells[REDISPATCHES],
        checks=cells[CHECKS],
        check_failures=cells[CHECK_FAILURES],
        downs=cells[DOWNS],
        down_seconds=cells[DOWN_MS] / 1000,
    )
