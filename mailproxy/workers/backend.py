"""A backend in several processes: the part that a worker has in it, and that of control, which finds out about its servers."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio
from attrs import evolve

from mailproxy import config
from mailproxy.ipc.channel import Message
from mailproxy.log import Log
from mailproxy.log.events import Event
from mailproxy.pool import (
    AdminState,
    BackendCounters,
    RandomSource,
    SharedPassiveHealth,
    SharedTurnOrder,
    StateChange,
)
from mailproxy.protocol.checks.result import printable
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_pool, make_servers
from mailproxy.proxy.backend.server import (
    BackendServer,
    CheckOutcome,
    ReportedPassiveHealth,
    ServerContexts,
    SharedBackendServer,
)
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.workers.stick_sync import StickSync

WakeWorker = Callable[[int], None]
"""Wakes a worker, by its slot."""


class SharedBackend(Backend):
    """What both have in common: counts are those of all workers."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: ServerContexts,
        log: Log,
        chance: RandomSource,
        *,
        share: BackendCounters,
        ring: WakeWorker,
    ) -> None:
        self._counters = share
        servers = make_servers(settings, connectors, SharedBackendServer)
        for server, counters in zip(servers, share.servers, strict=True):
            assert isinstance(server, SharedBackendServer)  # noqa: S101 - made above
            server.counters = counters
        order = SharedTurnOrder(
            servers, share, clock=time.monotonic_ns, wake_worker=ring, queue_timeout=settings.timeouts.queue
        )
        super().__init__(settings, connectors, log, pool=make_pool(settings, servers, chance, order))
        self.numbers = {server: number for number, server in enumerate(self.servers)}

    @property
    def sessions(self) -> int:
        """Those of all workers."""
        return self._counters.sessions.total

    @sessions.setter
    def sessions(self, value: int) -> None:
        """Nobody sets what several count; there are none at first."""

    def add_sessions(self, number: int) -> None:
        """So many sessions more here, or fewer."""
        self._counters.sessions.add(number)


class WorkerBackend(SharedBackend):
    """``report`` takes messages for control, ``learned`` what clients have which servers."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: ServerContexts,
        log: Log,
        chance: RandomSource,
        *,
        share: BackendCounters,
        ring: WakeWorker,
        report: Callable[[Message], object],
        learned: StickSync,
    ) -> None:
        super().__init__(settings, connectors, log, chance, share=share, ring=ring)
        self._report = report
        self._learned = learned
        for server, mine in zip(self.servers, share.servers, strict=True):
            if server.passive_health is not None:
                server.passive_health = ReportedPassiveHealth(limit=0, tally=mine.connected)

    def on_connected(self, server: BackendServer, key: int | None) -> None:
        """As in Backend; the other workers know it soon."""
        super().on_connected(server, key)
        if key is not None and server.config.stick is not None:
            self._learned.add(self.name, [(key, self.numbers[server])])

    def on_connect_failed(self, server: BackendServer, caller: ClientInfo, why: str) -> None:
        """As in Backend; what it means is found out by control."""
        server.counts.connect_errors += 1
        if server.passive_health is not None and server.accepts_persistent:
            self._report({
                "failed": self.name, "server": self.numbers[server], "host": caller.host, "why": printable(why)
            })  # fmt: skip

    def serve_queue(self) -> None:
        """Give places to those who wait here, if it is their turn."""
        if self.pool.has_waiters:
            self.pool.serve_queues()

    @property
    def has_waiters(self) -> bool:
        """Does anybody wait here?"""
        return self.pool.has_waiters


class ControlBackend(SharedBackend):
    """``tell`` passes on what is known of a server; ``say_change`` has a change said when all workers have taken it up."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: ServerContexts,
        log: Log,
        chance: RandomSource,
        *,
        share: BackendCounters,
        tell: Callable[[ControlBackend, BackendServer], None],
        say_change: Callable[[ControlBackend, StateChange[BackendServer], Event, CheckOutcome | None], None],
    ) -> None:
        super().__init__(settings, connectors, log, chance, share=share, ring=lambda _: None)
        self._tell_workers = tell
        self._say_change = say_change
        self._published: dict[BackendServer, object] = {}
        for server, theirs in zip(self.servers, share.servers, strict=True):
            if server.passive_health is not None:
                own = server.config
                server.passive_health = SharedPassiveHealth(
                    own.error_limit, own.error_clients, successes=theirs.connected
                )

    def record_check(self, server: BackendServer, checked: CheckOutcome) -> None:
        """As in Backend; the workers know it then."""
        super().record_check(server, checked)
        self._publish_if_changed(server)

    def set_state(self, server: BackendServer, state: AdminState) -> None:
        """As in Backend; the workers know it then."""
        super().set_state(server, state)
        self._publish_if_changed(server)

    def _addresses_changed(self) -> None:
        super()._addresses_changed()
        for server in self.servers:
            self._publish_if_changed(server)

    def _publish_if_changed(self, server: BackendServer) -> None:
        if self.mark_published(server):
            self._tell_workers(self, server)

    def mark_published(self, server: BackendServer) -> bool:
        """Is there anything about it that was not told yet? It counts as told then."""
        essence = ServerSnapshot.capture(server, trio.current_time()).comparable
        if self._published.get(server) == essence:
            return False
        self._published[server] = essence
        return True

    def _on_change(
        self, change: StateChange[BackendServer], event: Event, checked: CheckOutcome | None
    ) -> None:
        self._apply_change(change)
        self.mark_published(change.server)
        self._say_change(self, change, event, checked)

    def log_change(
        self,
        change: StateChange[BackendServer],
        event: Event,
        checked: CheckOutcome | None,
        *,
        sessions: int,
        requeued: int,
    ) -> None:
        """Write the lines of a change: with the sessions that there were, what the workers made of it, and who waits now."""
        self._event_log.log_change(evolve(change, requeued=requeued), event, checked, sessions)
