"""The parts of a worker's service, which it shares with the other workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import SystemRandom

from attrs import define, field

from mailproxy.config import Backend as BackendConfig
from mailproxy.config import Frontend as FrontendConfig
from mailproxy.log import Log
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import reconfigure_backend
from mailproxy.proxy.backend.server import BackendServer, ServerContexts
from mailproxy.proxy.client_limits import Clients, client_limits
from mailproxy.proxy.limits import SessionLimit
from mailproxy.proxy.service import FrontendLimits
from mailproxy.workers.backend import WorkerBackend
from mailproxy.workers.limits import SharedLimit, WorkerLimits
from mailproxy.workers.messages import Message
from mailproxy.workers.scoreboard import ProcessCounters
from mailproxy.workers.stick.sync import StickSync


@define(eq=False, kw_only=True)
class WorkerParts:
    """Makes backends and limits of one worker.

    Attributes:
        counters: Its row of the scoreboard.
        process_limit: The limit on sessions of all workers together.
        worker_limit: The limit on those of this worker: what its descriptors suffice for.
        log: The worker's log.
        send: Sends a message to the control process.
        wake_worker: Wakes another worker, by its slot.
        stick_sync: New stick entries for the other processes.
    """

    counters: ProcessCounters
    process_limit: SharedLimit
    worker_limit: SessionLimit
    log: Log
    send: Callable[[Message], object]
    wake_worker: Callable[[int], None]
    stick_sync: StickSync
    _clients: dict[str, Clients] = field(factory=dict, init=False)  # the last ones of each frontend

    def use_counters(self, counters: ProcessCounters) -> None:
        """Count there from now on: another configuration has other columns, or more workers."""
        self.counters = counters
        self.process_limit.use_counters(counters.process)

    def make_servers(self, table: BackendConfig, contexts: ServerContexts) -> list[BackendServer]:
        """Return the servers of a backend."""
        return WorkerBackend.make_servers(table, contexts, self.counters.backends[table.name])

    def make_backend(self, table: BackendConfig, servers: Sequence[BackendServer]) -> WorkerBackend:
        """Return a new backend."""
        return WorkerBackend(
            table, servers, self.log, SystemRandom(), counters=self.counters.backends[table.name],
            wake_worker=self.wake_worker, send=self.send, stick_sync=self.stick_sync,
        )  # fmt: skip

    def reconfigure_backend(
        self, backend: Backend, table: BackendConfig, servers: Sequence[BackendServer]
    ) -> None:
        """Have a backend use another table."""
        assert isinstance(backend, WorkerBackend)  # noqa: S101 - a worker has no others
        backend.use_counters(self.counters.backends[table.name])
        reconfigure_backend(backend, table, servers, SystemRandom())

    def make_limits(self, frontend: FrontendConfig) -> FrontendLimits:
        """Return the limits of a new frontend."""
        own = SharedLimit(frontend.max_sessions, self.counters.frontends[frontend.name])
        sessions = WorkerLimits(own, self.process_limit, self.worker_limit)
        return FrontendLimits(sessions, self.make_clients(frontend))

    def make_clients(self, frontend: FrontendConfig) -> Clients | None:
        """Return the clients of a frontend, None if it does not limit them.

        They count on from the last ones that this worker had for the frontend: their sessions may go on.
        """
        clients = client_limits(frontend, self.counters.clients.get(frontend.name))
        if clients is not None:
            if (before := self._clients.get(frontend.name)) is not None:
                clients.take_over(before)
            self._clients[frontend.name] = clients
        return clients

    def refresh_limits(self, name: str, limits: FrontendLimits) -> None:
        """Have the limits of a frontend count the sessions of workers that are new."""
        own = limits.sessions.frontend
        assert isinstance(own, SharedLimit)  # noqa: S101 - made above
        own.use_counters(self.counters.frontends[name])
        if limits.clients is not None and name in self.counters.clients:
            limits.clients.share_with(self.counters.clients[name])
