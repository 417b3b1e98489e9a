"""What comes after an attempt to connect that failed: the same server again, another one, or nothing."""

from __future__ import annotations

from enum import Enum, auto

from attrs import define, field


class RetryDecision(Enum):
    """What a session does then."""

    RETRY = auto()  # at the same server, after a pause
    REDISPATCH = auto()  # at once, at any other server
    GIVE_UP = auto()


@define
class RetryState:
    """``retries`` follow the first attempt. ``redispatch``: True takes the last of them elsewhere, a number every n-th.

    HAProxy's ``retries`` and ``option redispatch`` (src/stream.c, ``sess_update_st_cer``; tried with 2.6), whose rule it
    is, too, that nobody tries again at a server that is down, and that only a session which belongs to its server is
    patient with it: any other goes elsewhere with its first retry, if there is an elsewhere.
    """

    retries: int
    redispatch: bool | int
    failures: int = field(default=0, init=False)

    def failed(self, *, is_up: bool, belongs: bool, has_others: bool) -> RetryDecision:
        """Count a failure at a server that is up or not, and to which the session belongs or not; what next?"""
        self.failures += 1
        if self.failures > self.retries:
            return RetryDecision.GIVE_UP
        if not self.redispatch:
            return RetryDecision.RETRY
        every = self.retries if self.redispatch is True else self.redispatch
        if not is_up or (has_others and not belongs) or self.failures % every == 0:
            return RetryDecision.REDISPATCH
        return RetryDecision.RETRY

    @property
    def retries_made(self) -> int:
        """Retries that were made: what the log counts."""
        return min(self.failures, self.retries)
