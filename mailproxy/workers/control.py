"""Control: the process that finds out about servers, tells the workers, hears what signals mean, and says what all of them do.

It serves nobody. If it dies another one takes its place: that hears from the workers what is known of servers before it
looks itself, so that nothing changes by that.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Hashable, Mapping, Sequence
from random import SystemRandom
from typing import NamedTuple

import trio
from attrs import frozen

from mailproxy.certificates.reloader import CertificateReloader, ReloadResult
from mailproxy.certificates.watcher import log_rejected
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.ipc.channel import Channel, Message, Received, batch_by_size
from mailproxy.log import Log
from mailproxy.log.events import (
    CONTROL_DIED,
    DRAINING,
    MESSAGE_DROPPED,
    READY,
    SIGNAL_IGNORED,
    STOPPED,
    STOPPING,
    WORKER_DIED,
    Event,
)
from mailproxy.net.listener import Listener
from mailproxy.pool import StateChange
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome, ServerContexts
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.config_change import log_if_changed
from mailproxy.proxy.frontend import say_listening
from mailproxy.proxy.monitor import ServerMonitor, ports_of
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.backend import ControlBackend
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.scoreboard import ProcessCounters
from mailproxy.workers.stick_sync import StickSync, apply_updates, batched, dump_table, load_table
from mailproxy.workers.worker_handle import PendingAcks, Totals, WorkerHandle, apply_counters

_REGISTER_TIMEOUT_S = 2.0  # for workers that are there to say what they know
_TABLE_TIMEOUT_S = 5.0  # for one of them to tell the stick tables
_CHANGE_TIMEOUT_S = 0.2  # for workers to take up a change of a server before its line is written
_TURNS_S = 0.05  # for workers to give places to those who wait, in turns; none of them knows of all
_REOPEN_TIMEOUT_S = 3.0  # a log that hangs must not keep the others
_LAUNCHER_S = 0.02  # between two looks whether it has taken up what was renewed
_RELOAD_TIMEOUT_S = 10.0  # files may stand on a slow disk
_SERVERS_MAX = 100  # at a time


class _PendingChange(NamedTuple):
    """A change that the workers take up, and what is said then."""

    acks: PendingAcks
    backend: ControlBackend
    change: StateChange[BackendServer]
    event: Event
    outcome: CheckOutcome | None
    sessions: int
    waiting: int


@frozen(kw_only=True)
class Listening:
    """Where workers listen: what control says of it, and needs to know for its checks. The sockets are theirs."""

    frontend: str
    number: int
    port: int | None
    name: str
    address: str
    mode: str

    @classmethod
    def of(cls, listener: Listener) -> Listening:
        """As long as it is open."""
        return cls(
            frontend=listener.frontend, number=listener.number, port=listener.port, name=listener.name,
            address=listener.address, mode=listener.bind.mode,
        )  # fmt: skip


class Control:
    """``workers``: how many there are to be; ``running``: how many served already when this one was started."""

    def __init__(
        self,
        config: Config,
        listening: Sequence[Listening],
        connectors: ServerContexts,
        *,
        reloader: CertificateReloader | None,
        log: Log,
        shares: ProcessCounters,
        launcher: Channel,
        ring_launcher: Callable[[], None],
        workers: int,
        running: int,
    ) -> None:
        self._config = config
        self._log = log
        self._shares = shares
        self._launcher = launcher
        self._ring_launcher = ring_launcher
        self._workers = workers
        self._running = running
        self._listening = listening
        chance = SystemRandom()
        self.backends: Mapping[str, ControlBackend] = {
            name: ControlBackend(
                settings, connectors, log, chance, share=shares.backends[name], tell=self._send_update,
                say_change=self._on_change,
            )
            for name, settings in config.backends.items()
        }  # fmt: skip
        self._monitor = ServerMonitor(
            config, self.backends, connectors, ports=ports_of(listening), reloader=reloader, log=log, chance=chance,
            pass_on=self._reload_all,
        )  # fmt: skip
        self._totals = Totals(self.backends)
        self._stick_sync = StickSync()
        self._handles: list[WorkerHandle] = []
        self._pending: dict[int, PendingAcks] = {}
        self._last_number = 0
        self._changes: list[_PendingChange] = []
        self._has_changes = trio.Event()
        self._met = trio.Event()  # set whenever a worker has said hello
        self._table = trio.Event()
        self._is_settled = False
        self._is_stopping = False
        self._is_draining = False
        self._over = trio.Event()

    async def run(self) -> None:
        """Control until the last worker is gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._log.run)
                nursery.start_soon(supervise, self._log, "heartbeat", beat, self._shares.beat)
                nursery.start_soon(self._end_with, nursery.cancel_scope)
                nursery.start_soon(
                    supervise, self._log, "line to the launcher", self._serve_supervisor, nursery
                )
                for backend in self.backends.values():
                    nursery.start_soon(backend.run_timers)
                nursery.start_soon(
                    supervise,
                    self._log,
                    "passing on of stick entries",
                    self._stick_sync.run,
                    self._broadcast_update,
                )
                nursery.start_soon(supervise, self._log, "lines about servers", self._log_changes)
                if self._running:
                    with contained(self._log, "taking over from the workers"):
                        await self._collect_snapshots()
                    await self._monitor.sync_silently()
                await nursery.start(self._monitor.run)
                self._is_settled = True
                for link in self._handles:
                    if link.is_registered:
                        nursery.start_soon(supervise, self._log, link.name, self._sync_worker, link)
        finally:
            if self._is_stopping:
                sessions = self._totals.sessions(self._handles)
                self._log.event(STOPPED, "mailproxy has stopped", sessions=sessions)
            await self._log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own

    async def _end_with(self, scope: trio.CancelScope) -> None:
        await self._over.wait()
        scope.cancel()

    # The launcher

    async def _serve_supervisor(self, nursery: trio.Nursery) -> None:
        while (heard := await self._launcher.receive()) is not None:
            with contained(self._log, "line to the launcher"):
                self._take_from_launcher(heard, nursery)
        self._drain()  # it is gone, and nobody would replace a worker any more
        self._check_if_over()

    def _take_from_launcher(self, heard: Received, nursery: trio.Nursery) -> None:
        match heard.message:
            case {"worker": slot, "pid": pid}:
                link = WorkerHandle(Channel(heard.sockets[0], dropped=self._log_dropped), slot, pid)
                self._handles.append(link)
                nursery.start_soon(self._serve_channel, link)
            case {"signal": number}:
                self._handle_signal(number, nursery)
            case {"died": died}:
                self._log_exit(died)
            case {"kept": fact}:
                log_rejected(self._log, Fault("process.workers", f"the launcher: {fact}"))

    def _handle_signal(self, number: int, nursery: trio.Nursery) -> None:
        if number in (signal.SIGHUP, signal.SIGUSR2):
            nursery.start_soon(self._reopen_all)
            if number == signal.SIGHUP:
                self._monitor.renew_certificates()
                nursery.start_soon(log_if_changed, self._config, self._log)
        elif number == signal.SIGUSR1:
            self._log.event(
                SIGNAL_IGNORED, "SIGUSR1 means nothing here: SIGUSR2 reopens the log, SIGTERM stops"
            )
        elif number == signal.SIGTERM and not self._is_draining:
            self._drain()
        else:
            self._is_stopping = True
            self._log.event(
                STOPPING, f"stopping now, {self._shares.process.sessions.total} sessions are closed"
            )
            self._broadcast_update({"stop": True}, instead="stop")
        self._check_if_over()

    def _drain(self) -> None:
        if self._is_stopping:
            return
        self._is_draining = self._is_stopping = True
        open_sessions, seconds = self._shares.process.sessions.total, self._config.process.drain_timeout
        self._log.event(
            DRAINING,
            f"stopping: no more connections are accepted, open sessions ({open_sessions}) have {seconds:g}s to end",
            sessions=open_sessions,
            seconds=seconds,
        )
        self._broadcast_update({"drain": seconds}, instead="drain")

    def _check_if_over(self) -> None:
        if self._is_stopping and not self._handles:
            self._over.set()

    def _log_exit(self, died: Message) -> None:
        pid, why, slot = died["pid"], died["why"], died["slot"]
        if slot is None:
            self._log.event(
                CONTROL_DIED, f"control (process {pid}) {why}: another one took its place", pid=pid, why=why
            )
            return
        sessions, replaced = died["sessions"], "; it is replaced" if died["replaced"] else ""
        self._log.event(
            WORKER_DIED,
            f"worker {slot + 1} (process {pid}) {why}, {sessions} sessions are lost{replaced}",
            slot=slot + 1,
            pid=pid,
            why=why,
            sessions=sessions,
        )

    def _log_dropped(self, fact: str) -> None:
        self._log.event(MESSAGE_DROPPED, fact)

    # Workers

    async def _serve_channel(self, link: WorkerHandle) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervise, self._log, link.name, link.channel.run)
                if self._is_stopping:
                    link.channel.send_nowait(
                        {"drain": self._config.process.drain_timeout} if self._is_draining else {"stop": True}
                    )
                await supervise(self._log, link.name, self._hear, link, nursery)
                nursery.cancel_scope.cancel()
        finally:
            link.channel.close()
            self._handles.remove(link)
            self._totals.absorb(link)
            for asking in self._pending.values():
                asking.ack(link)
        self._check_if_over()

    async def _hear(self, link: WorkerHandle, nursery: trio.Nursery) -> None:
        while (heard := await link.channel.receive()) is not None:
            link.is_unresponsive = False
            with contained(self._log, link.name):
                self._handle_message(heard.message, link, nursery)

    def _handle_message(self, message: Message, link: WorkerHandle, nursery: trio.Nursery) -> None:
        match message:
            case {"done": number, **more}:
                if (asking := self._pending.get(number)) is not None:
                    asking.ack(link, more.get("requeued", 0))
            case {"learned": name, "entries": entries}:
                apply_updates(self.backends[name], entries)
                self._stick_sync.add(name, entries)
            case {"failed": name, "server": number, "host": host, "why": why}:
                backend = self.backends[name]
                backend.observe(backend.servers[number], host, why)
            case {"counts": _}:
                apply_counters(link, message)
            case {"known": servers} if not self._is_settled:
                for name, number, known in servers:
                    self._take_over(self.backends[name], number, ServerSnapshot.from_json(known))
            case {"recall": name, "entries": entries}:
                load_table(self.backends[name], entries)
            case {"told": "table"}:
                self._table.set()
            case {"hello": _, "fresh": fresh}:
                link.is_registered, link.is_new = True, fresh
                self._met.set()
                if self._is_settled:
                    nursery.start_soon(supervise, self._log, link.name, self._sync_worker, link)
            case {"ready": _}:
                link.is_ready = True
                self._log_ready()

    def _log_ready(self) -> None:
        """Once, when all workers listen; not again by a control that took this one's place."""
        if self._shares.ready.local or sum(link.is_ready for link in self._handles) < self._workers:
            return
        self._shares.ready.local = 1
        for each in self._listening:
            say_listening(self._log, each.frontend, name=each.name, address=each.address, mode=each.mode)
        self._log.event(READY, "mailproxy is ready", workers=self._workers)

    async def _sync_worker(self, link: WorkerHandle) -> None:
        """Tell a worker what is known; it accepts then."""
        servers = [(backend, server) for backend in self.backends.values() for server in backend.servers]
        for some in batched(servers, _SERVERS_MAX):
            await link.channel.wait_for_room()
            for part in batch_by_size(_server_message(*each) for each in some):
                link.channel.send_nowait({"servers": part})
        if link.is_new:
            for backend in self.backends.values():
                for message in dump_table(backend):
                    await link.channel.send(message)
        await link.channel.send({"serve": True})

    # What workers knew before this control was there

    async def _collect_snapshots(self) -> None:
        with trio.move_on_after(_REGISTER_TIMEOUT_S):
            while sum(link.is_registered for link in self._handles) < self._running:
                await self._met.wait()
                self._met = trio.Event()
        knowing = [link for link in self._handles if link.is_registered and not link.is_new]
        if knowing and any(backend.pool.stick is not None for backend in self.backends.values()):
            knowing[0].channel.send_nowait({"tell": "table"})
            with trio.move_on_after(_TABLE_TIMEOUT_S):
                await self._table.wait()

    def _take_over(self, backend: ControlBackend, number: int, known: ServerSnapshot) -> None:
        server = backend.servers[number]
        backend.apply_snapshot(server, known)
        backend.mark_published(server)

    # What is told to workers

    def _broadcast_update(self, message: Message, *, instead: Hashable = None) -> None:
        for link in self._handles:
            link.channel.send_nowait(message, replaces=instead)

    def _send_update(self, backend: ControlBackend, server: BackendServer) -> None:
        for link in self._handles:
            message = {"servers": [_server_message(backend, server)]}
            link.channel.send_nowait(message, replaces=(backend.name, backend.numbers[server]))

    def _on_change(
        self,
        backend: ControlBackend,
        change: StateChange[BackendServer],
        event: Event,
        checked: CheckOutcome | None,
    ) -> None:
        # Before workers end the ones and give places to the others.
        sessions, waiting = change.server.sessions, backend.pool.waiting
        asking = self._broadcast(
            {"servers": [_server_message(backend, change.server)]},
            instead=(backend.name, backend.numbers[change.server]),
        )
        self._changes.append(_PendingChange(asking, backend, change, event, checked, sessions, waiting))
        self._has_changes.set()

    def _broadcast(self, message: Message, *, instead: Hashable) -> PendingAcks:
        """Tell all, and have those answer that are known to. ``instead``: as in Line, for those who hear nothing."""
        self._last_number += 1
        asked = set()
        for link in self._handles:
            said = link.channel.send_nowait({**message, "number": self._last_number})
            if not said:  # it hears nothing any more; if it ever does again, it shall have the last of these
                link.channel.send_nowait(message, replaces=instead)
            elif link.is_registered and not link.is_unresponsive:
                asked.add(link)
        asking = PendingAcks(asked)
        self._pending[self._last_number] = asking
        return asking

    async def _wait_for_acks(self, asking: PendingAcks, seconds: float) -> None:
        await asking.wait(seconds)
        self._pending = {number: each for number, each in self._pending.items() if each is not asking}

    async def _log_changes(self) -> None:
        """One after the other, as they came; with what the workers made of it."""
        while True:
            if not self._changes:
                await self._has_changes.wait()
            self._has_changes = trio.Event()
            while self._changes:  # also those that a failure has left
                told = self._changes.pop(0)
                requeued = 0
                with contained(
                    self._log, "lines about servers"
                ):  # without its figures it is written all the same
                    await self._wait_for_acks(told.acks, _CHANGE_TIMEOUT_S)
                    requeued = told.acks.requeued
                    if told.waiting and told.change.server.accepts_persistent:
                        await trio.sleep(_TURNS_S)
                        requeued = max(requeued, told.waiting - told.backend.pool.waiting)
                told.backend.log_change(
                    told.change, told.event, told.outcome, sessions=told.sessions, requeued=requeued
                )

    async def _reopen_all(self) -> None:
        with contained(self._log, "log writer"):
            await self._wait_for_acks(self._broadcast({"reopen": True}, instead="reopen"), _REOPEN_TIMEOUT_S)
        self._log.reopen()

    async def _reload_all(self, result: ReloadResult, forced: bool) -> None:
        """Have the workers reload, and the supervisor, so that workers forked later start with the new files."""
        self._shares.renewals.add(1)
        self._ring_launcher()
        # What does not fit into a message is logged by each worker, too.
        faults = next(batch_by_size([fault.path, fault.fact] for fault in result.faults), [])
        message = {"renew": True, "anyway": forced, "faults": faults}
        await self._wait_for_acks(self._broadcast(message, instead="renew"), _RELOAD_TIMEOUT_S)
        with trio.move_on_after(_RELOAD_TIMEOUT_S):
            while self._shares.renewed.local < self._shares.renewals.local:  # noqa: ASYNC110 - another process sets it
                await trio.sleep(_LAUNCHER_S)


def _server_message(backend: ControlBackend, server: BackendServer) -> list[object]:
    return [
        backend.name,
        backend.numbers[server],
        ServerSnapshot.capture(server, trio.current_time()).to_json(),
    ]
