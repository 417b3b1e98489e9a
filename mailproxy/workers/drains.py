"""Drains in a worker: begun and cancelled by the control process, which gets their progress."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mailproxy.proxy.drain import Drainer
from mailproxy.workers.messages import CancelDrain, DrainProgress, DrainSessions, Message

_PROGRESS_INTERVAL_S = 1.0


class WorkerDrains:
    """The drains of one worker.

    A worker ends its sessions without the control process, once a drain has begun. A new control process
    learns of the drains from their progress.

    Args:
        drainer: Ends the sessions of this worker.
        send: Sends a message to the control process.
    """

    def __init__(self, drainer: Drainer, send: Callable[[Message], object]) -> None:
        self._drainer = drainer
        self._send = send
        self._has_sent = False

    def start(self, message: DrainSessions) -> None:
        """Begin a drain."""
        target = message.target
        self._drainer.start(str(target), target.matches, message.seconds, message.purpose)
        self._send_progress()

    def cancel(self, message: CancelDrain) -> None:
        """Cancel a drain, if there is one."""
        self._drainer.cancel(str(message.target))
        self._has_sent = True  # an empty list, too, is news
        self._send_progress()

    async def run(self) -> None:
        """Send the progress once a second until cancelled."""
        while True:
            await trio.sleep(_PROGRESS_INTERVAL_S)
            self._send_progress()

    def _send_progress(self) -> None:
        """Send how far all drains have come. The last message says that there are none."""
        statuses = tuple(self._drainer.statuses())
        if statuses or self._has_sent:
            self._has_sent = bool(statuses)
            self._send(DrainProgress(statuses))
