"""Choosing a server: what every way of choosing can do, and the two that look through the servers for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

from attrs import define, field

from mailproxy.pool.server import Server


class Balance(ABC):
    """Chooses among the servers it was last given; synchronous, without a clock.

    Servers that are full are passed over. They need no ``renew``: who is full is asked anew in every choice.
    """

    __slots__ = ()

    @abstractmethod
    def set_servers(self, servers: Sequence[Server]) -> None:
        """From now on choose among these: servers that may take sessions and weigh more than 0.

        To be called when that set changes, or the effective weight of one in it; counts of sessions do not matter. Whose
        turn it is stays as it was, as far as the servers are the same.
        """

    def choose(self, key: bytes | None = None, avoiding: Collection[Server] = ()) -> Server | None:
        """The server for a session, or None if there is none or all are full.

        ``key`` is what the same server should always serve; only ``source`` looks at it. Those in ``avoiding`` (the
        session tried them) are chosen only if nobody else can be.
        """
        chosen = self._next(key, avoiding)
        return self._next(key, ()) if chosen is None and avoiding else chosen

    @abstractmethod
    def _next(self, key: bytes | None, avoiding: Collection[Server]) -> Server | None:
        """Choose one that is neither full nor in ``avoiding``."""


@define
class LeastConn(Balance):
    """The server with the fewest sessions for its weight; among equals each in turn (HAProxy's ``leastconn``).

    As in HAProxy since 2.0, what is compared is what the server would have with this session, ``(sessions + 1) /
    weight``, so that the stronger ones get the first sessions; only servers without any come before all others, because
    else the strongest would serve alone while there is little to do.
    """

    _servers: list[tuple[Server, float]] = field(factory=list, init=False)
    _places: dict[Server, int] = field(factory=dict, init=False)
    _turn: int = field(default=0, init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """See Balance. The turn goes to the next one that is still there."""
        self._places = places = {server: place for place, server in enumerate(servers)}
        turns = (server for server, _ in self._servers[self._turn :] + self._servers[: self._turn])
        self._turn = next((places[server] for server in turns if server in places), 0)
        self._servers = [(server, server.effective_weight) for server in servers]

    def _next(self, key: bytes | None, avoiding: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        best: Server | None = None
        least, turn = float("inf"), self._turn
        # Starting behind the last choice makes equals take turns: only a smaller load displaces an earlier server.
        for server, weight in self._servers[turn:] + self._servers[:turn] if turn else self._servers:
            sessions = server.sessions
            if not sessions:
                load = 0.0
            elif (load := (sessions + 1) / weight) >= least:
                continue
            # Fullness costs more to ask for than the load to compute, and few servers are better than all before them.
            if load < least and not server.is_full and server not in avoiding:
                best, least = server, load
                if not sessions:
                    break  # nobody can have less
        if best is not None:
            self._turn = (self._places[best] + 1) % len(self._servers)
        return best


@define
class First(Balance):
    """The first that is not full, in the order of the configuration (HAProxy's ``first``).

    Weights do not matter. It makes sense with ``max_sessions`` only: the last servers are left idle, to be switched off.
    """

    _servers: Sequence[Server] = field(default=(), init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """See Balance; their order is that in which they are filled."""
        self._servers = tuple(servers)

    def _next(self, key: bytes | None, avoiding: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        for server in self._servers:
            if not server.is_full and server not in avoiding:
                return server
        return None
