"""How this process is doing, on its board once a second: the lag of its loop, lost log lines, turns of the relay."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mailproxy.log import Log
from mailproxy.metrics.board import Board
from mailproxy.metrics.process import record_process

_INTERVAL_S = 1.0


async def watch_vitals(board: Board, log: Log, turns: Callable[[], int] = lambda: 0) -> None:
    """Record them until cancelled.

    Args:
        board: The board of this process.
        log: Its log.
        turns: Returns the turns of its relay so far.
    """
    lost_before, turns_before = 0, 0
    while True:
        due = trio.current_time() + _INTERVAL_S
        await trio.sleep_until(due)
        lost, turned = log.lost_so_far, turns()
        record_process(
            board,
            lag=trio.current_time() - due,
            lines_lost=lost - lost_before,
            turns=turned - turns_before,
        )
        lost_before, turns_before = lost, turned
