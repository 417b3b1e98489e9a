"""The server monitor: health checks, host names and certificate files, beside the sessions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Protocol

import trio

from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.certificates.store import CertificateStore
from mailproxy.certificates.watcher import CertificateWatcher
from mailproxy.config import Config, ServerTls
from mailproxy.config.check_plan import entry_paths
from mailproxy.log import Log
from mailproxy.log.events import TLS_READS_UNBOUNDED
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.context import Context
from mailproxy.net.tls.openssl import NOT_CLEARED, can_clear_auto_retry
from mailproxy.pool import RandomSource
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import ServerContexts, server_context
from mailproxy.proxy.checks.check import Check, plan_checks
from mailproxy.proxy.checks.checker import HealthChecker
from mailproxy.proxy.supervise import contained, supervise

Ports = Mapping[tuple[str, int], int]
"""The ports of binds, by frontend and index of the bind."""

_WATCHER_HELPER = "certificate watcher"


class Bound(Protocol):
    """A listener, or a description of one."""

    @property
    def frontend(self) -> str: ...

    @property
    def number(self) -> int: ...

    @property
    def port(self) -> int | None: ...


def ports_of(listeners: Iterable[Bound]) -> Ports:
    """Return the ports of open listeners. For port 0 and inherited sockets, no configuration says them."""
    return {
        (listener.frontend, listener.number - 1): listener.port
        for listener in listeners
        if listener.port is not None
    }


class ServerMonitor:
    """Runs the health checks, the resolvers and the certificate watcher of backends.

    Args:
        config: The configuration.
        backends: The backends, by name.
        server_contexts: TLS towards servers.
        ports: The ports that sessions connect to, which some checks connect to as well.
        reloader: Reloads TLS files; None if there are none.
        log: The log.
        random: For the jitter of checks.
        on_reloaded: Awaited when files were reloaded here and before that is logged, with the result and
            whether an operator asked for it.
    """

    def __init__(
        self,
        config: Config,
        backends: Mapping[str, Backend],
        server_contexts: ServerContexts,
        *,
        ports: Ports,
        reloader: CertificateReloader | None,
        log: Log,
        random: RandomSource,
        on_reloaded: Callable[[ReloadResult, bool], Awaitable[None]] | None = None,
    ) -> None:
        self._config = config
        self._backends = backends
        self._server_contexts = server_contexts
        self._on_reloaded = on_reloaded
        self._log = log
        self._is_takeover = False
        self._checker = HealthChecker(list(self._make_checks(ports)), log=log, random=random)
        self._watcher = CertificateWatcher(
            reloader, interval=config.process.certificate_interval, on_reload=self._apply_reload, log=log
        )
        self._nursery: trio.Nursery | None = None

    def _make_checks(self, ports: Ports) -> Iterator[tuple[Backend, Check]]:
        for backend in self._backends.values():
            paths = entry_paths(self._config.frontends.values(), backend.name, ports)
            for check in plan_checks(backend, paths, self._context_of):
                yield backend, check

    def _context_of(self, tls: ServerTls) -> Context:
        return server_context(self._server_contexts, tls)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started when host names were resolved and servers checked once."""
        if self._config.has_tls and not can_clear_auto_retry():
            self._log.event(TLS_READS_UNBOUNDED, NOT_CLEARED)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(supervise, self._log, _WATCHER_HELPER, self._watcher.run)
            if not self._is_takeover:
                for backend in self._backends.values():
                    backend.log_initial_states()
            async with trio.open_nursery() as starting:
                for backend in self._backends.values():
                    starting.start_soon(nursery.start, backend.resolver.run)
            await nursery.start(self._checker.run)
            task_status.started()

    @property
    def certificate_store(self) -> CertificateStore | None:
        """The TLS files in use; None if the configuration names none."""
        return self.reloader.store if self.reloader is not None else None

    @property
    def certificates(self) -> list[Certificate]:
        """The certificates in use, in the order of the configuration."""
        store = self.certificate_store
        return [certificate for _, certificate in store.certificates.values()] if store is not None else []

    async def sync_silently(self) -> None:
        """Take over from another monitor, before ``run``: apply changed files without logging them again."""
        self._is_takeover = True
        with contained(self._log, _WATCHER_HELPER):
            await self._watcher.sync_silently()

    def scan_certificates(self) -> None:
        """Scan the files of certificates, keys, CAs and CRLs now."""
        self._watcher.scan_now()

    @property
    def reloader(self) -> CertificateReloader | None:
        """Reloads TLS files; None if there are none."""
        return self._watcher.reloader

    @property
    def certificate_lock(self) -> trio.Lock:
        """Held while TLS files are loaded. A reload of the configuration holds it until it is applied."""
        return self._watcher.lock

    def reconfigure(
        self,
        config: Config,
        backends: Mapping[str, Backend],
        server_contexts: ServerContexts,
        *,
        ports: Ports,
        reloader: CertificateReloader | None,
    ) -> None:
        """Check the servers of another configuration from now on. The caller holds ``certificate_lock``.

        Arguments as for the class. Checks that stay as they are go on undisturbed.
        """
        before = self._backends
        self._config, self._backends, self._server_contexts = config, backends, server_contexts
        self._watcher.reconfigure(reloader, interval=config.process.certificate_interval)
        self._checker.reconfigure(list(self._make_checks(ports)))
        for name, backend in backends.items():
            if name not in before:
                backend.log_initial_states()
                if self._nursery is not None:
                    self._nursery.start_soon(backend.resolver.run)

    async def _apply_reload(self, result: ReloadResult, is_forced: bool) -> None:
        self._server_contexts = result.server_contexts
        for backend in self._backends.values():
            backend.reload_certificates(result.server_contexts)
        if self._on_reloaded is not None:
            await self._on_reloaded(result, is_forced)
