"""The control process at the signals of an operator, which the supervisor passes on."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Collection

import trio

from mailproxy.config import Config
from mailproxy.errors import ConfigError
from mailproxy.log import Log
from mailproxy.proxy.service import log_draining
from mailproxy.proxy.signals import SignalAction, log_ignored, log_stopping, signal_action
from mailproxy.proxy.supervise import contained
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.messages import Drain, ReopenLog, Stop

_REOPEN_TIMEOUT_S = 3.0  # a worker whose log hangs must not keep the control process from reopening its own


class SignalHandler:
    """Acts on signals, and knows whether the proxy is stopping.

    Args:
        config: Returns the configuration in use.
        log: The log of the control process.
        registry: The workers.
        reload: Reads the configuration file again and uses it.
        count_sessions: Returns the number of open sessions of all workers.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        log: Log,
        *,
        registry: WorkerRegistry,
        reload: Callable[[], Awaitable[object]],
        count_sessions: Callable[[], int],
    ) -> None:
        self._config = config
        self._log = log
        self._registry = registry
        self._reload = reload
        self._count_sessions = count_sessions
        self._order: Drain | Stop | None = None
        self._is_draining = False

    @property
    def is_stopping(self) -> bool:
        """Whether the workers have been sent Drain or Stop."""
        return self._order is not None

    @property
    def order(self) -> Drain | Stop | None:
        """What a worker must be sent that connects only now; None while the proxy serves."""
        return self._order

    def handle(self, number: int, nursery: trio.Nursery) -> None:
        """Act on a signal. Tasks that wait for workers run in ``nursery``."""
        match signal_action(number, is_draining=self._is_draining):
            case SignalAction.DRAIN | SignalAction.HAND_OVER:
                self.drain()
            case SignalAction.STOP:
                self._stop()
            case SignalAction.REOPEN_LOG:
                nursery.start_soon(self._reopen_logs)
            case SignalAction.RELOAD:
                nursery.start_soon(self._reopen_logs)
                nursery.start_soon(self._reload_contained)
            case SignalAction.IGNORE:
                log_ignored(self._log)

    def drain(self, closed: Collection[str] = ()) -> None:
        """Have all workers drain, unless they drain or stop already.

        Args:
            closed: Addresses at which no other proxy listens. What waits there is accepted first.
        """
        if self._order is None:
            seconds = self._config().process.drain_timeout
            self._order, self._is_draining = Drain(seconds, tuple(closed)), True
            log_draining(self._log, self._count_sessions(), seconds)
            self._registry.broadcast(self._order, replaces=Drain)

    def _stop(self) -> None:
        self._order = Stop()
        log_stopping(self._log, self._count_sessions())
        self._registry.broadcast(self._order, replaces=Stop)

    async def _reload_contained(self) -> None:
        with contained(self._log, "reload"), contextlib.suppress(ConfigError):  # it is logged
            await self._reload()

    async def _reopen_logs(self) -> None:
        """Have all workers reopen their logs, then reopen the own one, which logs that all have done it."""
        with contained(self._log, "log writer"):
            acks = self._registry.broadcast_acked(ReopenLog(), replaces=ReopenLog)
            await self._registry.wait_for_acks(acks, _REOPEN_TIMEOUT_S)
        self._log.reopen()
