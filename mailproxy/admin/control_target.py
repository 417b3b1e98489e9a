"""The `Target` of several processes: the control process sums their figures and broadcasts changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import trio
from attrs import frozen

from mailproxy.admin.handover.control_giver import ControlGiver
from mailproxy.admin.listeners import AdminListeners
from mailproxy.admin.service import administer
from mailproxy.admin.target import FrontendFigures, ProcessState, Recent
from mailproxy.certificates.acme_status import AcmeStatus
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.log import Follower
from mailproxy.metrics.figures import Figures
from mailproxy.metrics.servers import SERVER
from mailproxy.net.passing.sockets import PassedSocket
from mailproxy.net.tls.certificate import Certificate
from mailproxy.pool import Counts, read_counts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.client_limits import client_limits
from mailproxy.proxy.drain import DrainCommands
from mailproxy.proxy.explain import FrontendView, View
from mailproxy.proxy.frontend import FrontendState
from mailproxy.proxy.process import max_sessions
from mailproxy.proxy.reload.result import Reload, ReloadHistory
from mailproxy.proxy.session.summary import SessionFilter, SessionSummary
from mailproxy.workers.backend import ControlBackend
from mailproxy.workers.control.control import Control
from mailproxy.workers.messages import (
    ClearMaxima,
    EndSession,
    RemoveStickEntries,
    RequestCounters,
    RequestRecent,
    RequestSessions,
)

# For workers to count open sessions. Those of a worker that is later are counted next time.
_COUNTERS_TIMEOUT_S = 0.5
_SESSIONS_TIMEOUT_S = 3.0  # for workers to send their sessions, of which there may be many
_CHANGE_TIMEOUT_S = 1.0  # for workers to follow a change of a frontend


class ControlTarget:
    """The `Target` of a control process."""

    def __init__(self, control: Control, acme: Callable[[], Sequence[AcmeStatus]] = tuple) -> None:
        self._control = control
        self._acme = acme
        self._figures = control.boards.read()

    @property
    def config(self) -> Config:
        """The configuration."""
        return self._control.config

    @property
    def backends(self) -> Mapping[str, Backend]:
        """The backends, by name."""
        return self._control.backends

    @property
    def workers(self) -> int:
        """The number of workers."""
        return self._control.workers

    @property
    def sessions(self) -> int:
        """The open sessions of all frontends."""
        return self._control.counters.process.sessions.total

    @property
    def max_sessions(self) -> int:
        """The limit on them."""
        return self._control.frontends.max_sessions or max_sessions(self.config)

    @property
    def is_stopping(self) -> bool:
        """Whether the proxy drains or stops."""
        return self._control.is_stopping

    @property
    def drains(self) -> DrainCommands:
        """Ends the sessions of servers and frontends."""
        return self._control.drains

    @property
    def certificates(self) -> Sequence[Certificate]:
        """The certificates in use."""
        return self._control.certificates

    @property
    def acme(self) -> Sequence[AcmeStatus]:
        """How the certificates are that are obtained by ACME."""
        return self._acme()

    @property
    def certificate_store(self) -> CertificateStore | None:
        """The TLS files in use; None if the configuration names none."""
        return self._control.certificate_store

    @property
    def view(self) -> View:
        """The proxy as a client would meet it now. What workers share is read from the shared memory."""
        control, tables = self._control, self._control.counters.clients
        frontends = {
            name: FrontendView(
                state=control.frontends.frontends[name].state,
                sessions=control.counters.frontends[name].sessions.total,
                limit=control.frontends.frontends[name].limit,
                clients=client_limits(frontend, tables.get(name)),
            )
            for name, frontend in self.config.frontends.items()
        }
        return View(
            config=self.config,
            binds=control.listener_infos,
            terminators=control.terminators,
            backends=control.backends,
            frontends=frontends,
            sessions=self.sessions,
            max_sessions=self.max_sessions,
            now=trio.current_time(),
        )

    def subscribe(self, follower: Follower) -> None:
        """Call ``follower`` with each session that ends and each event from now on."""
        self._control.feed.subscribe(follower)

    def unsubscribe(self, follower: Follower) -> None:
        """Undo ``subscribe``."""
        self._control.feed.unsubscribe(follower)

    @property
    def figures(self) -> Figures:
        """What was counted until the last `sample` or `refresh`."""
        return self._figures

    @property
    def listeners(self) -> Sequence[tuple[str, str]]:
        """The binds: the name of the frontend, and that of the bind."""
        return [(each.frontend, each.name) for each in self._control.listener_infos]

    @property
    def is_ready(self) -> bool:
        """Whether all workers accept sessions."""
        workers = self._control.registry.workers
        return sum(worker.is_ready for worker in workers) >= self.workers and not self.is_stopping

    def sample(self) -> None:
        """Read what is counted now."""
        self._figures = self._control.boards.read()

    @property
    def reloads(self) -> ReloadHistory:
        """The reloads of the configuration so far."""
        return self._control.reloads.history

    @property
    def generations(self) -> Mapping[str, int]:
        """The number of the configuration that the control process and each worker use."""
        workers = sorted(self._control.registry.workers, key=lambda worker: worker.slot)
        return {
            "control": self._control.generation,
            **{f"worker {worker.slot + 1}": worker.generation for worker in workers},
        }

    async def reload(self) -> Reload:
        """Read the configuration file again and use it in all processes.

        Raises:
            ConfigError: With every fault. Nothing has changed then.
        """
        return await self._control.reloads.reload_file("admin socket")

    async def refresh(self) -> None:
        """Have all workers count their open sessions, then `sample`. Waits for them, 0.5 s at most."""
        registry = self._control.registry
        acks = registry.broadcast_acked(RequestCounters(), replaces=RequestCounters)
        await registry.wait_for_acks(acks, _COUNTERS_TIMEOUT_S)
        self.sample()

    def frontend(self, name: str) -> FrontendFigures:
        """Return the figures of a frontend."""
        wish = self._control.frontends.frontends[name]
        return FrontendFigures(
            state=wish.state,
            sessions=self._control.counters.frontends[name].sessions.total,
            limit=wish.limit,
            traffic=self._figures.frontend(name),
        )

    def server_counts(self, backend: Backend, server: BackendServer) -> Counts:
        """Return what has happened at a server."""
        return read_counts(self._figures.sums.get((SERVER, backend.name, server.name)))

    @property
    def processes(self) -> Sequence[ProcessState]:
        """The workers that are connected."""
        return [
            ProcessState(f"worker {each.slot + 1}", each.pid, each.is_ready, not each.is_unresponsive)
            for each in sorted(self._control.registry.workers, key=lambda worker: worker.slot)
        ]

    async def recent(self, events: int, *, with_sessions: bool = False) -> Recent:
        """Return what all processes have logged last. Waits for workers, 3 s at most."""
        registry = self._control.registry
        acks = registry.broadcast_acked(RequestRecent(events, with_sessions), replaces=RequestRecent)
        await registry.wait_for_acks(acks, _SESSIONS_TIMEOUT_S)
        return Recent.of([*self._control.log.recent, *acks.records], events)

    async def set_frontend_state(self, name: str, state: FrontendState) -> None:
        """Pause, resume or shut down a frontend in all workers."""
        self._control.frontends.frontends[name].state = state
        await self._send_wishes()

    async def set_frontend_limit(self, name: str, sessions: int) -> None:
        """Set the limit of a frontend; 0 for no limit of its own."""
        self._control.frontends.frontends[name].limit = sessions
        await self._send_wishes()

    async def set_process_limit(self, sessions: int) -> None:
        """Set the limit on all sessions together; 0 for that of the configuration."""
        self._control.frontends.max_sessions = sessions
        await self._send_wishes()

    async def clear_maxima(self) -> None:
        """Let the highest values of all figures begin again, in all processes."""
        registry = self._control.registry
        acks = registry.broadcast_acked(ClearMaxima(), replaces=ClearMaxima)
        await registry.wait_for_acks(acks, _CHANGE_TIMEOUT_S)
        self._control.boards.clear_maxima()
        self.sample()

    async def list_sessions(self, wanted: SessionFilter) -> list[SessionSummary]:
        """Return the sessions of all workers that match. Waits for them, 3 s at most."""
        registry = self._control.registry
        acks = registry.broadcast_acked(RequestSessions(wanted), replaces=RequestSessions)
        await registry.wait_for_acks(acks, _SESSIONS_TIMEOUT_S)
        return sorted(acks.sessions, key=lambda session: session.id)

    async def end_session(self, number: int) -> bool:
        """End the session with this id, in the worker that has it. Return False if none has."""
        registry = self._control.registry
        acks = registry.broadcast_acked(EndSession(number), replaces=("end", number))
        await registry.wait_for_acks(acks, _CHANGE_TIMEOUT_S)
        return acks.requeued > 0

    async def clear_table(self, backend: Backend, key: int | None) -> None:
        """Remove an entry of a stick table, or all entries, in all processes."""
        await trio.lowlevel.checkpoint()
        if backend.pool.stick is not None:
            backend.pool.stick.remove(key)
        self._control.registry.broadcast(RemoveStickEntries(backend.name, key))

    async def set_table(self, backend: Backend, key: int, server: BackendServer) -> None:
        """Store an entry in a stick table of all processes."""
        await trio.lowlevel.checkpoint()
        assert isinstance(backend, ControlBackend)  # noqa: S101 - the control process has no others
        _, number = backend.key(server)
        self._control.share_stick_entry(backend, key, number)

    async def _send_wishes(self) -> None:
        registry, message = self._control.registry, self._control.frontends.message()
        acks = registry.broadcast_acked(message, replaces="frontends")
        await registry.wait_for_acks(acks, _CHANGE_TIMEOUT_S)


@frozen(eq=False)
class ControlAdministration:
    """The admin sockets and HTTP beside a control process. The supervisor keeps them open for the next one."""

    listeners: AdminListeners
    acme: Callable[[], Sequence[AcmeStatus]] = tuple

    async def run(self, control: Control) -> None:
        """Serve the sockets until cancelled, or until they are left to another proxy."""
        listeners = self.listeners if self.listeners.is_open else AdminListeners()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(administer, giver=ControlGiver(control)),
                ControlTarget(control, self.acme),
                listeners,
                control.log,
                control.boards.own,
            )
            await control.handover.released.wait()
            nursery.cancel_scope.cancel()
        self.close_copies()

    def sockets(self) -> Sequence[PassedSocket]:
        """Return the sockets as another proxy gets them."""
        return self.listeners.passed

    def leave(self) -> None:
        """Close the sockets, and leave their files to another proxy."""
        self.listeners.leave()

    def close_copies(self) -> None:
        """Close the sockets in a child, without removing their files."""
        self.listeners.close_copies()
