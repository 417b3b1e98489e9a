"""The last step of a reload: a service uses another configuration from one moment to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Backend as BackendConfig
from mailproxy.config import Config
from mailproxy.config import Frontend as FrontendConfig
from mailproxy.log import Output
from mailproxy.net.handover import Handover
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, ServerContexts
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.service import FrontendLimits, Service


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


class Parts(Protocol):
    """What differs between one process and one of several workers."""

    def make_backend(self, table: BackendConfig, servers: Sequence[BackendServer]) -> Backend:
        """Return a new backend."""

    def reconfigure_backend(
        self, backend: Backend, table: BackendConfig, servers: Sequence[BackendServer]
    ) -> None:
        """Have a backend use another table."""

    def make_limits(self, frontend: FrontendConfig) -> FrontendLimits:
        """Return the limits of a new frontend."""

    def make_clients(self, frontend: FrontendConfig) -> Clients | None:
        """Return the clients of a frontend whose limits per client have changed."""

    def refresh_limits(self, name: str, limits: FrontendLimits) -> None:
        """Have the limits of a frontend that stays count the sessions of all workers, of which there may be more."""


def apply_generation(service: Service, new: Generation, parts: Parts) -> dict[str, Backend]:
    """Have a service use another configuration. Return its backends.

    Nothing waits here and nothing can fail, so no session sees half of it. ``service.is_serving`` is true.
    """
    config = new.config
    if new.outputs is not None:
        service.log.reconfigure(new.outputs)
    limits = {name: _limits(service, frontend, parts) for name, frontend in config.frontends.items()}
    backends: dict[str, Backend] = {}
    for name, table in config.backends.items():
        if (backend := service.backends.get(name)) is not None:
            parts.reconfigure_backend(backend, table, new.servers[name])
            backends[name] = backend
        else:
            backends[name] = parts.make_backend(table, new.servers[name])
    is_limit_same = config.process.max_sessions == service.config.process.max_sessions
    service.reconfigure_limit(new.max_sessions, keeps_wish=is_limit_same)
    service.reconfigure(
        config,
        new.handover,
        backends=backends,
        limits=limits,
    )
    return backends


def _limits(service: Service, frontend: FrontendConfig, parts: Parts) -> FrontendLimits:
    """Return the limits of a frontend: those that it has, changed, or new ones."""
    name = frontend.name
    if name not in service.limits:
        return parts.make_limits(frontend)
    limits, before = service.limits[name], service.config.frontends[name]
    parts.refresh_limits(name, limits)
    if frontend.max_sessions != before.max_sessions:  # otherwise what the operator has set stays
        limits.sessions.frontend.change(frontend.max_sessions)
    if _client_keys(frontend) == _client_keys(before):
        return limits
    clients = parts.make_clients(frontend)
    if clients is not None and limits.clients is not None:
        clients.take_over(limits.clients)
    return FrontendLimits(limits.sessions, clients)


def _client_keys(frontend: FrontendConfig) -> object:
    return (
        frontend.max_sessions_per_client,
        frontend.max_session_rate_per_client,
        frontend.max_sessions_per_client_exempt,
    )
