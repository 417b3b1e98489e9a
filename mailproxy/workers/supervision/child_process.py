"""A child of the supervisor, over all of its restarts."""

from __future__ import annotations

import os
import signal
import socket

from attrs import define, field

from mailproxy.workers.scoreboard import ProcessCounters
from mailproxy.workers.supervision.watchdog import CHECK_INTERVAL_S, Pulse

_STABLE_S = 1.0  # a child that lives for less is restarted with a backoff
_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 10.0


@define(eq=False)
class ChildProcess:
    """One worker slot or the control process, over all of its restarts.

    Attributes:
        slot: The worker's slot; None for the control process.
        counters: Its row of the scoreboard.
        pid: The process that runs now; None between an exit and the next start.
        channel: The channel to that process.
        started_at: When it was started.
        backoff: Seconds between the last exit and the next start.
        start_due: When the next process is to be started.
        id_epoch: The second from which the worker's session ids count.
        is_connected: Whether worker and control process have a channel to each other.
        connect_due: When to try again to give them one.
        pulse: What the watchdog knows of it.
        is_hung: Whether the watchdog has killed it.
        is_leaving: Whether the worker drains, since a reload has fewer workers.
    """

    slot: int | None
    counters: ProcessCounters = field(repr=False)
    pid: int | None = None
    channel: socket.socket | None = None
    started_at: float = 0.0
    backoff: float = 0.0
    start_due: float = 0.0
    id_epoch: int = 0
    is_connected: bool = False
    connect_due: float = 0.0
    pulse: Pulse = field(factory=Pulse)
    is_hung: bool = False
    is_leaving: bool = False

    @property
    def is_alive(self) -> bool:
        return self.pid is not None

    def on_exit(self, now: float) -> None:
        """Schedule the next start: at once, or with a growing backoff if processes keep dying young."""
        if now - self.started_at >= _STABLE_S:
            self.backoff = 0.0
        else:
            self.backoff = min(max(2 * self.backoff, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)
        self.start_due = now + self.backoff
        self.pid = None
        self.is_connected = False
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def kill(self) -> None:
        """Send SIGKILL. The process is not reaped yet, so its id cannot be another one's."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)

    def exit_reason(self, code: int) -> str:
        """Return how it has ended, for an exit code as of `os.waitstatus_to_exitcode`."""
        if self.is_hung:
            return f"hung for {self.pulse.silent_checks * CHECK_INTERVAL_S:g} s and was killed"
        return f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
