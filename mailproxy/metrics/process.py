"""The blocks of processes: their loop, their log, their relay, and how often workers were replaced."""

from __future__ import annotations

from mailproxy.metrics.board import Board

PROCESS = "process"  # as below
FAILED_LOOK_UPS = "look-ups"  # backend: look-ups of host names that failed
RESTARTS = "restarts"  # workers that were replaced

# Positions in PROCESS.
LOOP_LAG_US, LINES_LOST, RELAY_TURNS, PROCESS_CELLS = range(4)


def record_process(board: Board, *, lag: float, lines_lost: int, turns: int) -> None:
    """Store how a process is doing.

    Args:
        board: Its board.
        lag: How many seconds later than it should a task of its loop last ran.
        lines_lost: Log lines lost since the last call.
        turns: Turns of the relay since the last call.
    """
    cells = board.block((PROCESS,), PROCESS_CELLS)
    cells[LOOP_LAG_US] = round(lag * 1_000_000)
    cells[LINES_LOST] += lines_lost
    cells[RELAY_TURNS] += turns
