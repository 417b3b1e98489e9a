"""Reload of TLS files in all processes, as the control process leads it.

Its certificate watcher has reloaded some files, or was asked to. It tells all workers to load them and wakes
the supervisor, which loads them for the workers that it forks later. When all have, the watcher logs what was
reloaded.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from mailproxy.certificates.reloader import ReloadResult
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.messages import ReloadCertificates, batch_by_size
from mailproxy.workers.scoreboard import ProcessCounters

_ACK_TIMEOUT_S = 10.0  # the files may be on a slow disk
_SUPERVISOR_POLL_S = 0.02


class ReloadBroadcaster:
    """Has all other processes reload TLS files.

    Args:
        registry: The workers.
        counters: Those of the control process. The supervisor acknowledges a reload there.
        wake_supervisor: Tells the supervisor to look at ``counters``.
    """

    def __init__(
        self, registry: WorkerRegistry, counters: ProcessCounters, wake_supervisor: Callable[[], None]
    ) -> None:
        self._registry = registry
        self._counters = counters
        self._wake_supervisor = wake_supervisor

    async def broadcast(self, result: ReloadResult, is_forced: bool) -> None:
        """Have workers and supervisor load what was reloaded here. Waits for them, 20 s at most."""
        self._counters.reloads.add(1)
        self._wake_supervisor()
        # Faults that do not fit into a message are logged by each worker, too.
        faults = next(batch_by_size(result.faults), ())
        message = ReloadCertificates(is_forced=is_forced, faults=faults)
        acks = self._registry.broadcast_acked(message, replaces=ReloadCertificates)
        await self._registry.wait_for_acks(acks, _ACK_TIMEOUT_S)
        with trio.move_on_after(_ACK_TIMEOUT_S):
            while self._counters.supervisor_reloads.local < self._counters.reloads.local:  # noqa: ASYNC110 - another process sets it
                await trio.sleep(_SUPERVISOR_POLL_S)
