"""A session that is cancelled at any step leaves nothing in the relay, and another session is not affected."""

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
from tests.support.proxy.relays import ON_EACH, Kind, registered, run_relay
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
BUFFERS_FULL: list[Action] = [
    StopReading("client"),
    Send("server", 600_000),
    HalfClose("server"),
    Pause(),
    ReceiveAll("client"),
]
OTHER: list[Action] = [
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


@ON_EACH
@pytest.mark.parametrize("transport", ["clear", "TLS 1.3"])
@pytest.mark.parametrize(
    "actions", [CANCELLED, ABORTED, BUFFERS_FULL], ids=["blocked", "reset", "buffers full"]
)
async def test_cancellation_at_any_step_leaves_nothing(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, actions: list[Action], transport: Transport
) -> None:
    contexts = Contexts.of(throw_away_ca)
    scenario = Scenario(actions, transport, transport, client_buffer=8192)
    other_scenario = Scenario(OTHER, transport)
    cancelled = 0
    async with run_relay(relay_kind) as relay:
        before: ResourceSnapshot | None = None
        for step in count(1, STRIDE):
            async with scenario.harness(contexts) as harness, other_scenario.harness(contexts) as other:
                instrument = CancelAt(step, harness.scope)
                with trio.fail_after(TIMEOUT_S):
                    async with trio.open_nursery() as nursery:
                        trio.lowlevel.add_instrument(instrument)
                        nursery.start_soon(scenario.play, harness, relay)
                        nursery.start_soon(other_scenario.play, other, relay)
                trio.lowlevel.remove_instrument(instrument)
            harness.check_invariants()
            other.check_invariants()
            assert other.end is CLIENT_CLOSED
            assert registered(relay) == 0
            cancelled += harness.scope.cancelled_caught
            # What the first session left may be kept for the next one.
            before = before or ResourceSnapshot.now()
            if instrument.remaining > 0:
                break
        assert before is not None
        await before.wait_until_restored()
    assert cancelled > 10
