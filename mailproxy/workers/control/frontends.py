"""What the operator wants of frontends: the control process keeps it, and tells the workers."""

from __future__ import annotations

from attrs import define, field

from mailproxy.config import Config
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.state import FrontendsRecord
from mailproxy.workers.messages import (
    FrontendUpdates,
)


@define
class FrontendWish:
    """What the operator wants of one frontend: whether it accepts, and its limit on sessions."""

    state: FrontendState
    limit: int


@define(eq=False)
class FrontendWishes:
    """What the operator wants of all frontends.

    Attributes:
        frontends: By name.
        max_sessions: The limit on all sessions; 0 for that of the configuration.
    """

    config: Config
    frontends: dict[str, FrontendWish] = field(init=False)
    max_sessions: int = 0

    def __attrs_post_init__(self) -> None:
        self.frontends = {
            name: FrontendWish(FrontendState.OPEN, frontend.max_sessions)
            for name, frontend in self.config.frontends.items()
        }

    def capture_frontends(self) -> FrontendsRecord:
        """Return what the operator has set, for the state file."""
        wishes = {
            name: (each.state is FrontendState.PAUSED, each.limit) for name, each in self.frontends.items()
        }
        return FrontendsRecord.of(self.config, wishes, self.max_sessions)

    def apply_frontends(self, record: FrontendsRecord) -> None:
        """Set what the operator had set in an earlier process, before the workers get it."""
        for name, is_paused, limit in record.wishes(self.config):
            self.frontends[name].limit = limit
            if is_paused:
                self.frontends[name].state = FrontendState.PAUSED
        self.max_sessions = record.limit(self.config)

    def reconfigure(self, config: Config) -> None:
        """Use another configuration. What the operator wants stays until the file's own value changes."""
        before, wishes = self.config, self.frontends
        self.config, self.frontends = config, {}
        for name, frontend in config.frontends.items():
            wish = wishes.get(name) or FrontendWish(FrontendState.OPEN, frontend.max_sessions)
            if name in before.frontends and before.frontends[name].max_sessions != frontend.max_sessions:
                wish.limit = frontend.max_sessions
            self.frontends[name] = wish
        if before.process.max_sessions != config.process.max_sessions:
            self.max_sessions = 0

    def message(self) -> FrontendUpdates:
        """Return the message that tells a worker all of it."""
        return FrontendUpdates(
            frontends=tuple((name, each.state, each.limit) for name, each in self.frontends.items()),
            max_sessions=self.max_sessions,
        )

    def take_over(self, message: FrontendUpdates) -> None:
        """Take over what a worker knows from an earlier control process."""
        self.max_sessions = message.max_sessions
        for name, state, limit in message.frontends:
            if name in self.frontends:  # else the worker has another configuration for a moment
                self.frontends[name] = FrontendWish(state, limit)
