"""Passive health: what the connections of sessions say about a server between its checks."""

from __future__ import annotations

from attrs import define, field

from mailproxy.pool.shared.counters import SharedCounter


@define
class PassiveHealth:
    """Counts failed connections in a row. Enough of them, by enough clients, are worth a failed check.

    It is HAProxy's ``observe layer4`` with ``error-limit`` and ``on-error fail-check``. The number of clients
    is mailproxy's own: one misbehaving client must not take a server down.

    Attributes:
        limit: How many failures in a row make a failed check.
        clients: How many different clients must have failed.
    """

    limit: int
    clients: int = 1
    _failures: int = field(default=0, init=False)
    _hosts: set[str] = field(factory=set, init=False)  # at most ``clients`` of those that failed

    @property
    def failures(self) -> int:
        """The failures in a row since the last success or the last failed check that they made."""
        return self._failures

    def record_success(self) -> None:
        """Forget the failures: a session was connected."""
        if self._failures:
            self._forget()

    def record_failure(self, client: str) -> int:
        """Count a session of this client that could not be connected.

        Returns:
            The failures in a row if they make a failed check, else 0.
        """
        self._failures += 1
        if len(self._hosts) < self.clients:
            self._hosts.add(client)
        if self._failures < self.limit or len(self._hosts) < self.clients:
            return 0
        failures = self._failures
        self._forget()
        return failures

    def _forget(self) -> None:
        self._failures = 0
        self._hosts.clear()


@define
class SharedPassiveHealth(PassiveHealth):
    """Passive health over the sessions of several workers.

    Workers report each failure. Successes are too many for that: workers only count them, and a changed count
    shows that there were some.

    Attributes:
        successes: The number of sessions that were connected, which workers count.
    """

    successes: SharedCounter = field(kw_only=True)
    _last_successes: int = field(default=0, init=False)

    def record_failure(self, client: str) -> int:
        """Count a failure. It begins a new row if there was a success since the last one."""
        if (successes := self.successes.total) != self._last_successes:
            self._last_successes = successes
            self.record_success()
        return super().record_failure(client)
