"""A worker's side of the channel to the control process: it gets the state of servers, and orders."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping

import trio

from mailproxy.ipc.channel import Channel
from mailproxy.ipc.wakeups import Wakeups
from mailproxy.log import Log
from mailproxy.log.events import CONTROL_SILENT
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.session.registry import SessionRegistry
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.workers.backend import WorkerBackend, send_snapshots
from mailproxy.workers.certificates import WATCHER_HELPER, WorkerCertificates
from mailproxy.workers.drains import WorkerDrains
from mailproxy.workers.messages import (
    Ack,
    CancelDrain,
    ClearMaxima,
    Drain,
    DrainSessions,
    EndSession,
    FollowRecords,
    FrontendUpdates,
    IndexedSnapshot,
    Message,
    Ready,
    RecentRecords,
    Register,
    ReloadCertificates,
    RemoveStickEntries,
    ReopenLog,
    RequestCounters,
    RequestRecent,
    RequestSessions,
    RequestStickTable,
    ServerSnapshots,
    ServerUpdates,
    Sessions,
    StartServing,
    StickTableEnd,
    StickTablePart,
    StickUpdates,
    Stop,
    batch_by_size,
)
from mailproxy.workers.records import RecordSender, pack
from mailproxy.workers.reload.messages import ReloadApplied
from mailproxy.workers.stick.sync import StickSync
from mailproxy.workers.stick.tables import apply_updates, dump_table, load_table
from mailproxy.workers.worker_frontends import WorkerFrontends

_HELPER = "channel to control"
_QUEUE_INTERVAL_S = 0.05  # between two checks whether waiters of this worker are next
_RESTART_TIMEOUT_S = 3.0  # for the control process to send its state to a worker that replaces another one
# At the start it resolves names and makes the first checks before, which takes 8 s at most.
_START_TIMEOUT_S = 15.0


class ControlLink:
    """Holds the channel to the control process.

    Attributes:
        channel: The channel; None at the start, and while the control process is replaced.
    """

    def __init__(self) -> None:
        self.channel: Channel[Message] | None = None

    def send(self, message: Message) -> None:
        """Send a message, if there is a control process.

        Otherwise it is dropped: the next control process learns the same when the worker registers.
        """
        if self.channel is not None:
            self.channel.send_nowait(message)


class ControlClient:
    """Keeps a worker in step with the control process, while there is one.

    Args:
        slot: The slot of this worker.
        link: The channel to the control process. Backends send through it, too.
        backends: The worker's backends.
        stick_sync: Their new stick entries.
        certificates: Reloads TLS files.
        wakeups: Where other workers wake this one.
        log: The worker's log.
        is_restart: Whether this worker replaces another one.
        generation: The number of the configuration that it begins with.
    """

    def __init__(
        self,
        slot: int,
        *,
        link: ControlLink,
        backends: Mapping[str, WorkerBackend],
        stick_sync: StickSync,
        certificates: WorkerCertificates,
        wakeups: Wakeups,
        log: Log,
        is_restart: bool,
        generation: int,
    ) -> None:
        self._slot = slot
        self._link = link
        self._backends = backends
        self._stick_sync = stick_sync
        self._certificates = certificates
        self._wakeups = wakeups
        self._log = log
        self._is_restart = is_restart
        self._generation = generation
        self._may_serve = trio.Event()
        self._is_informed = False  # the control process has sent the state of all servers
        self._is_ready = False
        self.frontends: WorkerFrontends | None = None
        self._records = RecordSender(log)

    # What a service needs

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve queues until cancelled; started when the worker may accept connections."""
        log = self._log
        async with trio.open_nursery() as nursery:
            if self._is_restart:  # files may have changed since the supervisor loaded them
                await self._certificates.reload_contained()
            nursery.start_soon(supervise, log, WATCHER_HELPER, self._certificates.run)
            nursery.start_soon(supervise, log, "stick table sync", self._stick_sync.run, self._link.send)
            nursery.start_soon(supervise, log, "queue", self._queue_loop)
            await self._wait_for_control()
            task_status.started()

    async def _wait_for_control(self) -> None:
        """Wait for the state of servers. After the timeout, start with what the configuration says."""
        seconds = _RESTART_TIMEOUT_S if self._is_restart else _START_TIMEOUT_S
        with trio.move_on_after(seconds):
            await self._may_serve.wait()
            return
        self._log.event(
            CONTROL_SILENT,
            f"worker {self._slot + 1} serves without the state of servers: control has sent none for {seconds:g} s",
            slot=self._slot + 1,
            seconds=seconds,
        )
        async with trio.open_nursery() as nursery:
            for backend in self._backends.values():
                nursery.start_soon(backend.resolver.look_up_once)

    async def _queue_loop(self) -> None:
        """Serve the queues of this worker when it is woken, and every 0.05 s while a session waits in one."""
        while True:
            has_waiters = any(backend.has_waiters for backend in self._backends.values())
            with trio.move_on_after(_QUEUE_INTERVAL_S) if has_waiters else contextlib.nullcontext():
                await self._wakeups.wait(self._slot)
            for backend in self._backends.values():
                backend.serve_queue()

    # What a worker needs

    def allow_serving(self) -> None:
        """Stop waiting for the state of servers, because the worker drains before it came."""
        self._may_serve.set()

    def announce_ready(self) -> None:
        """Tell this control process, and each later one, that the worker listens."""
        self._is_ready = True
        self._link.send(Ready())

    def reconfigure(self, backends: Mapping[str, Backend]) -> None:
        """Use these backends from now on: a reload has added or removed some."""
        self._backends = {name: _as_worker_backend(backend) for name, backend in backends.items()}

    def announce_generation(self, generation: int) -> None:
        """Tell the control process that the worker uses the configuration with this number."""
        self._generation = generation
        self._link.send(ReloadApplied(generation))

    def finish(self) -> None:
        """Send what is left to send, without waiting."""
        if self._link.channel is not None:
            self._link.channel.flush()

    async def serve(
        self,
        channel: Channel[Message],
        tasks: trio.Nursery,
        *,
        drains: WorkerDrains,
        on_drain: Callable[[float, Collection[str]], None],
        on_stop: Callable[[], None],
    ) -> None:
        """Use a channel to a new control process until that is gone. Closes the channel.

        Args:
            channel: The channel.
            tasks: Where tasks run that may outlive the channel, such as a reload.
            drains: The drains of this worker.
            on_drain: Called for Drain, with its two values.
            on_stop: Called for Stop.
        """
        self._link.channel = channel
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervise, self._log, _HELPER, channel.run)
            nursery.start_soon(supervise, self._log, _HELPER, self._register, channel)
            nursery.start_soon(supervise, self._log, _HELPER, self._records.run, channel)
            await supervise(self._log, _HELPER, self._receive, channel, tasks, drains, on_drain, on_stop)
            nursery.cancel_scope.cancel()
        self._records.follow(is_on=False)
        if self._link.channel is channel:
            self._link.channel = None
        channel.close()

    # Messages

    async def _register(self, channel: Channel[Message]) -> None:
        """Send what this worker knows. If it knows nothing, the control process sends what it knows."""
        if self._is_informed:
            await send_snapshots(channel, self._backends.values(), ServerSnapshots)
            if self.frontends is not None:
                await channel.send(self.frontends.message())
        await channel.send(Register(not self._is_informed, self._generation))
        if self._is_ready:
            await channel.send(Ready())

    async def _receive(
        self,
        channel: Channel[Message],
        tasks: trio.Nursery,
        drains: WorkerDrains,
        on_drain: Callable[[float, Collection[str]], None],
        on_stop: Callable[[], None],
    ) -> None:
        while (received := await channel.receive()) is not None:
            with contained(self._log, _HELPER):
                match received.message:
                    case Drain(seconds, closed):
                        on_drain(seconds, closed)
                    case Stop():
                        on_stop()
                    case DrainSessions() as message:
                        drains.start(message)
                        _send_ack(channel, message.ack)
                    case CancelDrain() as message:
                        drains.cancel(message)
                        _send_ack(channel, message.ack)
                    case message:
                        self._handle_message(message, channel, tasks)

    def _handle_message(self, message: Message, channel: Channel[Message], tasks: trio.Nursery) -> None:
        match message:
            case ServerUpdates(servers, ack):
                requeued = sum(map(self._apply_snapshot, servers))
                _send_ack(channel, ack, requeued)
            case FrontendUpdates():
                if self.frontends is not None:
                    self.frontends.apply(message)
                _send_ack(channel, message.ack)
            case RequestCounters(ack):
                if self.frontends is not None:
                    self.frontends.service.count_live()
                _send_ack(channel, ack)
            case ClearMaxima(ack):
                if self.frontends is not None:
                    self.frontends.service.count_live()
                    self.frontends.service.clear_maxima()
                _send_ack(channel, ack)
            case RequestRecent():
                tasks.start_soon(self._send_recent, channel, message)
            case RequestSessions():
                tasks.start_soon(self._send_sessions, channel, message)
            case FollowRecords(is_on):
                self._records.follow(is_on=is_on)
            case EndSession(number, ack):
                _send_ack(channel, ack, int(self._sessions.kill(number)))
            case RemoveStickEntries(backend, key):
                for each in self._named(backend):
                    if each.pool.stick is not None:
                        each.pool.stick.remove(key)
            case StickUpdates(backend, entries):
                for each in self._named(backend):
                    apply_updates(each, entries)
            case StickTablePart(backend, entries):
                for each in self._named(backend):
                    load_table(each, entries)
            case StartServing():
                self._is_informed = True
                self._may_serve.set()
            case ReopenLog(ack):
                tasks.start_soon(self._reopen_log, channel, ack)
            case ReloadCertificates():
                tasks.start_soon(self._reload, channel, message)
            case RequestStickTable():
                tasks.start_soon(self._send_stick_tables, channel)
            case _:
                raise TypeError(f"a worker does not handle {message!r}")

    def _apply_snapshot(self, server: IndexedSnapshot) -> int:
        return sum(
            backend.apply_snapshot(known, server.snapshot)
            for backend in self._named(server.backend)
            if (known := backend.numbered(server.number)) is not None
        )

    def _named(self, backend: str) -> Iterator[WorkerBackend]:
        """Yield the backend with this name.

        Yield none if this worker and the control process have different configurations for a moment. The
        control process sends what it knows once the worker has its own.
        """
        if backend in self._backends:
            yield self._backends[backend]

    async def _reopen_log(self, channel: Channel[Message], ack: int | None) -> None:
        with contained(self._log, "log writer"):
            self._log.reopen()
            await self._log.wait_reopened()
        _send_ack(channel, ack)

    async def _reload(self, channel: Channel[Message], message: ReloadCertificates) -> None:
        await self._certificates.reload_contained(is_forced=message.is_forced, known_faults=message.faults)
        _send_ack(channel, message.ack)

    @property
    def _sessions(self) -> SessionRegistry:
        return self.frontends.service.registry if self.frontends is not None else SessionRegistry()

    async def _send_sessions(self, channel: Channel[Message], message: RequestSessions) -> None:
        with contained(self._log, _HELPER):
            for part in batch_by_size(message.wanted.select(self._sessions)):
                if message.ack is not None:
                    await channel.send(Sessions(message.ack, part))
        _send_ack(channel, message.ack)

    async def _send_recent(self, channel: Channel[Message], message: RequestRecent) -> None:
        with contained(self._log, _HELPER):
            if self.frontends is not None and message.ack is not None:
                service = self.frontends.service
                records = service.recent_records(message.events, with_sessions=message.with_sessions)
                for part in batch_by_size(map(pack, records)):
                    await channel.send(RecentRecords(message.ack, part))
        _send_ack(channel, message.ack)

    async def _send_stick_tables(self, channel: Channel[Message]) -> None:
        with contained(self._log, _HELPER):
            for backend in self._backends.values():
                for message in dump_table(backend):
                    await channel.send(message)
        await channel.send(StickTableEnd())


def _send_ack(channel: Channel[Message], number: int | None, requeued: int = 0) -> None:
    if number is not None:
        channel.send_nowait(Ack(number, requeued))


def _as_worker_backend(backend: Backend) -> WorkerBackend:
    assert isinstance(backend, WorkerBackend)  # noqa: S101 - a worker has no others
    return backend
