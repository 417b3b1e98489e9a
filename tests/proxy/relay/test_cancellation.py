"""A session that is cancelled at any step leaves nothing in the relay, and its neighbour notices nothing."""

from __future__ import annotations

from itertools import count

import pytest
import trio

from mailproxy.log.end_reasons import CLIENT_CLOSED
from mailproxy.testing import ThrowAwayCA
from tests.support.proxy.proxy_fixture import PATIENCE_S, Belongings
from tests.support.proxy.relay_harness import (
    Act,
    Channel,
    Contexts,
    HalfClose,
    Meet,
    Pause,
    Play,
    Reset,
    Say,
    Stall,
)
from tests.support.proxy.relays import ON_BOTH, Kind, registered, running
from tests.support.proxy.task_steps import CancelAt

STRIDE = 3

CANCELLED: list[Act] = [
    *(Say("client", 40_000), Say("server", 40_000), Meet("server"), Meet("client")),
    *(Stall("client"), Say("server", 200_000), Pause(), HalfClose("client"), Pause(), Meet("client")),
]
ABORTED: list[Act] = [Say("client", 40_000), Meet("server"), Say("server", 200_000), Reset("client"), Pause()]
NO_ROOM: list[Act] = [Stall("client"), Say("server", 600_000), HalfClose("server"), Pause(), Meet("client")]
NEIGHBOUR: list[Act] = [
    *(Say("client", 10, 1), Meet("server"), Pause(), Say("server", 100_000), Meet("client"), Pause()),
    *(HalfClose("client"), Say("server", 10)),
]


@ON_BOTH
@pytest.mark.parametrize("channel", ["clear", "TLS 1.3"])
@pytest.mark.parametrize("acts", [CANCELLED, ABORTED, NO_ROOM], ids=["held back", "reset", "no room"])
async def test_cancelled_at_any_step(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, acts: list[Act], channel: Channel
) -> None:
    contexts = Contexts.of(throw_away_ca)
    play = Play(acts, channel, channel, client_buffer=8192)
    neighbours = Play(NEIGHBOUR, channel)
    cancelled = 0
    async with running(relay_kind) as relay:
        before: Belongings | None = None
        for step in count(1, STRIDE):
            async with play.staged(contexts) as stage, neighbours.staged(contexts) as other:
                instrument = CancelAt(step, stage.scope)
                with trio.fail_after(PATIENCE_S):
                    async with trio.open_nursery() as nursery:
                        trio.lowlevel.add_instrument(instrument)
                        nursery.start_soon(play.play, stage, relay)
                        nursery.start_soon(neighbours.play, other, relay)
                trio.lowlevel.remove_instrument(instrument)
            stage.review()
            other.review()
            assert other.end is CLIENT_CLOSED
            assert registered(relay) == 0
            cancelled += stage.scope.cancelled_caught
            before = before or Belongings.now()  # what the first one left may be kept for the next
            if instrument.left > 0:
                break
        assert before is not None
        await before.again()
    assert cancelled > 10
