"""Which columns of the shared memory belong to which frontend, backend and server, over all reloads.

The layout only grows. A name that comes back gets the columns that it had, because sessions of an earlier
configuration may still count there. All processes make the same layout, since each begins with that of the
supervisor and adds the same configurations in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

from attrs import define, field

from mailproxy.config import Config

Key = tuple[str, ...]
"""``frontend`` and its name; ``backend`` and its name; ``server`` with backend, name and address."""

PROCESS_COLUMNS = 3  # sessions, and two for waiting: those of the limit on all sessions
CONTROL_COLUMNS = 6  # ready, beat, reloads of TLS files (2), reloads of the configuration (2)
FRONTEND_COLUMNS = 3
BACKEND_COLUMNS = 3
SERVER_COLUMNS = 4

_SPARE_COLUMNS = 4096  # 32 kB for each process, of which the kernel provides only the pages in use
_SPARE_TABLES = 4


class LayoutFullError(Exception):
    """There is no room for a configuration. The message says for what, and the remedy.

    Attributes:
        path: The key that asks for too much; empty if there are several.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


@define(eq=False)
class Layout:
    """The columns and the client tables in use.

    Attributes:
        columns: The first column of each key.
        tables: The table of clients of each frontend that has had a limit per client, by its name.
        columns_max: The number of columns.
        tables_max: The number of client tables.
    """

    columns: dict[Key, int] = field(factory=dict)
    tables: dict[str, int] = field(factory=dict)
    columns_max: int = 0
    tables_max: int = 0
    _used: int = PROCESS_COLUMNS + CONTROL_COLUMNS

    @classmethod
    def of(cls, config: Config) -> Layout:
        """Return the layout of the first configuration, with room for as much again and more."""
        layout = cls()
        needed = layout._used + sum(width for _, width in _keys(config))
        tables = sum(frontend.limits_clients for frontend in config.frontends.values())
        layout.columns_max = 2 * needed + _SPARE_COLUMNS
        layout.tables_max = 2 * tables + _SPARE_TABLES
        layout.add(config)
        return layout

    def check(self, config: Config) -> None:
        """Check that there is room for a configuration.

        Raises:
            LayoutFullError: There is none.
        """
        columns = sum(width for key, width in _keys(config) if key not in self.columns)
        if self._used + columns > self.columns_max:
            raise LayoutFullError(
                "the shared memory has no room for more frontends, backends or servers: this needs a restart"
            )
        if len(self.tables.keys() | _limited(config)) > self.tables_max:
            raise LayoutFullError(
                "the shared memory has no room for limits per client of more frontends: this needs a restart"
            )

    def add(self, config: Config) -> None:
        """Add what a configuration has and the layout has not.

        Raises:
            LayoutFullError: There is no room. Nothing has changed.
        """
        self.check(config)
        for key, width in _keys(config):
            if key not in self.columns:
                self.columns[key] = self._used
                self._used += width
        for name in sorted(_limited(config)):
            self.tables.setdefault(name, len(self.tables))


def server_key(backend: str, name: str, address: object) -> Key:
    """Return the key of a server. With another address it is another server, whose sessions count apart."""
    return "server", backend, name, str(address)


def _limited(config: Config) -> set[str]:
    return {name for name, frontend in config.frontends.items() if frontend.limits_clients}


def _keys(config: Config) -> Iterator[tuple[Key, int]]:
    for name in config.frontends:
        yield ("frontend", name), FRONTEND_COLUMNS
    for name, backend in config.backends.items():
        yield ("backend", name), BACKEND_COLUMNS
        for server in backend.servers:
            yield server_key(name, server.name, server.address), SERVER_COLUMNS
