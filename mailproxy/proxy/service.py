"""The service: owner of every task that serves sessions.

Tasks live in nested nurseries. What outlives sessions (poller, relay, timers, monitor) surrounds the
frontends, and each frontend owns its sessions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from random import SystemRandom
from typing import Protocol

import trio
from attrs import frozen

from mailproxy import config
from mailproxy.config import Config
from mailproxy.log import Log
from mailproxy.log.events import DRAINING, READY, STOPPED
from mailproxy.net.handover import Handover
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.poller import open_poller
from mailproxy.net.relay import open_relay
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.drain import PROCESS, DrainCommands, Drainer, LocalDrains, Purpose
from mailproxy.proxy.frontend import Frontend
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.process import worker_count
from mailproxy.proxy.session.registry import LiveSession, SessionRegistry
from mailproxy.proxy.state import StateKeeper
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
        self.limits = limits
        self._listeners: Sequence[Listener] = listeners
        self.process_limit = process_limit
        self._monitor = monitor
        self._state = state
        self._nursery: trio.Nursery | None = None
        self._frontends_nursery: trio.Nursery | None = None
        self._retired_sessions = 0
        self._reloads = 0
        self._poller = open_poller(partial(log_failure, log, "a session"))
        self._relay = open_relay(config.process.relay, self._poller)
        self.frontends = {
            name: self._make_frontend(
                frontend, [listener for listener in listeners if listener.frontend == name]
            )
            for name, frontend in config.frontends.items()
        }
        self.ended = trio.Event()
        self.is_draining = False
        self.limit_wish = 0
        self._configured_limit = process_limit.limit

    def _make_frontend(self, frontend: config.Frontend, listeners: Sequence[Listener]) -> Frontend:
        limits = self.limits[frontend.name]
        return Frontend(
            frontend,
            listeners,
            backends=self.backends,
            limits=limits.sessions,
            clients=limits.clients,
            registry=self.registry,
            relay=self._relay,
            poller=self._poller,
            log=self.log,
        )

    @property
    def is_serving(self) -> bool:
        """Whether it accepts sessions: it has been started, and does not drain."""
        return self._frontends_nursery is not None and not self.is_draining

    @property
    def listeners(self) -> Sequence[Listener]:
        """The open listeners of all frontends."""
        return self._listeners

    @property
    def sessions(self) -> int:
        """The sessions of all frontends now; in a worker, those of all workers."""
        return self.process_limit.sessions

    @property
    def max_sessions(self) -> int:
        """The limit on them."""
        return self.process_limit.limit

    def set_limit(self, sessions: int) -> None:
        """Set the limit on the sessions of all frontends; 0 for that of the configuration."""
        self.limit_wish = sessions
        self.process_limit.change(sessions or self._configured_limit)

    def reconfigure_limit(self, sessions: int, *, keeps_wish: bool) -> None:
        """Use another limit of the configuration.

        Args:
            sessions: The limit.
            keeps_wish: Whether that of the operator stays, since the file's own value is as before.
        """
        self._configured_limit = sessions
        self.set_limit(self.limit_wish if keeps_wish else 0)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled; started once servers were checked and every bind listens.

        Closes:
            The listeners, and the log's targets after the last line.

        Cancellation:
            Open sessions are closed and logged.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
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
                    self._frontends_nursery = frontends
                    self.log.event(READY, "mailproxy is ready")
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            self.is_draining = True
            close_all(self._listeners)  # also those of frontends that were never started
            servers = (server for each in self.backends.values() for server in each.servers)
            sessions = self._retired_sessions + _count_sessions(servers)
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

    # Reload

    def reconfigure(
        self,
        config: Config,
        handover: Handover,
        *,
        backends: Mapping[str, Backend],
        limits: Mapping[str, FrontendLimits],
        retired: Iterable[BackendServer],
    ) -> None:
        """Use another configuration from now on, while it serves.

        The caller has reconfigured backends and limits. New sessions use it, and those that are there keep
        theirs. If their bind, their route or their server is gone, or the server has another address, they
        have ``drain_timeout`` to end.

        Args:
            config: The configuration.
            handover: Its listeners.
            backends: Its backends by name.
            limits: The limits of each frontend, by name.
            retired: The servers that are gone.
        """
        assert self._nursery is not None and self._frontends_nursery is not None  # noqa: S101, PT018 - is_serving
        seconds = config.process.drain_timeout
        self.drainer.reconfigure(
            idle_first=config.process.idle_first, rate=config.process.drain_rate / worker_count(config)
        )
        for name, backend in backends.items():
            if name not in self.backends:
                self._nursery.start_soon(backend.run_timers)
        for name, backend in self.backends.items():
            if name not in backends:
                backend.retire()
        self.config, self.backends, self.limits = config, backends, limits
        if self._state is not None:
            self._state.reconfigure(backends)
        self._listeners = handover.listeners
        self._retired_sessions += _count_sessions(retired)
        before, self.frontends = self.frontends, {}
        for name, frontend in before.items():
            if name not in config.frontends:
                frontend.retire(trio.current_time() + seconds + _STOP_TIMEOUT_S)
        # Sockets that move leave their old frontends before the new ones accept there: two tasks cannot wait
        # at one socket.
        moved = {new.socket for new, old in handover.kept if new.frontend != old.frontend}
        for name, frontend in before.items():
            if name in config.frontends:
                frontend.release(moved)
        handover.complete()
        for name, table in config.frontends.items():
            listeners = [listener for listener in handover.listeners if listener.frontend == name]
            known = before.get(name)
            if known is None:
                self.frontends[name] = new = self._make_frontend(table, listeners)
                self._frontends_nursery.start_soon(new.run)
            else:
                self.frontends[name] = known
                known.reconfigure(table, listeners, backends=backends, clients=limits[name].clients)
        close_all(handover.gone)
        self._drain_orphans(seconds)

    def _drain_orphans(self, seconds: float) -> None:
        """Have the sessions end within ``seconds`` that are orphans, or that become it while they connect."""
        assert self._nursery is not None  # noqa: S101 - is_serving
        self._reloads += 1
        orphans = {session.record.id for session in self.registry.select(self._is_orphan)}

        def matches(session: LiveSession) -> bool:
            # The next reload may bring the route back.
            return session.record.id in orphans and self._is_orphan(session)

        if orphans:
            self.drainer.start(f"reload {self._reloads}", matches, seconds, Purpose.DRAIN)
        connecting = {
            session.record.id
            for session in self.registry.select(lambda session: not session.is_connected)
            if session.record.id not in orphans
        }
        if connecting:
            self._nursery.start_soon(self._end_late_orphans, connecting, seconds)

    async def _end_late_orphans(self, numbers: Iterable[int], seconds: float) -> None:
        """End the sessions that have selected their route in the configuration before, and now are orphans."""
        await trio.sleep(seconds)
        for number in numbers:
            session = self.registry.get(number)
            if session is not None and self._is_orphan(session):
                session.end(Purpose.DRAIN.end_reason)

    def _is_orphan(self, session: LiveSession) -> bool:
        """Whether the bind, the route or the server of a session is gone."""
        record, server = session.record, session.server
        frontend = self.frontends.get(record.frontend)
        if frontend is None or not frontend.has_socket(session.listener):
            return True
        if not record.backend:  # it has no route yet
            return False
        return record.backend not in frontend.backend_names or (server is not None and server.is_gone)


def _count_sessions(servers: Iterable[BackendServer]) -> int:
    return sum(server.counts.sessions for server in servers)


def log_draining(log: Log, sessions: int, seconds: float) -> None:
    """Log that draining begins, with the number of open sessions."""
    log.event(
        DRAINING,
        f"stopping: no more connections are accepted, open sessions ({sessions}) have {seconds:g}s to end",
        sessions=sessions,
        seconds=seconds,
    )
