"""The state of a server as one process sends it to another: administrative state, health, addresses."""

from __future__ import annotations

from attrs import frozen

from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome


@frozen(kw_only=True)
class ServerSnapshot:
    """What one process knows of a server.

    Attributes:
        state: The administrative state.
        health: The counter of its ``Health``; None without checks.
        checked: The outcome of the last check; None before the first one.
        addresses: Where to connect, in this order; empty while a host name has no address.
        unresolved: Why a host name has no address; empty if it has one.
        up_for: Seconds since its slow start began; None if it is not in slow start.
        weight: Its weight, as the operator may have changed it.
        max_sessions: The limit on its sessions, likewise.
        checks_paused: Whether the operator has switched its health checks off.
        is_vacated: Whether clients that stick to it get another server.
        check_port: The port that the operator wants it to be checked at; None for that of the configuration.
        is_stopping: Whether only clients that stick to it go there.
        listed: The capabilities that it lists.
    """

    state: AdminState
    health: int | None
    checked: CheckOutcome | None
    addresses: tuple[Endpoint, ...]
    unresolved: str
    up_for: float | None
    weight: int
    max_sessions: int
    checks_paused: bool = False
    is_vacated: bool = False
    check_port: int | None = None
    is_stopping: bool = False
    listed: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def capture(cls, server: BackendServer, now: float) -> ServerSnapshot:
        """Return the state of a server in this process. ``now`` is a moment of its ``up_since`` clock."""
        warming = server.up_since is not None and server.throttle < 1.0
        return cls(
            state=server.state,
            health=server.health.counter if server.health is not None else None,
            checked=server.last_check,
            addresses=server.endpoints,
            unresolved=server.resolve_error,
            up_for=now - server.up_since if warming and server.up_since is not None else None,
            weight=server.weight,
            max_sessions=server.max_sessions,
            checks_paused=server.checks_paused,
            is_vacated=server.is_vacated,
            check_port=server.check_port,
            is_stopping=server.is_stopping,
            listed=server.listed,
        )

    @property
    def comparable(self) -> object:
        """The part that other processes act on, without durations, which always differ."""
        return (
            self.state, self.health, self.checked and self.checked.result, self.addresses, self.unresolved,
            self.weight, self.max_sessions, self.checks_paused,
            self.is_vacated, self.check_port, self.is_stopping, self.listed,
        )  # fmt: skip
