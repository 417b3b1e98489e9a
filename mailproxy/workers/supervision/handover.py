"""The supervisor's part of a hand-over to another proxy: it holds the listening sockets."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Collection

from mailproxy.net.passing.adopt import leave_files, to_pass
from mailproxy.net.passing.packets import HandoverError, send, send_sockets
from mailproxy.workers.setup import Setup

_SEND_TIMEOUT_S = 2.0  # the supervisor does nothing else meanwhile


class PendingHandover:
    """The process that has got the listening sockets, and may take over.

    Attributes:
        successor: The process; None if there is none.
    """

    def __init__(self) -> None:
        self._end: socket.socket | None = None
        self.successor: int | None = None

    def pass_sockets(self, setup: Setup, end: socket.socket, successor: int) -> None:
        """Send all listening sockets to a process. Blocks for 2 s at most. If that fails, it does not start.

        Args:
            setup: What the supervisor has opened.
            end: The end of the channel to it.
            successor: The process.
        """
        if self._end is not None:
            self._end.close()
        self._end = self.successor = None
        try:
            self._end = end.dup()
        except OSError:  # out of descriptors: the process waits in vain, and does not start
            return
        self.successor = successor
        helper = setup.helper
        sockets = [*to_pass(setup.slots), *(helper.sockets() if helper is not None else ())]
        with contextlib.suppress(HandoverError, OSError):
            send_sockets(end, sockets, deadline=time.monotonic() + _SEND_TIMEOUT_S)

    def complete(self, setup: Setup, unused: Collection[str]) -> None:
        """Leave the files of sockets to that process, and confirm that this one stops.

        Args:
            setup: What the supervisor has opened.
            unused: The addresses that it does not listen on.
        """
        for slot in setup.slots:
            leave_files(slot, unused)
        if setup.helper is not None:
            setup.helper.leave()
        if self._end is not None:
            with contextlib.suppress(HandoverError, OSError):
                send(self._end, "ok", deadline=time.monotonic())
            self._end.close()
            self._end = None
