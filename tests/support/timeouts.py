"""The timeout of tests, and waiting for conditions outside of trio."""

from __future__ import annotations

from collections.abc import Callable

import trio

TIMEOUT_S = 30.0  # long, because the machine may be busy


async def fail_after_timeout() -> None:
    """Fail after the timeout. Start it in a test's nursery, whose own deadline would not reach the test itself."""
    await trio.sleep(TIMEOUT_S)
    raise AssertionError(f"not done within {TIMEOUT_S} s")


async def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds. It is evaluated every 5 ms."""
    with trio.fail_after(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - the condition changes in the kernel
            await trio.sleep(0.005)
