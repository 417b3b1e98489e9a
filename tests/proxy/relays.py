"""The relays that this system has, and what a test of both of them takes: one suite for all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Literal

import pytest
import trio

from mailproxy.net.relay import Relay, open_relay
from mailproxy.net.relay.pair import Direction

Kind = Literal["auto", "engine", "portable"]

HAS_ENGINE = find_spec("mailproxy.net.relay.engine") is not None
KINDS: tuple[Kind, ...] = ("portable", "engine") if HAS_ENGINE else ("portable",)

# Everything that the fixture ``relay_kind`` reaches runs once for each; all other tests have the default alone.
ON_BOTH = pytest.mark.parametrize("relay_kind", KINDS)
ENGINE_ONLY = pytest.mark.parametrize(
    "relay_kind",
    [pytest.param("engine", marks=pytest.mark.skipif(not HAS_ENGINE, reason="there is no engine here"))],
)


@asynccontextmanager
async def running(kind: Kind) -> AsyncIterator[Relay]:
    """A relay at work. Whoever has left it has left nothing registered."""
    relay = open_relay(kind)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve)
        yield relay
        assert registered(relay) == 0
        nursery.cancel_scope.cancel()


def registered(relay: Relay) -> int:
    """How many sessions it has at the moment; the portable one keeps no account."""
    return int(getattr(relay, "registered", 0))


def is_held(direction: Direction) -> bool:
    """Has the sink not taken all? The engine keeps some of that in pipes, and says so."""
    return bool(getattr(direction, "is_held", direction.pending))
