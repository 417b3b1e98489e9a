"""What follows from the proxy's figures over time: rates, longest queues, changes of backends.

Sessions count nothing for this: a task looks at the figures once a second. ``clear counters all`` does not
change the figures either. It is noted here what they were, and subtracted from then on. Only highest values
begin again where they are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import attrs
import trio
from attrs import define, field

from mailproxy.admin.target import Target
from mailproxy.config import Config
from mailproxy.metrics.traffic import Times, Traffic
from mailproxy.pool import Counts

_INTERVAL_S = 1.0

Counters = Counts | Traffic
"""What ``clear counters`` subtracts."""

C = TypeVar("C", Counts, Traffic)

Key = tuple[str, str, str]
"""What figures belong to: ``frontend``, ``listener``, ``backend`` or ``server``, then its names."""

PROCESS: Key = ("process", "", "")


def frontend_key(name: str) -> Key:
    """Return the key of a frontend."""
    return "frontend", name, ""


def listener_key(frontend: str, bind: str) -> Key:
    """Return the key of a bind."""
    return "listener", frontend, bind


def backend_key(name: str) -> Key:
    """Return the key of a backend."""
    return "backend", name, ""


def server_key(backend: str, name: str) -> Key:
    """Return the key of a server."""
    return "server", backend, name


@define(eq=False)
class Trend:
    """What has been noticed of one object.

    Attributes:
        started: Sessions so far, at the last look; None before the first.
        rate: Sessions that began in the last second.
        most_rate: The most of them.
        most_waiting: The most sessions that have waited.
        most_sessions: The most sessions of a bind, as seen once a second. Those of others are counted exactly.
        last_session_at: When a session has last begun, None if none has.
        is_up: Whether a backend has a usable server.
        changed_at: When that has last changed.
        downs: How often it went down.
        down_seconds: How long it was down, up to its last change.
        cleared: Both of these, when ``clear counters all`` was given.
    """

    started: int | None = None
    rate: int = 0
    most_rate: int = 0
    most_waiting: int = 0
    most_sessions: int = 0
    last_session_at: float | None = None
    is_up: bool = True
    changed_at: float = 0.0
    downs: int = 0
    down_seconds: float = 0.0
    cleared: tuple[int, float] = (0, 0.0)

    def look(self, started: int, waiting: int, now: float, seconds: float) -> None:
        """Take the figures of this moment, ``seconds`` after those before."""
        # Before the first look it is not known when they began: a control process that replaces another one finds many.
        began = max(started - self.started, 0) if self.started is not None else 0
        self.started = started
        if began:
            self.last_session_at = now
        if seconds > 0:
            self.rate = round(began / seconds)
            self.most_rate = max(self.most_rate, self.rate)
        self.most_waiting = max(self.most_waiting, waiting)

    def look_at_state(self, is_up: bool, now: float) -> None:
        """Take note whether a backend has a usable server."""
        if is_up == self.is_up:
            return
        if is_up:
            self.down_seconds += now - self.changed_at
        else:
            self.downs += 1
        self.is_up, self.changed_at = is_up, now

    def clear_highest(self) -> None:
        """Forget the highest values."""
        self.most_rate = self.most_waiting = self.most_sessions = 0


@define(eq=False)
class History:
    """The trends of all objects of a proxy, and what its counters were when they were cleared.

    Attributes:
        started_at: When the proxy started, on trio's clock.
    """

    target: Target
    clock: Callable[[], float] = trio.current_time
    started_at: float = field(init=False)
    _trends: dict[Key, Trend] = field(factory=dict, init=False)
    _looked_at: float = field(init=False)
    _cleared: dict[tuple[Key, type], Counters] = field(factory=dict, init=False)
    _config: Config = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.started_at = self._looked_at = self.clock()
        self._config = self.target.config

    async def run(self) -> None:
        """Look at the figures once a second, until cancelled."""
        while True:
            self.target.sample()
            self.look()
            await trio.sleep(_INTERVAL_S)

    def trend(self, key: Key) -> Trend:
        """Return the trend of an object."""
        if key not in self._trends:
            self._trends[key] = Trend(changed_at=self.started_at)
        return self._trends[key]

    def look(self) -> None:
        """Take the figures that the target has sampled."""
        self._follow_config()
        now = self.clock()
        seconds, self._looked_at = now - self._looked_at, now
        for key, started, waiting in self._figures():
            self.trend(key).look(started, waiting, now, seconds)
        for frontend, bind in self.target.listeners:
            trend = self.trend(listener_key(frontend, bind))
            trend.most_sessions = max(trend.most_sessions, self.target.figures.open_sessions(frontend, bind))
        for backend in self.target.backends.values():
            self.trend(backend_key(backend.name)).look_at_state(backend.pool.has_usable_server, now)

    def _follow_config(self) -> None:
        """Forget what a reload has removed."""
        config = self.target.config
        if config is self._config:
            return
        self._config = config
        present = {PROCESS, *map(frontend_key, config.frontends), *map(backend_key, config.backends)}
        present.update(listener_key(*each) for each in self.target.listeners)
        for name, backend in config.backends.items():
            present.update(server_key(name, server.name) for server in backend.servers)
        self._trends = {key: trend for key, trend in self._trends.items() if key in present}
        self._cleared = {key: counters for key, counters in self._cleared.items() if key[0] in present}

    def _figures(self) -> Iterator[tuple[Key, int, int]]:
        """Yield sessions so far and waiting sessions of each object."""
        target = self.target
        for name in target.config.frontends:
            figures = target.frontend(name)
            yield frontend_key(name), figures.traffic.sessions, 0
        yield PROCESS, target.figures.total().sessions, 0
        for frontend, bind in target.listeners:
            yield listener_key(frontend, bind), target.figures.listener(frontend, bind).sessions, 0
        for backend in target.backends.values():
            traffic = target.figures.backend(backend.name)
            yield backend_key(backend.name), traffic.sessions, backend.pool.waiting
            for server in backend.servers:
                counts = target.server_counts(backend, server)
                waiting = backend.pool.waiting_for(server)
                yield server_key(backend.name, server.name), counts.sessions, waiting

    # Clearing

    def clear_highest(self) -> None:
        """Forget the highest values, as ``clear counters`` does."""
        for trend in self._trends.values():
            trend.clear_highest()
        self.look()

    def clear(self) -> None:
        """Count from 0 from now on, as after ``clear counters all``."""
        target = self.target
        self._cleared = {}
        for name in target.config.frontends:
            self._note(frontend_key(name), target.frontend(name).traffic)
        for backend in target.backends.values():
            self._note(backend_key(backend.name), target.figures.backend(backend.name))
            for server in backend.servers:
                key = server_key(backend.name, server.name)
                self._note(key, target.figures.server(backend.name, server.name))
                self._note(key, target.server_counts(backend, server))
        for trend in self._trends.values():
            trend.cleared = trend.downs, trend.down_seconds
        self.clear_highest()

    def _note(self, key: Key, counters: Counters) -> None:
        self._cleared[key, type(counters)] = attrs.evolve(counters)

    def since_cleared(self, key: Key, counters: C) -> C:
        """Return counters without what they were when they were cleared. Highest values began again then."""
        self._follow_config()
        before = self._cleared.get((key, type(counters)))
        changes: dict[str, Any] = {}
        if before is not None:
            for each in attrs.fields(type(counters)):
                value = getattr(counters, each.name)
                if not isinstance(value, Times) and each.name != "most_sessions":
                    changes[each.name] = value - getattr(before, each.name)
        return attrs.evolve(counters, **changes) if changes else counters
