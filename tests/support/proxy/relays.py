"""The relays of this system, and the marks that run a test with each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
import trio

from mailproxy.net.poller import open_poller
from mailproxy.net.relay import KINDS, Engine, Relay, open_relay
from tests.support.proxy.flow_invariants import checked_flows

Kind = Literal["auto", "engine", "portable"]

HAS_ENGINE = "engine" in KINDS

# A test with this mark runs once with each relay. All other tests use the default relay.
ON_BOTH = pytest.mark.parametrize("relay_kind", KINDS)
ENGINE_ONLY = pytest.mark.parametrize(
    "relay_kind",
    [pytest.param("engine", marks=pytest.mark.skipif(not HAS_ENGINE, reason="there is no engine here"))],
)


@asynccontextmanager
async def run_relay(kind: Kind) -> AsyncIterator[Relay]:
    """Run a relay whose flows are checked after each step. Nothing stays registered."""
    poller = open_poller()
    relay = open_relay(kind, poller)
    with checked_flows():
        async with trio.open_nursery() as nursery:
            await nursery.start(poller.serve)
            await nursery.start(relay.serve)
            yield relay
            assert registered(relay) == 0
            nursery.cancel_scope.cancel()


def registered(relay: Relay) -> int:
    """Return the number of sockets in the engine's poller, or 0 for the portable relay, which has none."""
    return relay.poller.registered if isinstance(relay, Engine) else 0
