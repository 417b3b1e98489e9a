"""A proxy in a single process, as the admin socket asks it and tells it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import trio

from mailproxy.admin.target import FrontendFigures, ProcessState, Recent
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.log import Follower
from mailproxy.metrics.figures import Figures
from mailproxy.metrics.servers import SERVER
from mailproxy.net.tls.certificate import Certificate
from mailproxy.pool import Counts, read_counts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.drain import DrainCommands
from mailproxy.proxy.explain import FrontendView, View
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.reload.result import Reload, ReloadHistory
from mailproxy.proxy.reload.single import reload_file
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary
from mailproxy.proxy.single_process import SingleProcess


class SingleTarget:
    """The `Target` of a single process."""

    workers = 1

    def __init__(self, process: SingleProcess, acme: Callable[[], Sequence[AcmeStatus]] = tuple) -> None:
        self._process = process
        self._service = process.service
        self._monitor = process.monitor
        self._acme = acme
        self._figures = Figures()
        self.sample()

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._service.config

    @property
    def backends(self) -> Mapping[str, Backend]:
        """The backends, by name."""
        return self._service.backends

    @property
    def sessions(self) -> int:
        """The open sessions of all frontends."""
        return self._service.sessions

    @property
    def max_sessions(self) -> int:
        """The limit on them."""
        return self._service.max_sessions

    @property
    def is_stopping(self) -> bool:
        """Whether the proxy drains or stops."""
        return self._service.is_draining

    @property
    def drains(self) -> DrainCommands:
        """Ends the sessions of servers and frontends."""
        return self._service.drains

    @property
    def certificates(self) -> Sequence[Certificate]:
        """The certificates in use."""
        return self._monitor.certificates

    @property
    def acme(self) -> Sequence[AcmeStatus]:
        """How the certificates are that are obtained by ACME."""
        return self._acme()

    @property
    def certificate_store(self) -> CertificateStore | None:
        """The TLS files in use; None if the configuration names none."""
        return self._monitor.certificate_store

    @property
    def view(self) -> View:
        """The proxy as a client would meet it now."""
        service = self._service
        frontends = {
            name: FrontendView(
                state=frontend.state,
                sessions=frontend.sessions,
                limit=frontend.limit,
                clients=service.limits[name].clients,
            )
            for name, frontend in service.frontends.items()
        }
        return View(
            config=service.config,
            binds=service.listeners,
            terminators={
                (each.frontend, each.number - 1): each.terminator
                for each in service.listeners
                if each.terminator is not None
            },
            backends=service.backends,
            frontends=frontends,
            sessions=service.sessions,
            max_sessions=service.max_sessions,
            now=trio.current_time(),
        )

    def subscribe(self, follower: Follower) -> None:
        """Call ``follower`` with each session that ends and each event from now on."""
        self._service.log.subscribe(follower)

    def unsubscribe(self, follower: Follower) -> None:
        """Undo ``subscribe``."""
        self._service.log.unsubscribe(follower)

    @property
    def figures(self) -> Figures:
        """What was counted until the last `sample` or `refresh`."""
        return self._figures

    @property
    def listeners(self) -> Sequence[tuple[str, str]]:
        """The binds: the name of the frontend, and that of the bind."""
        return [(each.frontend, each.name) for each in self._service.listeners]

    @property
    def is_ready(self) -> bool:
        """Whether it accepts sessions."""
        return self._service.is_serving

    def sample(self) -> None:
        """Read what is counted now."""
        self._figures = Figures.read([self._service.board])

    @property
    def reloads(self) -> ReloadHistory:
        """The reloads of the configuration so far."""
        return self._process.reloads

    @property
    def generations(self) -> Mapping[str, int]:
        """The number of the configuration in use."""
        return {"process": self.reloads.made + 1}

    async def reload(self) -> Reload:
        """Read the configuration file again and use it.

        Raises:
            ConfigError: With every fault. Nothing has changed then.
        """
        return await reload_file(self._process, "admin socket")

    async def refresh(self) -> None:
        """Have open sessions counted, then `sample`."""
        await trio.lowlevel.checkpoint()
        self._service.count_live()
        self.sample()

    def frontend(self, name: str) -> FrontendFigures:
        """Return the figures of a frontend."""
        frontend = self._service.frontends[name]
        return FrontendFigures(
            state=frontend.state,
            sessions=frontend.sessions,
            limit=frontend.limit,
            traffic=self._figures.frontend(name),
        )

    def server_counts(self, backend: Backend, server: BackendServer) -> Counts:
        """Return what has happened at a server."""
        return read_counts(self._figures.sums.get((SERVER, backend.name, server.name)))

    @property
    def processes(self) -> Sequence[ProcessState]:
        """The process itself."""
        return [ProcessState("mailproxy", os.getpid(), self.is_ready, is_responsive=True)]

    async def recent(self, events: int, *, with_sessions: bool = False) -> Recent:
        """Return what was logged last."""
        await trio.lowlevel.checkpoint()
        return Recent.of(self._service.recent_records(events, with_sessions=with_sessions), events)

    async def set_frontend_state(self, name: str, state: FrontendState) -> None:
        """Pause, resume or shut down a frontend."""
        await trio.lowlevel.checkpoint()
        self._service.frontends[name].set_state(state)

    async def set_frontend_limit(self, name: str, sessions: int) -> None:
        """Set the limit of a frontend; 0 for no limit of its own."""
        await trio.lowlevel.checkpoint()
        self._service.frontends[name].set_limit(sessions)

    async def set_process_limit(self, sessions: int) -> None:
        """Set the limit on all sessions together; 0 for that of the configuration."""
        await trio.lowlevel.checkpoint()
        self._service.set_limit(sessions)

    async def clear_maxima(self) -> None:
        """Let the highest values of all figures begin again."""
        await trio.lowlevel.checkpoint()
        self._service.count_live()
        self._service.clear_maxima()
        self.sample()

    async def list_sessions(self, wanted: SessionFilter) -> list[SessionSummary]:
        """Return the sessions that match."""
        await trio.lowlevel.checkpoint()
        return wanted.select(self._service.registry)

    async def end_session(self, number: int) -> bool:
        """End the session with this id. Return False if there is no such session."""
        await trio.lowlevel.checkpoint()
        return self._service.registry.kill(number)

    async def clear_table(self, backend: Backend, key: int | None) -> None:
        """Remove an entry of a stick table, or all entries."""
        await trio.lowlevel.checkpoint()
        if backend.pool.stick is not None:
            backend.pool.stick.remove(key)

    async def set_table(self, backend: Backend, key: int, server: BackendServer) -> None:
        """Store an entry in a stick table."""
        await trio.lowlevel.checkpoint()
        backend.pool.store(key, server, trio.current_time())
