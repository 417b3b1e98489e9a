"""Supervision of helpers: the long-lived tasks beside the sessions, and what each process receives from the others.

A helper that fails is logged as ``helper-failed`` and runs again after a pause; sessions go on. This is the third place
with ``except Exception``, after the session and the check. Every helper goes through it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from mailproxy.log import Log
from mailproxy.log.events import HELPER_FAILED
from mailproxy.proxy.faults import locate

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 30.0
_STABLE_S = 60.0  # a helper that has run for longer starts with the first pause again


async def supervise(log: Log, helper: str, run: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run a helper until it returns or is cancelled; after a failure again, with pauses from 0.1 s up to 30 s.

    ``run`` must find its work again when it is called anew. ``helper`` is its name in the log.
    """
    pause = 0.0
    while True:
        began = trio.current_time()
        with contained(log, helper):
            await run(*args)
            return
        if trio.current_time() - began > _STABLE_S:
            pause = 0.0
        pause = min(max(2 * pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        await trio.sleep(pause)


@contextmanager
def contained(log: Log, helper: str) -> Iterator[None]:
    """Log an exception of the block and go on behind it. Cancellation passes, also as a part of a group."""
    try:
        yield
    except* Exception as failures:  # noqa: BLE001 - the border: sessions do not notice
        log_failure(log, helper, failures)


def log_failure(log: Log, helper: str, failure: BaseException) -> None:
    """Write ``helper-failed``, with the location of the failure."""
    failure, location = locate(failure)
    log.event(
        HELPER_FAILED,
        f"{helper} failed and goes on in a moment, sessions are not touched: {failure!r} at {location}",
        helper=helper,
        fault=repr(failure),
        place=location,
    )
