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
    """

    name: str
    weight: int = field(default=1, kw_only=True)
    state: State = field(default=State.READY, kw_only=True)
    addresses: tuple[object, ...] = field(default=(), kw_only=True)
    sessions: int = field(default=0, kw_only=True)

    @property
    def is_usable(self) -> bool:
        """May new sessions go there?"""
        return self.state is State.READY and self.weight > 0 and bool(self.addresses)

    def enter(self) -> None:
        """A session begins here."""
        self.sessions += 1

    def leave(self) -> None:
        """A session that began here is over."""
        self.sessions -= 1
