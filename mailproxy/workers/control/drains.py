"""Drains over all workers: the control process begins them, sums their progress and writes the log lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import trio
from attrs import define, field

from mailproxy.log import Log
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.drain import DrainStatus, DrainTarget, Purpose
from mailproxy.proxy.drain.drainer import (
    log_drain_cancelled,
    log_drain_ended,
    log_drain_progress,
    log_drain_started,
    progress_interval,
)
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.control.worker_handle import WorkerHandle
from mailproxy.workers.messages import CancelDrain, DrainSessions

_ACK_TIMEOUT_S = 1.0
_TURN_S = 1.0


@define(eq=False)
class _Drain:
    """A drain that some worker has not finished.

    Attributes:
        is_settled: Whether all workers have begun it. If none reports it after that, it has ended.
        purpose: Why sessions end.
        next_line: When progress is logged next, on trio's clock.
        interval: Seconds between two such lines.
    """

    is_settled: bool
    purpose: Purpose
    interval: float
    next_line: float = field(init=False)

    @next_line.default
    def _next_line(self) -> float:
        return trio.current_time() + self.interval


class ControlDrains:
    """The commands of an operator over all workers, see `DrainCommands`.

    Args:
        registry: The workers.
        count_sessions: Returns the open sessions of a target, over all workers.
        log: Where drains are logged.
    """

    def __init__(
        self, registry: WorkerRegistry, count_sessions: Callable[[DrainTarget], int], log: Log
    ) -> None:
        self._registry = registry
        self._count_sessions = count_sessions
        self._log = log
        self._drains: dict[str, _Drain] = {}
        self._progress: dict[WorkerHandle, tuple[DrainStatus, ...]] = {}

    # Commands

    async def drain_server(self, backend: Backend, server: BackendServer, seconds: float) -> None:
        """Set a server's state to drain, and end its sessions."""
        backend.vacate(server)
        await self._start(DrainTarget(backend=backend.name, server=server.name), seconds, Purpose.DRAIN)

    async def drain_frontend(self, name: str, seconds: float) -> None:
        """End a frontend's sessions."""
        await self._start(DrainTarget(frontend=name), seconds, Purpose.DRAIN)

    async def kill(self, target: DrainTarget, seconds: float) -> None:
        """End the sessions that there are now."""
        await self._start(target, seconds, Purpose.KILL)

    async def cancel(self, target: DrainTarget) -> bool:
        """Let the sessions go on."""
        drain = self._drains.get(str(target))
        if drain is None:
            return False
        drain.is_settled = False
        await self._broadcast(CancelDrain(target))
        self._drains.pop(str(target), None)
        log_drain_cancelled(self._log, str(target), self._count_sessions(target))
        return True

    def statuses(self) -> Sequence[DrainStatus]:
        """Return how far each drain has come, over all workers."""
        return [sum_up(what, drain.purpose, self._statuses_of(what)) for what, drain in self._drains.items()]

    async def _start(self, target: DrainTarget, seconds: float, purpose: Purpose) -> None:
        what = str(target)
        drain = self._drains[what] = _Drain(
            is_settled=False, purpose=purpose, interval=progress_interval(seconds)
        )
        log_drain_started(self._log, what, purpose, self._count_sessions(target), seconds)
        await self._broadcast(DrainSessions(target, purpose, seconds))
        drain.is_settled = True
        self._check_ended()

    async def _broadcast(self, message: DrainSessions | CancelDrain) -> None:
        """Send a message to all workers, and wait until they have acted on it and reported their progress."""
        acks = self._registry.broadcast_acked(message, replaces=str(message.target))
        await self._registry.wait_for_acks(acks, _ACK_TIMEOUT_S)

    # Progress

    def on_progress(self, worker: WorkerHandle, statuses: tuple[DrainStatus, ...]) -> None:
        """Take the progress of a worker. Drains that an earlier control process has begun are known by it."""
        self._progress[worker] = statuses
        for status in statuses:
            if status.what not in self._drains:
                interval = progress_interval(status.seconds)
                self._drains[status.what] = _Drain(is_settled=True, purpose=status.purpose, interval=interval)
        self._check_ended()

    def on_worker_gone(self, worker: WorkerHandle) -> None:
        """Forget a worker. Its sessions are gone, too."""
        self._progress.pop(worker, None)
        self._check_ended()

    async def run(self) -> None:
        """Log the progress until cancelled."""
        while True:
            await trio.sleep(_TURN_S)
            for status in self.statuses():
                drain = self._drains[status.what]
                if drain.next_line <= trio.current_time():
                    drain.next_line += drain.interval
                    log_drain_progress(self._log, status)

    def _statuses_of(self, what: str) -> list[DrainStatus]:
        return [status for statuses in self._progress.values() for status in statuses if status.what == what]

    def _check_ended(self) -> None:
        for what, drain in tuple(self._drains.items()):
            if drain.is_settled and not self._statuses_of(what):
                del self._drains[what]
                if drain.purpose is not Purpose.STOP:
                    log_drain_ended(self._log, what)


def sum_up(what: str, purpose: Purpose, statuses: Iterable[DrainStatus]) -> DrainStatus:
    """Return the status of a drain over all workers."""
    statuses = list(statuses)
    return DrainStatus(
        what,
        purpose,
        left=sum(status.left for status in statuses),
        idle=sum(status.idle for status in statuses),
        seconds=max((status.seconds for status in statuses), default=0.0),
    )
