"""A server as the balance sees it: may it be chosen, and how much has it to do."""

from __future__ import annotations

from enum import Enum

from attrs import define, field, frozen

from mailproxy.pool.health import Health


class AdminState(Enum):
    """What the operator wants of a server (HAProxy's administrative states)."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


_MAINT = AdminState.MAINT  # what an enumeration looks up costs more than the comparison


@frozen
class ServerState:
    """What a server is fit for: what the operator wants, and whether its checks say that it is up."""

    state: AdminState
    is_up: bool


@define
class Counts:
    """What happened at a server since it was first known; HAProxy's column of ``show stat`` in brackets.

    Sessions that began and the most at once (``stot``, ``smax``), attempts that failed, that were made again and that went
    elsewhere (``econ``, ``wretr``, ``wredis``), checks and those that failed while it was up (``chkfail``), times that it
    went down or for maintenance, and seconds that it was (``chkdown``, ``downtime``; up to the last change).
    """

    sessions: int = 0
    most_sessions: int = 0
    connect_errors: int = 0
    retries: int = 0
    redispatches: int = 0
    checks: int = 0
    check_failures: int = 0
    downs: int = 0
    down_seconds: float = 0.0


@define(eq=False)
class Server:
    """One server of a backend.

    ``addresses`` are socket addresses in the order in which they are tried; empty while a host name has none.
    ``max_sessions`` is 0 where there is no limit. ``health`` is None where it is not checked. ``slow_start`` is in seconds,
    0 for none, and ``up_since`` the moment at which it last came up from down, None if it never did. ``throttle`` is the
    part of weight and ``max_sessions`` that counts while it warms up, from 0.01 to 1: whoever has the clock sets it to
    ``ramp(server, now)``. ``changed`` is the moment at which its standing last became another one, None if it never did.
    """

    name: str
    weight: int = field(default=1, kw_only=True)
    state: AdminState = field(default=AdminState.READY, kw_only=True)
    addresses: tuple[object, ...] = field(default=(), kw_only=True)
    sessions: int = field(default=0, kw_only=True)
    max_sessions: int = field(default=0, kw_only=True)
    health: Health | None = field(default=None, kw_only=True)
    is_backup: bool = field(default=False, kw_only=True)
    slow_start: float = field(default=0.0, kw_only=True)
    up_since: float | None = field(default=None, kw_only=True)
    throttle: float = field(default=1.0, kw_only=True)
    changed: float | None = field(default=None, kw_only=True)
    counts: Counts = field(factory=Counts, kw_only=True)

    @property
    def is_up(self) -> bool:
        """Do its checks say so, or are there none?"""
        return self.health is None or self.health.is_up

    @property
    def is_usable(self) -> bool:
        """May new sessions go there?"""
        return self.state is AdminState.READY and self.is_up and self.weight > 0 and bool(self.addresses)

    @property
    def accepts_persistent(self) -> bool:
        """May the sessions of clients go there that it had before? Also while it drains, as in HAProxy."""
        health = self.health  # as is_up has it; sessions ask twice
        return self.state is not _MAINT and (health is None or health.is_up) and bool(self.addresses)

    @property
    def standing(self) -> ServerState:
        """What it is fit for now."""
        return ServerState(self.state, self.is_up)

    @property
    def status(self) -> str:
        """HAProxy's word of ``show stat``: ``UP``, ``UP 2/3``, ``DOWN``, ``DOWN 1/2``, ``DRAIN``, ``MAINT``, ``no check``."""
        if self.state is AdminState.MAINT:
            return "MAINT"
        if not self.addresses:
            return "MAINT (resolution)"
        if not self.is_up:
            return str(self.health)
        if self.state is AdminState.DRAIN:
            return "DRAIN" if self.health is None else str(self.health).replace("UP", "DRAIN")
        return "no check" if self.health is None else str(self.health)

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

    def add_session(self) -> None:
        """A session begins here."""
        self.sessions += 1
        counts = self.counts
        counts.sessions += 1
        counts.most_sessions = max(counts.most_sessions, self.sessions)

    def remove_session(self) -> None:
        """A session that began here is over."""
        self.sessions -= 1
