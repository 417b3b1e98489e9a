"""Runs the admin sockets and HTTP beside a proxy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio
from attrs import field, frozen

from mailproxy.admin.history import History
from mailproxy.admin.http.sockets import HttpListener
from mailproxy.admin.runtime.server import RuntimeServer
from mailproxy.admin.sockets import AdminListener, close_admin_sockets
from mailproxy.admin.target import Target
from mailproxy.log import Log
from mailproxy.metrics.board import Board
from mailproxy.proxy.supervise import supervise
from mailproxy.proxy.vitals import watch_vitals


@frozen(eq=False)
class AdminListeners:
    """Everything that operators connect to.

    Attributes:
        sockets: The admin sockets.
        http: Where HTTP is served; None for nowhere.
    """

    sockets: Sequence[AdminListener] = field(factory=list)
    http: HttpListener | None = None

    def close(self) -> None:
        """Close all of them, and remove their files."""
        close_admin_sockets(self.sockets)
        if self.http is not None:
            self.http.close()

    def close_copies(self) -> None:
        """Close them in a process that does not serve them. Their files stay."""
        listeners: Iterable[AdminListener | HttpListener] = self.sockets
        for listener in (*listeners, *([self.http] if self.http is not None else [])):
            listener.socket.close()


async def administer(
    target: Target, listeners: AdminListeners, log: Log, board: Board, turns: Callable[[], int] = lambda: 0
) -> None:
    """Serve admin sockets and HTTP until cancelled. Without one, return at once: nothing is sampled then.

    Args:
        target: The proxy.
        listeners: What operators connect to.
        log: The log of this process.
        board: Its board.
        turns: Returns the turns of its relay so far.
    """
    if not listeners.sockets and listeners.http is None:
        return
    history = History(target)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, log, "history of the admin socket", history.run)
        nursery.start_soon(supervise, log, "vitals", watch_vitals, board, log, turns)
        if listeners.sockets:
            server = RuntimeServer(target, history, log)
            nursery.start_soon(supervise, log, "admin socket", server.run, listeners.sockets)
        if listeners.http is not None:
            # The packages of the extra are loaded only here.
            from mailproxy.admin.http.run import run_http

            nursery.start_soon(supervise, log, "HTTP", run_http, history, listeners.http, log)
