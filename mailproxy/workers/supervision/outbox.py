"""What the supervisor sends to the control process, kept until a control process has it for certain."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from mailproxy.ipc.channel import try_send
from mailproxy.workers.messages import Message, ProcessExit, encode


class ControlOutbox:
    """Sends messages to the control process. If that is being replaced, the next one gets them.

    A control process that hangs may leave messages unread in its socket, which are lost when it is killed. So
    exits of processes are kept until its heartbeat shows that it has gone on since they were sent.
    """

    def __init__(self) -> None:
        self._undelivered: list[Message] = []
        self._unread: list[Message] = []
        # The first of ``_unread``: sent before the last check of the heartbeat.
        self._unread_at_last_check = 0

    def send(self, channel: socket.socket | None, message: Message) -> None:
        """Send a message on this channel, or keep it for the next control process."""
        if channel is None or not try_send(channel, encode(message)):
            self._undelivered.append(message)
        elif isinstance(message, ProcessExit):
            self._unread.append(message)

    def on_heartbeat(self) -> None:
        """Forget what was sent before the last check: the loop has turned, so it was read."""
        self._unread = self._unread[self._unread_at_last_check :]
        self._unread_at_last_check = len(self._unread)

    def on_control_exit(self, *, was_hung: bool) -> None:
        """Keep what a control process that hung may not have read."""
        if was_hung:
            self._undelivered = [*self._unread, *self._undelivered]
        self._unread, self._unread_at_last_check = [], 0

    def resend(self, channel: socket.socket | None, stops: Iterable[Message]) -> None:
        """Send a new control process what the old one did not get, and the stop signals so far."""
        stops = list(stops)
        undelivered, self._undelivered = self._undelivered, []
        for message in [*(each for each in undelivered if each not in stops), *stops]:
            self.send(channel, message)
