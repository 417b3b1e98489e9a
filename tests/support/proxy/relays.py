"""The relays of this system, and the marks that run a test with each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

import pytest
import trio

from mailproxy.net.poller import open_poller
from mailproxy.net.relay import KINDS as RELAYS
from mailproxy.net.relay import Engine, Relay, open_relay
from tests.support.proxy.flow_invariants import checked_flows

# "engine in task" is the engine whose poller cannot wait in trio's place, and has a task instead.
Kind = Literal["auto", "engine", "engine in task", "portable"]
Setting = Literal["auto", "engine", "portable"]

HAS_ENGINE = "engine" in RELAYS
KINDS: tuple[Kind, ...] = ("engine", "engine in task", "portable") if HAS_ENGINE else ("portable",)

# A test with this mark runs once with each relay. All other tests use the default relay.
ON_EACH = pytest.mark.parametrize("relay_kind", KINDS)
ENGINE_ONLY = pytest.mark.parametrize(
    "relay_kind",
    [
        pytest.param(kind, marks=pytest.mark.skipif(not HAS_ENGINE, reason="there is no engine here"))
        for kind in ("engine", "engine in task")
    ],
)


def setting_of(kind: Kind) -> Setting:
    """Return the value of ``process.relay``."""
    return "engine" if kind == "engine in task" else kind


@contextmanager
def pollers_for(kind: Kind) -> Iterator[None]:
    """Have the pollers that are started meanwhile wait as this kind of relay demands."""

    async def cannot_join(_: object) -> None: ...

    with pytest.MonkeyPatch.context() as monkeypatch:
        if kind == "engine in task":
            monkeypatch.setattr("mailproxy.net.poller.io_wait.join", cannot_join)
        yield


@asynccontextmanager
async def run_relay(kind: Kind) -> AsyncIterator[Relay]:
    """Run a relay whose flows are checked after each step. Nothing stays registered."""
    poller = open_poller()
    relay = open_relay(setting_of(kind), poller)
    with checked_flows():
        async with trio.open_nursery() as nursery:
            with pollers_for(kind):
                await nursery.start(poller.serve)
            nursery.start_soon(poller.timers.serve)  # noqa: ASYNC113 - nothing is due yet
            await nursery.start(relay.serve)
            yield relay
            assert registered(relay) == 0
            nursery.cancel_scope.cancel()


def registered(relay: Relay) -> int:
    """Return the number of sockets in the engine's poller, or 0 for the portable relay, which has none."""
    return relay.poller.registered if isinstance(relay, Engine) else 0
