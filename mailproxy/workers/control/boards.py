"""The boards of all processes, as the control process reads them."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.ipc.board import SharedBoard
from mailproxy.metrics.figures import Figures
from mailproxy.metrics.maxima import clear_maxima
from mailproxy.metrics.process import RESTARTS
from mailproxy.metrics.servers import SERVER, SESSIONS
from mailproxy.workers.control.registry import WorkerRegistry


class Boards:
    """The boards of all processes, including workers that have exited.

    Args:
        boards: The boards by slot, that of the control process last.
        registry: The connected workers.

    Attributes:
        own: Where the control process counts.
    """

    def __init__(self, boards: Sequence[SharedBoard], registry: WorkerRegistry) -> None:
        self._boards = boards
        self._registry = registry
        self.own = boards[-1]

    def read(self) -> Figures:
        """Read what all processes have counted."""
        return Figures.read(self._boards)

    def count_restart(self) -> None:
        """Count that a worker was replaced."""
        self.own.block((RESTARTS,), 1)[0] += 1

    def count_served(self) -> int:
        """Return the number of sessions that servers have had."""
        return sum(cells[SESSIONS] for _, cells in self.read().blocks(SERVER))

    def clear_maxima(self) -> None:
        """Let the highest values begin again on the boards that no connected worker writes."""
        connected = {worker.slot for worker in self._registry.workers}
        for slot, board in enumerate(self._boards):
            if slot not in connected:
                clear_maxima(board)
