"""Watchdogs: the supervisor's, and that of the service manager which it feeds.

The supervisor finds a child whose trio loop has stopped by its heartbeat. It counts its checks, not seconds. If the supervisor itself was stopped, the machine was suspended, or the
supervisor comes late because the machine is busy, all of that time counts as one check at most.
"""

from __future__ import annotations

import math
import time

from attrs import define, field

from mailproxy.net.notify import notify_alive, watchdog_interval

CHECK_INTERVAL_S = 1.0
# A loop counts once a second, so load alone does not explain this many checks without a beat.
_HUNG_CHECKS = 7
_STARTING_CHECKS = 60  # until the first beat, since a large configuration takes time


@define
class Pulse:
    """The heartbeat of one child.

    Attributes:
        beats: Its count at the last check.
        silent_checks: The number of checks since the count last changed.
    """

    beats: int = 0
    silent_checks: int = 0

    def check(self, beats: int) -> bool:
        """Return True if the child hangs. Call it every ``CHECK_INTERVAL_S`` with its count of beats."""
        if beats != self.beats:
            self.beats, self.silent_checks = beats, 0
            return False
        self.silent_checks += 1
        return self.silent_checks >= (_HUNG_CHECKS if beats else _STARTING_CHECKS)


@define
class ManagerWatchdog:
    """The service manager's watchdog, which watches the supervisor as that one watches its children.

    Attributes:
        due: The moment of the next message on the monotonic clock; infinity without a watchdog.
    """

    due: float = field(default=0.0, init=False)
    _interval: float | None = field(factory=watchdog_interval, init=False)

    def __attrs_post_init__(self) -> None:
        if self._interval is None:
            self.due = math.inf

    def notify_if_due(self) -> None:
        """Report to the service manager that the supervisor runs, if it is time."""
        now = time.monotonic()
        if self._interval is not None and now >= self.due:
            self.due = now + self._interval
            notify_alive()
