"""The backends of the control process, over all reloads."""

from __future__ import annotations

from collections.abc import Iterator
from random import SystemRandom

from mailproxy.config import Backend, Config
from mailproxy.log import Log
from mailproxy.metrics.board import Board
from mailproxy.proxy.backend.factory import reconfigure_backend
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.workers.backend import ControlBackend
from mailproxy.workers.control.publisher import ChangePublisher
from mailproxy.workers.messages import IndexedSnapshot
from mailproxy.workers.reload.document import Addresses
from mailproxy.workers.scoreboard import ProcessCounters


class ControlBackends(dict[str, ControlBackend]):
    """The backends by name. A reload changes the mapping in place, so all that have it follow."""

    def __init__(
        self,
        config: Config,
        contexts: ServerContexts,
        log: Log,
        *,
        counters: ProcessCounters,
        board: Board,
        publisher: ChangePublisher,
    ) -> None:
        super().__init__()
        self._board = board
        self._log = log
        self._publisher = publisher
        for name, table in config.backends.items():
            self[name] = self._make(table, contexts, counters, {})

    def _make(
        self, table: Backend, contexts: ServerContexts, counters: ProcessCounters, addresses: Addresses
    ) -> ControlBackend:
        """Return a new backend, or the one with this name after it has been reconfigured."""
        own = counters.backends[table.name]
        servers = ControlBackend.make_servers(table, contexts, own)
        known_addresses = addresses.get(table.name, {})
        for server in servers:
            if server.name in known_addresses:
                server.addresses, server.resolve_error = tuple(known_addresses[server.name]), ""
        if (known := self.get(table.name)) is not None:
            known.use_counters(own)
            reconfigure_backend(known, table, servers, SystemRandom())
        else:
            known = ControlBackend(
                table, servers, self._log, SystemRandom(), counters=own, publisher=self._publisher
            )
        known.count_on(self._board)
        return known

    def reconfigure(
        self, config: Config, contexts: ServerContexts, *, counters: ProcessCounters, addresses: Addresses
    ) -> list[ControlBackend]:
        """Use another configuration.

        Args:
            config: The configuration.
            contexts: Its TLS contexts towards servers.
            counters: The counters of this process for it.
            addresses: The addresses of new host names.

        Returns:
            The backends that are new. The caller runs their timers.
        """
        before = dict(self)
        backends = {
            name: self._make(table, contexts, counters, addresses) for name, table in config.backends.items()
        }
        self.clear()
        self.update(backends)
        for name in before.keys() - backends.keys():
            before[name].retire()
        return [backend for name, backend in backends.items() if name not in before]

    def named(self, name: str) -> Iterator[ControlBackend]:
        """Yield the backend with this name, none while the asker has another configuration for a moment."""
        if name in self:
            yield self[name]

    def apply_snapshot(self, entry: IndexedSnapshot) -> None:
        """Take over what a worker knows of a server."""
        for backend in self.named(entry.backend):
            if (server := backend.numbered(entry.number)) is not None:
                backend.apply_snapshot(server, entry.snapshot)
                self._publisher.mark_published(server)
