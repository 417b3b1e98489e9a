"""Choosing a server: synchronous decisions over plain values, no clock, no socket."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define

from mailproxy.pool.server import Server


@define
class LeastConn:
    """The server with the fewest sessions for its weight; among equals each in turn (HAProxy's ``leastconn``)."""

    _turn: int = 0

    def choose(self, servers: Sequence[Server]) -> Server | None:
        """A usable server, or None if there is none."""
        best: Server | None = None
        place = 0
        # Starting behind the last choice makes equals take turns: only a smaller load displaces an earlier server.
        for index in range(self._turn, self._turn + len(servers)):
            server = servers[index % len(servers)]
            if server.is_usable and (
                best is None or server.sessions * best.weight < best.sessions * server.weight
            ):
                best, place = server, index
        if best is not None:
            self._turn = (place + 1) % len(servers)
        return best
