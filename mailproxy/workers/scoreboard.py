"""The board: which cell of the shared memory is what. A row for each worker, a column for each count.

A configuration has a board of its own, made before its workers are forked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from attrs import frozen

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

_OF_PROCESS = 7  # as LimitShare has them, and the others of Shares
_OF_FRONTEND = 3  # as LimitShare has them
_OF_BACKEND = 3  # as BackendShare has them
_OF_SERVER = 4  # as ServerShare has them
_SESSION_CLIENTS_MAX = 2**17  # of a worker: 4 MB for each frontend, of which only what is used takes memory
_SECRET_BYTES = 16


@frozen(eq=False)
class ProcessCounters:
    """What one process has on the board.

    ``ready``: whether it has been said that the proxy is ready; ``beat``: see ``heartbeat``. ``renewals`` are those of
    files that control has found, ``renewed`` how many of them the launcher has taken up, in the same row.
    """

    process: LimitCounters
    ready: SharedCounter
    beat: SharedCounter
    renewals: SharedCounter
    renewed: SharedCounter
    frontends: Mapping[str, LimitCounters]
    backends: Mapping[str, BackendCounters]
    clients: Mapping[str, ClientTables]


class Scoreboard:
    """The shared counts of ``workers``. Control has a row of its own behind theirs.

    Limits per client have tables beside them. ``most_sessions`` is what one worker takes at most.
    """

    def __init__(self, config: Config, workers: int, *, most_sessions: int) -> None:
        servers = sum(len(backend.servers) for backend in config.backends.values())
        columns = (
            _OF_PROCESS + _OF_FRONTEND * len(config.frontends) + _OF_BACKEND * len(config.backends)
            + _OF_SERVER * servers
        )  # fmt: skip
        self._config = config
        self.control = workers
        self._cells = SharedMemory(workers + 1, columns)
        self._tables = {
            name: _Tables(frontend, workers, most_sessions)
            for name, frontend in config.frontends.items()
            if frontend.limits_clients
        }

    def counters(self, row: int) -> ProcessCounters:
        """What the process of this row writes, and all read."""
        columns = iter(range(2**62))

        def tally() -> SharedCounter:
            return SharedCounter(self._cells.column(next(columns)), row)

        def backend(settings: Backend) -> BackendCounters:
            sessions, waiting, first = tally(), tally(), tally()
            servers = tuple(ServerCounters(tally(), tally(), tally(), tally()) for _ in settings.servers)
            return BackendCounters(sessions, waiting, first, servers)

        process, ready = LimitCounters(tally(), tally(), tally()), tally()
        beat, renewals, renewed = tally(), tally(), tally()
        frontends = {name: LimitCounters(tally(), tally(), tally()) for name in self._config.frontends}
        backends = {name: backend(settings) for name, settings in self._config.backends.items()}
        clients = {
            name: tables.published(row) for name, tables in self._tables.items() if row != self.control
        }
        return ProcessCounters(process, ready, beat, renewals, renewed, frontends, backends, clients)

    @property
    def is_ready(self) -> bool:
        """Whether all workers have listened at once, as control has noted."""
        return bool(self.counters(self.control).ready.local)

    def clear(self, slot: int) -> int:
        """Forget a worker that is gone; how many sessions it had."""
        sessions = self.counters(slot).process.sessions.local
        self._cells.clear(slot)
        for tables in self._tables.values():
            tables.words.clear(slot)
        return sessions


class _Tables:
    """The tables of one frontend: a row for each worker, with its sessions and its rates. Small where there is no limit."""

    def __init__(self, frontend: Frontend, workers: int, most_sessions: int) -> None:
        most = min(most_sessions, _SESSION_CLIENTS_MAX, frontend.max_sessions or most_sessions)
        self._workers = workers
        self._sessions = words_for(most if frontend.max_sessions_per_client else 0)
        self._secret = os.urandom(_SECRET_BYTES)
        rates = words_for(RATE_CLIENTS_MAX if frontend.max_session_rate_per_client is not None else 0)
        self.words = SharedWords(workers, self._sessions + rates)

    def published(self, row: int) -> ClientTables:
        """The tables as the worker of this row uses them."""
        sessions, rates = zip(*self._each(), strict=True)
        return ClientTables(_seen_by(row, sessions), _seen_by(row, rates), self._secret)

    def _each(self) -> Iterator[tuple[CountTable, CountTable]]:
        for row in range(self._workers):
            words = self.words.row(row)
            yield CountTable(words[: self._sessions]), CountTable(words[self._sessions :])


def _seen_by(row: int, tables: tuple[CountTable, ...]) -> Published:
    return Published(tables[row], tuple(each for number, each in enumerate(tables) if number != row))
