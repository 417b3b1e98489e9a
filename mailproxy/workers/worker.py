"""A worker: one of several processes that serve sessions.

It accepts connections once the control process has sent the state of all servers, goes on while there is no
control process, and drains when the supervisor is gone. What is the same in all processes is logged by the
control process.
"""

from __future__ import annotations

from random import SystemRandom

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
from mailproxy.proxy.client_limits import client_limits
from mailproxy.proxy.limits import SessionLimit
from mailproxy.proxy.service import FrontendLimits, Service
from mailproxy.proxy.supervise import contained, supervise
from mailproxy.proxy.vitals import watch_vitals
from mailproxy.workers.backend import WorkerBackend
from mailproxy.workers.certificates import WorkerCertificates
from mailproxy.workers.control_client import ControlClient, ControlLink
from mailproxy.workers.drains import WorkerDrains
from mailproxy.workers.heartbeat import beat
from mailproxy.workers.limits import SharedLimit, WorkerLimits
from mailproxy.workers.messages import ControlChannel, Drain, Message, Stop, open_channel
from mailproxy.workers.scoreboard import ProcessCounters
from mailproxy.workers.stick_sync import StickSync
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
        counters: Its row of the scoreboard.
        board: Where it counts, as the worker before it in this slot did.
        wakeups: Where workers wake each other.
        supervisor: The channel to the supervisor.
        max_sessions: The sessions that the descriptors of one process suffice for.
        is_restart: Whether it replaces another worker. Files may have changed since the supervisor loaded
            them.
    """

    slot: int
    counters: ProcessCounters
    board: SharedBoard
    wakeups: Wakeups
    supervisor: Channel[Message]
    max_sessions: int
    is_restart: bool


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
    random, link, stick_sync = SystemRandom(), ControlLink(), StickSync()
    backends = {
        name: WorkerBackend(
            backend, server_contexts, log, random, counters=slot.counters.backends[name], board=slot.board,
            wake_worker=slot.wakeups.wake, send=link.send, stick_sync=stick_sync,
        )
        for name, backend in config.backends.items()
    }  # fmt: skip
    certificates = WorkerCertificates(
        reloader, backends.values(), log, interval=config.process.certificate_interval
    ) if reloader is not None else None  # fmt: skip
    client = ControlClient(
        slot.slot, link=link, backends=backends, stick_sync=stick_sync, certificates=certificates,
        wakeups=slot.wakeups, log=log, is_restart=slot.is_restart,
    )  # fmt: skip
    process_limit = SharedLimit(max_sessions, slot.counters.process)
    service = Service(
        config,
        listeners,
        backends=backends,
        limits=_frontend_limits(config, process_limit, slot),
        process_limit=process_limit,
        monitor=client,
        log=log,
        board=slot.board,
    )
    client.frontends = WorkerFrontends(service)
    drains = WorkerDrains(service.drainer, link.send)
    return Worker(service, client, drains, supervisor=slot.supervisor, beats=slot.counters.beat)


def _frontend_limits(
    config: Config, process_limit: SessionLimit, slot: WorkerSlot
) -> dict[str, FrontendLimits]:
    counters, worker_limit = slot.counters, SessionLimit(slot.max_sessions)
    return {
        name: FrontendLimits(
            WorkerLimits(
                SharedLimit(frontend.max_sessions, counters.frontends[name]), process_limit, worker_limit
            ),
            client_limits(frontend, counters.clients.get(name)),
        )
        for name, frontend in config.frontends.items()
    }


class Worker:
    """A service that other processes stop, and that gets the state of servers from the control process.

    Args:
        service: What serves the sessions.
        client: The channel to the control process. It is the service's monitor, too.
        drains: The drains of its sessions.
        supervisor: The channel to the supervisor.
        beats: The heartbeat counter.
    """

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
                nursery.cancel_scope.cancel()
        self._client.finish()

    async def _serve_supervisor(self, nursery: trio.Nursery) -> None:
        while (received := await self._supervisor.receive()) is not None:
            with contained(self._log, _HELPER):
                match received.message:
                    case ControlChannel():
                        channel = open_channel(received.sockets[0], self._log)
                        nursery.start_soon(self._serve_control, channel, nursery)
                    case Drain(seconds):
                        self._drain(seconds)
                    case Stop():
                        self._stop()
                    case message:
                        raise TypeError(f"a worker does not handle {message!r} of the supervisor")
        self._drain(self._service.config.process.drain_timeout)  # the supervisor is gone

    async def _serve_control(self, channel: Channel[Message], tasks: trio.Nursery) -> None:
        await self._client.serve(
            channel, tasks, drains=self._drains, on_drain=self._drain, on_stop=self._stop
        )

    def _drain(self, seconds: float) -> None:
        if not self._is_draining:
            self._is_draining = True
            self._client.allow_serving()  # or the service would wait for the state of servers first
            self._service.drain(seconds)

    def _stop(self) -> None:
        self._stop_scope.cancel()
