"""The relay: bytes from client to server and back until both are done. Two forms that behave the same."""

from __future__ import annotations

import os
import select
from typing import Literal, Protocol

import trio

from mailproxy.log.end_reasons import EndReason
from mailproxy.net.poller import AnyPoller, Poller
from mailproxy.net.relay.engine import Engine
from mailproxy.net.relay.portable import PortableRelay
from mailproxy.net.relay.tunnel import Tunnel

__all__ = ["KINDS", "Engine", "PortableRelay", "Relay", "Tunnel", "open_relay"]


Kind = Literal["engine", "portable"]

KINDS: tuple[Kind, ...] = (
    ("engine", "portable") if hasattr(os, "splice") and hasattr(select, "epoll") else ("portable",)
)
"""What this platform has, the best first."""


class Relay(Protocol):
    """Relays the sessions of one trio loop."""

    async def run(self, pair: Tunnel) -> EndReason:
        """Relay until both sides are done, one fails, or one is silent for too long. Closes neither socket.

        Cancelled, it leaves the counts in ``pair`` as they are, and nothing registered anywhere.
        """

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what all sessions have in common, until cancelled; ``run`` needs it running."""


def open_relay(kind: Literal["auto", "engine", "portable"], poller: AnyPoller) -> Relay:
    """The best relay for this platform, or the one that was asked for."""
    if "engine" in KINDS and kind != "portable" and isinstance(poller, Poller):
        return Engine(poller)
    return PortableRelay(poller)
