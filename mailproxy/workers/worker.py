"""A worker: one of several processes that serve sessions.

It accepts connections once the control process has sent the state of all servers, goes on while there is no
control process, and drains when the supervisor is gone. What is the same in all processes is logged by the
control process.
"""

from __future__ import annotations

from collections.abc import Collection

import trio
from attrs import frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.ipc.board import SharedBoard
from mailproxy.ipc.channel import Channel
from mailproxy.ipc.wakeups import Wakeups
from mailproxy.log import Log
from mailproxy.log.events import (
    BACKEND_DOWN,
    CHECK_NOT_MADE,
    DRAIN_CANCELLED,
    DRAIN_ENDED,
    DRAIN_PROGRESS,
    DRAIN_STARTED,
    DRAINING,
    LISTENING,
    LOG_REOPENED,
    NAME_RESOLVED,
    NAME_UNRESOLVED,
    READY,
    SERVER_CHECK,
    SERVER_DOWN,
    SERVER_STATE,
    SERVER_UP,
    STOPPED,
)
from mailproxy.metrics.sessions import note_lost_sessions
from mailproxy.net.listener import Listener
from mailproxy.pool import SharedCounter
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.limits import SessionLimit
from mailproxy.proxy.service import Service
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.proxy.vitals import watch_vitals
from mailproxy.workers.certificates import WorkerCertificates
from mailproxy.workers.control_client import ControlClient, ControlLink
from mailproxy.workers.drains import WorkerDrains
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.limits import SharedLimit
from mailproxy.workers.messages import ControlChannel, Drain, Message, Stop, open_channel
from mailproxy.workers.parts import WorkerParts
from mailproxy.workers.reload.follower import Follower
from mailproxy.workers.scoreboard import Scoreboard
from mailproxy.workers.stick.sync import StickSync
from mailproxy.workers.worker_frontends import WorkerFrontends

LOGGED_BY_CONTROL = frozenset({
    LISTENING, READY, DRAINING, DRAIN_STARTED, DRAIN_PROGRESS, DRAIN_ENDED, DRAIN_CANCELLED, STOPPED, LOG_REOPENED, SERVER_UP, SERVER_DOWN, SERVER_STATE, SERVER_CHECK, BACKEND_DOWN,
    CHECK_NOT_MADE, NAME_RESOLVED, NAME_UNRESOLVED,
})  # fmt: skip

_HELPER = "channel to the supervisor"


@frozen(kw_only=True)
class WorkerSlot:
    """What makes a worker one of several.

    Attributes:
        slot: Its number, from 0.
        scoreboard: The shared memory.
        board: Where it counts, as the worker before it in this slot did.
        wakeups: Where workers wake each other.
        supervisor: The channel to the supervisor.
        max_sessions: The sessions that the descriptors of one process suffice for.
        is_restart: Whether it replaces another worker. Files may have changed since the supervisor loaded
            them.
        generation: The number of the configuration.
    """

    slot: int
    scoreboard: Scoreboard
    board: SharedBoard
    wakeups: Wakeups
    supervisor: Channel[Message]
    max_sessions: int
    is_restart: bool
    generation: int


def build_worker(
    config: Config,
    listeners: list[Listener],
    server_contexts: ServerContexts,
    *,
    reloader: CertificateReloader | None,
    log: Log,
    max_sessions: int,
    slot: WorkerSlot,
) -> Worker:
    """Build a worker: a service whose limits and backends are shared with the other workers.

    Args:
        config: The configuration.
        listeners: The sockets of this slot. The worker closes them.
        server_contexts: TLS towards servers.
        reloader: Reloads TLS files; None if there are none.
        log: The worker's log. The worker finishes it.
        max_sessions: The limit on sessions of all workers together.
        slot: What belongs to this worker alone.
    """
    note_lost_sessions(slot.board)
    link, stick_sync = ControlLink(), StickSync()
    counters = slot.scoreboard.counters(slot.slot)
    parts = WorkerParts(
        counters=counters,
        process_limit=SharedLimit(max_sessions, counters.process),
        worker_limit=SessionLimit(slot.max_sessions),
        log=log,
        send=link.send,
        wake_worker=slot.wakeups.wake,
        stick_sync=stick_sync,
    )
    backends = {
        name: parts.make_backend(backend, parts.make_servers(backend, server_contexts))
        for name, backend in config.backends.items()
    }
    certificates = WorkerCertificates(
        reloader, backends.values(), log, interval=config.process.certificate_interval
    )
    client = ControlClient(
        slot.slot, link=link, backends=backends, stick_sync=stick_sync, certificates=certificates,
        wakeups=slot.wakeups, log=log, is_restart=slot.is_restart, generation=slot.generation,
    )  # fmt: skip
    service = Service(
        config,
        listeners,
        backends=backends,
        limits={name: parts.make_limits(frontend) for name, frontend in config.frontends.items()},
        process_limit=parts.process_limit,
        monitor=client,
        log=log,
        board=slot.board,
    )
    client.frontends = WorkerFrontends(service)
    worker = Worker(
        service,
        client,
        WorkerDrains(service.drainer, link.send),
        supervisor=slot.supervisor,
        beats=counters.beat,
    )
    worker.follower = Follower(
        slot=slot.slot, service=service, client=client, certificates=certificates, parts=parts,
        scoreboard=slot.scoreboard, on_failure=worker.fail,
    )  # fmt: skip
    return worker


class Worker:
    """A service that other processes stop, and that gets the state of servers from the control process.

    Args:
        service: What serves the sessions.
        client: The channel to the control process. It is the service's monitor, too.
        drains: The drains of its sessions.
        supervisor: The channel to the supervisor.
        beats: The heartbeat counter.

    Attributes:
        follower: Applies other configurations.
        has_failed: Whether it ends because it could not follow a reload.
    """

    follower: Follower

    def __init__(
        self,
        service: Service,
        client: ControlClient,
        drains: WorkerDrains,
        *,
        supervisor: Channel[Message],
        beats: SharedCounter,
    ) -> None:
        self._service = service
        self._client = client
        self._drains = drains
        self._supervisor = supervisor
        self._beats = beats
        self._log = service.log
        self._stop_scope = trio.CancelScope()
        self._is_draining = False
        self.has_failed = False

    async def run(self) -> None:
        """Serve until stopped, or drained."""
        with self._stop_scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervise, self._log, "heartbeat", beat, self._beats)
                nursery.start_soon(supervise, self._log, _HELPER, self._serve_supervisor, nursery)
                vitals = (self._service.board, self._log, self._service.relay_turns)
                nursery.start_soon(supervise, self._log, "vitals", watch_vitals, *vitals)
                nursery.start_soon(supervise, self._log, "progress of drains", self._drains.run)
                async with trio.open_nursery() as serving:
                    await serving.start(self._service.run)
                    self._client.announce_ready()
                    self.follower.started.set()
                nursery.cancel_scope.cancel()
        self._client.finish()

    async def _serve_supervisor(self, nursery: trio.Nursery) -> None:
        while (received := await self._supervisor.receive()) is not None:
            with contained(self._log, _HELPER):
                match received.message:
                    case ControlChannel():
                        channel = open_channel(received.sockets[0], self._log)
                        nursery.start_soon(self._serve_control, channel, nursery)
                    case Drain(seconds, closed):
                        self._drain(seconds, closed)
                    case Stop():
                        self._stop()
                    case message if not self.follower.handle(received, nursery):
                        raise TypeError(f"a worker does not handle {message!r} of the supervisor")
        self._drain(self._service.config.process.drain_timeout)  # the supervisor is gone

    async def _serve_control(self, channel: Channel[Message], tasks: trio.Nursery) -> None:
        await self._client.serve(
            channel, tasks, drains=self._drains, on_drain=self._drain, on_stop=self._stop
        )

    def _drain(self, seconds: float, closed: Collection[str] = ()) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._client.allow_serving()  # or the service would wait for the state of servers first
            self._service.drain(seconds, closed=closed)

    def fail(self) -> None:
        """Close all sessions and exit with an error, to be replaced."""
        self.has_failed = True
        self._stop()

    def _stop(self) -> None:
        self._stop_scope.cancel()
