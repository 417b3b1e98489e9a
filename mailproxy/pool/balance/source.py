"""Choosing by the client: the same one always has the same server, and a change of servers moves as few as can be."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from struct import Struct

from attrs import define, field

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.balance.roundrobin import RoundRobin
from mailproxy.pool.server import Server

# On the ring for a server of mean weight, as libketama has them: a server's part of the clients is then within 8 % of its
# part of the weight (one over the root of the points), two times out of three.
_POINTS = 160
_BLOCK = Struct("<8Q")  # one digest makes eight points


@define
class Source(Balance):
    """A ring of points, of which every server has as many as its weight says; a client's is the first behind its hash.

    Consistent hashing (Karger and others, 1997; ketama). A server's points come from its name alone, and which they are
    does not depend on how many there are: proxies with the same configuration agree, over restarts, too, and a server
    that comes, goes or changes its weight takes clients from the others or gives them its own; nobody else moves.

    ``mean_weight`` is that of the configuration, and must not follow the servers that are up: it says how many points a
    weight is worth, and if that changed all servers' points would. Clients without a key (Unix sockets) take turns.
    """

    mean_weight: float = field(kw_only=True)
    _servers: Sequence[Server] = field(default=(), init=False)
    _points: list[int] = field(factory=list, init=False)
    _owners: list[Server] = field(factory=list, init=False)
    _keyless: RoundRobin = field(factory=RoundRobin, init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """See Balance; takes about 0.1 ms for each server of mean weight."""
        self._servers = tuple(servers)
        ring: dict[int, Server] = {}
        for server in servers:
            count = max(1, round(_POINTS * server.effective_weight / self.mean_weight))
            # That two servers have the same of 2^64 points does not happen.
            ring.update(dict.fromkeys(_points(server.name, count), server))
        self._points = sorted(ring)
        self._owners = [ring[point] for point in self._points]
        self._keyless.set_servers(servers)

    def _next(self, key: bytes | None, avoiding: Collection[Server]) -> Server | None:
        if key is None:
            return self._keyless.choose(None, avoiding)
        owners = self._owners
        if not owners:
            return None
        start = bisect(self._points, int.from_bytes(blake2b(key, digest_size=8).digest(), "little"))
        server = owners[start % len(owners)]
        if not server.is_full and server not in avoiding:
            return server
        # The next on the ring, where the client's session would go if that server was not there at all.
        others = {other for other in self._servers if not other.is_full and other not in avoiding}
        for place in range(start + 1, start + len(owners)) if others else ():
            if owners[place % len(owners)] in others:
                return owners[place % len(owners)]
        return None


def _points(name: str, count: int) -> Iterator[int]:
    """The first ``count`` points of the server, numbers below 2^64."""
    for block in range(0, count, 8):
        points = _BLOCK.unpack(blake2b(f"{name}/{block}".encode()).digest())
        yield from points[: count - block]
