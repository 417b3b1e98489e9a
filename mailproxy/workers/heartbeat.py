"""The heartbeat of a child: its trio loop counts on the scoreboard, where the watchdog reads it."""

from __future__ import annotations

import trio

from mailproxy.pool import SharedCounter

_BEAT_S = 1.0


async def beat(counter: SharedCounter) -> None:
    """Count up every second until cancelled."""
    while True:
        counter.add(1)
        await trio.sleep(_BEAT_S)
