"""The board: which cell of the shared memory is what. A row for each worker, a column for each count.

A configuration has a board of its own, made before its workers are forked.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from mailproxy.config import Backend, Config
from mailproxy.net.cells import SharedCells
from mailproxy.pool import BackendShare, LimitShare, ServerShare, Tally

_OF_PROCESS = 7  # as LimitShare has them, and the others of Shares
_OF_FRONTEND = 3  # as LimitShare has them
_OF_BACKEND = 3  # as BackendShare has them
_OF_SERVER = 4  # as ServerShare has them


@frozen(eq=False)
class Shares:
    """What one process has on the board.

    ``ready``: whether it has been said that the proxy is ready; ``beat``: see ``heartbeat``. ``renewals`` are those of
    files that control has found, ``renewed`` how many of them the launcher has taken up, in the same row.
    """

    process: LimitShare
    ready: Tally
    beat: Tally
    renewals: Tally
    renewed: Tally
    frontends: Mapping[str, LimitShare]
    backends: Mapping[str, BackendShare]


class Board:
    """The shared counts of ``workers``. Control has a row of its own behind theirs."""

    def __init__(self, config: Config, workers: int) -> None:
        servers = sum(len(backend.servers) for backend in config.backends.values())
        columns = (
            _OF_PROCESS + _OF_FRONTEND * len(config.frontends) + _OF_BACKEND * len(config.backends)
            + _OF_SERVER * servers
        )  # fmt: skip
        self._config = config
        self.control = workers
        self._cells = SharedCells(workers + 1, columns)

    def shares(self, row: int) -> Shares:
        """What the process of this row writes, and all read."""
        columns = iter(range(2**62))

        def tally() -> Tally:
            return Tally(self._cells.column(next(columns)), row)

        def backend(settings: Backend) -> BackendShare:
            sessions, waiting, first = tally(), tally(), tally()
            servers = tuple(ServerShare(tally(), tally(), tally(), tally()) for _ in settings.servers)
            return BackendShare(sessions, waiting, first, servers)

        process, ready = LimitShare(tally(), tally(), tally()), tally()
        beat, renewals, renewed = tally(), tally(), tally()
        frontends = {name: LimitShare(tally(), tally(), tally()) for name in self._config.frontends}
        backends = {name: backend(settings) for name, settings in self._config.backends.items()}
        return Shares(process, ready, beat, renewals, renewed, frontends, backends)

    def clear(self, slot: int) -> int:
        """Forget a worker that is gone; how many sessions it had."""
        sessions = self.shares(slot).process.sessions.own
        self._cells.clear(slot)
        return sessions
