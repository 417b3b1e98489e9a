"""Tending to servers: what finds out whether they are up, where they are, and which files of TLS have changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Protocol

import trio

from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.certificates.watcher import CertificateWatcher
from mailproxy.config import Config, ServerTls
from mailproxy.config.check_plan import entry_paths
from mailproxy.log import Log
from mailproxy.log.events import TLS_READS_UNBOUNDED
from mailproxy.net.tls.auto_retry import NOT_CLEARED, can_clear_auto_retry
from mailproxy.net.tls.context import Context
from mailproxy.pool import RandomSource
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import ServerContexts, server_context
from mailproxy.proxy.checks.check import Check, checks_of
from mailproxy.proxy.checks.checker import HealthChecker
from mailproxy.proxy.supervise import contained, supervise

Ports = Mapping[tuple[str, int], int]
"""Those of binds, by frontend and place."""


class Bound(Protocol):
    """A listener, or what is known of one."""

    @property
    def frontend(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def port(self) -> int | None: ...


def ports_of(listeners: Iterable[Bound]) -> Ports:
    """The ports that sessions come to, which are known for sure only when they listen."""
    return {
        (listener.frontend, listener.number - 1): listener.port
        for listener in listeners
        if listener.port is not None
    }


class ServerMonitor:
    """Look-ups, checks and the certificate watcher of these backends.

    ``pass_on`` is awaited when files were taken up here and before that is told, with whether somebody asked for the look.
    """

    def __init__(
        self,
        config: Config,
        backends: Mapping[str, Backend],
        connectors: ServerContexts,
        *,
        ports: Ports,
        reloader: CertificateReloader | None,
        log: Log,
        chance: RandomSource,
        pass_on: Callable[[ReloadResult, bool], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._backends = backends
        self._connectors = connectors
        self._on_reloaded = pass_on
        self._log = log
        self._catches_up = False
        self._checks = HealthChecker(list(self._checks_of_servers(ports)), log=log, chance=chance)
        self._watcher = CertificateWatcher(
            reloader, interval=config.process.certificate_interval, on_reload=self._apply_reload, log=log
        ) if reloader is not None else None  # fmt: skip

    def _checks_of_servers(self, ports: Ports) -> Iterator[tuple[Backend, Check]]:
        for backend in self._backends.values():
            found = entry_paths(self._config.frontends.values(), backend.name, ports)
            for check in checks_of(backend, found, self._context_of):
                yield backend, check

    def _context_of(self, tls: ServerTls) -> Context:
        return server_context(self._connectors, tls)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tend until cancelled; started when host names were looked up and servers checked."""
        if self._config.has_tls and not can_clear_auto_retry():
            self._log.event(TLS_READS_UNBOUNDED, NOT_CLEARED)
        async with trio.open_nursery() as nursery:
            if self._watcher is not None:
                nursery.start_soon(supervise, self._log, "certificate watcher", self._watcher.run)
            if not self._catches_up:
                for backend in self._backends.values():
                    backend.log_initial_states()
            async with trio.open_nursery() as starting:
                for backend in self._backends.values():
                    starting.start_soon(nursery.start, backend.resolver.run)
            await nursery.start(self._checks.run)
            task_status.started()

    async def sync_silently(self) -> None:
        """Be where another one was that tended to these servers: files that have changed since they were loaded are no news."""
        self._catches_up = True
        if self._watcher is not None:
            with contained(self._log, "certificate watcher"):
                await self._watcher.sync_silently()

    def renew_certificates(self) -> None:
        """Have certificates, keys, CAs and CRLs looked at now."""
        if self._watcher is not None:
            self._watcher.scan_now()

    async def _apply_reload(self, result: ReloadResult, forced: bool) -> None:
        self._connectors = result.server_contexts
        for backend in self._backends.values():
            backend.reload_certificates(result.server_contexts)
        if self._on_reloaded is not None:
            await self._on_reloaded(result, forced)
