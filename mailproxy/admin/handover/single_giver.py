"""A proxy in a single process that hands its sockets over."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Collection

import trio

from mailproxy.admin.listeners import AdminListeners
from mailproxy.net.passing.adopt import to_pass
from mailproxy.net.passing.packets import HandoverError, send, send_sockets
from mailproxy.proxy.single_process import SingleProcess
from mailproxy.proxy.state import ProxyState

_SEND_TIMEOUT_S = 5.0
_PACKET_TIMEOUT_S = 0.1  # for the packet that should have come before the signal


class SingleGiver:
    """The `Giver` of a single process.

    Args:
        process: The process.
        admin: Where it can be administered.
        on_handed_over: Stops accepting and drains. It gets the successor, and the addresses that that one does
            not listen on.
    """

    def __init__(
        self,
        process: SingleProcess,
        admin: AdminListeners,
        on_handed_over: Callable[[int, Collection[str]], None],
    ) -> None:
        self._service = process.service
        self._admin = admin
        self._on_handed_over = on_handed_over
        self._successor: int | None = None

    @property
    def main_pid(self) -> int:
        """The process."""
        return os.getpid()

    @property
    def is_stopping(self) -> bool:
        """Whether it starts, drains or stops."""
        return not self._service.is_serving

    def capture(self) -> ProxyState:
        """Return the state of all backends and frontends."""
        service = self._service
        return ProxyState.capture(
            service.backends.values(),
            now=trio.current_time(),
            wall_clock=time.time(),
            frontends=service.capture_frontends(),
        )

    async def pass_sockets(self, end: socket.socket, successor: int) -> None:
        """Send all listening sockets, then the packet ``end``.

        Raises:
            HandoverError: The successor does not take them.
        """
        self._successor = successor
        sockets = [*to_pass([list(self._service.listeners)]), *self._admin.passed]
        deadline = time.monotonic() + _SEND_TIMEOUT_S
        await trio.to_thread.run_sync(lambda: send_sockets(end, sockets, deadline=deadline))

    def hand_over(self, end: socket.socket, successor: int, unused: Collection[str]) -> None:
        """Stop accepting and drain, then confirm it."""
        self._on_handed_over(successor, unused)
        with contextlib.suppress(HandoverError):  # it died in this moment, which changes nothing here
            send(end, "ok", deadline=time.monotonic())

    async def on_signal(self) -> None:
        """Drain, because the process that has got the sockets accepts, and the channel to it is broken.

        Ignored if no process has got them.
        """
        successor = self._successor
        await trio.sleep(_PACKET_TIMEOUT_S)
        if successor is not None and not self.is_stopping:
            self._on_handed_over(successor, ())
