"""A proxy in a single process: a service that checks servers and watches certificate files itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import SystemRandom

import trio
from attrs import field, frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Backend as BackendConfig
from mailproxy.config import Config
from mailproxy.config import Frontend as FrontendConfig
from mailproxy.log import Log
from mailproxy.net.listener import Listener
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_backend, make_pool, reconfigure_backend
from mailproxy.proxy.backend.server import BackendServer, ServerContexts
from mailproxy.proxy.client_limits import Clients, client_limits
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.monitor import ServerMonitor, ports_of
from mailproxy.proxy.reload.apply import Generation, apply_generation
from mailproxy.proxy.reload.result import ReloadHistory
from mailproxy.proxy.service import FrontendLimits, Service
from mailproxy.proxy.state import ProxyState, open_keeper


@frozen
class SingleProcess:
    """A service and the monitor of its servers. Running the service runs both.

    Attributes:
        service: The service.
        monitor: Its monitor.
        reloads: The reloads so far.
        reload_lock: Held during a reload: there is one at a time.
        on_reconfigured: Called when another configuration is in use.
    """

    service: Service
    monitor: ServerMonitor
    reloads: ReloadHistory
    reload_lock: trio.Lock = field(factory=trio.Lock)
    on_reconfigured: list[Callable[[], None]] = field(factory=list)

    def reconfigure(self, new: Generation) -> None:
        """Use another configuration from now on.

        Nothing waits here and nothing can fail, so no session sees half of it. The caller holds
        ``monitor.certificate_lock``, and ``service.is_serving`` is true.
        """
        backends = apply_generation(self.service, new, _LocalParts(self.service))
        self.monitor.reconfigure(
            new.config,
            backends,
            new.server_contexts,
            ports=ports_of(new.handover.listeners),
            reloader=new.reloader,
        )
        for call in self.on_reconfigured:
            call()


@frozen
class _LocalParts:
    """The parts of a service that this process has to itself."""

    service: Service

    def make_backend(self, table: BackendConfig, servers: Sequence[BackendServer]) -> Backend:
        """Return a new backend."""
        return Backend(table, make_pool(table, servers, SystemRandom()), self.service.log)

    def reconfigure_backend(
        self, backend: Backend, table: BackendConfig, servers: Sequence[BackendServer]
    ) -> None:
        """Have a backend use another table."""
        reconfigure_backend(backend, table, servers, SystemRandom())

    def make_limits(self, frontend: FrontendConfig) -> FrontendLimits:
        """Return the limits of a new frontend."""
        return _make_limits(frontend, self.service.process_limit)

    def make_clients(self, frontend: FrontendConfig) -> Clients | None:
        """Return the clients of a frontend whose limits per client have changed."""
        return client_limits(frontend)

    def refresh_limits(self, name: str, limits: FrontendLimits) -> None:
        """Do nothing: there are no other workers whose sessions count."""


def _make_limits(frontend: FrontendConfig, process_limit: SessionLimit) -> FrontendLimits:
    return FrontendLimits(
        SessionLimits(SessionLimit(frontend.max_sessions), process_limit), client_limits(frontend)
    )


def build_single_process(
    config: Config,
    listeners: list[Listener],
    server_contexts: ServerContexts,
    *,
    reloader: CertificateReloader | None = None,
    log: Log,
    max_sessions: int,
    state: ProxyState | None = None,
) -> SingleProcess:
    """Build a service for a single process.

    Args:
        config: The configuration.
        listeners: The open sockets of all frontends. The service closes them.
        server_contexts: TLS towards servers.
        reloader: Reloads TLS files; None if there are none.
        log: The log. The service finishes it.
        max_sessions: The limit on sessions of the process.
        state: The state of the process that this one replaces; None without one.
    """
    random = SystemRandom()
    backends = {
        name: make_backend(backend, server_contexts, log, random) for name, backend in config.backends.items()
    }
    monitor = ServerMonitor(
        config,
        backends,
        server_contexts,
        ports=ports_of(listeners),
        reloader=reloader,
        log=log,
        random=random,
    )
    process_limit = SessionLimit(max_sessions)
    limits = {name: _make_limits(frontend, process_limit) for name, frontend in config.frontends.items()}
    service = Service(
        config,
        listeners,
        backends=backends,
        limits=limits,
        process_limit=process_limit,
        monitor=monitor,
        log=log,
        state=open_keeper(config, backends, log),
        initial_state=state,
    )
    return SingleProcess(service, monitor, ReloadHistory(log))
