"""The relay: moves the bytes of established sessions, in two forms that behave the same.

Modules, in reading order:
    tunnel: a session's two sides and two directions, its idle timeouts and its end.
    transfer: receiving, sending and closing at one side, in clear or under TLS.
    portable: the portable relay. Two tasks for each session, easy to read.
    engine: the engine. One task for all sessions, and how that works.
    flow_state, flow: one direction of a session in the engine, the hot path.
    pipes: pipes for splice(2).
"""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable
from typing import Literal, Protocol

import trio

from mailproxy.log.end_reasons import EndReason
from mailproxy.net.poller import AnyPoller, Poller
from mailproxy.net.relay.engine import Engine
from mailproxy.net.relay.portable import PortableRelay
from mailproxy.net.relay.transfer import close_in_order
from mailproxy.net.relay.tunnel import Tunnel

__all__ = ["KINDS", "Engine", "PortableRelay", "Relay", "Tunnel", "close_in_order", "open_relay"]


Kind = Literal["engine", "portable"]

KINDS: tuple[Kind, ...] = (
    ("engine", "portable") if hasattr(os, "splice") and hasattr(select, "epoll") else ("portable",)
)
"""The relays that this platform has, the best first."""


class Relay(Protocol):
    """Relays the sessions of one trio loop."""

    def run(self, tunnel: Tunnel) -> Awaitable[EndReason]:
        """Relay until both sides have closed, one fails, or one is idle for too long.

        Returns:
            The end reason. Byte counts and details are in ``tunnel``.

        Closes:
            Neither socket.

        Cancellation:
            The counts in ``tunnel`` stay as they are, and no handler stays registered.
        """

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do the work that all sessions share, until cancelled. Must be running while ``run`` is."""


def open_relay(kind: Literal["auto", "engine", "portable"], poller: AnyPoller) -> Relay:
    """Return the relay of this kind. ``auto`` takes the best one for this platform.

    Where the platform has no engine, ``engine`` falls back to the portable relay.
    """
    if "engine" in KINDS and kind != "portable" and isinstance(poller, Poller):
        return Engine(poller)
    return PortableRelay(poller)
