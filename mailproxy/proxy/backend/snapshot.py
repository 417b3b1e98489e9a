"""What is known of a server, as processes tell it each other: what the operator wants, what checks found, where it is."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState
from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome

# What servers and name servers say is bounded: a message has so much room.
_REASON_MAX = 1000  # characters
_ADDRESSES_MAX = 500  # of a server; a session would not try as many


@frozen(kw_only=True)
class ServerSnapshot:
    """``health`` is its counter, None where it is not checked; ``up_for``: seconds that it has been warming up."""

    state: AdminState
    health: int | None
    checked: CheckOutcome | None
    addresses: tuple[Endpoint, ...]
    unresolved: str
    up_for: float | None

    @classmethod
    def capture(cls, server: BackendServer, now: float) -> ServerSnapshot:
        """What this process knows of it."""
        warming = server.up_since is not None and server.throttle < 1.0
        return cls(
            state=server.state,
            health=server.health.counter if server.health is not None else None,
            checked=server.last_check,
            addresses=server.endpoints,
            unresolved=server.resolve_error,
            up_for=now - server.up_since if warming and server.up_since is not None else None,
        )

    @property
    def comparable(self) -> object:
        """What of it is worth telling: not that the same came once more, in another time."""
        return self.state, self.health, self.checked and self.checked.result, self.addresses, self.unresolved

    def to_json(self) -> dict[str, Any]:
        """In JSON's types."""
        checked = self.checked
        return {
            "state": self.state.value,
            "health": self.health,
            "checked": [
                checked.result.code.name,
                excerpt(checked.result.info),
                checked.result.status,
                checked.ms,
            ]
            if checked is not None
            else None,
            "addresses": [[each.family, each.host, each.port] for each in self.addresses[:_ADDRESSES_MAX]],
            "unresolved": self.unresolved[:_REASON_MAX],
            "up_for": self.up_for,
        }

    @classmethod
    def from_json(cls, message: dict[str, Any]) -> ServerSnapshot:
        """What ``message`` gave."""
        checked = None
        if message["checked"] is not None:
            code, info, status, duration = message["checked"]
            checked = CheckOutcome(CheckResult(CheckCode[code], info, status), duration)
        return cls(
            state=AdminState(message["state"]),
            health=message["health"],
            checked=checked,
            addresses=tuple(Endpoint(*each) for each in message["addresses"]),
            unresolved=message["unresolved"],
            up_for=message["up_for"],
        )
