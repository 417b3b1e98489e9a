"""The poller without epoll: trio's own waits."""

from __future__ import annotations

import select
from collections.abc import Callable

import trio

from mailproxy.net.poller.events import READING
from mailproxy.net.poller.poller import Poller
from mailproxy.net.poller.timers import Timers
from mailproxy.net.poller.watch import TrioWatch, Watch


class TrioPoller:
    """Replaces ``Poller`` where there is no epoll. It has no registry, and uses trio's own waits."""

    clock = staticmethod(trio.current_time)
    turns = 0

    def __init__(self) -> None:
        self.timers = Timers()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Return at once: there is nothing to serve."""
        task_status.started()

    def add(self, fd: int, events: int = READING) -> Watch:  # noqa: ARG002 - the signature of Poller.add
        """Return a watch; nothing is registered."""
        return TrioWatch(fd)

    add_listener = add

    def watch(self, fd: int) -> Watch:
        """Return a watch; it does not matter which."""
        return TrioWatch(fd)

    def forget(self, fd: int) -> None:
        """Do nothing: nothing was registered."""

    unregister = forget

    def unwatch(self, watch: Watch) -> None:
        """Do nothing: nothing was registered."""


AnyPoller = Poller | TrioPoller

TRIO = TrioPoller()


def open_poller(on_fault: Callable[[Exception], None] | None = None) -> AnyPoller:
    """Return the poller for this platform; ``on_fault`` as for ``Poller``."""
    return Poller(on_fault) if hasattr(select, "epoll") else TRIO
