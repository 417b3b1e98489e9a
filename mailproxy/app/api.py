"""The proxy inside another program: ``serve`` and the handle that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import trio
from attrs import field, frozen

from mailproxy.app.startup import load_and_check, open_all
from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.config.values import WEIGHT_MAX
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.pool import AdminState, Counts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.frontend import Frontend
from mailproxy.proxy.process import max_sessions, worker_count
from mailproxy.proxy.service import Service


@frozen
class ProxyServer:
    """A server of the running proxy."""

    _backend: Backend = field(repr=False)
    _server: BackendServer = field(repr=False)

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self._server.name

    @property
    def state(self) -> str:
        """``ready``, ``drain`` or ``maint``."""
        return self._server.state.value

    @property
    def status(self) -> str:
        """HAProxy's word: ``UP``, ``UP 2/3`` on the way down, ``DOWN``, ``DOWN 1/2``, ``DRAIN``, ``MAINT``, ``no check``."""
        return self._server.status

    @property
    def last_check(self) -> str | None:
        """How the last check ended, in HAProxy's words; None before the first one."""
        return str(self._server.last_check.result) if self._server.last_check is not None else None

    @property
    def sessions(self) -> int:
        """Sessions that it has now."""
        return self._server.sessions

    @property
    def counts(self) -> Counts:
        """What happened there so far; live, and to be read only."""
        return self._server.counts

    def set_state(self, state: Literal["ready", "drain", "maint"]) -> None:
        """``drain`` takes only clients back that stick to it, ``maint`` takes nobody; sessions that are there go on, unless
        ``on_marked_down`` ends those of a server in maintenance. Raises ValueError.
        """
        self._backend.set_state(self._server, AdminState(state))

    @property
    def weight(self) -> int:
        """Its part of new sessions, relative to the other servers."""
        return self._server.weight

    def set_weight(self, weight: int) -> None:
        """Change its part of new sessions, 0 to 256; a server with 0 takes only returning (sticky) clients.

        Sessions that are there go on. Raises ValueError.
        """
        if weight not in range(WEIGHT_MAX + 1):
            raise ValueError(f"the weight {weight!r} is not a whole number from 0 to {WEIGHT_MAX}")
        self._backend.set_weight(self._server, weight)


@frozen
class ProxyBackend:
    """A backend of the running proxy."""

    name: str
    servers: Mapping[str, ProxyServer]


@frozen
class ProxyFrontend:
    """A frontend of the running proxy. ``addresses``: where it really listens, in the order of its binds."""

    name: str
    addresses: tuple[str, ...]
    _frontend: Frontend = field(repr=False)

    @property
    def sessions(self) -> int:
        """Sessions that it has now."""
        return self._frontend.sessions

    @property
    def client_limited(self) -> int:
        """Sessions that ended so far because their client was over its limits."""
        return self._frontend.client_limited


class Proxy:
    """A running proxy, as ``serve`` reports it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.frontends: Mapping[str, ProxyFrontend] = {
            name: ProxyFrontend(name, tuple(listener.address for listener in frontend.listeners), frontend)
            for name, frontend in service.frontends.items()
        }
        self.backends: Mapping[str, ProxyBackend] = {
            name: ProxyBackend(
                name, {server.name: ProxyServer(backend, server) for server in backend.servers}
            )
            for name, backend in service.backends.items()
        }

    @property
    def sessions(self) -> int:
        """Sessions of all frontends now."""
        return self._service.limit.sessions

    async def drain(self, seconds: float) -> None:
        """Accept no more, give sessions ``seconds`` to end, stop the rest; returns when the last one is over."""
        self._service.drain(seconds)
        await self._service.ended.wait()

    def renew_certificates(self) -> None:
        """Look at the files of certificates, keys, CAs and CRLs now, not only at the next interval."""
        self._service.renew_certificates()

    def reopen_log(self) -> None:
        """Open the log file anew, as rotation wants it."""
        self._service.log.reopen()


def open_service(config: Config, store: CertificateStore, *, owner: tuple[int, int] | None = None) -> Service:
    """Listen and open the log: all that needs privileges. ``owner``: who gets the log file if it is made here.

    Raises ConfigError, with nothing left open.
    """
    (listeners,), outputs = open_all(config, store, workers=1, owner=owner)
    return Service(
        config,
        listeners,
        store.server_contexts,
        reloader=CertificateReloader(config, store) if store.files else None,
        log=Log(outputs),
        max_sessions=max_sessions(config),
    )


async def serve(config: Config, *, task_status: trio.TaskStatus[Proxy] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a proxy in this trio loop until drained or cancelled; reports a ``Proxy`` once every bind listens.

    Touches neither signals nor privileges: ``process.user`` and ``group`` do not count here. Raises ConfigError with
    every fault that files, addresses and names have, and where the configuration wants several processes. Sessions that
    are open when it is cancelled are closed and logged.
    """

    def prepare() -> Service:
        return open_service(config, load_and_check(config))

    if worker_count(config) != 1:
        fact = f"{config.process.workers}: inside another program there is one process, so only 1"
        raise config.error([Fault("process.workers", fact)])
    service = await trio.to_thread.run_sync(prepare)  # reads files: other tasks of the host go on meanwhile
    async with trio.open_nursery() as nursery:
        await nursery.start(service.run)
        task_status.started(Proxy(service))
