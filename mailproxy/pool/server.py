"""A server as the pool sees it: its state, its sessions, its slots."""

from __future__ import annotations

from enum import Enum

from attrs import define, field, frozen

from mailproxy.pool.health import DeclaredDown, Health


class AdminState(Enum):
    """What the operator wants of a server (HAProxy's administrative states)."""

    READY = "ready"
    DRAIN = "drain"
    MAINT = "maint"


_MAINT = AdminState.MAINT  # the look-up of an enumeration's member costs more than the comparison


@frozen
class ServerState:
    """A server's administrative state, whether it is up, and whether it is stopping.

    It is up if its health checks or the operator say so.
    """

    state: AdminState
    is_up: bool
    is_stopping: bool = False

    @property
    def is_serving(self) -> bool:
        """Whether the server is up and not in maintenance."""
        return self.is_up and self.state is not _MAINT


@define
class Counts:
    """What has happened at a server since it was first known.

    Attributes:
        sessions: Sessions so far (HAProxy's ``stot`` in ``show stat``).
        most_sessions: The most sessions at once (``smax``).
        connect_errors: Attempts that failed (``econ``).
        retries: Attempts that were repeated at this server (``wretr``).
        redispatches: Attempts that were repeated at another server (``wredis``).
        checks: Health checks.
        check_failures: Health checks that failed while the server was up (``chkfail``).
        downs: How often it went down or into maintenance (``chkdown``).
        down_seconds: How long it was (``downtime``), up to its last change.
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

    def add_session(self, sessions: int) -> None:
        """Count a session, of which there are ``sessions`` now."""
        self.sessions += 1
        if sessions > self.most_sessions:  # noqa: PLR1730 - each session comes here, and a call of max costs more
            self.most_sessions = sessions


@define(eq=False)
class Server:
    """One server of a backend. Moments are seconds of the pool's clock.

    Attributes:
        name: Its name in the configuration.
        weight: Its part of new sessions relative to the other servers.
        state: Its administrative state.
        is_vacated: Whether clients that stick to it get another server, because the operator has its sessions ended.
            Setting the administrative state ends this.
        addresses: Socket addresses in the order in which they are tried. Empty while a host name has none.
        sessions: Sessions that hold a slot now.
        max_sessions: The number of its slots, 0 for no limit.
        health: The results of its health checks. None if it is not checked, unless the operator has it down.
        is_stopping: Whether the operator lets only clients that stick to it go there, until a check passes.
        is_backup: Whether it is used only while no active server is usable.
        slow_start: Seconds of slow start, 0 for none.
        up_since: When it last came up from down, None if it never did.
        throttle: The part of weight and ``max_sessions`` that counts in slow start, from 0.01 to 1. The pool
            sets it to ``slow_start_factor(server, now)``.
        changed_at: When its state last changed, None if it never did.
        counts: What has happened so far.
    """

    name: str
    weight: int = field(default=1, kw_only=True)
    state: AdminState = field(default=AdminState.READY, kw_only=True)
    is_vacated: bool = field(default=False, kw_only=True)
    addresses: tuple[object, ...] = field(default=(), kw_only=True)
    sessions: int = field(default=0, kw_only=True)
    max_sessions: int = field(default=0, kw_only=True)
    health: Health | None = field(default=None, kw_only=True)
    is_stopping: bool = field(default=False, kw_only=True)
    is_backup: bool = field(default=False, kw_only=True)
    slow_start: float = field(default=0.0, kw_only=True)
    up_since: float | None = field(default=None, kw_only=True)
    throttle: float = field(default=1.0, kw_only=True)
    changed_at: float | None = field(default=None, kw_only=True)
    counts: Counts = field(factory=Counts, kw_only=True)

    @property
    def is_checked(self) -> bool:
        """Whether it has health checks."""
        return self.health is not None and not isinstance(self.health, DeclaredDown)

    @property
    def is_up(self) -> bool:
        """Whether its health checks say that it is up, or it is not checked."""
        return self.health is None or self.health.is_up

    @property
    def is_usable(self) -> bool:
        """Whether new sessions may go there."""
        return (
            self.state is AdminState.READY
            and self.is_up
            and not self.is_stopping
            and self.weight > 0
            and bool(self.addresses)
        )

    @property
    def accepts_persistent(self) -> bool:
        """Whether sessions of clients that it had before may go there.

        As in HAProxy, they may while it drains.
        """
        health = self.health  # written out here, and not is_up: each session asks twice
        return self.state is not _MAINT and (health is None or health.is_up) and bool(self.addresses)

    @property
    def operational_state(self) -> ServerState:
        """Its administrative state and health together, as they are now."""
        return ServerState(self.state, self.is_up, self.is_stopping)

    @property
    def status(self) -> str:
        """HAProxy's word in ``show stat``.

        One of ``UP``, ``UP 2/3``, ``DOWN``, ``DOWN 1/2``, ``DRAIN``, ``NOLB``, ``MAINT``, ``no check``.
        """
        if self.state is AdminState.MAINT:
            return "MAINT"
        if not self.addresses:
            return "MAINT (resolution)"
        if not self.is_up:
            return str(self.health)
        if self.is_stopping:
            return "NOLB" if self.health is None else str(self.health).replace("UP", "NOLB")
        if self.state is AdminState.DRAIN:
            return "DRAIN" if self.health is None else str(self.health).replace("UP", "DRAIN")
        return "no check" if self.health is None else str(self.health)

    @property
    def is_full(self) -> bool:
        """Whether all slots that it has now are taken."""
        # Each choice asks many servers. Most have no limit, or are not in slow start, and are answered
        # quickly.
        limit = self.max_sessions
        return limit > 0 and (
            limit <= self.sessions or (self.throttle < 1.0 and self.effective_max_sessions <= self.sessions)
        )

    @property
    def effective_weight(self) -> float:
        """The weight that counts now: a part of ``weight`` in slow start."""
        return self.weight * self.throttle

    @property
    def effective_max_sessions(self) -> int:
        """The number of slots now, 0 for no limit. In slow start it is at least 1, as in HAProxy."""
        if self.throttle == 1.0 or self.max_sessions == 0:
            return self.max_sessions
        return max(1, int(self.max_sessions * self.throttle))

    def add_session(self) -> None:
        """Count a session that takes a slot."""
        self.sessions = sessions = self.sessions + 1
        self.counts.add_session(sessions)

    def remove_session(self) -> None:
        """Count a session that gives its slot back."""
        self.sessions -= 1

    def take_over(self, before: Server) -> None:
        """Take over what is known of the server that had this name before: its state, its health, its counts.

        Its sessions stay with ``before``, whose slots they have.
        """
        self.state, self.changed_at, self.counts = before.state, before.changed_at, before.counts
        self.is_vacated, self.is_stopping = before.is_vacated, before.is_stopping
        if self.slow_start and before.up_since is not None:
            self.up_since, self.throttle = before.up_since, before.throttle
        self.take_over_health(before.health)

    def force_health(self, *, is_up: bool) -> None:
        """Let it count as up or down until its checks, or the operator, say otherwise."""
        self.is_stopping = False
        if not self.is_checked:
            self.health = None if is_up else DeclaredDown()
        if self.health is not None:
            self.health.force(is_up=is_up)

    def restore_health(self, counter: int | None) -> None:
        """Use the counter of its health in another process, None if it was not checked."""
        if not self.is_checked:
            self.health = None if counter is None else DeclaredDown()
        if self.health is not None and counter is not None:
            self.health.restore(counter)

    def reset_health(self) -> None:
        """Forget results of checks that are out of date. As at the start, it counts as up until one fails."""
        self.is_stopping = False
        if self.health is not None:
            self.health = Health(rise=self.health.rise, fall=self.health.fall) if self.is_checked else None

    def take_over_health(self, before: Health | None) -> None:
        """Take over the health that a server with this name had; None if it had no checks."""
        if self.health is None:
            self.health = before if isinstance(before, DeclaredDown) else None
        elif before is not None:
            self.health.take_over(before)
