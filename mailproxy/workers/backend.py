"""A backend in several processes: the control process checks its servers, workers send sessions there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import trio
from attrs import define, evolve, field

from mailproxy import config
from mailproxy.ipc.channel import Channel
from mailproxy.log import Log
from mailproxy.log.events import Event
from mailproxy.pool import (
    AdminState,
    BackendCounters,
    Balance,
    PassiveHealth,
    RandomSource,
    ServerCounters,
    SharedCounter,
    SharedPassiveHealth,
    SharedSessions,
    SharedTurnOrder,
    StateChange,
)
from mailproxy.protocol.checks.result import excerpt
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_pool, make_servers
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome, ServerContexts
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.workers.messages import ConnectFailure, IndexedSnapshot, Message, batch_by_size, batched
from mailproxy.workers.stick.sync import StickSync

_SERVERS_PER_BATCH = 100

WakeWorker = Callable[[int], None]
"""Wakes a worker, by its slot."""


class SharedBackendServer(SharedSessions, BackendServer):
    """A server whose sessions all workers count."""

    def reconfigure(self, new: BackendServer) -> None:
        """Take over the keys of another configuration, and its counters, which see workers that are new."""
        super().reconfigure(new)
        if isinstance(new, SharedBackendServer):
            self.counters = new.counters


@define
class ReportedPassiveHealth(PassiveHealth):
    """Passive health in a worker. The control process evaluates failures; a worker only counts successes."""

    tally: SharedCounter = field(kw_only=True)

    def record_success(self) -> None:
        """Count a session that was connected to the server."""
        self.tally.add(1)

    def record_failure(self, client: str) -> int:  # noqa: ARG002 - the worker sends ConnectFailure instead
        """Return 0: no failure has consequences here."""
        return 0


class SharedBackend(Backend):
    """A backend whose sessions are counted over all workers, in a worker or in the control process.

    ``make_servers`` makes its servers, with the same ``counters``.
    """

    def __init__(
        self,
        backend: config.Backend,
        servers: Sequence[BackendServer],
        log: Log,
        random: RandomSource,
        *,
        counters: BackendCounters,
        wake_worker: WakeWorker,
    ) -> None:
        self._counters = counters
        self._order = SharedTurnOrder(
            servers, counters, clock=time.monotonic_ns, wake_worker=wake_worker,
            queue_timeout=backend.timeouts.queue,
        )  # fmt: skip
        super().__init__(backend, make_pool(backend, servers, random, self._order), log)
        self._number_servers()

    @classmethod
    def make_servers(
        cls, backend: config.Backend, server_contexts: ServerContexts, counters: BackendCounters
    ) -> list[BackendServer]:
        """Return the servers of a configuration, with their counters in the shared memory."""
        servers = make_servers(backend, server_contexts, SharedBackendServer)
        for server, own in zip(servers, counters.servers, strict=True):
            assert isinstance(server, SharedBackendServer)  # noqa: S101 - made above
            server.counters = own
            if server.passive_health is not None:
                server.passive_health = cls._passive_health(server)
        return servers

    @staticmethod
    def _passive_health(server: SharedBackendServer) -> PassiveHealth:
        """Return what counts the failed connections of a server."""
        raise NotImplementedError

    def use_counters(self, counters: BackendCounters) -> None:
        """Count there from now on. The caller calls ``reconfigure`` next, with servers that have these counters."""
        self._counters = counters

    def reconfigure(
        self, config: config.Backend, servers: Sequence[BackendServer], balance: Balance | None
    ) -> None:
        """Use another configuration; as in one process, with the counters of ``use_counters``."""
        self._order.reconfigure(servers, self._counters, queue_timeout=config.timeouts.queue)
        super().reconfigure(config, servers, balance)
        self._order.reconfigure(self.servers, self._counters, queue_timeout=config.timeouts.queue)
        self._number_servers()

    def _number_servers(self) -> None:
        self._by_number = {_number(server): server for server in self.servers}

    @property
    def sessions(self) -> int:
        """The sessions of all workers that have a server here or wait for one."""
        return self._counters.sessions.total

    def add_sessions(self, number: int) -> None:
        """Count sessions of this worker in, or out if negative."""
        self._counters.sessions.add(number)

    def key(self, server: BackendServer) -> tuple[str, int]:
        """Return what identifies a server in messages: the name of its backend, and its number."""
        return self.name, _number(server)

    def numbered(self, number: int) -> BackendServer | None:
        """Return the server with this number.

        None if it is not in the configuration of this process: the sender has another one for a moment.
        """
        return self._by_number.get(number)

    def snapshot(self, server: BackendServer) -> IndexedSnapshot:
        """Return the state of a server, to be sent to another process."""
        return IndexedSnapshot(*self.key(server), ServerSnapshot.capture(server, trio.current_time()))


class WorkerBackend(SharedBackend):
    """A backend in a worker. It sends the control process what its sessions find out.

    Args:
        send: Sends a message to the control process.
        stick_sync: Collects new entries of the stick table for the other processes.
    """

    def __init__(
        self,
        backend: config.Backend,
        servers: Sequence[BackendServer],
        log: Log,
        random: RandomSource,
        *,
        counters: BackendCounters,
        wake_worker: WakeWorker,
        send: Callable[[Message], object],
        stick_sync: StickSync,
    ) -> None:
        super().__init__(backend, servers, log, random, counters=counters, wake_worker=wake_worker)
        self._send = send
        self._stick_sync = stick_sync

    @staticmethod
    def _passive_health(server: SharedBackendServer) -> PassiveHealth:
        return ReportedPassiveHealth(limit=0, tally=server.counters.connected)

    def on_connected(self, server: BackendServer, key: int | None) -> None:
        """Count a session that was connected, and share the new stick entry."""
        super().on_connected(server, key)
        if key is not None and server.config.stick is not None:
            self._stick_sync.add(self.name, [(key, _number(server))])

    def on_connect_failed(self, server: BackendServer, client_info: ClientInfo, reason: str) -> None:
        """Count a failed session, and send the failure if it may bring the server down."""
        server.counts.connect_errors += 1
        if server.passive_health is not None and server.accepts_persistent:
            self._send(ConnectFailure(*self.key(server), client_info.host, excerpt(reason)))

    def serve_queue(self) -> None:
        """Give free slots to the waiters of this worker, as far as no other worker's have waited longer."""
        if self.pool.has_waiters:
            self.pool.serve_queues()

    @property
    def has_waiters(self) -> bool:
        """Whether a session of this worker waits in the queue."""
        return self.pool.has_waiters


class Publisher(Protocol):
    """Sends workers what the control process finds out; see `ChangePublisher`."""

    def publish_update(self, backend: ControlBackend, server: BackendServer) -> None: ...

    def publish_change(
        self,
        backend: ControlBackend,
        change: StateChange[BackendServer],
        event: Event,
        outcome: CheckOutcome | None,
    ) -> None: ...


class ControlBackend(SharedBackend):
    """A backend in the control process, without sessions. It publishes each change of a server."""

    def __init__(
        self,
        backend: config.Backend,
        servers: Sequence[BackendServer],
        log: Log,
        random: RandomSource,
        *,
        counters: BackendCounters,
        publisher: Publisher,
    ) -> None:
        super().__init__(backend, servers, log, random, counters=counters, wake_worker=lambda _: None)
        self._publisher = publisher

    @staticmethod
    def _passive_health(server: SharedBackendServer) -> PassiveHealth:
        own = server.config
        return SharedPassiveHealth(own.error_limit, own.error_clients, successes=server.counters.connected)

    def reconfigure(
        self, config: config.Backend, servers: Sequence[BackendServer], balance: Balance | None
    ) -> None:
        """Use another configuration. Passive health sees workers that are new."""
        super().reconfigure(config, servers, balance)
        for server in self.servers:
            if isinstance(server.passive_health, SharedPassiveHealth):
                server.passive_health.successes = _counters_of(server).connected

    def record_check(self, server: BackendServer, outcome: CheckOutcome) -> None:
        """Take the outcome of a check, and publish what it changes."""
        super().record_check(server, outcome)
        self._publisher.publish_update(self, server)

    def set_state(self, server: BackendServer, state: AdminState) -> None:
        """Set the administrative state, and publish it."""
        super().set_state(server, state)
        self._publisher.publish_update(self, server)

    def set_weight(self, server: BackendServer, weight: int) -> None:
        """Set the weight, and publish it."""
        super().set_weight(server, weight)
        self._publisher.publish_update(self, server)

    def set_max_sessions(self, server: BackendServer, sessions: int) -> None:
        """Set the limit on a server's sessions, and publish it."""
        super().set_max_sessions(server, sessions)
        self._publisher.publish_update(self, server)

    def set_health(self, server: BackendServer, *, is_up: bool) -> None:
        """Let a server count as up or down, and publish it."""
        super().set_health(server, is_up=is_up)
        self._publisher.publish_update(self, server)

    def set_stopping(self, server: BackendServer) -> None:
        """Let only clients that stick to a server go there, and publish it."""
        super().set_stopping(server)
        self._publisher.publish_update(self, server)

    def pause_checks(self, server: BackendServer, *, is_paused: bool) -> None:
        """Switch the health checks of a server off or on, and have the workers remember it."""
        super().pause_checks(server, is_paused=is_paused)
        self._publisher.publish_update(self, server)

    def set_check_port(self, server: BackendServer, port: int) -> None:
        """Check a server at another port, and have the workers remember it."""
        super().set_check_port(server, port)
        self._publisher.publish_update(self, server)

    def vacate(self, server: BackendServer) -> None:
        """Set the state to drain without sticky clients, and publish it."""
        super().vacate(server)
        self._publisher.publish_update(self, server)

    def _addresses_changed(self) -> None:
        super()._addresses_changed()
        for server in self.servers:
            self._publisher.publish_update(self, server)

    def _on_change(
        self, change: StateChange[BackendServer], event: Event, outcome: CheckOutcome | None
    ) -> None:
        self._apply_change(change)
        self._publisher.publish_change(self, change, event, outcome)

    def log_change(
        self,
        change: StateChange[BackendServer],
        event: Event,
        outcome: CheckOutcome | None,
        *,
        sessions: int,
        requeued: int,
    ) -> None:
        """Log a change that the workers know.

        Args:
            change: The change.
            event: Its kind.
            outcome: The check that caused it, if any.
            sessions: The sessions that the server had before the change.
            requeued: The sessions that changed their queue or got a slot, in all workers.
        """
        self._event_log.log_change(evolve(change, requeued=requeued), event, outcome, sessions)


def _counters_of(server: BackendServer) -> ServerCounters:
    assert isinstance(server, SharedBackendServer)  # noqa: S101 - these backends have no others
    return server.counters


def _number(server: BackendServer) -> int:
    return _counters_of(server).number


async def send_snapshots(
    channel: Channel[Message],
    backends: Iterable[SharedBackend],
    wrap: Callable[[tuple[IndexedSnapshot, ...]], Message],
) -> None:
    """Send what this process knows of all servers.

    Args:
        channel: Where to send it. Between the messages there is room for others.
        backends: The backends of the servers.
        wrap: Makes a message of some snapshots.
    """
    servers = [(backend, server) for backend in backends for server in backend.servers]
    for part in batched(servers, _SERVERS_PER_BATCH):
        await channel.wait_for_room()
        for snapshots in batch_by_size(backend.snapshot(server) for backend, server in part):
            channel.send_nowait(wrap(snapshots))
