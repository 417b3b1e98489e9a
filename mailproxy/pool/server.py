"""A server as the balance sees it: may it be chosen, and how much has it to do."""

from __future__ import annotations

from enum import Enum

from attrs import define, field


class State(Enum):
    """What the operator wants of a server (HAProxy's administrative states)."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


@define(eq=False)
class Server:
    """One server of a backend.

    ``addresses`` are socket addresses in the order in which they are tried; empty while a host name has none.
    ``max_sessions`` is 0 where there is no limit. ``slow_start`` is in seconds, 0 for none, and ``up_since`` the moment
    at which it last came up from down, None if it never did. ``throttle`` is the part of weight and ``max_sessions``
    that counts while it warms up, from 0.01 to 1: whoever has the clock sets it to ``ramp(server, now)``.
    """

    name: str
    weight: int = field(default=1, kw_only=True)
    state: State = field(default=State.READY, kw_only=True)
    addresses: tuple[object, ...] = field(default=(), kw_only=True)
    sessions: int = field(default=0, kw_only=True)
    max_sessions: int = field(default=0, kw_only=True)
    is_backup: bool = field(default=False, kw_only=True)
    slow_start: float = field(default=0.0, kw_only=True)
    up_since: float | None = field(default=None, kw_only=True)
    throttle: float = field(default=1.0, kw_only=True)

    @property
    def is_usable(self) -> bool:
        """May new sessions go there?"""
        return self.state is State.READY and self.weight > 0 and bool(self.addresses)

    @property
    def is_full(self) -> bool:
        """Has it as many sessions as it may have now?"""
        # Asked for many servers in each choice, most of which are without a limit or warm: these are quick.
        most = self.max_sessions
        return most > 0 and (
            most <= self.sessions or (self.throttle < 1.0 and self.effective_max_sessions <= self.sessions)
        )

    @property
    def effective_weight(self) -> float:
        """The weight that counts now: less than its own while it warms up."""
        return self.weight * self.throttle

    @property
    def effective_max_sessions(self) -> int:
        """How many sessions it may have now, 0 for any number; while it warms up at least one, as in HAProxy."""
        if self.throttle == 1.0 or self.max_sessions == 0:
            return self.max_sessions
        return max(1, int(self.max_sessions * self.throttle))

    def enter(self) -> None:
        """A session begins here."""
        self.sessions += 1

    def leave(self) -> None:
        """A session that began here is over."""
        self.sessions -= 1
