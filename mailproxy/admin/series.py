"""The last hour of every frontend, backend and server, in memory of a fixed size, for the status page."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterator

from attrs import define, field

from mailproxy.admin.history import PROCESS, Key, backend_key, frontend_key, server_key
from mailproxy.admin.target import Target
from mailproxy.metrics.traffic import Traffic

INTERVAL_S = 30
POINTS = 120
_OBJECTS_MAX = 500  # 4 KB each
NAMES = ("sessions", "new", "bytes", "failures")
"""Open sessions, sessions that began, bytes in both directions, sessions that failed: each point is an interval."""

_Totals = tuple[int, int, int]


def _empty() -> tuple[array[int], ...]:
    return tuple(array("q", bytes(8 * POINTS)) for _ in NAMES)


@define(eq=False)
class _Ring:
    """The points of one object, at the positions of all rings, and its totals at the last point."""

    totals: _Totals
    values: tuple[array[int], ...] = field(factory=_empty)


@define(eq=False)
class Series:
    """Points of all objects at the same moments.

    Attributes:
        ended_at: When the last point ended, in seconds since 1970.
        length: The number of points, 120 at most.
    """

    target: Target
    wall_clock: Callable[[], float] = time.time
    ended_at: float = 0.0
    length: int = field(default=0, init=False)
    _position: int = field(default=0, init=False)
    _rings: dict[Key, _Ring] = field(factory=dict, init=False)

    def begin(self) -> None:
        """Note the totals from which the first point counts."""
        self.ended_at = self.wall_clock()
        for key, _, totals in self._figures():
            self._ring(key, totals)

    def add(self) -> None:
        """Add a point. Call it every 30 s."""
        self.ended_at = self.wall_clock()
        self._position = (self._position + 1) % POINTS
        self.length = min(self.length + 1, POINTS)
        present = set()
        for key, sessions, totals in self._figures():
            present.add(key)
            if (ring := self._ring(key, totals)) is not None:
                values = (
                    sessions,
                    *(max(0, now - before) for now, before in zip(totals, ring.totals, strict=True)),
                )
                for points, value in zip(ring.values, values, strict=True):
                    points[self._position] = value
                ring.totals = totals
        for key in self._rings.keys() - present:
            del self._rings[key]

    def points(self, key: Key) -> dict[str, list[int]]:
        """Return the points of an object by name, the oldest first. Empty if it has none."""
        ring = self._rings.get(key)
        if ring is None:
            return {}
        first = self._position - self.length + 1
        return {
            name: [points[index % POINTS] for index in range(first, self._position + 1)]
            for name, points in zip(NAMES, ring.values, strict=True)
        }

    def _ring(self, key: Key, totals: _Totals) -> _Ring | None:
        ring = self._rings.get(key)
        if ring is None and len(self._rings) < _OBJECTS_MAX:
            ring = self._rings[key] = _Ring(totals)
        return ring

    def _figures(self) -> Iterator[tuple[Key, int, _Totals]]:
        target = self.target
        yield PROCESS, target.sessions, _totals(target.figures.total())
        for name in target.config.frontends:
            figures = target.frontend(name)
            yield frontend_key(name), figures.sessions, _totals(figures.traffic)
        for backend in target.backends.values():
            yield backend_key(backend.name), backend.sessions, _totals(target.figures.backend(backend.name))
            for server in backend.servers:
                traffic = target.figures.server(backend.name, server.name)
                counts = target.server_counts(backend, server)
                totals = (counts.sessions, traffic.bytes_in + traffic.bytes_out, traffic.failures)
                yield server_key(backend.name, server.name), server.sessions, totals


def _totals(traffic: Traffic) -> _Totals:
    return traffic.sessions, traffic.bytes_in + traffic.bytes_out, traffic.failures
