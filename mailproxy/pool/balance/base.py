"""The interface of all balance methods, and the two simple ones: ``leastconn`` and ``first``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from attrs import define, field

from mailproxy.pool.server import Server


class Balance(ABC):
    """Chooses among the servers that it was last given. It is synchronous and has no clock.

    Full servers are skipped. They need no ``set_servers``, because each choice asks which servers are full.
    """

    __slots__ = ()

    @abstractmethod
    def set_servers(self, servers: Sequence[Server]) -> None:
        """Choose among these servers from now on.

        Call it when the set changes, or the effective weight of a server in it. Numbers of sessions do not
        matter. Servers that were there before keep their turn.

        Args:
            servers: Servers that may get sessions and whose weight is above 0.
        """

    def choose(self, key: bytes | None = None, excluded: Collection[Server] = ()) -> Server | None:
        """Return the server for a session.

        Args:
            key: What the same server should always serve. Only ``source`` uses it.
            excluded: Servers that the session has tried. They are chosen only if no other one can be.

        Returns:
            None if there are no servers or all are full.
        """
        chosen = self._next(key, excluded)
        return self._next(key, ()) if chosen is None and excluded else chosen

    @abstractmethod
    def candidates(self, key: bytes | None = None) -> Sequence[Server]:
        """Return the servers of which ``choose`` would return one now. It changes nothing.

        There are several where turns, or random numbers, decide between them.
        """

    @abstractmethod
    def _next(self, key: bytes | None, excluded: Collection[Server]) -> Server | None:
        """Choose a server that is neither full nor excluded."""


@define
class LeastConn(Balance):
    """The server with the fewest sessions for its weight; equal ones take turns (HAProxy's ``leastconn``).

    As in HAProxy since 2.0, the load that is compared is the one with this session:
    ``(sessions + 1) / weight``. So stronger servers get the first sessions. Servers without sessions come
    before all others, or else the strongest would serve alone while there are few sessions.
    """

    _servers: list[tuple[Server, float]] = field(factory=list, init=False)
    _indexes: dict[Server, int] = field(factory=dict, init=False)
    _start: int = field(default=0, init=False)  # the index behind the last choice

    def set_servers(self, servers: Sequence[Server]) -> None:
        self._indexes = indexes = {server: index for index, server in enumerate(servers)}
        # The search starts at the next server of the old order that is still there.
        in_turn = (server for server, _ in self._servers[self._start :] + self._servers[: self._start])
        self._start = next((indexes[server] for server in in_turn if server in indexes), 0)
        self._servers = [(server, server.effective_weight) for server in servers]

    def _next(self, key: bytes | None, excluded: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        best: Server | None = None
        least_load, start = float("inf"), self._start
        # Starting behind the last choice makes equals take turns: only a smaller load displaces an earlier
        # server.
        for server, weight in self._servers[start:] + self._servers[:start] if start else self._servers:
            sessions = server.sessions
            if not sessions:
                load = 0.0
            elif (load := (sessions + 1) / weight) >= least_load:
                continue
            # is_full costs more than the load, and few servers have a smaller load than all before them.
            if load < least_load and not server.is_full and server not in excluded:
                best, least_load = server, load
                if not sessions:
                    break  # no server can have less
        if best is not None:
            self._start = (self._indexes[best] + 1) % len(self._servers)
        return best

    def candidates(self, key: bytes | None = None) -> Sequence[Server]:
        # Among servers with equal loads the turn decides, so each turn is tried.
        start, found = self._start, set[Server | None]()
        for turn in range(len(self._servers)):
            self._start = turn
            found.add(self._next(key, ()))
        self._start = start
        return [server for server, _ in self._servers if server in found]


@define
class First(Balance):
    """The first server that is not full, in the order of the configuration (HAProxy's ``first``).

    Weights do not matter. It needs ``max_sessions``, and keeps the last servers idle so that they can be
    switched off.
    """

    _servers: Sequence[Server] = field(default=(), init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        self._servers = tuple(servers)

    def _next(self, key: bytes | None, excluded: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        for server in self._servers:
            if not server.is_full and server not in excluded:
                return server
        return None

    def candidates(self, key: bytes | None = None) -> Sequence[Server]:
        chosen = self._next(key, ())
        return [chosen] if chosen is not None else []
