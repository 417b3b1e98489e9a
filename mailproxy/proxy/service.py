"""The service: owner of every task that serves sessions.

Tasks live in nested nurseries. What outlives sessions (poller, relay, timers, monitor) surrounds the
frontends, and each frontend owns its sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from random import SystemRandom
from typing import Protocol

import trio
from attrs import frozen

from mailproxy.config import Config
from mailproxy.log import Log
from mailproxy.log.events import DRAINING, READY, STOPPED
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.poller import open_poller
from mailproxy.net.relay import open_relay
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.drain import PROCESS, DrainCommands, Drainer, LocalDrains, Purpose
from mailproxy.proxy.frontend import Frontend, FrontendState
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.process import worker_count
from mailproxy.proxy.session.registry import SessionRegistry
from mailproxy.proxy.state import FrontendsRecord, StateKeeper
from mailproxy.proxy.supervise import log_failure, supervise

_STOP_TIMEOUT_S = 1.0  # for the sessions that are ended at the deadline of a drain


class Monitor(Protocol):
    """Keeps the state of servers current: with health checks, or from another process that makes them."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started when frontends may accept connections."""


@frozen
class FrontendLimits:
    """The limits of one frontend: on all of its sessions, and on those of each client if not None."""

    sessions: SessionLimits
    clients: Clients | None


class Service:
    """A configuration at work in one trio loop.

    `build_single_process` and `build_worker` make one: the parts that are given here are the ones that
    differ.

    Args:
        config: The configuration.
        listeners: The open sockets of all frontends. They are closed when ``run`` ends.
        backends: The backends, by name.
        limits: The limits of each frontend, by name.
        process_limit: The limit on sessions of the whole process, or of all workers.
        monitor: Keeps the state of servers current.
        log: The log. It is finished when ``run`` ends.
        state: Keeps the state of the backends in a file; None if there is none, or another process does.

    Attributes:
        registry: The live sessions of this process.
        is_draining: Whether it accepts no more connections.
        limit_wish: The operator's limit on sessions, 0 for that of the configuration.
        frontends: The frontends, by name.
        ended: Set when ``run`` has ended.
        drainer: Ends them, spread over time.
        drains: What commands of an operator call to end them.
    """

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        *,
        backends: Mapping[str, Backend],
        limits: Mapping[str, FrontendLimits],
        process_limit: SessionLimit,
        monitor: Monitor,
        log: Log,
        state: StateKeeper | None = None,
    ) -> None:
        self.config = config
        self.backends = backends
        self.log = log
        self.registry = SessionRegistry()
        self.drainer = Drainer(
            self.registry,
            log,
            idle_first=config.process.idle_first,
            rate=config.process.drain_rate / worker_count(config),
            random=SystemRandom(),
        )
        self.drains: DrainCommands = LocalDrains(self.drainer)
        self._listeners = listeners
        self._process_limit = process_limit
        self._monitor = monitor
        self._state = state
        if state is not None:
            state.frontends = self
        self._poller = open_poller(partial(log_failure, log, "a session"))
        self._relay = open_relay(config.process.relay, self._poller)
        self.frontends = {
            name: Frontend(
                frontend,
                [listener for listener in listeners if listener.frontend == name],
                backends=backends,
                limits=limits[name].sessions,
                clients=limits[name].clients,
                registry=self.registry,
                relay=self._relay,
                poller=self._poller,
                log=log,
            )
            for name, frontend in config.frontends.items()
        }
        self.ended = trio.Event()
        self.is_draining = False
        self.limit_wish = 0
        self._configured_limit = process_limit.limit

    @property
    def sessions(self) -> int:
        """The sessions of all frontends now; in a worker, those of all workers."""
        return self._process_limit.sessions

    @property
    def max_sessions(self) -> int:
        """The limit on them."""
        return self._process_limit.limit

    def capture_frontends(self) -> FrontendsRecord:
        """Return what the operator has set of frontends, for the state file."""
        wishes = {
            name: (frontend.state is FrontendState.PAUSED, frontend.limit)
            for name, frontend in self.frontends.items()
        }
        return FrontendsRecord.of(self.config, wishes, self.limit_wish)

    def apply_frontends(self, record: FrontendsRecord) -> None:
        """Set what the operator had set in an earlier process."""
        for name, is_paused, limit in record.wishes(self.config):
            self.frontends[name].set_limit(limit)
            if is_paused:
                self.frontends[name].set_state(FrontendState.PAUSED)
        self.set_limit(record.limit(self.config))

    def clear_maxima(self) -> None:
        """Let the highest values of the frontends begin again."""
        for frontend in self.frontends.values():
            frontend.traffic.clear_maxima()

    def set_limit(self, sessions: int) -> None:
        """Set the limit on the sessions of all frontends; 0 for that of the configuration."""
        self.limit_wish = sessions
        self._process_limit.limit = sessions or self._configured_limit
        self._process_limit.notify()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled; started once servers were checked and every bind listens.

        Closes:
            The listeners, and the log's targets after the last line.

        Cancellation:
            Open sessions are closed and logged.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.log.run)
                await nursery.start(self._poller.serve)
                nursery.start_soon(supervise, self.log, "relay", self._relay.serve)
                nursery.start_soon(supervise, self.log, "drainer", self.drainer.run)
                for backend in self.backends.values():
                    nursery.start_soon(backend.run_timers)
                if self._state is not None:
                    await self._state.restore()
                    nursery.start_soon(supervise, self.log, "state file", self._state.run)
                await nursery.start(self._monitor.run)
                async with trio.open_nursery() as frontends:
                    for frontend in self.frontends.values():
                        await frontends.start(frontend.run)
                    self.log.event(READY, "mailproxy is ready")
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            close_all(self._listeners)  # also those of frontends that were never started
            sessions = sum(
                server.counts.sessions for each in self.backends.values() for server in each.servers
            )
            if self._state is not None:
                await self._state.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.log.event(STOPPED, "mailproxy has stopped", sessions=sessions)
            await self.log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.ended.set()

    def drain(self, seconds: float) -> None:
        """Accept no more connections, and end all sessions within ``seconds``, idle ones first.

        ``run`` then ends.
        """
        self.is_draining = True
        log_draining(self.log, self.sessions, seconds)
        self.drainer.start(str(PROCESS), PROCESS.matches, seconds, Purpose.STOP)
        # The drainer ends the last sessions at the deadline. This is for what it cannot end.
        deadline = trio.current_time() + seconds + _STOP_TIMEOUT_S
        for frontend in self.frontends.values():
            frontend.drain(deadline)


def log_draining(log: Log, sessions: int, seconds: float) -> None:
    """Log that draining begins, with the number of open sessions."""
    log.event(
        DRAINING,
        f"stopping: no more connections are accepted, open sessions ({sessions}) have {seconds:g}s to end",
        sessions=sessions,
        seconds=seconds,
    )
