"""The longest that a test waits, and waiting for what happens outside of trio."""

from __future__ import annotations

from collections.abc import Callable

import trio

PATIENCE_S = 20.0  # for what is only late because the machine is busy


async def fail_after_timeout() -> None:
    """Fail when it takes too long; started in a test's nursery (whose deadline would not reach the test itself)."""
    await trio.sleep(PATIENCE_S)
    raise AssertionError(f"not done within {PATIENCE_S} s")


async def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds; it is looked at every 5 ms."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the kernel
            await trio.sleep(0.005)
