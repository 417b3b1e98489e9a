"""What the operator has set of frontends: whether they are paused, and limits on sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from attrs import Factory, frozen

from mailproxy.config import Config


@frozen
class FrontendRecord:
    """What the operator has set of one frontend.

    Attributes:
        is_paused: Whether it is paused. One that was shut down is not: it is so until the proxy starts again.
        limit: The limit on its sessions.
        configured: The limit of the configuration at that time.
    """

    is_paused: bool
    limit: int
    configured: int


@frozen
class FrontendsRecord:
    """What the operator has set of all frontends.

    Attributes:
        frontends: Those of which something was set, by name.
        max_sessions: The limit on all sessions, 0 if none was set.
        configured: ``process.max_sessions`` at that time, 0 if it was not given.
    """

    frontends: Mapping[str, FrontendRecord] = Factory(dict)
    max_sessions: int = 0
    configured: int = 0

    @classmethod
    def of(cls, config: Config, wishes: Mapping[str, tuple[bool, int]], max_sessions: int) -> FrontendsRecord:
        """Return what differs from the configuration.

        Args:
            config: The configuration.
            wishes: Whether each frontend is paused, and its limit.
            max_sessions: The operator's limit on all sessions, 0 if there is none.
        """
        changed = {
            name: FrontendRecord(is_paused, limit, config.frontends[name].max_sessions)
            for name, (is_paused, limit) in wishes.items()
            if is_paused or limit != config.frontends[name].max_sessions
        }
        return cls(changed, max_sessions, config.process.max_sessions or 0)

    def wishes(self, config: Config) -> Iterator[tuple[str, bool, int]]:
        """Yield the name of each frontend that the configuration has, whether it is paused, and its limit.

        A limit that has changed in the configuration is the newer wish.
        """
        for name, record in self.frontends.items():
            if (frontend := config.frontends.get(name)) is not None:
                is_newer = frontend.max_sessions != record.configured
                yield name, record.is_paused, frontend.max_sessions if is_newer else record.limit

    def limit(self, config: Config) -> int:
        """Return the operator's limit on all sessions, 0 if the configuration's holds."""
        return self.max_sessions if (config.process.max_sessions or 0) == self.configured else 0


class FrontendOwner(Protocol):
    """A service, or the control process: what the operator sets of frontends is set here."""

    def capture_frontends(self) -> FrontendsRecord:
        """Return what the operator has set."""

    def apply_frontends(self, record: FrontendsRecord) -> None:
        """Set what the operator had set in an earlier process. Nothing is accepted yet."""
