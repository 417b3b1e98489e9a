"""Choosing in turn: every server as often as its weight says, as evenly spread as can be.

Each server's part of the weight gives it a time for each of its turns: with weight w its turn number k (from 0) begins at
k / w and is due at (k + 1) / w, in a time that advances by 1 / W with every choice, W being the sum of all weights. Of the
turns that begin before the choice is over, the one that is due first is taken. That is a Pfair schedule for one processor
(Baruah and others, Proportionate Progress, 1996): after any number of choices no server is a whole session ahead of its
share, nor behind it. Taking what is due first alone would give a heavy server all its turns in a row.

The present time is the mean of the servers' begins, by weight (as in Linux' EEVDF scheduler): with every choice it
advances by itself, and it stays right when servers come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush

from attrs import define, field

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.server import Server

# Choices after which the times begin at 0 again: the sums of floats stay so small that they are exact enough for ever.
_REBASE_CHOICES = 2**20


@define(eq=False)
class _Turns:
    """What one server had since it came: ``origin`` is the begin of its turn 0."""

    server: Server
    weight: float
    origin: float
    order: int
    taken: int = 0

    @property
    def begin(self) -> float:
        # Divided each time: whatever is added up drifts.
        return self.origin + self.taken / self.weight

    @property
    def due(self) -> float:
        return self.origin + (self.taken + 1) / self.weight


@define
class RoundRobin(Balance):
    """Each server in turn, by weight (HAProxy's ``roundrobin``); O(log n), and O(n) while servers are full.

    A server that is full is out of the turns until it has room, and then neither ahead nor behind: it is not overrun
    with what it missed.
    """

    _servers: Sequence[Server] = field(default=(), init=False)
    _waiting: list[tuple[float, int, _Turns]] = field(factory=list, init=False)  # by the begin of the turn
    _ready: list[tuple[float, int, _Turns]] = field(
        factory=list, init=False
    )  # by when it is due; it has begun
    _full: list[_Turns] = field(factory=list, init=False)
    _weight: float = field(default=0.0, init=False)  # of those that are waiting and ready
    _progress: float = field(
        default=0.0, init=False
    )  # sum of their weight times begin: one more with each choice

    def set_servers(self, servers: Sequence[Server]) -> None:
        """See Balance. Who is ahead or behind stays so, by at most one session; new ones are neither."""
        now = self._now
        ahead = {
            turns.server: min(max((turns.begin - now) * turns.weight, -1.0), 1.0)
            for _, _, turns in self._waiting + self._ready
        }
        self._servers = tuple(servers)
        self._waiting, self._ready, self._full = [], [], []
        self._weight = self._progress = 0.0
        for order, server in enumerate(self._servers):
            weight = server.effective_weight
            self._join(_Turns(server, weight, ahead.get(server, 0.0) / weight, order))
        heapify(self._waiting)

    @property
    def _now(self) -> float:
        return self._progress / self._weight if self._waiting or self._ready else 0.0

    def _next(self, key: bytes | None, avoiding: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        if self._progress > _REBASE_CHOICES:
            self.set_servers(self._servers)
        if self._full:
            self._readmit()
        chosen: _Turns | None = None
        avoided = []
        while chosen is None and (self._waiting or self._ready):
            self._begin_turns()
            due, order, turns = heappop(self._ready)
            if turns.server.is_full:
                self._full.append(turns)
                self._weight -= turns.weight
                self._progress -= turns.weight * turns.begin
            elif turns.server in avoiding:
                avoided.append((due, order, turns))
            else:
                chosen = turns
        for item in avoided:
            heappush(self._ready, item)
        if chosen is None:
            return None
        chosen.taken += 1
        self._progress += 1.0
        heappush(self._waiting, (chosen.begin, chosen.order, chosen))
        return chosen.server

    def _begin_turns(self) -> None:
        """Make ready whose turn begins before this choice is over, and at least one."""
        waiting, ready = self._waiting, self._ready
        over = (self._progress + 1.0) / self._weight
        while waiting and (waiting[0][0] < over or not ready):
            _, order, turns = heappop(waiting)
            heappush(ready, (turns.due, order, turns))

    def _readmit(self) -> None:
        """Give those that have room again their turns, from now on."""
        room = [turns for turns in self._full if not turns.server.is_full]
        if room:
            self._full = [turns for turns in self._full if turns.server.is_full]
            now = self._now
            if not self._waiting and not self._ready:
                self._weight = self._progress = 0.0  # what is left of subtracted floats
            for turns in room:
                turns.origin, turns.taken = now, 0
                self._join(turns)
            heapify(self._waiting)

    def _join(self, turns: _Turns) -> None:
        """Count it among the waiting, who have to be put in order then."""
        self._waiting.append((turns.begin, turns.order, turns))
        self._weight += turns.weight
        self._progress += turns.weight * turns.begin
