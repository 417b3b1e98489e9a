"""The steps of trio's tasks: counted, to see that nothing spins, and cancelled at, to see that nothing stays behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

import trio
import trio.testing

import mailproxy
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot

LOOK_S = 0.25
FEW_STEPS = 200  # a loop that spins makes many thousands
ENOUGH_BEYOND = 3  # visits that were over before the step came: threads make their number vary a little


class StepCounter(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.count += 1


async def count_steps() -> int:
    """How many steps all tasks of the loop make in a while in which nothing happens."""
    steps = StepCounter()
    trio.lowlevel.add_instrument(steps)
    try:
        await trio.sleep(LOOK_S)
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.count


class CancelAt(trio.abc.Instrument):
    """Cancels a scope the n-th time that any task is about to run."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.left = step
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def cancel_when_quiet(scope: trio.CancelScope) -> None:
    """For steps that a visit does not have."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    scope.cancel()


async def cancel_at_every_step(
    mapping: Mapping[str, Any],
    visit: Callable[[str], Awaitable[None]],
    *,
    stride: int = 2,
) -> None:
    """Run a proxy and a client's ``visit`` to the first bind of its frontend ``f``, cancelled at every such step.

    Nothing may be left of it each time. The visit ends when the proxy does.
    """
    config = mailproxy.from_mapping(mapping)
    before = ResourceSnapshot.now()
    beyond = 0
    for step in count(1, stride):
        with trio.fail_after(TIMEOUT_S), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                proxy = await nursery.start(mailproxy.serve, config)
                instrument = CancelAt(step, scope)
                trio.lowlevel.add_instrument(instrument)
                nursery.start_soon(cancel_when_quiet, scope)
                try:
                    await visit(proxy.frontends["f"].addresses[0])
                except (trio.BrokenResourceError, OSError):
                    pass
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        await before.wait_until_restored()
        beyond += instrument.left > 0
        if beyond == ENOUGH_BEYOND:
            return
