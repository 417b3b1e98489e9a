"""The balance method ``random``: two servers are drawn by weight, and the less loaded one is taken."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Protocol

from attrs import define, field

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.server import Server


class RandomSource(Protocol):
    """Where random numbers come from. ``random.Random`` is one."""

    def random(self) -> float:
        """Return a number from 0 to below 1, uniformly distributed."""


@define
class _WeightedSampler:
    """Draws servers by weight, with replacement."""

    servers: Sequence[tuple[Server, float]]
    _bounds: list[float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._bounds = list(accumulate(weight for _, weight in self.servers))

    def draw(self, random: RandomSource) -> tuple[Server, float]:
        """Return a server and its weight."""
        point = random.random() * self._bounds[-1]
        # The last bound is not searched: a product that is rounded up to it would give an index behind the
        # last server.
        return self.servers[bisect(self._bounds, point, 0, len(self._bounds) - 1)]


@define
class Random(Balance):
    """Of two servers drawn by weight, the one with fewer sessions for its weight (HAProxy's ``random(2)``).

    It spreads sessions nearly as evenly as ``leastconn``. With ``leastconn``, several proxies that do not
    know of each other send all their sessions to a server that has just come up. This method avoids that
    (Mitzenmacher, The Power of Two Choices, 2001).
    """

    _random: RandomSource
    _sampler: _WeightedSampler = field(factory=lambda: _WeightedSampler([]), init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        self._sampler = _WeightedSampler([(server, server.effective_weight) for server in servers])

    def _next(self, key: bytes | None, excluded: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        sampler = self._sampler
        if not sampler.servers:
            return None
        (one, weight), (other, other_weight) = sampler.draw(self._random), sampler.draw(self._random)
        if one.is_full or other.is_full or one in excluded or other in excluded:
            # HAProxy queues when the server that it drew is full. Drawing from the others instead leaves no
            # slot unused.
            others = [item for item in sampler.servers if not item[0].is_full and item[0] not in excluded]
            if not others:
                return None
            sampler = _WeightedSampler(others)
            (one, weight), (other, other_weight) = sampler.draw(self._random), sampler.draw(self._random)
        return one if one.sessions * other_weight < other.sessions * weight else other

    def candidates(self, key: bytes | None = None) -> Sequence[Server]:  # noqa: ARG002 - source's
        return [server for server, _ in self._sampler.servers if not server.is_full]
