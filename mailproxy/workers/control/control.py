"""The control process: checks servers for all workers, acts on signals, logs what concerns all processes.

It serves no sessions. If it dies, the supervisor starts another one. The new one learns from the workers what
is known of the servers before it checks them itself, so that the change goes unnoticed.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from random import SystemRandom

import trio

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.certificates.watcher import log_rejected
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.ipc.channel import Received
from mailproxy.log import Log
from mailproxy.log.events import CONTROL_DIED, READY, STOPPED, WORKER_DIED
from mailproxy.net.tls.certificate import Certificate
from mailproxy.net.tls.terminator import Terminator
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.drain import DrainTarget
from mailproxy.proxy.frontend import log_listening
from mailproxy.proxy.monitor import ServerMonitor, ports_of
from mailproxy.proxy.service import log_handover_failed
from mailproxy.proxy.signals import HANDED_OVER
from mailproxy.proxy.state import ProxyState, open_keeper, restore_state
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.backend import ControlBackend, send_snapshots
from mailproxy.workers.control.backends import ControlBackends
from mailproxy.workers.control.boards import Boards
from mailproxy.workers.control.drains import ControlDrains
from mailproxy.workers.control.feed import RecordFeed
from mailproxy.workers.control.frontends import FrontendWishes
from mailproxy.workers.control.handover import ControlHandover
from mailproxy.workers.control.publisher import PUBLISHER_HELPER, ChangePublisher
from mailproxy.workers.control.registry import WorkerRegistry
from mailproxy.workers.control.reloads import ReloadBroadcaster
from mailproxy.workers.control.signal_handler import SignalHandler
from mailproxy.workers.control.slot import ControlSlot
from mailproxy.workers.control.worker_handle import WorkerHandle
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.messages import (
    Ack,
    ConnectFailure,
    DrainProgress,
    FrontendUpdates,
    HandoverFailed,
    Message,
    ProcessExit,
    Ready,
    RecentRecords,
    Records,
    Register,
    ReloadFailed,
    RequestStickTable,
    ServerSnapshots,
    ServerUpdates,
    Sessions,
    SignalReceived,
    StartServing,
    StickTableEnd,
    StickTablePart,
    StickUpdates,
    WorkerChannel,
    open_channel,
)
from mailproxy.workers.reload.document import ListenerInfo
from mailproxy.workers.reload.leader import NextConfiguration, ReloadLeader
from mailproxy.workers.reload.messages import ReloadAnswer, ReloadApplied
from mailproxy.workers.scoreboard import ProcessCounters
from mailproxy.workers.stick.sync import StickSync
from mailproxy.workers.stick.tables import apply_updates, dump_table, load_table

_SUPERVISOR_HELPER = "channel to the supervisor"
_REGISTER_TIMEOUT_S = 2.0  # for running workers to send what they know to a new control process
_STICK_TABLE_TIMEOUT_S = 5.0  # for one of them to send the stick tables


class Control:
    """The control process.

    Args:
        config: The configuration.
        listener_infos: Where the workers listen.
        server_contexts: TLS towards servers, for checks.
        reloader: Reloads TLS files; None if there are none.
        log: The log. It is finished when ``run`` ends.
        slot: What connects it to the other processes.
        helper: Run beside all else, such as the admin sockets. It ends when it is cancelled.
        state: The state of the proxy that this one replaces; None without one.

    Attributes:
        config: The configuration.
        log: The log.
        workers: The number of workers that there are to be.
        generation: The number of the configuration.
        has_failed: Whether the process ends because it could not follow a reload.
        on_reconfigured: Called when another configuration is in use.
        reloads: Makes the reloads of the configuration.
        registry: The workers.
        frontends: What the operator wants of frontends.
        listener_infos: Where the workers listen.
        drains: What commands of an operator call to end sessions.
        handover: Hands the listening sockets over to another proxy.
        boards: Where all processes count.
        feed: What all processes log, for followers.
    """

    def __init__(
        self,
        config: Config,
        listener_infos: Sequence[ListenerInfo],
        server_contexts: ServerContexts,
        *,
        reloader: CertificateReloader | None,
        log: Log,
        slot: ControlSlot,
        helper: Callable[[Control], Awaitable[None]] | None = None,
        state: ProxyState | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self.workers, self.generation = slot.workers, slot.generation
        self.has_failed = False
        self.on_reconfigured: list[Callable[[], None]] = []
        self.listener_infos = listener_infos
        self._log = log
        self._slot = slot
        self._counters = counters = slot.scoreboard.counters(slot.scoreboard.control)
        self._settled = trio.Event()  # the state of servers is known, and sent to workers that register
        self._registry = WorkerRegistry()
        self.boards = Boards(slot.boards, self._registry)
        self._publisher = ChangePublisher(self._registry, log)
        self._backends = ControlBackends(
            config, server_contexts, log, counters=counters, board=self.boards.own, publisher=self._publisher
        )
        certificates = ReloadBroadcaster(self._registry, counters, slot.wake_supervisor)
        self._monitor = ServerMonitor(
            config, dict(self._backends), server_contexts, ports=ports_of(listener_infos), reloader=reloader,
            log=log, random=SystemRandom(), on_reloaded=certificates.broadcast,
        )  # fmt: skip
        self.reloads = ReloadLeader(
            log=log, registry=self._registry, monitor=self._monitor, backends=self._backends, counters=counters,
            supervisor=slot.supervisor, wake_supervisor=slot.wake_supervisor, config=lambda: self.config,
            settled=self._settled, is_stopping=lambda: self.is_stopping, use=self._use, on_failure=self._fail,
        )  # fmt: skip
        self._signals = SignalHandler(
            lambda: self.config, log, registry=self._registry, count_sessions=self._count_sessions,
            reload=partial(self.reloads.reload_file, "SIGHUP"),
        )  # fmt: skip
        self.frontends = FrontendWishes(config)
        self.feed = RecordFeed(self._registry, log)
        self.drains = ControlDrains(self._registry, self._count_sessions_of, log)
        self._state = open_keeper(config, self._backends, log)
        if self._state is not None:
            self._state.frontends = self.frontends
        self._initial_state = state
        self.handover = ControlHandover(slot.supervisor, slot.wake_supervisor, self._state, log)
        self._nursery: trio.Nursery | None = None
        self._stick_sync = StickSync()
        self._helper = helper
        self._has_registered = trio.Event()  # set whenever a worker has sent Register
        self._has_stick_table = trio.Event()
        self._ended = trio.Event()

    @property
    def backends(self) -> Mapping[str, ControlBackend]:
        """The backends, by name."""
        return self._backends

    async def run(self) -> None:
        """Control the workers until the proxy stops and the last worker is gone."""
        log = self._log
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(log.run)
                nursery.start_soon(supervise, log, "heartbeat", beat, self._counters.beat)
                nursery.start_soon(self._cancel_at_end, nursery.cancel_scope)
                nursery.start_soon(supervise, log, _SUPERVISOR_HELPER, self._serve_supervisor, nursery)
                for backend in self._backends.values():
                    nursery.start_soon(backend.run_timers)
                nursery.start_soon(
                    supervise, log, "stick table sync", self._stick_sync.run, self._registry.broadcast
                )
                nursery.start_soon(supervise, log, "log of drains", self.drains.run)
                nursery.start_soon(supervise, log, PUBLISHER_HELPER, self._publisher.run)
                if self._slot.running:
                    with contained(log, "takeover from the workers"):
                        await self._collect_snapshots()
                    await self._monitor.sync_silently()
                if self._helper is not None:  # not before it is known what the last control process knew
                    nursery.start_soon(self._helper, self)
                if not self._slot.running:
                    await restore_state(
                        self._state, self._initial_state, self._backends.values(), self.frontends
                    )
                elif self._state is not None:
                    self._state.allow_writing()  # the workers know what the file has, and more
                if self._state is not None:
                    nursery.start_soon(supervise, log, "state file", self._state.run)
                await nursery.start(self._monitor.run)
                self._settled.set()
                for worker in self._registry.workers:
                    if worker.is_registered:
                        self._start_sync(worker, nursery)
        finally:
            if self._state is not None:
                await self._state.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            if self._signals.is_stopping:
                log.event(STOPPED, "mailproxy has stopped", sessions=self.boards.count_served())
            await log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own

    async def _cancel_at_end(self, scope: trio.CancelScope) -> None:
        await self._ended.wait()
        scope.cancel()

    def _check_ended(self) -> None:
        if self._signals.is_stopping and not self._registry.workers:
            self._ended.set()

    @property
    def registry(self) -> WorkerRegistry:
        """The workers."""
        return self._registry

    @property
    def counters(self) -> ProcessCounters:
        """The scoreboard, from which the sessions of all workers can be read."""
        return self._counters

    @property
    def certificates(self) -> list[Certificate]:
        """The certificates in use."""
        return self._monitor.certificates

    def scan_certificates(self) -> None:
        """Scan the files of certificates, keys, CAs and CRLs now."""
        self._monitor.scan_certificates()

    @property
    def certificate_store(self) -> CertificateStore | None:
        """The TLS files in use; None if the configuration names none."""
        return self._monitor.certificate_store

    @property
    def terminators(self) -> Mapping[tuple[str, int], Terminator]:
        """The TLS of binds with the certificates in use, by frontend and index of the bind."""
        store = self.certificate_store
        return store.bind_terminators if store is not None else {}

    @property
    def is_stopping(self) -> bool:
        """Whether the workers drain or stop."""
        return self._signals.is_stopping

    def share_stick_entry(self, backend: ControlBackend, key: int, index: int) -> None:
        """Store an entry in a stick table of all processes."""
        apply_updates(backend, ((key, index),))
        self._stick_sync.add(backend.name, ((key, index),))

    def _count_sessions(self) -> int:
        return self._counters.process.sessions.total

    def _count_sessions_of(self, target: DrainTarget) -> int:
        if target.server:
            servers = self._backends[target.backend].servers
            return sum(server.sessions for server in servers if server.name == target.server)
        if target.frontend:
            return self._counters.frontends[target.frontend].sessions.total
        return self._count_sessions()

    # The supervisor

    async def _serve_supervisor(self, nursery: trio.Nursery) -> None:
        while (received := await self._slot.supervisor.receive()) is not None:
            with contained(self._log, _SUPERVISOR_HELPER):
                self._handle_supervisor_message(received, nursery)
        await self._on_supervisor_gone()

    async def _on_supervisor_gone(self) -> None:
        """Drain, since no process would be replaced, and make room for a fresh start."""
        self.reloads.on_supervisor_gone()
        self._signals.drain()
        self._check_ended()
        self.handover.released.set()
        if self._state is not None:
            await self._state.finish()
            self._state.forbid_writing()  # the file is the next proxy's

    def _handle_supervisor_message(self, received: Received[Message], nursery: trio.Nursery) -> None:
        match received.message:
            case WorkerChannel(slot, pid):
                self._add_worker(received.sockets[0], slot, pid, nursery)
            case SignalReceived(number):
                if number == HANDED_OVER:
                    self.handover.on_completed()
                    self._signals.drain(self.handover.unused)
                self._signals.handle(number, nursery)
                self._check_ended()
            case ProcessExit():
                if received.message.slot is not None and received.message.is_replaced:
                    self.boards.count_restart()
                _log_exit(self._log, received.message)
            case HandoverFailed(reason):
                log_handover_failed(self._log, reason)
            case ReloadAnswer():
                self.reloads.on_answer(received)
            case ReloadFailed(reason):
                log_rejected(self._log, Fault("process.workers", f"the supervisor: {reason}"))
            case message:
                raise TypeError(f"the control process does not handle {message!r} of the supervisor")

    # Workers

    def _add_worker(self, end: socket.socket, slot: int, pid: int, nursery: trio.Nursery) -> None:
        worker = WorkerHandle(open_channel(end, self._log), slot, pid)
        self._registry.add(worker)
        nursery.start_soon(self._serve_worker, worker)

    async def _serve_worker(self, worker: WorkerHandle) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervise, self._log, worker.name, worker.channel.run)
                if self._signals.order is not None:
                    worker.channel.send_nowait(self._signals.order)
                await supervise(self._log, worker.name, self._receive, worker, nursery)
                nursery.cancel_scope.cancel()
        finally:
            worker.channel.close()
            self._registry.remove(worker)
            self.drains.on_worker_gone(worker)
        self._check_ended()

    async def _receive(self, worker: WorkerHandle, nursery: trio.Nursery) -> None:
        while (received := await worker.channel.receive()) is not None:
            worker.is_unresponsive = False
            with contained(self._log, worker.name):
                self._handle_worker_message(received.message, worker, nursery)

    def _handle_worker_message(self, message: Message, worker: WorkerHandle, nursery: trio.Nursery) -> None:
        match message:
            case Ack():
                self._registry.acknowledge(message, worker)
            case StickUpdates(name, entries):
                for backend in self._backends.named(name):
                    apply_updates(backend, entries)
                self._stick_sync.add(name, entries)
            case ConnectFailure(name, number, host, reason):
                for backend in self._backends.named(name):
                    if (server := backend.numbered(number)) is not None:
                        backend.observe(server, host, reason)
            case RecentRecords():
                self._registry.add_records(message)
            case Sessions():
                self._registry.add_sessions(message)
            case Records():
                self.feed.on_records(message)
            case FrontendUpdates():
                if not self._settled.is_set():
                    self.frontends.take_over(message)
            case DrainProgress(drains):
                self.drains.on_progress(worker, drains)
            case ServerSnapshots(servers):
                if not self._settled.is_set():  # afterwards this process knows better
                    for snapshot in servers:
                        self._backends.apply_snapshot(snapshot)
            case StickTablePart(name, entries):
                for backend in self._backends.named(name):
                    load_table(backend, entries)
            case StickTableEnd():
                self._has_stick_table.set()
            case Register(is_new, generation):
                worker.is_registered, worker.is_new, worker.generation = True, is_new, generation
                self._has_registered.set()
                self.reloads.on_worker_changed()
                if self._settled.is_set():
                    self._start_sync(worker, nursery)
            case Ready():
                worker.is_ready = True
                self._log_ready()
                self.reloads.on_worker_changed()
            case ReloadApplied(generation):
                worker.generation = generation
                self.reloads.on_worker_changed()
                if self._settled.is_set() and generation >= self.generation:
                    self._start_sync(worker, nursery)
            case _:
                raise TypeError(f"the control process does not handle {message!r} of a worker")

    def _log_ready(self) -> None:
        """Log that the proxy is ready when all workers listen, unless an earlier control process did."""
        ready = self._counters.ready
        if ready.local or sum(worker.is_ready for worker in self._registry.workers) < self.workers:
            return
        ready.local = 1
        self._log_listening(self.listener_infos)
        self._log.event(READY, "mailproxy is ready", workers=self.workers)

    def _log_listening(self, infos: Iterable[ListenerInfo]) -> None:
        for each in infos:
            log_listening(self._log, each.frontend, name=each.name, address=each.address, mode=each.mode)

    def _start_sync(self, worker: WorkerHandle, nursery: trio.Nursery) -> None:
        nursery.start_soon(supervise, self._log, worker.name, self._sync_worker, worker)

    async def _sync_worker(self, worker: WorkerHandle) -> None:
        """Send a worker the state of all servers. It accepts connections then."""
        await send_snapshots(worker.channel, self._backends.values(), ServerUpdates)
        await worker.channel.send(self.frontends.message())
        await worker.channel.send(self.feed.message)
        if worker.is_new:
            for backend in self._backends.values():
                for message in dump_table(backend):
                    await worker.channel.send(message)
            worker.is_new = False
        await worker.channel.send(StartServing())

    # Takeover from a control process that has died

    async def _collect_snapshots(self) -> None:
        """Wait until all running workers have sent what they know, and one of them its stick tables."""
        with trio.move_on_after(_REGISTER_TIMEOUT_S):
            while sum(worker.is_registered for worker in self._registry.workers) < self._slot.running:
                await self._has_registered.wait()
                self._has_registered = trio.Event()
        informed = [worker for worker in self._registry.workers if worker.is_registered and not worker.is_new]
        if informed and any(backend.pool.stick is not None for backend in self._backends.values()):
            informed[0].channel.send_nowait(RequestStickTable())
            with trio.move_on_after(_STICK_TABLE_TIMEOUT_S):
                await self._has_stick_table.wait()

    # Reload of the configuration

    def _use(self, new: NextConfiguration) -> None:
        """Use another configuration, which the supervisor uses already. Nothing waits here."""
        config, store, commit = new.config, new.prepared.store, new.commit
        if new.prepared.outputs is not None:
            self._log.reconfigure(new.prepared.outputs)
        self._slot.scoreboard.reconfigure(config, commit.workers)
        self._counters = self._slot.scoreboard.counters(self._slot.scoreboard.control)
        added = self._backends.reconfigure(
            config, store.server_contexts, counters=self._counters, addresses=new.addresses
        )
        self._monitor.reconfigure(
            config,
            dict(self._backends),
            store.server_contexts,
            ports=ports_of(commit.listeners),
            reloader=CertificateReloader(config, store, stage=True) if store.files else None,
        )
        self.frontends.reconfigure(config)
        if self._state is not None:
            self._state.reconfigure(self._backends)
        known = {(each.frontend, each.address) for each in self.listener_infos}
        self._log_listening([each for each in commit.listeners if (each.frontend, each.address) not in known])
        self.listener_infos = commit.listeners
        self.config, self.workers, self.generation = config, commit.workers, commit.generation
        for call in self.on_reconfigured:
            call()
        assert self._nursery is not None  # noqa: S101 - reloads are made while it runs
        for backend in added:
            self._nursery.start_soon(backend.run_timers)
        for worker in self._registry.workers:
            worker.is_leaving |= worker.slot >= commit.workers
            if worker.generation >= commit.generation:
                self._start_sync(worker, self._nursery)

    def _fail(self) -> None:
        """End with an error, to be replaced by a control process that begins with the configuration in use."""
        self.has_failed = True
        self._ended.set()


def _log_exit(log: Log, died: ProcessExit) -> None:
    if died.slot is None:
        log.event(
            CONTROL_DIED,
            f"control (process {died.pid}) {died.reason}: another one took its place",
            pid=died.pid,
            why=died.reason,
        )
        return
    replaced = "; it is replaced" if died.is_replaced else ""
    log.event(
        WORKER_DIED,
        f"worker {died.slot + 1} (process {died.pid}) {died.reason}, {died.sessions} sessions are lost{replaced}",
        slot=died.slot + 1,
        pid=died.pid,
        why=died.reason,
        sessions=died.sessions,
    )
