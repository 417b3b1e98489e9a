"""The balance method ``roundrobin``: each server as often as its weight says, as evenly spread as possible.

A server's part of the weight gives each of its turns a time. With weight w, turn number k (from 0) begins at
k / w and is due at (k + 1) / w. Each choice advances the time by 1 / W, where W is the sum of all weights. Of
the turns that begin before the choice is over, the one that is due first is taken.

That is a Pfair schedule for one processor (Baruah and others, Proportionate Progress, 1996). After any number
of choices, no server is ahead of its share or behind it by a whole session. Taking the first due turn without
looking at its begin would give a heavy server all its turns in a row.

The time now is the mean of the begins of the servers' turns, by weight (as in the EEVDF scheduler of Linux).
It advances by itself with each choice, and stays right when servers come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from heapq import heapify, heappop, heappush

from attrs import define, field

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.server import Server

# After this many choices the times begin at 0 again. So the sums of floats stay small enough to be exact
# enough.
_REBASE_CHOICES = 2**20


@define(eq=False)
class _Turns:
    """The turns of one server since it joined.

    Attributes:
        server: The server.
        weight: Its effective weight.
        origin: When its turn 0 begins.
        order: Its index among the servers, for turns of the same time.
        taken: The number of turns that it has had.
    """

    server: Server
    weight: float
    origin: float
    order: int
    taken: int = 0

    @property
    def begin(self) -> float:
        # Divided each time, because a sum that is added up drifts.
        return self.origin + self.taken / self.weight

    @property
    def due(self) -> float:
        return self.origin + (self.taken + 1) / self.weight


@define
class RoundRobin(Balance):
    """Each server in turn, by weight (HAProxy's ``roundrobin``). O(log n), and O(n) while servers are full.

    A full server leaves the schedule. When it has a free slot again it joins neither ahead nor behind, so it
    is not flooded with the turns that it missed.
    """

    _servers: Sequence[Server] = field(default=(), init=False)
    # Heap by the begin of the next turn.
    _waiting: list[tuple[float, int, _Turns]] = field(factory=list, init=False)
    # Heap by when the turn is due, of turns that have begun.
    _ready: list[tuple[float, int, _Turns]] = field(factory=list, init=False)
    _full: list[_Turns] = field(factory=list, init=False)
    # The sum of weights over _waiting and _ready.
    _weight: float = field(default=0.0, init=False)
    # The sum of weight times begin over both. Each choice adds 1 to it.
    _progress: float = field(default=0.0, init=False)

    def set_servers(self, servers: Sequence[Server]) -> None:
        now = self._now
        # Servers keep what they are ahead or behind, by one session at most. New ones are neither.
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

    def _next(self, key: bytes | None, excluded: Collection[Server]) -> Server | None:  # noqa: ARG002 - source's
        if self._progress > _REBASE_CHOICES:
            self.set_servers(self._servers)
        if self._full:
            self._readmit()
        chosen: _Turns | None = None
        skipped = []
        while chosen is None and (self._waiting or self._ready):
            self._begin_turns()
            due, order, turns = heappop(self._ready)
            if turns.server.is_full:
                self._full.append(turns)
                self._weight -= turns.weight
                self._progress -= turns.weight * turns.begin
            elif turns.server in excluded:
                skipped.append((due, order, turns))
            else:
                chosen = turns
        for item in skipped:
            heappush(self._ready, item)
        if chosen is None:
            return None
        chosen.taken += 1
        self._progress += 1.0
        heappush(self._waiting, (chosen.begin, chosen.order, chosen))
        return chosen.server

    def candidates(self, key: bytes | None = None) -> Sequence[Server]:  # noqa: ARG002 - source's
        return [server for server in self._servers if not server.is_full]

    def _begin_turns(self) -> None:
        """Move the turns that begin before this choice is over to ``_ready``, and at least one."""
        waiting, ready = self._waiting, self._ready
        end = (self._progress + 1.0) / self._weight
        while waiting and (waiting[0][0] < end or not ready):
            _, order, turns = heappop(waiting)
            heappush(ready, (turns.due, order, turns))

    def _readmit(self) -> None:
        """Let servers that are no longer full join the schedule, from now on."""
        readmitted = [turns for turns in self._full if not turns.server.is_full]
        if readmitted:
            self._full = [turns for turns in self._full if turns.server.is_full]
            now = self._now
            if not self._waiting and not self._ready:
                self._weight = self._progress = 0.0  # clear the rounding errors of the subtractions
            for turns in readmitted:
                turns.origin, turns.taken = now, 0
                self._join(turns)
            heapify(self._waiting)

    def _join(self, turns: _Turns) -> None:
        """Add to ``_waiting``. The caller restores the order of the heap."""
        self._waiting.append((turns.begin, turns.order, turns))
        self._weight += turns.weight
        self._progress += turns.weight * turns.begin
