"""The cost of an established session: nothing while it is silent, and no task switch with the engine."""

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
from tests.support.proxy.relays import ENGINE_ONLY, ON_EACH, Kind, run_relay

IDLE_S = 0.3
KEPT_PIPES = 16  # kept for the next bulk, each with two descriptors


class TaskSteps(trio.abc.Instrument):
    """Counts the steps of each task."""

    def __init__(self) -> None:
        self.counts: Counter[trio.lowlevel.Task] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.counts[task] += 1


@contextmanager
def count_task_steps() -> Iterator[TaskSteps]:
    steps = TaskSteps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)


async def start_sessions(nursery: trio.Nursery, stack: ExitStack, relay: Relay, count: int) -> None:
    """Start this number of silent sessions."""
    for _ in range(count):
        tunnel = Tunnel(
            _side(stack), _side(stack), client_timeout=1000, server_timeout=1000, half_closed_timeout=1000
        )
        nursery.start_soon(relay.run, tunnel)
    await trio.testing.wait_all_tasks_blocked()


def _side(stack: ExitStack) -> socket.socket:
    """Return the relay's end of a connection. The other end stays open, too."""
    relay_socket, peer_socket = socket.socketpair()
    stack.enter_context(peer_socket)
    relay_socket.setblocking(False)
    return stack.enter_context(relay_socket)


@ON_EACH
async def test_silent_sessions_run_no_task(relay_kind: Kind) -> None:
    async with run_relay(relay_kind) as relay:
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                await start_sessions(nursery, stack, relay, 50)
                with count_task_steps() as steps:
                    await trio.sleep(IDLE_S)
                nursery.cancel_scope.cancel()
    assert set(steps.counts) == {trio.lowlevel.current_task()}


@ENGINE_ONLY
async def test_thousand_sessions_have_one_task_each(relay_kind: Kind) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, (soft - 200) // 4)
    async with run_relay(relay_kind) as relay:
        before = ResourceSnapshot.now().tasks
        with ExitStack() as stack:
            async with trio.open_nursery() as nursery:
                await start_sessions(nursery, stack, relay, count)
                assert ResourceSnapshot.now().tasks - before == count
                nursery.cancel_scope.cancel()
        assert ResourceSnapshot.now().tasks == before


@ENGINE_ONLY
@pytest.mark.parametrize("server", TRANSPORTS)
@pytest.mark.parametrize("client", TRANSPORTS)
async def test_traffic_wakes_no_session_task(
    relay_kind: Kind, throw_away_ca: ThrowAwayCA, client: Transport, server: Transport
) -> None:
    """Neither lines nor bulk wake it. The task runs again when the session ends."""
    contexts = Contexts.of(throw_away_ca)
    lines: list[Action] = [Send("client", 20), ReceiveAll("server"), Send("server", 80), ReceiveAll("client")]
    bulk: list[Action] = [
        Send("client", 1_000_000),
        ReceiveAll("server"),
        Send("server", 1_000_000),
        ReceiveAll("client"),
    ]

    class ReadSteps:
        """Notes how often the session's task has run."""

        def __init__(self) -> None:
            self.step_count = 0

        async def play(self, harness: RelayHarness) -> None:
            assert harness.task is not None
            self.step_count = steps.counts[harness.task]

    before, after = ReadSteps(), ReadSteps()
    scenario = Scenario([Pause(), *lines, before, *lines * 20, *bulk, after], client, server)
    with trio.fail_after(TIMEOUT_S):
        async with run_relay(relay_kind) as relay, scenario.harness(contexts) as harness:
            with count_task_steps() as steps:
                await scenario.play(harness, relay)
    harness.check_invariants()
    assert after.step_count == before.step_count > 0


def count_pipes() -> int:
    return sum(name.startswith("pipe:") for name in open_descriptors())


@pytest.mark.skipif(not hasattr(os, "splice"), reason="there is no splice here")
@ENGINE_ONLY
async def test_pipes_are_returned(relay_kind: Kind, throw_away_ca: ThrowAwayCA) -> None:
    """Bulk between unencrypted sockets goes through pipes. A limited number is kept for later use."""
    contexts = Contexts.of(throw_away_ca)
    session_count = 30
    pipes_before = count_pipes()
    most_pipes = 0

    class CountPipes:
        async def play(self, harness: RelayHarness) -> None:  # noqa: ARG002 - the interface of actions
            nonlocal most_pipes
            most_pipes = max(most_pipes, count_pipes() - pipes_before)

    stalled: list[Action] = [
        StopReading("client"),
        Send("server", 3_000_000),
        Pause(),
        CountPipes(),
        ReceiveAll("client"),
    ]
    scenario = Scenario(stalled, client_buffer=32768)
    with trio.fail_after(TIMEOUT_S):
        async with run_relay(relay_kind) as relay:
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for _ in range(session_count):
                        nursery.start_soon(run_scenario, scenario, relay, contexts)
                await trio.testing.wait_all_tasks_blocked()
                assert count_pipes() - pipes_before <= 2 * KEPT_PIPES
    assert most_pipes > 0, "bulk uses pipes"
    assert count_pipes() == pipes_before


async def run_scenario(scenario: Scenario, relay: Relay, contexts: Contexts) -> None:
    async with scenario.harness(contexts) as harness:
        await scenario.play(harness, relay)
    harness.check_invariants()
