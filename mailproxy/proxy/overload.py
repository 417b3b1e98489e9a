"""Overload of a frontend: accepting waits for a limit, or for resources of the machine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio

from mailproxy.log import Log
from mailproxy.log.events import ACCEPT_PAUSED, ACCEPT_RESUMED, SESSIONS_FULL
from mailproxy.metrics.sessions import SessionCounter
from mailproxy.net.listener import Listener
from mailproxy.proxy.limits import SessionLimit, SessionLimits

_FULL_LOG_INTERVAL_S = 60.0
_RECOVERY_S = 2.0  # accepting works again when this long has passed since the last failure
_ACCEPT_RETRY_S = 0.1  # sessions that end in between give descriptors back


class Overload:
    """Logs that accepting waits, and that it goes on.

    A limit that is reached again and again is logged once a minute. Failures to accept are logged once for a
    whole overload. `accepted` and `after_accepting` are called only while ``is_on``, so that a frontend
    without overload pays nothing.

    Args:
        name: The frontend's name.
        listeners: Its listeners.
        limits: Its limits, to name the key in the configuration.
        log: The log.
        counter: Counts the pauses.

    Attributes:
        is_on: Whether connections wait in the accept queue, or have waited and are being accepted.
    """

    def __init__(
        self,
        name: str,
        listeners: Sequence[Listener],
        *,
        limits: SessionLimits,
        log: Log,
        counter: SessionCounter,
    ) -> None:
        self._name = name
        self._listeners = listeners
        self._limits = limits
        self._log = log
        self._counter = counter
        self.is_on = False
        # A limit is reached.
        self._late: set[object] = set()  # sockets of the listeners with connections that have waited
        self._limit: SessionLimit | None = None
        self._full_since = 0.0
        self._full_logged = -math.inf
        self._is_full_logged = False  # in this overload
        self._late_count = 0
        # Accepting fails.
        self._failing_since: float | None = None
        self._last_failure = 0.0
        self._accepted_while_failing = 0

    def reconfigure(self, listeners: Sequence[Listener]) -> None:
        """Use these listeners from now on, some of which may have the sockets of those before."""
        self._listeners = listeners
        self._late.intersection_update(listener.socket for listener in listeners)
        self.is_on = bool(self._late) or self._failing_since is not None

    async def wait_for_room(self, limit: SessionLimit, listener: Listener) -> None:
        """Wait until there may be room under a limit for a connection in the listener's accept queue."""
        now = trio.current_time()
        if not self._late:
            self._limit, self._full_since, self._late_count, self._is_full_logged = limit, now, 0, False
        self._late.add(listener.socket)
        self.is_on = True
        self._counter.pause(self._name, "limit")
        # A proxy at its limit stays there: each session that ends makes room for one. So it is not logged
        # each time.
        if now > self._full_logged + _FULL_LOG_INTERVAL_S:
            self._full_logged, self._is_full_logged = now, True
            self._log_full(limit)
        while limit.is_reached:
            await limit.wait()

    async def wait_after_failure(self, error: OSError) -> None:
        """Wait 0.1 s after accept(2) has failed because the machine is out of resources."""
        now = self._last_failure = trio.current_time()
        if self._failing_since is None:
            self._failing_since, self._accepted_while_failing = now, 0
            self.is_on = True
            self._counter.pause(self._name, "resources")
            self._log.event(
                ACCEPT_PAUSED,
                f"frontend {self._name} cannot accept: {error.strerror}; trying again until it can",
                frontend=self._name,
                reason=error.strerror,
                waiting=self._waiting,
            )
        await trio.sleep(_ACCEPT_RETRY_S)

    def accepted(self, listener: Listener) -> None:
        """Count a connection that was accepted, and log the end of failures when accepting has recovered."""
        if listener.socket in self._late:
            self._late_count += 1
        if self._failing_since is None:
            return
        if trio.current_time() <= self._last_failure + _RECOVERY_S:
            self._accepted_while_failing += 1
            return
        seconds = self._last_failure + _ACCEPT_RETRY_S - self._failing_since
        self._failing_since = None
        self._log_resumed(seconds, self._accepted_while_failing, None, None)
        self.is_on = bool(self._late)

    def after_accepting(self, listener: Listener) -> None:
        """End the overload if the accept queues of all listeners that had to wait are empty now."""
        if listener.socket not in self._late or listener.has_waiting:
            return
        self._late.discard(listener.socket)
        if self._late:
            return
        self.is_on = self._failing_since is not None
        if self._is_full_logged and self._limit is not None:
            seconds = trio.current_time() - self._full_since
            self._log_resumed(seconds, self._late_count, self._limit.limit, self._key_of(self._limit))

    # Log lines

    @property
    def _waiting(self) -> int | None:
        """The connections in the kernel's accept queues; None if it does not say."""
        lengths = [length for each in self._listeners if (length := each.queue_length) is not None]
        return sum(lengths) if lengths else None

    def _key_of(self, limit: SessionLimit) -> str:
        """Return the configuration key, or the setting of the service, that raises this limit."""
        if limit is self._limits.frontend:
            return f"frontends.{self._name}.max_sessions"
        return "process.max_sessions" if limit is self._limits.process else "LimitNOFILE"

    def _log_full(self, limit: SessionLimit) -> None:
        is_own, waiting, key = limit is self._limits.frontend, self._waiting, self._key_of(limit)
        subject = f"frontend {self._name} has" if is_own else "there are"
        waits = "accepting waits" if is_own else f"frontend {self._name} waits with accepting"
        queue = "" if waiting is None else f", connections in its queue: {waiting}"
        self._log.event(
            SESSIONS_FULL,
            f"{subject} {limit.limit} sessions, as many as {key} allows: {waits}{queue}",
            frontend=self._name,
            limit=limit.limit,
            key=key,
            waiting=waiting,
        )

    def _log_resumed(self, seconds: float, late: int, limit: int | None, key: str | None) -> None:
        self._log.event(
            ACCEPT_RESUMED,
            f"frontend {self._name} accepts again after {seconds:.1f}s, connections accepted late: {late}",
            frontend=self._name,
            seconds=round(seconds, 3),
            late=late,
            limit=limit,
            key=key,
        )
