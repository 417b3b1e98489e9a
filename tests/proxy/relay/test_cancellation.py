"""A session that is cancelled at any step leaves nothing in the relay, and its neighbour notices nothing."""

from __future__ import annotations

from itertools import count

import pytest
import trio

from mailproxy.log.end_reasons import CLIENT_CLOSED
from mailproxy.testing import ThrowAwayCA
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot
from tests.support.proxy.relay_harness import (
    Action,
    Contexts,
    HalfClose,
    Pause,
    ReceiveAll,
    Reset,
    Scenario,
    Send,
    StopReading,
    Transport,
)
from tests.support.proxy.relays import ON_BOTH, Kind, registered, run_relay
from tests.support.proxy.task_steps import CancelAt

STRIDE = 3

CANCELLED: list[Action] = [
    *(Send("client", 40_000), Send("server", 40_000), ReceiveAll("server"), ReceiveAll("client")),
    *(
        StopReading("client"),
        Send("server", 200_000),
        Pause(),
        HalfClose("client"),
        Pause(),
        ReceiveAll("client"),
    ),
]
ABORTED: list[Action] = [
    Send("client", 40_000),
    ReceiveAll("server"),
    Send("server", 200_000),
    Reset("client"),
    Pause(),
]
NO_ROOM: list[Action] = [
    StopReading("client"),
    Send("server", 600_000),
    HalfClose("server"),
    Pause(),
    ReceiveAll("client"),
]
NEIGHBOUR: list[Action] = [
    *(
        Send("client", 10, 1),
        ReceiveAll("server"),
        Pause(),
        Send("server", 100_000),
        ReceiveAll("client"),
        Pause(),
    ),
    *(HalfClose("client"), Send("server", 10)),
]


@ON_BOTH
@pytest.mark.parametrize("channel", ["clear", "TLS 1.3"])
@pytest.mark.parametrize("acts", [CANCELLED, ABORTED, NO_ROOM], ids=["held back", "reset", "no room"])
async def test_cancelled_at_any_step(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, acts: list[Action], channel: Transport
) -> None:
    contexts = Contexts.of(throw_away_ca)
    play = Scenario(acts, channel, channel, client_buffer=8192)
    neighbours = Scenario(NEIGHBOUR, channel)
    cancelled = 0
    async with run_relay(relay_kind) as relay:
        before: ResourceSnapshot | None = None
        for step in count(1, STRIDE):
            async with play.harness(contexts) as stage, neighbours.harness(contexts) as other:
                instrument = CancelAt(step, stage.scope)
                with trio.fail_after(TIMEOUT_S):
                    async with trio.open_nursery() as nursery:
                        trio.lowlevel.add_instrument(instrument)
                        nursery.start_soon(play.play, stage, relay)
                        nursery.start_soon(neighbours.play, other, relay)
                trio.lowlevel.remove_instrument(instrument)
            stage.check_invariants()
            other.check_invariants()
            assert other.end is CLIENT_CLOSED
            assert registered(relay) == 0
            cancelled += stage.scope.cancelled_caught
            before = before or ResourceSnapshot.now()  # what the first one left may be kept for the next
            if instrument.left > 0:
                break
        assert before is not None
        await before.wait_until_restored()
    assert cancelled > 10
