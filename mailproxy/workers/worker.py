"""A worker: one of several processes that serve, with control to tell it of servers and the launcher as its parent.

It accepts as soon as control has told it what is known, serves on while there is no control, and drains when the launcher
is gone. What all processes say alike is said by control.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from functools import partial

import trio
from attrs import frozen

from mailproxy import config as settings
from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.watcher import log_rejected, run_in_thread
from mailproxy.config import Config
from mailproxy.errors import Fault
from mailproxy.ipc.channel import Channel, Message, batch_by_size
from mailproxy.ipc.shared_memory import Wakeups
from mailproxy.log import Log
from mailproxy.log.events import (
    BACKEND_DOWN,
    CHECK_NOT_MADE,
    CONTROL_SILENT,
    DRAINING,
    LISTENING,
    LOG_REOPENED,
    MESSAGE_DROPPED,
    NAME_RESOLVED,
    NAME_UNRESOLVED,
    READY,
    SERVER_CHECK,
    SERVER_DOWN,
    SERVER_STATE,
    SERVER_UP,
    STOPPED,
)
from mailproxy.net.listener import Listener
from mailproxy.pool import Counts
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.client_limits import Clients, client_limits
from mailproxy.proxy.limits import SessionLimit, SessionLimits, SharedLimit, WorkerLimits
from mailproxy.proxy.monitor import ServerMonitor
from mailproxy.proxy.service import Service
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.backend import WorkerBackend
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.scoreboard import ProcessCounters
from mailproxy.workers.stick_sync import StickSync, apply_updates, batched, dump_table, load_table
from mailproxy.workers.worker_handle import changed_counters

LOGGED_BY_CONTROL = frozenset({
    LISTENING, READY, DRAINING, STOPPED, LOG_REOPENED, SERVER_UP, SERVER_DOWN, SERVER_STATE, SERVER_CHECK, BACKEND_DOWN,
    CHECK_NOT_MADE, NAME_RESOLVED, NAME_UNRESOLVED,
})  # fmt: skip

_QUEUE_INTERVAL_S = 0.05  # between two looks whether it is the turn of those who wait here
_COUNTER_INTERVAL_S = 1.0
_CONTROL_S = 3.0  # for control to send what it knows to a worker that took another one's place
_FIRST_CONTROL_S = 15.0  # at the start it looks up names and makes the first checks before, 8 s at most
_RELOAD_RETRY_S = 1.0  # what this worker alone could not take up; control has nobody look again
_SERVERS_MAX = 100  # at a time


@frozen(kw_only=True)
class WorkerSlot:
    """Where a worker stands: its slot, what it has on the board, the bells, the line to the launcher, and how many sessions
    its descriptors hold; ``is_late``: others were there before, and files may have changed since they were loaded.
    """

    slot: int
    counters: ProcessCounters
    wakeups: Wakeups
    supervisor: Channel
    most_sessions: int
    is_restart: bool


class Worker(Service):
    """See Service; what it does not find out itself comes by the line to control."""

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        connectors: ServerContexts,
        *,
        reloader: CertificateReloader | None,
        log: Log,
        max_sessions: int,
        place: WorkerSlot,
    ) -> None:
        self._slot = place
        self._own_limit = SessionLimit(place.most_sessions)
        self._stick_sync = StickSync()
        self._control: Channel | None = None
        self._may_serve = trio.Event()
        self._published_counts: dict[tuple[str, int], Counts] = {}
        self._is_serving = False
        self._is_informed = False  # by control, of the servers
        self._is_draining = False
        self._reloading = trio.Lock()  # one thread at a time scans
        self._rejected: tuple[Fault, ...] = ()
        self._is_scan_due = self._is_scan_forced = False  # until a scan has succeeded
        self._worker_backends: dict[str, WorkerBackend] = {}
        super().__init__(config, listeners, connectors, reloader=reloader, log=log, max_sessions=max_sessions)

    # What is another thing in one of several processes

    def _limit(self, max_sessions: int) -> SessionLimit:
        return SharedLimit(max_sessions, self._slot.counters.process)

    def _limits(self, frontend: settings.Frontend) -> SessionLimits:
        own = SharedLimit(frontend.max_sessions, self._slot.counters.frontends[frontend.name])
        return WorkerLimits(own, self.limit, self._own_limit)

    def _clients(self, frontend: settings.Frontend) -> Clients | None:
        return client_limits(frontend, self._slot.counters.clients.get(frontend.name))

    def _backend(self, backend: settings.Backend, connectors: ServerContexts) -> WorkerBackend:
        made = WorkerBackend(
            backend, connectors, self.log, self._random, share=self._slot.counters.backends[backend.name],
            ring=self._slot.wakeups.wake, report=self._send, learned=self._stick_sync,
        )  # fmt: skip
        self._worker_backends[backend.name] = made
        return made

    def _tend_servers(self, connectors: ServerContexts) -> ServerMonitor | None:  # noqa: ARG002 - control does
        return None

    async def _start_tending(self, nursery: trio.Nursery) -> None:
        if self._reloader is not None:
            if self._slot.is_restart:
                with contained(self.log, "certificate watcher"):
                    await self._reload(self._reloader, force=False)
            nursery.start_soon(supervise, self.log, "certificate watcher", self._reload_loop, self._reloader)
        nursery.start_soon(
            supervise, self.log, "passing on of stick entries", self._stick_sync.run, self._send
        )
        nursery.start_soon(supervise, self.log, "queue", self._queue_loop)
        nursery.start_soon(supervise, self.log, "counters", self._counter_loop)
        await self._wait_for_control()

    async def _wait_for_control(self) -> None:
        """Serve when control has sent what it knows, or with what the configuration says if control hangs."""
        seconds = _CONTROL_S if self._slot.is_restart else _FIRST_CONTROL_S
        with trio.move_on_after(seconds):
            await self._may_serve.wait()
            return
        self.log.event(
            CONTROL_SILENT,
            f"worker {self._slot.slot + 1} serves without the state of servers: control has sent none for {seconds:g} s",
            slot=self._slot.slot + 1,
            seconds=seconds,
        )
        async with trio.open_nursery() as nursery:
            for backend in self.backends.values():
                nursery.start_soon(backend.resolver.look_up_once)

    async def work(self) -> None:
        """Serve until told to stop, or drained."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, self.log, "heartbeat", beat, self._slot.counters.beat)
            nursery.start_soon(supervise, self.log, "line to the launcher", self._serve_supervisor, nursery)
            async with trio.open_nursery() as serving:
                await serving.start(self.run)
                self._is_serving = True
                self._send({"ready": True})
            nursery.cancel_scope.cancel()
        self._send_counters()
        if self._control is not None:
            self._control.flush()

    # Lines

    def _send(self, message: Message) -> None:
        """What is said while there is no control is told to the next one by ``_introduce``, or is of no use to it."""
        if self._control is not None:
            self._control.send_nowait(message)

    def _log_dropped(self, fact: str) -> None:
        self.log.event(MESSAGE_DROPPED, fact)

    async def _serve_supervisor(self, nursery: trio.Nursery) -> None:
        """The launcher hands over the line to control, and a new one when that was replaced; it tells of an end itself when
        control hangs.
        """
        while (heard := await self._slot.supervisor.receive()) is not None:
            with contained(self.log, "line to the launcher"):
                match heard.message:
                    case {"drain": seconds}:
                        self._drain(seconds)
                    case {"stop": _}:
                        nursery.cancel_scope.cancel()
                for end in heard.sockets:
                    nursery.start_soon(self._serve_channel, Channel(end, dropped=self._log_dropped), nursery)
        self._drain(self.config.process.drain_timeout)  # it is gone

    async def _serve_channel(self, line: Channel, working: trio.Nursery) -> None:
        self._control = line
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, self.log, "line to control", line.run)
            nursery.start_soon(supervise, self.log, "line to control", self._register, line)
            await supervise(self.log, "line to control", self._hear_control, line, working)
            nursery.cancel_scope.cancel()
        if self._control is line:
            self._control = None
        line.close()

    async def _hear_control(self, line: Channel, working: trio.Nursery) -> None:
        while (heard := await line.receive()) is not None:
            with contained(self.log, "line to control"):
                self._handle_message(heard.message, line, working)

    async def _register(self, line: Channel) -> None:
        """Tell a control what is known here; if nothing is, it tells us."""
        if self._is_informed:
            servers = [
                (each.name, number)
                for each in self._worker_backends.values()
                for number in range(len(each.servers))
            ]
            for some in batched(servers, _SERVERS_MAX):
                await line.wait_for_room()
                for part in batch_by_size(self._snapshot(*each) for each in some):
                    line.send_nowait({"known": part})
            self._published_counts.clear()
        await line.send({"hello": os.getpid(), "fresh": not self._is_informed})
        if self._is_serving:
            await line.send({"ready": True})

    def _snapshot(self, name: str, number: int) -> list[object]:
        return [
            name,
            number,
            ServerSnapshot.capture(
                self._worker_backends[name].servers[number], trio.current_time()
            ).to_json(),
        ]

    def _handle_message(self, message: Message, line: Channel, working: trio.Nursery) -> None:
        match message:
            case {"servers": servers, **more}:
                requeued = sum(self._apply_snapshot(*each) for each in servers)
                if (number := more.get("number")) is not None:
                    line.send_nowait({"done": number, "requeued": requeued})
            case {"learned": name, "entries": entries}:
                apply_updates(self._worker_backends[name], entries)
            case {"recall": name, "entries": entries}:
                load_table(self._worker_backends[name], entries)
            case {"serve": _}:
                self._is_informed = True
                self._may_serve.set()
            case {"drain": seconds}:
                self._drain(seconds)
            case {"stop": _}:
                working.cancel_scope.cancel()
            case {"reopen": _, **more}:
                working.start_soon(self._reopen, line, more.get("number"))
            case {"renew": _, "anyway": anyway, "faults": faults, **more} if self._reloader is not None:
                reported = [Fault(*each) for each in faults]
                working.start_soon(
                    self._reload_for, self._reloader, line, more.get("number"), anyway, reported
                )
            case {"tell": "table"}:
                working.start_soon(self._send_table, line)

    def _apply_snapshot(self, name: str, number: int, known: Message) -> int:
        backend = self._worker_backends[name]
        return backend.apply_snapshot(backend.servers[number], ServerSnapshot.from_json(known))

    def _drain(self, seconds: float) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._may_serve.set()  # if nobody has told it anything yet, nobody will
            self.drain(seconds)

    async def _reopen(self, line: Channel, number: int | None) -> None:
        with contained(self.log, "log writer"):
            self.log.reopen()
            await self.log.wait_reopened()
        line.send_nowait({"done": number})

    async def _reload_for(
        self, reloader: CertificateReloader, line: Channel, number: int | None, force: bool,
        reported: Sequence[Fault],
    ) -> None:  # fmt: skip
        with contained(self.log, "certificate watcher"):
            await self._reload(reloader, force=force, reported=reported)
        line.send_nowait({"done": number})

    async def _reload(
        self, reloader: CertificateReloader, *, force: bool, reported: Sequence[Fault] | None = None
    ) -> None:
        """Reload the TLS files. The control process logs the result, except for faults of this worker alone.

        Args:
            reloader: Does the work.
            force: Load even if nothing seems to have changed.
            reported: The faults that the control process has found, None if it has not asked for this reload.
        """
        async with self._reloading:
            self._is_scan_due, self._is_scan_forced = True, self._is_scan_forced or force
            result = await run_in_thread(partial(reloader.scan, force=self._is_scan_forced))
            if result is not None:
                result = reloader.apply_staged(result)
                for backend in self.backends.values():
                    backend.reload_certificates(result.server_contexts)
                before = self._rejected
                own = [fault for fault in result.rejected if reported is not None and fault not in reported]
                self._rejected = (*own, *result.retry)
                for fault in self._rejected:
                    if fault not in before:
                        log_rejected(self.log, fault)
            self._is_scan_due = self._is_scan_forced = False

    async def _reload_loop(self, reloader: CertificateReloader) -> None:
        while True:
            await trio.sleep(min(_RELOAD_RETRY_S, self.config.process.certificate_interval))
            if self._rejected or self._is_scan_due:
                await self._reload(reloader, force=False)

    async def _send_table(self, line: Channel) -> None:
        with contained(self.log, "line to control"):
            for backend in self._worker_backends.values():
                for message in dump_table(backend):
                    await line.send(message)
        await line.send({"told": "table"})

    # What goes on all the time

    async def _queue_loop(self) -> None:
        """Whoever waits here has a place when it is its turn over all workers; the bell rings when that may be."""
        while True:
            wait = (
                _QUEUE_INTERVAL_S
                if any(each.has_waiters for each in self._worker_backends.values())
                else None
            )
            with contextlib.nullcontext() if wait is None else trio.move_on_after(wait):
                await self._slot.wakeups.wait(self._slot.slot)
            for backend in self._worker_backends.values():
                backend.serve_queue()

    async def _counter_loop(self) -> None:
        while True:
            await trio.sleep(_COUNTER_INTERVAL_S)
            self._send_counters()

    def _send_counters(self) -> None:
        if self._control is not None:
            for message in changed_counters(self.backends.values(), self._published_counts):
                self._send(message)
