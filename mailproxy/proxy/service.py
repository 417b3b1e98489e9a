"""The service: owner of everything that runs. What outlives sessions surrounds the frontends, which own the sessions."""

from __future__ import annotations

from collections.abc import Iterator
from random import SystemRandom

import trio

from mailproxy.config import Config, ServerTls
from mailproxy.config.probes import ways
from mailproxy.log import Log
from mailproxy.log.events import DRAINING, READY, STOPPED
from mailproxy.net.leaving import LeaveWatch
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.relay import open_relay
from mailproxy.net.tls import Context
from mailproxy.proxy.backend import Backend, Connectors, context_for
from mailproxy.proxy.check import Check, checks_of
from mailproxy.proxy.checking import Checks
from mailproxy.proxy.frontend import Frontend
from mailproxy.proxy.limit import SessionLimit
from mailproxy.proxy.watcher import Looks, Watcher


class Service:
    """A configuration at work in one trio loop.

    ``connectors``: TLS towards servers; ``looks`` takes up files that have changed, None where there are none. Takes
    ``listeners`` and ``log`` over: they are closed when ``run`` ends.
    """

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        connectors: Connectors,
        *,
        looks: Looks | None = None,
        log: Log,
        max_sessions: int,
    ) -> None:
        self.config = config
        self.log = log
        self._listeners = listeners
        self._connectors = connectors
        self.limit = SessionLimit(max_sessions)
        self._leaving = LeaveWatch()
        chance = SystemRandom()
        self.backends = {
            name: Backend(settings, connectors, log, chance) for name, settings in config.backends.items()
        }
        self._checks = Checks(list(self._checks_of_servers()), log=log, chance=chance)
        self._relay = open_relay(config.process.relay)
        self.frontends = {
            name: Frontend(
                settings,
                [listener for listener in listeners if listener.frontend == name],
                backends=self.backends,
                limit=self.limit,
                relay=self._relay,
                leaving=self._leaving,
                log=log,
            )
            for name, settings in config.frontends.items()
        }
        self._watcher = Watcher(
            looks, interval=config.process.certificate_interval, take_up=self._take_up, log=log
        ) if looks is not None else None  # fmt: skip
        self.ended = trio.Event()

    def _checks_of_servers(self) -> Iterator[tuple[Backend, Check]]:
        """What is checked depends on the ports that sessions come to, which are known for sure only now."""
        listening = {
            (listener.frontend, listener.number - 1): listener.port
            for listener in self._listeners
            if listener.port is not None
        }
        for backend in self.backends.values():
            found = ways(self.config.frontends.values(), backend.name, listening)
            for check in checks_of(backend, found, self._context_of):
                yield backend, check

    def _context_of(self, tls: ServerTls) -> Context:
        return context_for(self._connectors, tls)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Proxy until drained or cancelled; started once every bind listens, host names were looked up and servers checked."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.log.run)
                nursery.start_soon(self._leaving.run)
                await nursery.start(self._relay.serve)
                if self._watcher is not None:
                    nursery.start_soon(self._watcher.run)
                async with trio.open_nursery() as starting:
                    for backend in self.backends.values():
                        starting.start_soon(nursery.start, backend.resolver.run)
                        nursery.start_soon(backend.keep_time)
                await nursery.start(self._checks.run)
                async with trio.open_nursery() as frontends:
                    for frontend in self.frontends.values():
                        await frontends.start(frontend.run)
                    self.log.event(READY, "mailproxy is ready")
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            close_all(self._listeners)  # those of frontends that never came to start
            self.log.event(STOPPED, "mailproxy has stopped")
            await self.log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.ended.set()

    def renew_certificates(self) -> None:
        """Have certificates, keys, CAs and CRLs looked at now."""
        if self._watcher is not None:
            self._watcher.look_now()

    def _take_up(self, connectors: Connectors) -> None:
        self._connectors = connectors
        for backend in self.backends.values():
            backend.renew(connectors)

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
