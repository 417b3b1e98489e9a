"""Runs the admin sockets and HTTP beside a proxy."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mailproxy.admin.handover.giver import Giver, HandOver
from mailproxy.admin.history import History
from mailproxy.admin.listeners import AdminListeners
from mailproxy.admin.runtime.server import RuntimeServer
from mailproxy.admin.target import Target
from mailproxy.log import Log
from mailproxy.metrics.board import Board
from mailproxy.proxy.supervise import supervise
from mailproxy.proxy.vitals import watch_vitals


async def administer(
    target: Target,
    listeners: AdminListeners,
    log: Log,
    board: Board,
    *,
    turns: Callable[[], int] = lambda: 0,
    giver: Giver | None = None,
) -> None:
    """Serve admin sockets and HTTP until cancelled. Without one, return at once: nothing is sampled then.

    Args:
        target: The proxy.
        listeners: What operators connect to.
        log: The log of this process.
        board: Its board.
        turns: Returns the turns of its relay so far.
        giver: Hands the proxy over to another process; None if it cannot be replaced.
    """
    if not listeners.sockets and listeners.http is None:
        return
    history, handover = History(target), HandOver(giver, log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, log, "hand-over", handover.run)
        nursery.start_soon(supervise, log, "history of the admin socket", history.run)
        nursery.start_soon(supervise, log, "vitals", watch_vitals, board, log, turns)
        if listeners.sockets:
            server = RuntimeServer(target, history, log, handover)
            nursery.start_soon(supervise, log, "admin socket", server.run, listeners.sockets)
        if listeners.http is not None:
            # The packages of the extra are loaded only here.
            from mailproxy.admin.http.run import run_http

            nursery.start_soon(supervise, log, "HTTP", run_http, history, listeners.http, log)
