"""The control process at a hand-over to another proxy. The supervisor holds the sockets, and stops the workers."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection

import trio
from attrs import define, field

from mailproxy.ipc.channel import Channel
from mailproxy.log import Log
from mailproxy.proxy.service import log_handed_over
from mailproxy.proxy.state import StateKeeper
from mailproxy.workers.messages import HandedOver, Message, PassSockets


@define(eq=False)
class ControlHandover:
    """Has the supervisor hand over.

    Attributes:
        released: Set when the admin sockets are another proxy's, or are to be made by the next one.
        unused: The addresses at which that one does not listen.
    """

    _supervisor: Channel[Message]
    _wake_supervisor: Callable[[], None]
    _state: StateKeeper | None
    _log: Log
    released: trio.Event = field(factory=trio.Event, init=False)
    _successor: int = field(default=0, init=False)
    unused: Collection[str] = field(default=(), init=False)

    @property
    def supervisor_pid(self) -> int:
        """The process that was started."""
        return os.getppid()

    def pass_sockets(self, end: socket.socket, successor: int) -> bool:
        """Have the supervisor send all listening sockets to a process. Return False if it cannot be reached."""
        self._successor = successor
        is_sent = self._supervisor.try_send(PassSockets(successor), end)
        self._wake_supervisor()
        return is_sent

    def complete(self, unused: Collection[str]) -> None:
        """Have the supervisor stop: that process accepts now, but not at these addresses."""
        self.unused = unused
        self._supervisor.try_send(HandedOver(tuple(unused)))
        self._wake_supervisor()

    def on_completed(self) -> None:
        """Leave to the other proxy what both have. The supervisor reports that it has stopped accepting."""
        self.released.set()
        if self._state is not None:
            self._state.forbid_writing()
        log_handed_over(self._log, self._successor, self.unused)
