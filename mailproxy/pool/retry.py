"""What follows after an attempt to connect has failed: a retry, a redispatch, or the end of the session."""

from __future__ import annotations

from enum import Enum, auto

from attrs import define, field


class RetryDecision(Enum):
    """What a session does after a failed attempt."""

    RETRY = auto()  # the same server again, after a pause
    REDISPATCH = auto()  # any other server, at once
    GIVE_UP = auto()


@define
class RetryState:
    """The failed attempts of one session.

    The rules are HAProxy's for ``retries`` and ``option redispatch`` (src/stream.c, ``sess_update_st_cer``;
    compared with 2.6). Two of them are not in its names: a server that is down is not tried again, and only a
    sticky session retries at its server. Any other session goes to another server with its first retry, if
    there is one.

    Attributes:
        retries: How many attempts may follow the first one.
        redispatch: True takes the last retry to another server, a number n each n-th retry. False and 0 take
            none.
        failures: The attempts that have failed.
    """

    retries: int
    redispatch: bool | int
    failures: int = field(default=0, init=False)

    def record_failure(self, *, is_up: bool, is_sticky: bool, has_others: bool) -> RetryDecision:
        """Count a failed attempt and decide what follows.

        Args:
            is_up: Whether the server still accepts the session.
            is_sticky: Whether the session belongs to this server.
            has_others: Whether there are other servers.
        """
        self.failures += 1
        if self.failures > self.retries:
            return RetryDecision.GIVE_UP
        if not self.redispatch:
            return RetryDecision.RETRY
        every = self.retries if self.redispatch is True else self.redispatch
        if not is_up or (has_others and not is_sticky) or self.failures % every == 0:
            return RetryDecision.REDISPATCH
        return RetryDecision.RETRY

    @property
    def retries_made(self) -> int:
        """The retries that were made, which the log counts."""
        return min(self.failures, self.retries)
