"""The heartbeat of a process among several: its loop counts on the board, where the launcher sees whether it goes on."""

from __future__ import annotations

import trio

from mailproxy.pool import SharedCounter

_BEAT_S = 1.0


async def beat(count: SharedCounter) -> None:
    """Count up every second until cancelled."""
    while True:
        count.add(1)
        await trio.sleep(_BEAT_S)
