"""The service: owner of everything that runs. What outlives sessions surrounds the frontends, which own the sessions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from random import SystemRandom

import trio

from mailproxy import config as settings
from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.log import Log
from mailproxy.log.events import DRAINING, READY, STOPPED
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.poller import open_poller
from mailproxy.net.relay import open_relay
from mailproxy.pool import RandomSource
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.client_limits import Clients, client_limits
from mailproxy.proxy.frontend import Frontend
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.monitor import ServerMonitor, ports_of
from mailproxy.proxy.supervise import log_failure, supervise


class Service:
    """A configuration at work in one trio loop.

    ``connectors``: TLS towards servers; ``reloader`` reloads files that have changed, None where there are none. Takes
    ``listeners`` and ``log`` over: they are closed when ``run`` ends.
    """

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        connectors: ServerContexts,
        *,
        reloader: CertificateReloader | None = None,
        log: Log,
        max_sessions: int,
    ) -> None:
        self.config = config
        self.log = log
        self._listeners = listeners
        self._reloader = reloader
        self._poller = open_poller(partial(log_failure, log, "a session"))
        self._random: RandomSource = SystemRandom()
        self.limit = self._limit(max_sessions)
        self.backends: Mapping[str, Backend] = {
            name: self._backend(backend, connectors) for name, backend in config.backends.items()
        }
        self._monitor = self._tend_servers(connectors)
        self._relay = open_relay(config.process.relay, self._poller)
        self.frontends = {
            name: Frontend(
                frontend,
                [listener for listener in listeners if listener.frontend == name],
                backends=self.backends,
                limits=self._limits(frontend),
                clients=self._clients(frontend),
                relay=self._relay,
                poller=self._poller,
                log=log,
            )
            for name, frontend in config.frontends.items()
        }
        self.ended = trio.Event()

    # What is another thing in one of several processes

    def _limit(self, max_sessions: int) -> SessionLimit:
        return SessionLimit(max_sessions)

    def _limits(self, frontend: settings.Frontend) -> SessionLimits:
        return SessionLimits(SessionLimit(frontend.max_sessions), self.limit)

    def _clients(self, frontend: settings.Frontend) -> Clients | None:
        return client_limits(frontend)

    def _backend(self, backend: settings.Backend, connectors: ServerContexts) -> Backend:
        return Backend(backend, connectors, self.log, self._random)

    def _tend_servers(self, connectors: ServerContexts) -> ServerMonitor | None:
        return ServerMonitor(
            self.config, self.backends, connectors, ports=ports_of(self._listeners), reloader=self._reloader,
            log=self.log, chance=self._random,
        )  # fmt: skip

    async def _start_tending(self, nursery: trio.Nursery) -> None:
        """Keep what is known of servers up to date; returns when it is for the first time."""
        assert self._monitor is not None  # noqa: S101 - who has none does otherwise
        await nursery.start(self._monitor.run)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Proxy until drained or cancelled; started once every bind listens, host names were looked up and servers checked."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.log.run)
                await nursery.start(self._poller.serve)
                nursery.start_soon(supervise, self.log, "relay", self._relay.serve)
                for backend in self.backends.values():
                    nursery.start_soon(backend.run_timers)
                await self._start_tending(nursery)
                async with trio.open_nursery() as frontends:
                    for frontend in self.frontends.values():
                        await frontends.start(frontend.run)
                    self.log.event(READY, "mailproxy is ready")
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            close_all(self._listeners)  # those of frontends that never came to start
            sessions = sum(
                server.counts.sessions for each in self.backends.values() for server in each.servers
            )
            self.log.event(STOPPED, "mailproxy has stopped", sessions=sessions)
            await self.log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.ended.set()

    def renew_certificates(self) -> None:
        """Have certificates, keys, CAs and CRLs looked at now."""
        if self._monitor is not None:
            self._monitor.renew_certificates()

    def drain(self, seconds: float) -> None:
        """Stop in three acts: accept no more, give sessions ``seconds`` to end, stop the rest. ``run`` then ends."""
        open_sessions = self.limit.sessions
        self.log.event(
            DRAINING,
            f"stopping: no more connections are accepted, open sessions ({open_sessions}) have {seconds:g}s to end",
            sessions=open_sessions,
            seconds=seconds,
        )
        deadline = trio.current_time() + seconds
        for frontend in self.frontends.values():
            frontend.drain(deadline)
