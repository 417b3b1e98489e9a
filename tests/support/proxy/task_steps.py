"""Counts the steps of Trio tasks to find busy loops, and cancels at each step to find leaks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from typing import Any

import trio
import trio.testing

import mailproxy
from tests.support.proxy.proxy_harness import TIMEOUT_S, ResourceSnapshot

WINDOW_S = 0.25
FEW_STEPS = 200  # a busy loop makes many thousands
# Runs that ended before the step was reached. Several are needed because threads make the number of steps
# vary.
UNREACHED_STEPS = 3


class StepCounter(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.count += 1


async def count_steps() -> int:
    """Return the number of steps of all tasks in ``WINDOW_S`` without any event."""
    steps = StepCounter()
    trio.lowlevel.add_instrument(steps)
    try:
        await trio.sleep(WINDOW_S)
    finally:
        trio.lowlevel.remove_instrument(steps)
    return steps.count


class CancelAt(trio.abc.Instrument):
    """Cancels a scope the n-th time that any task is about to run."""

    def __init__(self, step: int, scope: trio.CancelScope) -> None:
        self.remaining = step
        self.scope = scope

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's interface
        self.remaining -= 1
        if self.remaining == 0:
            self.scope.cancel()


async def cancel_when_quiet(scope: trio.CancelScope) -> None:
    """Cancel the scope for a step that the run does not reach."""
    await trio.testing.wait_all_tasks_blocked(0.05)
    scope.cancel()


async def cancel_at_every_step(
    mapping: Mapping[str, Any],
    run_client: Callable[[str], Awaitable[None]],
    *,
    stride: int = 2,
) -> None:
    """Run a proxy and ``run_client`` with the first bind of its frontend ``f``, cancelled at each ``stride``-th step.

    Each time nothing may be left of the session. ``run_client`` ends when the proxy does.
    """
    config = mailproxy.from_mapping(mapping)
    before = ResourceSnapshot.now()
    unreached = 0
    for step in count(1, stride):
        with trio.fail_after(TIMEOUT_S), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                proxy = await nursery.start(mailproxy.serve, config)
                instrument = CancelAt(step, scope)
                trio.lowlevel.add_instrument(instrument)
                nursery.start_soon(cancel_when_quiet, scope)
                try:
                    await run_client(proxy.frontends["f"].addresses[0])
                except (trio.BrokenResourceError, OSError):
                    pass
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        await before.wait_until_restored()
        unreached += instrument.remaining > 0
        if unreached == UNREACHED_STEPS:
            return
