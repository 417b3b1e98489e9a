"""Runs the admin sockets beside a proxy."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from mailproxy.admin.handover.giver import Giver, HandOver
from mailproxy.admin.history import History
from mailproxy.admin.runtime.server import RuntimeServer
from mailproxy.admin.sockets import AdminListener
from mailproxy.admin.target import Target
from mailproxy.log import Log
from mailproxy.proxy.supervise import supervise


async def administer(
    target: Target, listeners: Sequence[AdminListener], log: Log, giver: Giver | None = None
) -> None:
    """Serve these admin sockets until cancelled. Without one, return at once: nothing is counted then.

    Args:
        target: The proxy.
        listeners: The sockets.
        log: The log.
        giver: Hands the proxy over to another process; None if it cannot be replaced.
    """
    if not listeners:
        return
    history, handover = History(target), HandOver(giver, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, log, "hand-over", handover.run)
        nursery.start_soon(supervise, log, "history of the admin socket", history.run)
        nursery.start_soon(
            supervise, log, "admin socket", RuntimeServer(target, history, log, handover).run, listeners
        )
