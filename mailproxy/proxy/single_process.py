"""A proxy in a single process: a service that checks servers and watches certificate files itself."""

from __future__ import annotations

from random import SystemRandom

from attrs import frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.log import Log
from mailproxy.net.listener import Listener
from mailproxy.proxy.backend.factory import make_backend
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.client_limits import client_limits
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.monitor import ServerMonitor, ports_of
from mailproxy.proxy.service import FrontendLimits, Service
from mailproxy.proxy.state import open_keeper


@frozen
class SingleProcess:
    """A service and the monitor of its servers. Running the service runs both."""

    service: Service
    monitor: ServerMonitor


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
    limits = {
        name: FrontendLimits(
            SessionLimits(SessionLimit(frontend.max_sessions), process_limit), client_limits(frontend)
        )
        for name, frontend in config.frontends.items()
    }
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
