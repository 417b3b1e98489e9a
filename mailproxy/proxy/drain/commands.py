"""What commands of an operator call to end sessions, in one process or in several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.drain.drainer import Drainer
from mailproxy.proxy.drain.target import DrainStatus, DrainTarget, Purpose


class DrainCommands(Protocol):
    """Ends the sessions of servers and frontends."""

    async def drain_server(self, backend: Backend, server: BackendServer, seconds: float) -> None:
        """Set a server's state to drain, and end its sessions within ``seconds``, idle ones first.

        Clients that stick to it get another server, until its state is set again.
        """

    async def drain_frontend(self, name: str, seconds: float) -> None:
        """End a frontend's sessions within ``seconds``, idle ones first.

        Those that it accepts before the deadline end, too. The caller stops it from accepting.
        """

    async def kill(self, target: DrainTarget, seconds: float) -> None:
        """End the sessions that there are now, at ``process.drain_rate``, and within ``seconds`` at the latest."""

    async def cancel(self, target: DrainTarget) -> bool:
        """Let the sessions go on that have not ended. Return False if they were not being ended.

        States of servers and frontends stay.
        """

    def statuses(self) -> Sequence[DrainStatus]:
        """Return how far each drain has come, the oldest first; ``str`` of each is its line in ``show drain``."""


class LocalDrains:
    """The commands in one process."""

    def __init__(self, drainer: Drainer) -> None:
        self._drainer = drainer

    async def drain_server(self, backend: Backend, server: BackendServer, seconds: float) -> None:
        """Set a server's state to drain, and end its sessions."""
        backend.vacate(server)
        self._start(DrainTarget(backend=backend.name, server=server.name), seconds, Purpose.DRAIN)

    async def drain_frontend(self, name: str, seconds: float) -> None:
        """End a frontend's sessions."""
        self._start(DrainTarget(frontend=name), seconds, Purpose.DRAIN)

    async def kill(self, target: DrainTarget, seconds: float) -> None:
        """End the sessions that there are now."""
        self._start(target, seconds, Purpose.KILL)

    async def cancel(self, target: DrainTarget) -> bool:
        """Let the sessions go on."""
        return self._drainer.cancel(str(target))

    def statuses(self) -> Sequence[DrainStatus]:
        """Return how far each drain has come."""
        return self._drainer.statuses()

    def _start(self, target: DrainTarget, seconds: float, purpose: Purpose) -> None:
        self._drainer.start(str(target), target.matches, seconds, purpose)
