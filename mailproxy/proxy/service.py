"""The service: owner of every task that serves sessions.

Tasks live in nested nurseries. What outlives sessions (poller, relay, timers, monitor) surrounds the
frontends, and each frontend owns its sessions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
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
from mailproxy.proxy.frontend import Frontend
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.session.registry import SessionRegistry
from mailproxy.proxy.supervise import log_failure, supervise


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

    Attributes:
        registry: The live sessions of this process.
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
    ) -> None:
        self.config = config
        self.backends = backends
        self.log = log
        self.registry = SessionRegistry()
        self._listeners = listeners
        self._process_limit = process_limit
        self._monitor = monitor
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

    @property
    def sessions(self) -> int:
        """The sessions of all frontends now; in a worker, those of all workers."""
        return self._process_limit.sessions

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
                for backend in self.backends.values():
                    nursery.start_soon(backend.run_timers)
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
            self.log.event(STOPPED, "mailproxy has stopped", sessions=sessions)
            await self.log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.ended.set()

    def drain(self, seconds: float) -> None:
        """Accept no more connections, and close sessions that are open after ``seconds``. ``run`` then ends."""
        log_draining(self.log, self.sessions, seconds)
        deadline = trio.current_time() + seconds
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
