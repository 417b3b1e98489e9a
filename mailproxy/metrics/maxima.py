"""Lets the highest values on a board begin again, as ``clear counters`` does.

They are cleared where they are counted, so that none is missed between two readings.
"""

from __future__ import annotations

from mailproxy.metrics import servers, sessions
from mailproxy.metrics.board import Board

_MAXIMA = {
    sessions.DURATIONS: (
        sessions.MOST,
        sessions.QUEUE_LONGEST,
        sessions.CONNECT_LONGEST,
        sessions.TOTAL_LONGEST,
    ),
    servers.SERVER: (servers.MOST,),
}


def clear_maxima(board: Board) -> None:
    """Set the highest values on a board to 0. Call it in the process that writes the board, or if none does."""
    for key, values in board.blocks():
        positions = _MAXIMA.get(key[0], ())
        if positions:
            cells = board.block(key, len(values))
            for position in positions:
                cells[position] = 0
