"""A proxy of several processes that hands its sockets over. The supervisor holds them."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection

import trio

from mailproxy.net.passing.packets import HandoverError
from mailproxy.proxy.state import ProxyState
from mailproxy.workers.control.control import Control


class ControlGiver:
    """The `Giver` of a control process."""

    def __init__(self, control: Control) -> None:
        self._control = control

    @property
    def main_pid(self) -> int:
        """The supervisor."""
        return self._control.handover.supervisor_pid

    @property
    def is_stopping(self) -> bool:
        """Whether the proxy starts, drains or stops."""
        return self._control.is_stopping or not self._control.counters.ready.local

    def capture(self) -> ProxyState:
        """Return the state of all backends and frontends."""
        control = self._control
        return ProxyState.capture(
            control.backends.values(),
            now=trio.current_time(),
            wall_clock=time.time(),
            frontends=control.frontends.capture_frontends(),
        )

    async def pass_sockets(self, end: socket.socket, successor: int) -> None:
        """Have the supervisor send all listening sockets, then the packet ``end``.

        Raises:
            HandoverError: The supervisor cannot be reached.
        """
        await trio.lowlevel.checkpoint()
        if not self._control.handover.pass_sockets(end, successor):
            raise HandoverError("the supervisor cannot be reached")

    def hand_over(self, _end: socket.socket, _successor: int, unused: Collection[str]) -> None:
        """Have the supervisor stop accepting and confirm it, and all processes drain."""
        self._control.handover.complete(unused)
