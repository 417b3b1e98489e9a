"""What an established session costs: nothing while it is silent, and with the engine no task switch of its own."""

from __future__ import annotations

import os
import resource
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio
import trio.testing

from mailproxy.net.relay import Relay, Tunnel
from mailproxy.testing import ThrowAwayCA
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot
from tests.support.proxy.relay_harness import (
    TRANSPORTS,
    Action,
    Contexts,
    Pause,
    ReceiveAll,
    RelayHarness,
    Scenario,
    Send,
    StopReading,
    Transport,
    open_descriptors,
)
from tests.support.proxy.relays import ENGINE_ONLY, ON_BOTH, Kind, run_relay

IDLE_S = 0.3
KEPT_PIPES = 16  # for the next bulk, each two descriptors


class StepsOfTasks(trio.abc.Instrument):
    """Counts the steps of each task."""

    def __init__(self) -> None:
        self.of: Counter[trio.lowlevel.Task] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.of[task] += 1


@contextmanager
def steps_of_tasks() -> Iterator[StepsOfTasks]:
    steps = StepsOfTasks()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)


async def begin_sessions(nursery: trio.Nursery, stack: ExitStack, relay: Relay, count: int) -> None:
    """So many sessions in which nobody says anything."""
    for _ in range(count):
        pair = Tunnel(
            _side(stack), _side(stack), client_timeout=1000, server_timeout=1000, half_closed_timeout=1000
        )
        nursery.start_soon(relay.run, pair)
    await trio.testing.wait_all_tasks_blocked()


def _side(stack: ExitStack) -> socket.socket:
    """The relay's end of a connection; the other end stays open, too."""
    ours, theirs = socket.socketpair()
    stack.enter_context(theirs)
    ours.setblocking(False)
    return stack.enter_context(ours)


@ON_BOTH
async def test_silent_sessions_cost_nothing(relay_kind: Kind) -> None:
    async with run_relay(relay_kind) as relay:
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                await begin_sessions(nursery, stack, relay, 50)
                with steps_of_tasks() as steps:
                    await trio.sleep(IDLE_S)
                nursery.cancel_scope.cancel()
    assert set(steps.of) == {trio.lowlevel.current_task()}


@ENGINE_ONLY
async def test_a_thousand_sessions_have_no_tasks_but_their_own(relay_kind: Kind) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, (soft - 200) // 4)
    async with run_relay(relay_kind) as relay:
        before = ResourceSnapshot.now().tasks
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                await begin_sessions(nursery, stack, relay, count)
                assert ResourceSnapshot.now().tasks - before == count
                nursery.cancel_scope.cancel()
        assert ResourceSnapshot.now().tasks == before


@ENGINE_ONLY
@pytest.mark.parametrize("server", TRANSPORTS)
@pytest.mark.parametrize("client", TRANSPORTS)
async def test_what_is_said_wakes_no_task_of_the_session(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, client: Transport, server: Transport
) -> None:
    """Neither lines nor bulk; its task runs again when it is over."""
    contexts = Contexts.of(throw_away_ca)
    lines: list[Action] = [Send("client", 20), ReceiveAll("server"), Send("server", 80), ReceiveAll("client")]
    bulk: list[Action] = [
        Send("client", 1_000_000),
        ReceiveAll("server"),
        Send("server", 1_000_000),
        ReceiveAll("client"),
    ]

    class Look:
        """How often the session's task has run by now."""

        def __init__(self) -> None:
            self.seen = 0

        async def play(self, stage: RelayHarness) -> None:
            assert stage.task is not None
            self.seen = steps.of[stage.task]

    before, after = Look(), Look()
    play = Scenario([Pause(), *lines, before, *lines * 20, *bulk, after], client, server)
    with trio.fail_after(TIMEOUT_S):
        async with run_relay(relay_kind) as relay, play.harness(contexts) as stage:
            with steps_of_tasks() as steps:
                await play.play(stage, relay)
    stage.check_invariants()
    assert after.seen == before.seen > 0


def pipes() -> int:
    return sum(name.startswith("pipe:") for name in open_descriptors())


@pytest.mark.skipif(not hasattr(os, "splice"), reason="there is no splice here")
@ENGINE_ONLY
async def test_pipes_are_given_back(relay_kind: Kind, throw_away_ca: ThrowAwayCA) -> None:
    """Bulk between clear sockets goes through pipes: a few are kept for the next one, however many there were."""
    contexts = Contexts.of(throw_away_ca)
    many = 30
    outside = pipes()
    most = 0

    class Look:
        async def play(self, stage: RelayHarness) -> None:  # noqa: ARG002 - the other looks need it
            nonlocal most
            most = max(most, pipes() - outside)

    stalled: list[Action] = [
        StopReading("client"),
        Send("server", 3_000_000),
        Pause(),
        Look(),
        ReceiveAll("client"),
    ]
    play = Scenario(stalled, client_buffer=32768)
    with trio.fail_after(TIMEOUT_S):
        async with run_relay(relay_kind) as relay:
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for _ in range(many):
                        nursery.start_soon(perform, play, relay, contexts)
                await trio.testing.wait_all_tasks_blocked()
                assert pipes() - outside <= 2 * KEPT_PIPES
    assert most > 0, "bulk takes them"
    assert pipes() == outside


async def perform(play: Scenario, relay: Relay, contexts: Contexts) -> None:
    async with play.harness(contexts) as stage:
        await play.play(stage, relay)
    stage.check_invariants()
