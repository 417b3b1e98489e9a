"""The proxy inside another program: ``serve``, and the handle that it reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import trio
from attrs import field, frozen

from mailproxy.admin.handover.single_giver import SingleGiver
from mailproxy.admin.listeners import AdminListeners
from mailproxy.admin.service import administer
from mailproxy.admin.single_target import SingleTarget
from mailproxy.app.acme import AcmeRunner
from mailproxy.app.startup import load_and_check, open_all
from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.config.values import WEIGHT_MAX
from mailproxy.errors import Fault
from mailproxy.log import Log
from mailproxy.net.listener import close_all
from mailproxy.net.passing.sockets import PassedSockets
from mailproxy.pool import AdminState, Counts, SharedCounts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.frontend import Frontend
from mailproxy.proxy.process import max_sessions, worker_count
from mailproxy.proxy.reload.single import reload
from mailproxy.proxy.single_process import SingleProcess, build_single_process
from mailproxy.proxy.state import ProxyState


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
        """HAProxy's word: ``UP``, ``UP 2/3`` (failing), ``DOWN``, ``DOWN 1/2``, ``DRAIN``, ``MAINT``, ``no check``."""
        return self._server.status

    @property
    def last_check(self) -> str | None:
        """The result of the last check, in HAProxy's words; None before the first one."""
        return str(self._server.last_check.result) if self._server.last_check is not None else None

    @property
    def sessions(self) -> int:
        """The sessions that it has now."""
        return self._server.sessions

    @property
    def counts(self) -> Counts:
        """Its counters. They go on counting; do not change them."""
        counts = self._server.counts
        return counts.copy() if isinstance(counts, SharedCounts) else counts

    def set_state(self, state: Literal["ready", "drain", "maint"]) -> None:
        """Set the administrative state.

        Open sessions go on, except that ``on_marked_down`` may close those of a server in maintenance.

        Args:
            state: With ``drain`` the server gets only clients that stick to it, with ``maint`` none.

        Raises:
            ValueError: There is no such state.
        """
        self._backend.set_state(self._server, AdminState(state))

    @property
    def weight(self) -> int:
        """Its share of new sessions, relative to the other servers."""
        return self._server.weight

    def set_weight(self, weight: int) -> None:
        """Change its share of new sessions. Open sessions go on.

        Args:
            weight: 0 to 256. A server with 0 gets only clients that stick to it.

        Raises:
            ValueError: The weight is out of range.
        """
        if weight not in range(WEIGHT_MAX + 1):
            raise ValueError(f"the weight {weight!r} is not a whole number from 0 to {WEIGHT_MAX}")
        self._backend.set_weight(self._server, weight)


@frozen
class ProxyBackend:
    """A backend of the running proxy.

    Attributes:
        name: Its name in the configuration.
        servers: Its servers, by name.
    """

    name: str
    servers: Mapping[str, ProxyServer]


@frozen
class ProxyFrontend:
    """A frontend of the running proxy.

    Attributes:
        name: Its name in the configuration.
        addresses: Where it listens, in the order of its binds. For port 0 they have the port that the kernel
            chose.
    """

    name: str
    addresses: tuple[str, ...]
    _frontend: Frontend = field(repr=False)

    @property
    def sessions(self) -> int:
        """The sessions that it has now."""
        return self._frontend.sessions

    @property
    def client_limited(self) -> int:
        """The number of sessions that were rejected so far because their client had reached a limit."""
        return self._frontend.client_limited


class Proxy:
    """A running proxy, as ``serve`` reports it.

    Attributes:
        frontends: The frontends, by name.
        backends: The backends, by name.
    """

    frontends: Mapping[str, ProxyFrontend]
    backends: Mapping[str, ProxyBackend]

    def __init__(self, process: SingleProcess) -> None:
        self._process = process
        self._service = process.service
        self._monitor = process.monitor
        self._describe()

    def _describe(self) -> None:
        service = self._service
        self.frontends = {
            name: ProxyFrontend(name, tuple(listener.address for listener in frontend.listeners), frontend)
            for name, frontend in service.frontends.items()
        }
        self.backends = {
            name: ProxyBackend(
                name, {server.name: ProxyServer(backend, server) for server in backend.servers}
            )
            for name, backend in service.backends.items()
        }

    @property
    def sessions(self) -> int:
        """The sessions of all frontends now."""
        return self._service.sessions

    async def reload(self, config: Config) -> tuple[str, ...]:
        """Use another configuration from now on, without a pause.

        Sockets whose address stays are never closed, and sessions go on. Those whose bind, route or server is gone
        have ``drain_timeout`` to end. Health, stick entries, counters and queues stay with the names of servers, and
        so does what was set at run time, until the configuration's own value for it changes.

        ``frontends`` and ``backends`` are new mappings afterwards.

        Args:
            config: The configuration.

        Returns:
            One line for each change, then those that need a restart and were not made, then how long it took.

        Raises:
            ConfigError: With every fault of files, addresses and names. Nothing has changed then.

        Cancellation:
            Nothing has changed, or everything has.
        """
        reloaded = await reload(self._process, config)
        self._describe()
        return reloaded.answer

    async def drain(self, seconds: float) -> None:
        """Accept no more connections, and end all sessions within ``seconds``, idle ones first.

        Returns when the last session has ended. ``serve`` returns, too.

        Cancellation:
            The proxy goes on draining.
        """
        self._service.drain(seconds)
        await self._service.ended.wait()

    def renew_certificates(self) -> None:
        """Scan the files of certificates, keys, CAs and CRLs now, without waiting for the next interval."""
        self._monitor.scan_certificates()

    def reopen_log(self) -> None:
        """Open the log files again, after they were rotated."""
        self._service.log.reopen()


@frozen
class OpenedProcess:
    """A proxy in a single process whose sockets are open.

    Attributes:
        process: The service and its monitor.
        admin: Where it can be administered.
        acme: Obtains certificates beside it.
    """

    process: SingleProcess
    admin: AdminListeners
    acme: AcmeRunner
    _administering: trio.CancelScope = field(factory=trio.CancelScope, repr=False)
    _obtaining: trio.CancelScope = field(factory=trio.CancelScope, repr=False)

    def close(self) -> None:
        """Close all sockets. ``run`` does, and this may be called again."""
        close_all(self.process.service.listeners)
        self.admin.close()
        self.acme.close()

    def hand_over(self, seconds: float, *, pid: int, unused: Collection[str]) -> None:
        """Drain, because another process accepts now. The admin sockets are its alone.

        Args:
            seconds: Until when sessions have to end.
            pid: The other process.
            unused: The addresses that it does not listen on.
        """
        self._administering.cancel()
        self._obtaining.cancel()
        self.admin.leave()
        self.acme.close()
        self.process.service.hand_over(seconds, pid=pid, unused=unused)

    async def run(
        self,
        giver: SingleGiver | None = None,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until drained or cancelled; started once the service is.

        Args:
            giver: Hands the sockets over to another process; None if none can take over.
            task_status: For ``nursery.start``.

        Closes:
            All sockets.
        """
        service = self.process.service
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._administer, giver)
                nursery.start_soon(self._obtain_certificates)
                async with trio.open_nursery() as serving:
                    await serving.start(service.run)
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            self.admin.close()
            self.acme.close()

    async def _administer(self, giver: SingleGiver | None) -> None:
        with self._administering:
            service = self.process.service
            await administer(
                SingleTarget(self.process, lambda: self.acme.statuses),
                self.admin,
                service.log,
                service.board,
                turns=service.relay_turns,
                giver=giver,
            )

    async def _obtain_certificates(self) -> None:
        with self._obtaining:
            service = self.process.service
            await self.acme.run(lambda: service.config, service.log, self.process.monitor.scan_certificates)


def open_service(
    config: Config,
    store: CertificateStore,
    *,
    owner: tuple[int, int] | None = None,
    passed: PassedSockets | None = None,
    state: ProxyState | None = None,
) -> OpenedProcess:
    """Listen and open the log: everything that needs privileges.

    Args:
        config: The configuration.
        store: Its TLS files.
        owner: The user and group that own log files which are created here; None for those of the process.
        passed: Sockets of the process that this one replaces.
        state: The state of that process.

    Raises:
        ConfigError: With nothing left open but ``passed``.
    """
    opened = open_all(config, store, workers=1, owner=owner, passed=passed)
    (listeners,) = opened.slots
    process = build_single_process(
        config,
        listeners,
        store.server_contexts,
        reloader=CertificateReloader(config, store) if store.files else None,
        log=Log(opened.outputs),
        max_sessions=max_sessions(config),
        state=state,
    )
    acme = AcmeRunner(config, owner)
    process.on_reconfigured.append(acme.notice_reload)
    return OpenedProcess(process, opened.admin, acme)


async def serve(config: Config, *, task_status: trio.TaskStatus[Proxy] = trio.TASK_STATUS_IGNORED) -> None:
    """Run a proxy in this trio loop until it is drained or cancelled.

    Touches neither signals nor privileges: ``process.user`` and ``process.group`` are ignored here.

    Args:
        config: The configuration. It must ask for one process.
        task_status: Reports a `Proxy` once every bind listens and servers were checked.

    Raises:
        ConfigError: With every fault of files, addresses and names, or if the configuration asks for several
            processes.

    Cancellation:
        Open sessions are closed and logged.
    """

    def prepare() -> OpenedProcess:
        return open_service(config, load_and_check(config))

    if worker_count(config) != 1:
        fact = f"{config.process.workers}: inside another program there is one process, so only 1"
        raise config.error([Fault("process.workers", fact)])
    # In a thread: it reads files, and the other tasks of the host program must go on.
    opened = await trio.to_thread.run_sync(prepare)
    async with trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        task_status.started(Proxy(opened.process))
