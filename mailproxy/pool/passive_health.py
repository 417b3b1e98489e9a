"""Passive observation: what the connections of real sessions tell of a server between its checks."""

from __future__ import annotations

from attrs import define, field

from mailproxy.pool.shared.counters import SharedCounter


@define
class PassiveHealth:
    """Counts failures in a row; ``limit`` of them, seen by ``clients`` different clients, are as much as a failed check.

    HAProxy's ``observe layer4`` with ``error-limit`` and ``on-error fail-check``. The number of clients is ours: a single
    one that does something odd over and over must not bring a server down.
    """

    limit: int
    clients: int = 1
    _failures: int = field(default=0, init=False)
    _seen_by: set[str] = field(factory=set, init=False)  # never more than ``clients``

    @property
    def failures(self) -> int:
        """In a row, since the last success or since they were last counted as a failed check."""
        return self._failures

    def record_success(self) -> None:
        """A session reached the server: all is forgotten."""
        if self._failures:
            self._forget()

    def record_failure(self, client: str) -> int:
        """A session of this client could not be connected; how many did in a row, if that makes a failed check, else 0."""
        self._failures += 1
        if len(self._seen_by) < self.clients:
            self._seen_by.add(client)
        if self._failures < self.limit or len(self._seen_by) < self.clients:
            return 0
        failures = self._failures
        self._forget()
        return failures

    def _forget(self) -> None:
        self._failures = 0
        self._seen_by.clear()


@define
class SharedPassiveHealth(PassiveHealth):
    """What the sessions of several workers tell: failures are reported, of successes there is only a count to compare."""

    tally: SharedCounter = field(kw_only=True)
    _successes: int = field(default=0, init=False)

    def record_failure(self, client: str) -> int:
        """See Observation. A success since the last failure makes this one the first of a new row."""
        if (successes := self.tally.total) != self._successes:
            self._successes = successes
            self.record_success()
        return super().record_failure(client)
