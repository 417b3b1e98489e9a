"""The scoreboard: the layout of the shared memory. A row for each process, a column for each counter.

It belongs to one configuration, and is made before the workers are forked. A process writes only its own row,
with one exception: the supervisor writes ``supervisor_reloads`` in the row of the control process.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping

from attrs import field, frozen

from mailproxy.config import Backend, Config, Frontend
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

# Clients with open sessions in one worker. 4 MB for each frontend, of which the kernel provides only the
# pages in use.
_SESSION_CLIENTS_MAX = 2**17
_SECRET_BYTES = 16


@frozen(eq=False, kw_only=True)
class ProcessCounters:
    """The counters in the row of one process. Most of them can be read over all rows, too.

    Attributes:
        process: Sessions of the process.
        ready: 1 in the row of the control process once it has logged that the proxy is ready.
        beat: The heartbeat.
        reloads: How often the control process has reloaded TLS files.
        supervisor_reloads: How many of these reloads the supervisor has made, too.
        frontends: Sessions of each frontend, by name.
        backends: Sessions of each backend and its servers, by name.
        clients: Tables of clients for each frontend that limits them; empty for the control process.
    """

    process: LimitCounters
    ready: SharedCounter
    beat: SharedCounter
    reloads: SharedCounter
    supervisor_reloads: SharedCounter
    frontends: Mapping[str, LimitCounters]
    backends: Mapping[str, BackendCounters]
    clients: Mapping[str, ClientTables] = field(factory=dict)


class Scoreboard:
    """The shared memory of all processes.

    Args:
        config: The configuration.
        workers: The number of workers. The control process has the row behind theirs.
        max_sessions_per_worker: The sessions that one worker can have, which the size of the client tables
            depends on.

    Attributes:
        control: The row of the control process.
    """

    def __init__(self, config: Config, workers: int, *, max_sessions_per_worker: int) -> None:
        self._config = config
        self.control = workers
        self._memory = SharedMemory(workers + 1, _count_columns(config))
        self._tables = {
            name: _FrontendTables(frontend, workers, max_sessions_per_worker)
            for name, frontend in config.frontends.items()
            if frontend.limits_clients
        }

    def counters(self, row: int) -> ProcessCounters:
        """Return the counters of the process that writes this row."""
        columns = itertools.count()
        clients = {name: tables.published(row) for name, tables in self._tables.items()}
        return _lay_out(self._config, lambda: SharedCounter(self._memory.column(next(columns)), row), clients)

    @property
    def is_ready(self) -> bool:
        """Whether all workers have listened at the same time, as the control process has marked it."""
        return bool(self.counters(self.control).ready.local)

    def clear(self, slot: int) -> int:
        """Set the row of a worker that has exited to 0, and return how many sessions it had."""
        sessions = self.counters(slot).process.sessions.local
        self._memory.clear(slot)
        for tables in self._tables.values():
            tables.words.clear(slot)
        return sessions


def _lay_out(
    config: Config, new_counter: Callable[[], SharedCounter], clients: Mapping[str, ClientTables]
) -> ProcessCounters:
    """Call ``new_counter`` for each counter of a process, always in the same order."""

    def limit() -> LimitCounters:
        return LimitCounters(new_counter(), new_counter(), new_counter())

    def server() -> ServerCounters:
        return ServerCounters(new_counter(), new_counter(), new_counter(), new_counter())

    def backend(table: Backend) -> BackendCounters:
        return BackendCounters(
            new_counter(), new_counter(), new_counter(), tuple(server() for _ in table.servers)
        )

    return ProcessCounters(
        process=limit(),
        ready=new_counter(),
        beat=new_counter(),
        reloads=new_counter(),
        supervisor_reloads=new_counter(),
        frontends={name: limit() for name in config.frontends},
        backends={name: backend(table) for name, table in config.backends.items()},
        clients=clients,
    )


def _count_columns(config: Config) -> int:
    columns = itertools.count()
    _lay_out(config, lambda: SharedCounter((next(columns),), 0), {})  # type: ignore[arg-type]  # never written
    return next(columns)


class _FrontendTables:
    """The client tables of one frontend, a row for each worker: sessions, then rates."""

    def __init__(self, frontend: Frontend, workers: int, max_sessions: int) -> None:
        clients = min(max_sessions, _SESSION_CLIENTS_MAX, frontend.max_sessions or max_sessions)
        self._workers = workers
        self._session_words = words_for(clients if frontend.max_sessions_per_client else 0)
        self._secret = os.urandom(_SECRET_BYTES)
        has_rates = frontend.max_session_rate_per_client is not None
        rate_words = words_for(RATE_CLIENTS_MAX if has_rates else 0)
        self.words = SharedWords(workers, self._session_words + rate_words)

    def published(self, row: int) -> ClientTables:
        """Return the tables as the process of this row uses them: the control process only reads them."""
        sessions, rates = zip(*self._rows(), strict=True)
        return ClientTables(_seen_by(row, sessions), _seen_by(row, rates), self._secret)

    def _rows(self) -> Iterator[tuple[CountTable, CountTable]]:
        for row in range(self._workers):
            words = self.words.row(row)
            yield CountTable(words[: self._session_words]), CountTable(words[self._session_words :])


def _seen_by(row: int, tables: tuple[CountTable, ...]) -> Published:
    own = tables[row] if row < len(tables) else None
    return Published(own, tuple(table for other, table in enumerate(tables) if other != row))
