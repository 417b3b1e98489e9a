"""A proxy in a single process: a service that checks servers and watches certificate files itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import SystemRandom

import trio
from attrs import field, frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.config import Frontend as FrontendConfig
from mailproxy.log import Log, Output
from mailproxy.net.handover import Handover
from mailproxy.net.listener import Listener
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_backend, make_pool, reconfigure_backend
from mailproxy.proxy.backend.server import BackendServer, ServerContexts
from mailproxy.proxy.client_limits import client_limits
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.monitor import ServerMonitor, ports_of
from mailproxy.proxy.service import FrontendLimits, Service
from mailproxy.proxy.state import open_keeper


@frozen(kw_only=True)
class Generation:
    """Another configuration, with everything that can fail opened and loaded.

    Attributes:
        config: The configuration.
        handover: Its listeners.
        servers: The servers of each backend as they are made from it, with the addresses of new host names.
        server_contexts: TLS towards servers.
        reloader: Reloads its TLS files; None if there are none.
        max_sessions: The limit on sessions of the process.
        outputs: The outputs of its log; None for those in use.
    """

    config: Config
    handover: Handover
    servers: Mapping[str, Sequence[BackendServer]]
    server_contexts: ServerContexts
    reloader: CertificateReloader | None
    max_sessions: int
    outputs: Sequence[Output] | None


@frozen
class SingleProcess:
    """A service and the monitor of its servers. Running the service runs both.

    Attributes:
        service: The service.
        monitor: Its monitor.
        reload_lock: Held during a reload: there is one at a time.
        on_reconfigured: Called when another configuration is in use.
    """

    service: Service
    monitor: ServerMonitor
    reload_lock: trio.Lock = field(factory=trio.Lock)
    on_reconfigured: list[Callable[[], None]] = field(factory=list)

    def reconfigure(self, new: Generation) -> None:
        """Use another configuration from now on.

        Nothing waits here and nothing can fail, so no session sees half of it. The caller holds
        ``monitor.certificate_lock``, and ``service.is_serving`` is true.
        """
        service, config = self.service, new.config
        if new.outputs is not None:
            service.log.reconfigure(new.outputs)
        limits = {name: self._limits(frontend) for name, frontend in config.frontends.items()}
        servers_before = {server for each in service.backends.values() for server in each.servers}
        backends: dict[str, Backend] = {}
        random = SystemRandom()
        for name, table in config.backends.items():
            if (backend := service.backends.get(name)) is not None:
                reconfigure_backend(backend, table, new.servers[name], random)
                backends[name] = backend
            else:
                pool = make_pool(table, new.servers[name], random)
                backends[name] = Backend(table, pool, service.log)
        servers = {server for each in backends.values() for server in each.servers}
        # A server with another address has the counts of its name.
        counts = {id(server.counts) for server in servers}
        service.reconfigure_limit(new.max_sessions)
        service.reconfigure(
            config,
            new.handover,
            backends=backends,
            limits=limits,
            retired=[server for server in servers_before if id(server.counts) not in counts],
        )
        self.monitor.reconfigure(
            config,
            backends,
            new.server_contexts,
            ports=ports_of(new.handover.listeners),
            reloader=new.reloader,
        )
        for call in self.on_reconfigured:
            call()

    def _limits(self, frontend: FrontendConfig) -> FrontendLimits:
        """Return the limits of a frontend: those that it has, changed, or new ones."""
        service, name = self.service, frontend.name
        if name not in service.limits:
            return _make_limits(frontend, service.process_limit)
        limits, before = service.limits[name], service.config.frontends[name]
        if frontend.max_sessions != before.max_sessions:  # otherwise what the operator has set stays
            limits.sessions.frontend.change(frontend.max_sessions)
        if _client_keys(frontend) == _client_keys(before):
            return limits
        clients = client_limits(frontend)
        if clients is not None and limits.clients is not None:
            clients.take_over(limits.clients)
        return FrontendLimits(limits.sessions, clients)


def _client_keys(frontend: FrontendConfig) -> object:
    return (
        frontend.max_sessions_per_client,
        frontend.max_session_rate_per_client,
        frontend.max_sessions_per_client_exempt,
    )


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
) -> SingleProcess:
    """Build a service for a single process.

    Args:
        config: The configuration.
        listeners: The open sockets of all frontends. The service closes them.
        server_contexts: TLS towards servers.
        reloader: Reloads TLS files; None if there are none.
        log: The log. The service finishes it.
        max_sessions: The limit on sessions of the process.
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
    )
    return SingleProcess(service, monitor)
