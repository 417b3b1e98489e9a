"""Choosing by chance: two servers drawn by their weights, and of these the less loaded one."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Protocol

from attrs import define, field

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.server import Server


class RandomSource(Protocol):
    """Where chance comes from, as ``random.Random`` has it."""

    def random(self) -> float:
        """At least 0 and below 1, each as likely as any other."""


@define
class _WeightedSampler:
    """Servers with their weights, to draw from; drawn ones stay in it."""

    servers: Sequence[tuple[Server, float]]
    _bounds: list[float] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._bounds = list(accumulate(weight for _, weight in self.servers))

    def draw(self, chance: RandomSource) -> tuple[Server, float]:
        """One of them, as likely as its part of the weight."""
        place = chance.random() * self._bounds[-1]
        # The last bound does not count: a product that is rounded up to it must not lead behind the last server.
        return self.servers[bisect(self._bounds, place, 0, len(self._bounds) - 1)]


@define
class Random(Balance):
    """Two draws by weight, and the server of both that has fewer sessions for its weight (HAProxy's ``random(2)``).

    Which is nearly as even as ``leastconn`` and, other than that one, does not send a whole flock to a server that has just
    come up, where several proxies do not know of each other (Mitzenmacher, The Power of Two Choices, 2001).
    """

    _chance: RandomSource
    _urn: _WeightedSampler = field(factory=lambda: _WeightedSampler([]), init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        """See Balance."""
        self._urn = _WeightedSampler([(server, server.effective_weight) for server in servers])

    def _next(self, key: bytes | None, avoiding: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        urn = self._urn
        if not urn.servers:
            return None
        (one, weight), (other, others_weight) = urn.draw(self._chance), urn.draw(self._chance)
        if one.is_full or other.is_full or one in avoiding or other in avoiding:
            # HAProxy queues when the one that it drew is full. Drawing again from the rest leaves no place unused.
            rest = [item for item in urn.servers if not item[0].is_full and item[0] not in avoiding]
            if not rest:
                return None
            urn = _WeightedSampler(rest)
            (one, weight), (other, others_weight) = urn.draw(self._chance), urn.draw(self._chance)
        return one if one.sessions * others_weight < other.sessions * weight else other
