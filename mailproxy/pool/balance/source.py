"""The balance method ``source``: a client keeps its server, and few clients move when servers change."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterator, Sequence
from hashlib import blake2b
from struct import Struct

from attrs import define, field

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.balance.roundrobin import RoundRobin
from mailproxy.pool.server import Server

# The points of a server of mean weight, as in libketama. In two cases out of three, a server's part of the
# clients is then within 8 % of its part of the weight: one over the root of the number of points.
_POINTS = 160
_BLOCK = Struct("<8Q")  # one digest makes eight points


@define
class Source(Balance):
    """Consistent hashing: a client belongs to the first point behind its hash on the servers' ring of points.

    Each server has as many points as its weight says (Karger and others, 1997; ketama). They come from its
    name alone, and the first ones are the same whatever their number. So proxies with the same configuration
    agree, also after a restart. A server that comes, goes or changes its weight exchanges clients with the
    others, and no other client moves.

    Clients without a key (Unix sockets) take turns.

    Attributes:
        mean_weight: The mean weight in the configuration, which says how many points a weight is worth. It
            must not follow the servers that are up, because a change of it moves the points of all servers.
    """

    mean_weight: float = field(kw_only=True)
    _servers: Sequence[Server] = field(default=(), init=False)
    _points: list[int] = field(factory=list, init=False)
    _owners: list[Server] = field(factory=list, init=False)
    _keyless: RoundRobin = field(factory=RoundRobin, init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """Compute the ring, which takes about 0.1 ms for each server of mean weight.

        See ``Balance.set_servers``.
        """
        self._servers = tuple(servers)
        ring: dict[int, Server] = {}
        for server in servers:
            count = max(1, round(_POINTS * server.effective_weight / self.mean_weight))
            # Two servers do not have the same point: there are 2^64.
            ring.update(dict.fromkeys(_points(server.name, count), server))
        self._points = sorted(ring)
        self._owners = [ring[point] for point in self._points]
        self._keyless.set_servers(servers)

    def _next(self, key: bytes | None, excluded: Collection[Server]) -> Server | None:
        if key is None:
            return self._keyless.choose(None, excluded)
        owners = self._owners
        if not owners:
            return None
        start = bisect(self._points, int.from_bytes(blake2b(key, digest_size=8).digest(), "little"))
        server = owners[start % len(owners)]
        if not server.is_full and server not in excluded:
            return server
        # The next server on the ring, where the client would belong if this one did not exist.
        others = {other for other in self._servers if not other.is_full and other not in excluded}
        for index in range(start + 1, start + len(owners)) if others else ():
            if owners[index % len(owners)] in others:
                return owners[index % len(owners)]
        return None

    def candidates(self, key: bytes | None = None) -> Sequence[Server]:
        if key is None:
            return self._keyless.candidates()
        chosen = self._next(key, ())  # which changes nothing, as long as there is a key
        return [chosen] if chosen is not None else []


def _points(name: str, count: int) -> Iterator[int]:
    """Yield the first ``count`` points of a server, numbers below 2^64."""
    for block in range(0, count, 8):
        points = _BLOCK.unpack(blake2b(f"{name}/{block}".encode()).digest())
        yield from points[: count - block]
