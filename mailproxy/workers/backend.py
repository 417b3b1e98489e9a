"""A backend in several processes: the part that a worker has in it, and that of control, which finds out about its servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import trio
from attrs import evolve

from mailproxy import config
from mailproxy.ipc.channel import Message
from mailproxy.log import Log
from mailproxy.log.events import Event
from mailproxy.pool import (
    BackendShare,
    Chance,
    Change,
    Pool,
    SharedObservation,
    SharedPool,
    State,
    StickTable,
)
from mailproxy.protocol.checks.result import printable
from mailproxy.proxy.backend.backend import Backend, Connectors
from mailproxy.proxy.backend.server import BackendServer, Checked, ReportedObservation, SharedBackendServer
from mailproxy.proxy.backend.snapshot import Known
from mailproxy.proxy.client_info import Caller
from mailproxy.workers.stick_sync import Learned

Ring = Callable[[int], None]
"""Wakes a worker, by its slot."""


class SharedBackend(Backend):
    """What both have in common: counts are those of all workers."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: Connectors,
        log: Log,
        chance: Chance,
        *,
        share: BackendShare,
        ring: Ring,
    ) -> None:
        self._share = share
        self._ring = ring
        super().__init__(settings, connectors, log, chance)
        self.numbers = {server: number for number, server in enumerate(self.servers)}

    @property
    def sessions(self) -> int:
        """Those of all workers."""
        return self._share.sessions.total

    @sessions.setter
    def sessions(self, value: int) -> None:
        """Nobody sets what several count; there are none at first."""

    def count(self, number: int) -> None:
        """So many sessions more here, or fewer."""
        self._share.sessions.add(number)

    def _server(self, settings: config.Server, connectors: Connectors) -> BackendServer:
        return self._make_server(SharedBackendServer, settings, connectors)

    def _pool(self, servers: Sequence[BackendServer], stick: StickTable | None) -> Pool[BackendServer]:
        for server, share in zip(servers, self._share.servers, strict=True):
            assert isinstance(server, SharedBackendServer)  # noqa: S101 - as _server makes them
            server.share = share
        return SharedPool(
            servers, self._balance(), share=self._share, clock=time.monotonic_ns, ring=self._ring,
            patience=self.config.timeouts.queue, max_queue=self.config.max_queue, stick=stick,
        )  # fmt: skip


class WorkerBackend(SharedBackend):
    """``report`` takes messages for control, ``learned`` what clients have which servers."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: Connectors,
        log: Log,
        chance: Chance,
        *,
        share: BackendShare,
        ring: Ring,
        report: Callable[[Message], object],
        learned: Learned,
    ) -> None:
        super().__init__(settings, connectors, log, chance, share=share, ring=ring)
        self._report = report
        self._learned = learned
        for server, mine in zip(self.servers, share.servers, strict=True):
            if server.observation is not None:
                server.observation = ReportedObservation(limit=0, tally=mine.connected)

    def connected(self, server: BackendServer, key: int | None) -> None:
        """As in Backend; the other workers know it soon."""
        super().connected(server, key)
        if key is not None and server.config.stick is not None:
            self._learned.note(self.name, [(key, self.numbers[server])])

    def not_connected(self, server: BackendServer, caller: Caller, why: str) -> None:
        """As in Backend; what it means is found out by control."""
        server.counts.connect_errors += 1
        if server.observation is not None and server.takes_back:
            self._report({
                "failed": self.name, "server": self.numbers[server], "host": caller.host, "why": printable(why)
            })  # fmt: skip

    def look(self) -> None:
        """Give places to those who wait here, if it is their turn."""
        pool = self.pool
        if isinstance(pool, SharedPool) and pool.has_waiters:
            pool.look()

    @property
    def has_waiters(self) -> bool:
        """Does anybody wait here?"""
        return isinstance(self.pool, SharedPool) and self.pool.has_waiters


class ControlBackend(SharedBackend):
    """``tell`` passes on what is known of a server; ``say_change`` has a change said when all workers have taken it up."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: Connectors,
        log: Log,
        chance: Chance,
        *,
        share: BackendShare,
        tell: Callable[[ControlBackend, BackendServer], None],
        say_change: Callable[[ControlBackend, Change[BackendServer], Event, Checked | None], None],
    ) -> None:
        super().__init__(settings, connectors, log, chance, share=share, ring=lambda _: None)
        self._tell_workers = tell
        self._say_change = say_change
        self._told: dict[BackendServer, object] = {}
        for server, theirs in zip(self.servers, share.servers, strict=True):
            if server.observation is not None:
                own = server.config
                server.observation = SharedObservation(
                    own.error_limit, own.error_clients, tally=theirs.connected
                )

    def judge(self, server: BackendServer, checked: Checked) -> None:
        """As in Backend; the workers know it then."""
        super().judge(server, checked)
        self._pass_on(server)

    def set_state(self, server: BackendServer, state: State) -> None:
        """As in Backend; the workers know it then."""
        super().set_state(server, state)
        self._pass_on(server)

    def _addresses_came(self) -> None:
        super()._addresses_came()
        for server in self.servers:
            self._pass_on(server)

    def _pass_on(self, server: BackendServer) -> None:
        if self.is_news(server):
            self._tell_workers(self, server)

    def is_news(self, server: BackendServer) -> bool:
        """Is there anything about it that was not told yet? It counts as told then."""
        essence = Known.of(server, trio.current_time()).essence
        if self._told.get(server) == essence:
            return False
        self._told[server] = essence
        return True

    def _changed(self, change: Change[BackendServer], event: Event, checked: Checked | None) -> None:
        self._follow(change)
        self.is_news(change.server)
        self._say_change(self, change, event, checked)

    def say(
        self,
        change: Change[BackendServer],
        event: Event,
        checked: Checked | None,
        *,
        sessions: int,
        requeued: int,
    ) -> None:
        """Write the lines of a change: with the sessions that there were, what the workers made of it, and who waits now."""
        self._say(evolve(change, requeued=requeued), event, checked, sessions)
