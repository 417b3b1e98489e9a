"""The scoreboard: the shared memory of all processes. A row for each process, a column for each counter.

It is made before the workers are forked, with room for more workers and for what reloads add (`reload.layout`).
A process writes only its own row, with one exception: the supervisor writes ``supervisor_reloads`` in the row
of the control process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from mailproxy.config import Backend, Config
from mailproxy.ipc.shared_memory import SharedMemory, SharedWords
from mailproxy.pool import (
    RATE_CLIENTS_MAX,
    BackendCounters,
    ClientTables,
    CountTable,
    LimitCounters,
    Published,
    ServerCounters,
    SharedCounter,
    words_for,
)
from mailproxy.workers.reload.layout import Layout, LayoutFullError, server_key

# Clients with open sessions in one worker. 4 MB for each frontend, of which the kernel provides only the
# pages in use.
_SESSION_CLIENTS_MAX = 2**17
_SECRET_BYTES = 16
_SPARE_WORKERS = 6


@frozen(eq=False, kw_only=True)
class ProcessCounters:
    """The counters in the row of one process. Most of them can be read over all rows, too.

    Attributes:
        process: Sessions of the process.
        ready: 1 in the row of the control process once it has logged that the proxy is ready.
        beat: The heartbeat.
        reloads: How often the control process has reloaded TLS files.
        supervisor_reloads: How many of these reloads the supervisor has made, too.
        configurations: How many reloads of the configuration were made.
        refused: How many have failed.
        frontends: Sessions of each frontend, by name.
        backends: Sessions of each backend and its servers, by name.
        clients: Tables of clients for each frontend that limits them. The control process only reads them.
    """

    process: LimitCounters
    ready: SharedCounter
    beat: SharedCounter
    reloads: SharedCounter
    supervisor_reloads: SharedCounter
    configurations: SharedCounter
    refused: SharedCounter
    frontends: Mapping[str, LimitCounters]
    backends: Mapping[str, BackendCounters]
    clients: Mapping[str, ClientTables] = field(factory=dict)


class Scoreboard:
    """The shared memory of all processes.

    Args:
        config: The configuration at the start.
        workers: The number of workers at the start.
        max_sessions_per_worker: The sessions that one worker can have, which the size of the client tables
            depends on.

    Attributes:
        workers_max: The number of workers that there is room for.
        control: The row of the control process, behind those of the workers.
    """

    def __init__(self, config: Config, workers: int, *, max_sessions_per_worker: int) -> None:
        self._config = config
        self._layout = Layout.of(config)
        self._workers = workers  # that there have been at most: a sum over fewer rows takes less time
        self.workers_max = workers + max(workers, _SPARE_WORKERS)
        self.control = self.workers_max
        self._memory = SharedMemory(self.workers_max + 1, self._layout.columns_max)
        self._tables = [
            _FrontendTables(self.workers_max, max_sessions_per_worker) for _ in range(self._layout.tables_max)
        ]

    def check(self, config: Config, workers: int) -> None:
        """Check that there is room for another configuration.

        Raises:
            LayoutFullError: There is none.
        """
        self._layout.check(config)
        if workers > self.workers_max:
            raise LayoutFullError(f"more than {self.workers_max} workers need a restart", "process.workers")

    def reconfigure(self, config: Config, workers: int) -> None:
        """Have counters for another configuration, too. Those of the one before stay good.

        Every process calls it with the same configurations in the same order, and then takes its counters from
        ``counters`` again.

        Args:
            config: The configuration.
            workers: Its number of workers.

        Raises:
            LayoutFullError: There is no room for it. Nothing has changed.
        """
        self.check(config, workers)
        self._layout.add(config)
        self._config, self._workers = config, max(self._workers, workers)

    def counters(self, row: int) -> ProcessCounters:
        """Return the counters of the process that writes this row."""
        config, columns = self._config, self._layout.columns
        # The control process has no sessions, and its row is behind those of the workers that there may be.
        rows = None if row == self.control else max(self._workers, row + 1)

        def new_counter(column: int) -> SharedCounter:
            return SharedCounter(self._memory.column(column, rows), row)

        def limit(first: int) -> LimitCounters:
            return LimitCounters(*map(new_counter, range(first, first + 3)))

        def server(key: tuple[str, ...]) -> ServerCounters:
            first = columns[key]
            sessions, connected, waiting, first_ticket = map(new_counter, range(first, first + 4))
            return ServerCounters(sessions, connected, waiting, first_ticket, number=first)

        def backend(table: Backend) -> BackendCounters:
            first = columns["backend", table.name]
            servers = (server(server_key(table.name, each.name, each.address)) for each in table.servers)
            sessions, waiting, first_ticket = map(new_counter, range(first, first + 3))
            return BackendCounters(sessions, waiting, first_ticket, tuple(servers))

        ready, beat, reloads, supervisor_reloads, configurations, refused = map(new_counter, range(3, 9))
        return ProcessCounters(
            process=limit(0),
            ready=ready,
            beat=beat,
            reloads=reloads,
            supervisor_reloads=supervisor_reloads,
            configurations=configurations,
            refused=refused,
            frontends={name: limit(columns["frontend", name]) for name in config.frontends},
            backends={name: backend(table) for name, table in config.backends.items()},
            clients=self._clients(row),
        )

    def _clients(self, row: int) -> dict[str, ClientTables]:
        own = row if row != self.control else None
        return {
            name: self._tables[self._layout.tables[name]].published(own, self._workers)
            for name, frontend in self._config.frontends.items()
            if frontend.limits_clients
        }

    @property
    def is_ready(self) -> bool:
        """Whether all workers have listened at the same time, as the control process has marked it."""
        return bool(self.counters(self.control).ready.local)

    def clear(self, slot: int) -> int:
        """Set the row of a worker that has exited to 0, and return how many sessions it had."""
        sessions = self.counters(slot).process.sessions.local
        self._memory.clear(slot)
        for number in self._layout.tables.values():
            self._tables[number].words.clear(slot)
        return sessions


class _FrontendTables:
    """The client tables of one frontend, a row for each worker: sessions, then rates."""

    def __init__(self, workers: int, max_sessions: int) -> None:
        self._session_words = words_for(min(max_sessions, _SESSION_CLIENTS_MAX))
        self._secret = os.urandom(_SECRET_BYTES)
        self.words = SharedWords(workers, self._session_words + words_for(RATE_CLIENTS_MAX))

    def published(self, row: int | None, workers: int) -> ClientTables:
        """Return the tables as the worker of this row uses them beside the others; None only reads them."""
        rows = workers if row is None else max(workers, row + 1)
        sessions, rates = zip(*self._rows(rows), strict=True)
        return ClientTables(_seen_by(row, sessions), _seen_by(row, rates), self._secret)

    def _rows(self, workers: int) -> Iterator[tuple[CountTable, CountTable]]:
        for row in range(workers):
            words = self.words.row(row)
            yield CountTable(words[: self._session_words]), CountTable(words[self._session_words :])


def _seen_by(row: int | None, tables: tuple[CountTable, ...]) -> Published:
    own = tables[row] if row is not None else None
    return Published(own, tuple(table for other, table in enumerate(tables) if other != row))
