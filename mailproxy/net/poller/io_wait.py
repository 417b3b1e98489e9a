"""The poller inside trio's wait for I/O, so that relayed bytes do not pass through trio's loop.

Trio's loop is, in ``trio.run``::

    while tasks:
        events = io_manager.get_events(timeout)     # epoll_wait(2)
        io_manager.process_events(events)           # make the tasks runnable that wait for them
        ...                                         # cancel scopes whose deadline has passed
        ...                                         # run each runnable task up to its next wait

An ``IoWait`` takes the place of trio's I/O manager. Its ``get_events`` waits in the poller's epoll object, in
which trio's own epoll object is registered like a socket. Events of sessions are delivered as plain calls, and
the wait goes on. Trio gets control when it has something to do: its own descriptors are ready, a task became
runnable, or the time has come that it would have waited for.

Trio has no public way to do this (see "The wait" in docs/architecture.md). ``join`` therefore looks at trio's
private parts, and gives up if one of them is not as in trio 0.26 to 0.35. Then, in guest mode, and with a
clock of a test, the poller has a task in trio's loop instead. That costs two rounds through the loop for a
message and its answer.

Instruments notice nothing: the sessions' work lies between ``before_io_wait`` and ``after_io_wait``.
KeyboardInterrupt does not arise here. Trio's handler raises it only in tasks, and notes it otherwise.
"""

from __future__ import annotations

import select
from collections.abc import Collection, Iterable, Sized
from typing import Any, Protocol

import trio

# Events are true unless the timeout has passed: only then may trio wake the tasks that wait for idleness. This
# iterator is true and has no items, so there is nothing for trio to process.
_NO_EVENTS_OF_TRIO = iter(())


class Waiting(Protocol):
    """What waits for sessions and trio: a poller.

    Attributes:
        is_trio_ready: Whether the last ``wait`` ended because trio's descriptor is ready.
    """

    is_trio_ready: bool

    def watch_trio(self, fd: int) -> None:
        """Also wait for this descriptor, which is ready when trio's own wait would end.

        Raises:
            OSError: It cannot be registered.
        """

    def wait(self, timeout: float, runnable: Collection[object]) -> bool:
        """Deliver events until trio has something to do, or for ``timeout`` seconds.

        Args:
            timeout: How long trio would wait, in seconds.
            runnable: Trio's runnable tasks.

        Returns:
            Whether there were events.
        """

    def unwatch_trio(self) -> None:
        """Wait no longer for trio's descriptor."""


class IoWait:
    """The wait of one trio loop, while a poller has joined it.

    Everything that is not defined here is passed on to trio's I/O manager.
    """

    def __init__(self, poller: Waiting, runner: Any) -> None:
        self._poller = poller
        self._runner = runner
        self._trio_manager = runner.io_manager
        self._runnable: Collection[object] = runner.runq
        self._is_called = False
        self._fault: BaseException | None = None
        self._has_failed = trio.Event()

    def __getattr__(self, name: str) -> object:
        """Return an attribute of trio's I/O manager. It is looked up once: none of them changes."""
        value = getattr(self._trio_manager, name)
        setattr(self, name, value)
        return value

    def get_events(self, timeout: float) -> Iterable[tuple[int, int]]:
        """Wait as trio's I/O manager does, and meanwhile serve the sessions."""
        self._is_called = True
        try:
            had_events = self._poller.wait(timeout, self._runnable)
            if self._poller.is_trio_ready:
                return self._trio_manager.get_events(0) or _NO_EVENTS_OF_TRIO
        except BaseException as fault:  # noqa: ASYNC103, BLE001 - here it would destroy the loop: ``run`` raises it
            self._fault = fault
            self._leave()
            self._has_failed.set()
            had_events = True
        return _NO_EVENTS_OF_TRIO if had_events else ()

    async def try_out(self) -> bool:
        """Take trio's wait over. Return False, and change nothing, if trio does not call it."""
        self._runner.io_manager = self
        try:
            await trio.lowlevel.checkpoint()
        except BaseException:
            self._leave()
            raise
        if not self._is_called:
            self._leave()
        return self._is_called

    async def run(self) -> None:
        """Wait until cancelled. Raise what the poller has raised in trio's wait.

        Closes:
            Nothing. Trio waits by itself again.
        """
        try:
            await self._has_failed.wait()
            assert self._fault is not None  # noqa: S101 - set before the event
            raise self._fault
        finally:
            self._fault = None  # a cycle: its traceback refers to this frame
            self._leave()

    def _leave(self) -> None:
        if self._runner.io_manager is self:
            self._runner.io_manager = self._trio_manager
            self._poller.unwatch_trio()


async def join(poller: Waiting) -> IoWait | None:
    """Let a poller wait in place of trio's loop. Its ``IoWait.run`` has to be called next.

    Returns:
        None if that is not possible here: the loop is in guest mode or has the clock of a test, another poller
        has joined it, or trio is not built as expected.
    """
    runner = _suitable_runner()
    if runner is None:
        return None
    try:
        poller.watch_trio(runner.io_manager._epoll.fileno())  # noqa: SLF001 - see the module's docstring
    except OSError:  # epoll objects that are nested too deep, or too many descriptors
        return None
    wait = IoWait(poller, runner)
    return wait if await wait.try_out() else None


def _suitable_runner() -> Any | None:
    try:
        from trio._core._run import GLOBAL_RUN_CONTEXT  # late: it may be elsewhere in another trio

        runner: Any = GLOBAL_RUN_CONTEXT.runner
    except (ImportError, AttributeError):
        return None
    return runner if is_suitable(runner) else None


def is_suitable(runner: Any) -> bool:
    """Whether all that is used of trio's runner is there, and a poller may take its wait over."""
    try:
        manager = runner.io_manager
        return (
            not runner.is_guest
            # A clock of a test runs at another speed, and autojump needs to know that nothing happens.
            and type(runner.clock).__name__ == "SystemClock"
            # Not so with another poller in the loop: this is an IoWait then.
            and type(manager).__name__ == "EpollIOManager"
            and isinstance(manager._epoll, select.epoll)  # noqa: SLF001 - see the module's docstring
            and callable(manager.get_events)
            and callable(manager.process_events)
            and isinstance(runner.runq, Sized)
        )
    except AttributeError:
        return False
