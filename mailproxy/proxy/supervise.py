"""Supervision of helpers: long-lived tasks beside the sessions, and handlers of messages.

A helper that fails is logged as ``helper-failed`` and restarted with a backoff. Sessions go on. Every helper
goes through the one border here. Sessions and checks have borders of their own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import trio

from mailproxy.log import Log
from mailproxy.log.events import HELPER_FAILED
from mailproxy.proxy.faults import locate

_FIRST_BACKOFF_S = 0.1
_MAX_BACKOFF_S = 30.0
_STABLE_S = 60.0  # after a longer run, the backoff begins at its first value


async def supervise(log: Log, helper: str, run: Callable[..., Awaitable[object]], *args: object) -> None:
    """Run a helper until it returns or is cancelled; restart it after a failure.

    The backoff is 0.1 s at first, and doubles up to 30 s.

    Args:
        log: Where failures are logged.
        helper: The helper's name in the log.
        run: The helper. It must be able to go on with its work when it is called again.
        args: Its arguments.
    """
    backoff = 0.0
    while True:
        started_at = trio.current_time()
        with contained(log, helper):
            await run(*args)
            return
        if trio.current_time() - started_at > _STABLE_S:
            backoff = 0.0
        backoff = min(max(2 * backoff, _FIRST_BACKOFF_S), _MAX_BACKOFF_S)
        await trio.sleep(backoff)


@contextmanager
def contained(log: Log, helper: str) -> Iterator[None]:
    """Log an exception of the block and continue after the block.

    Cancellation:
        ``Cancelled`` passes through, also as part of an exception group.
    """
    try:
        yield
    except* Exception as failures:  # noqa: BLE001 - the border: sessions go on
        log_failure(log, helper, failures)


def log_failure(log: Log, helper: str, failure: BaseException) -> None:
    """Log ``helper-failed``, with the location of the failure."""
    failure, location = locate(failure)
    log.event(
        HELPER_FAILED,
        f"{helper} failed and goes on in a moment, sessions are not touched: {failure!r} at {location}",
        helper=helper,
        fault=repr(failure),
        place=location,
    )
