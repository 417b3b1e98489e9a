"""A pool: the servers of a backend as one. Who takes a session, who waits for a place, and what a change of a server moves.

Everything is done when a call returns. A place is given to one session at a time: who asks gets it (``enter``), or who has
waited for it longest (``join``) when another one gives it back (``leave``), or when a server comes up, warms up or goes.
As long as anybody waits that any server would do for, no server in service has a place left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

from attrs import define, field, frozen

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.eligibility import in_service, ramp
from mailproxy.pool.health import Health
from mailproxy.pool.queue import Queue
from mailproxy.pool.server import Server, Standing, State
from mailproxy.pool.stick_table import StickTable

S = TypeVar("S", bound=Server)


@define(eq=False)
class Waiter(Generic[S]):
    """Who waits for a place. ``wake`` is called once, when ``server`` has one for it, whose count has it already.

    ``wanted``: the one server that will do, None for any. The two positions are HAProxy's ``srv_queue`` and
    ``backend_queue``, 0 where it did not wait there; ``came`` numbers those who came to wait.
    """

    wake: Callable[[], None]
    wanted: S | None = None
    server_queue: int = field(default=0, init=False)
    backend_queue: int = field(default=0, init=False)
    came: int = field(default=0, init=False)
    server: S | None = field(default=None, init=False)


@frozen(kw_only=True)
class Change(Generic[S]):
    """What became of a server. ``requeued``: waiters who lost it, or who got it; ``active`` and ``backup``: how many servers
    can be used now; ``emptied``: there was one before.
    """

    server: S
    before: Standing
    after: Standing
    requeued: int
    active: int
    backup: int
    emptied: bool

    @property
    def left_service(self) -> bool:
        """Did it go down, or for maintenance?"""
        return _serves(self.before) and not _serves(self.after)


def _serves(standing: Standing) -> bool:
    return standing.is_up and standing.state is not State.MAINT


class Pool(Generic[S]):
    """``max_queue``: how many may wait, 0 for any number. Moments are seconds, of any clock that does not go back."""

    def __init__(
        self, servers: Sequence[S], balance: Balance, *, max_queue: int = 0, stick: StickTable | None = None
    ) -> None:
        self.servers = tuple(servers)
        self.max_queue = max_queue
        self.stick = stick
        self._balance = balance
        self._in_service: Sequence[S] = ()
        self._line: Queue[Waiter[S]] = Queue()
        self._lines: dict[S, Queue[Waiter[S]]] = {server: Queue() for server in self.servers}
        self._number = {server: number for number, server in enumerate(self.servers)}
        self._came = 0
        self._waiting = 0
        self.renew()

    # Places

    @property
    def can_serve(self) -> bool:
        """Is there a server for those that any will do for, be it full?"""
        return bool(self._in_service)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    def enter(
        self, key: bytes | None = None, *, wanted: S | None = None, avoiding: Collection[S] = ()
    ) -> S | None:
        """A place for a session; None if there is none now. Whoever has it gives it back with ``leave``.

        ``key``: as in Balance; ``wanted``: the only server that will do; ``avoiding``: those that will do if nobody else
        has a place.
        """
        if wanted is None:
            server: S | None = self._balance.choose(key, avoiding)  # type: ignore[assignment]  # it has no others
        else:
            server = wanted if wanted.takes_back and not wanted.is_full else None
        if server is not None:
            server.enter()
        return server

    def leave(self, server: S) -> None:
        """Give a place back; who waits longest for it has it then."""
        server.leave()
        if self._waiting:
            self._admit(server)

    def join(self, waiter: Waiter[S]) -> bool:
        """Wait for a place, at the end of the line; False if too many wait already.

        For those to whom ``enter`` gave none: there is a server for them then, now or when another one leaves.
        """
        if 0 < self.max_queue <= self.waiting:
            return False
        waiter.came = self._next_number()
        self._line_of(waiter).join(waiter)
        self._waiting += 1
        self._line_changed(waiter.wanted)
        return True

    def quit(self, waiter: Waiter[S]) -> None:
        """Wait no longer; a place that it was given in this very moment goes on to the next, unless ``server`` was taken off
        the waiter.
        """
        line = self._line_of(waiter)
        if waiter in line:
            self._note_position(waiter)
            line.leave(waiter)
            self._waiting -= 1
            self._line_changed(waiter.wanted)
        elif waiter.server is not None:
            server, waiter.server = waiter.server, None
            self.leave(server)

    def _line_of(self, waiter: Waiter[S]) -> Queue[Waiter[S]]:
        return self._line if waiter.wanted is None else self._lines[waiter.wanted]

    def _note_position(self, waiter: Waiter[S]) -> None:
        position = self._line_of(waiter).position(waiter)
        if waiter.wanted is None:
            waiter.backend_queue = position
        else:
            waiter.server_queue = position

    def _admit(self, server: S) -> None:
        """Give its places to those who wait for them longest."""
        while not server.is_full and (line := self._line_for(server)) is not None:
            self._give(server, line)

    def _give(self, server: S, line: Queue[Waiter[S]]) -> None:
        """Give a place to the first in this line."""
        self._note_position(next(iter(line)))
        waiter = line.pop()
        assert waiter is not None  # noqa: S101 - there is one
        self._waiting -= 1
        server.enter()
        waiter.server = server
        self._line_changed(None if line is self._line else server)
        waiter.wake()

    def _line_for(self, server: S) -> Queue[Waiter[S]] | None:
        """Whose turn is it at this server: those who wait for it alone, or those for whom any will do?"""
        own = next(iter(self._lines[server]), None) if server.takes_back else None
        any_ = next(iter(self._line), None) if server in self._in_service else None
        if any_ is not None and (own is None or any_.came < own.came):
            return self._line if self._is_due(any_, server) else None
        return self._lines[server] if own is not None and self._is_due(own, server) else None

    # For those who have a pool together with others

    def _next_number(self) -> int:
        """The number of who comes to wait."""
        self._came += 1
        return self._came

    def _is_due(self, waiter: Waiter[S], server: S) -> bool:  # noqa: ARG002 - see SharedPool
        """Is a place there this waiter's, who is the first here?"""
        return True

    def _due_elsewhere(self, waiter: Waiter[S]) -> Collection[S]:  # noqa: ARG002 - see SharedPool
        """Servers that others wait for longer than this waiter."""
        return ()

    def _line_changed(self, server: S | None) -> None:
        """There are others now in the line of this server, or in that for any."""

    # Where clients stick

    def stuck(self, key: int, now: float) -> S | None:
        """The server that this client had, if it may have it again."""
        number = self.stick.find(key, now) if self.stick is not None else None
        if number is None or not self.servers[number].takes_back:
            return None
        return self.servers[number]

    def learn(self, key: int, server: S, now: float) -> None:
        """The client has that server now."""
        if self.stick is not None:
            self.stick.learn(key, self._number[server], now)

    # States

    def judge(self, server: S, now: float, *, passed: bool) -> Change[S] | None:
        """Take the result of a check; what it changed, None if the server is as up or down as before."""
        health, counts = server.health, server.counts
        if health is None or server.state is State.MAINT:  # of which nothing is known
            return None
        before = server.standing
        if not passed and health.is_up:
            counts.check_failures += 1
        changed = health.passed() if passed else health.failed()
        return self._change(server, before, now) if changed else None

    def set_state(self, server: S, state: State, now: float) -> Change[S] | None:
        """What the operator wants of it; None if that is so already."""
        if server.state is state:
            return None
        before = server.standing
        health = server.health
        if health is not None and before.state is State.MAINT:
            # Nothing is known of it any more: it counts as up until its first check fails, as at the start.
            server.health = Health(rise=health.rise, fall=health.fall)
        server.state = state
        return self._change(server, before, now)

    def set_weight(self, server: S, weight: int) -> None:
        """Give a server another weight; waiting sessions go where that opens a slot."""
        server.weight = weight
        self.came()

    def adopt(
        self, server: S, state: State, health: int | None, now: float, *, up_for: float | None = None
    ) -> Change[S] | None:
        """Know of a server what another process has found; what that changed, as in ``judge``.

        ``health``: its counter; ``up_for``: seconds that it has been warming up, None where it has all that is due to it.
        """
        before = server.standing
        server.state = state
        if server.health is not None and health is not None:
            server.health.restore(health)
        change = self._change(server, before, now) if server.standing != before else None
        if server.slow_start:
            throttle, server.up_since = server.throttle, None if up_for is None else now - up_for
            server.throttle = ramp(server, now)
            if server.throttle != throttle:
                self.renew()
                self._admit_all()
        return change

    def _change(self, server: S, before: Standing, now: float) -> Change[S]:
        """The one place where a server that has changed is seen to."""
        after, counts = server.standing, server.counts
        if not _serves(before) and server.changed is not None:
            counts.down_seconds += now - server.changed
        server.changed = now
        counts.downs += _serves(before) and not _serves(after)
        if _serves(after) and not _serves(before):
            server.up_since = now if server.slow_start else None
            server.throttle = ramp(server, now)
        could_serve = self.can_serve
        self.renew()
        lost = self._let_go(server) if not server.takes_back else []
        requeued = len(lost) + self._admit_all(server)
        for waiter in lost:
            if waiter.server is not None:
                waiter.backend_queue = 0  # it went from one line to a place, and did not wait in the other
        active, backup = self.usable
        return Change(
            server=server,
            before=before,
            after=after,
            requeued=requeued,
            active=active,
            backup=backup,
            emptied=could_serve and not self.can_serve,
        )

    @property
    def usable(self) -> tuple[int, int]:
        """How many servers can be used: active ones, backups."""
        usable = [server.is_backup for server in self.servers if server.is_usable]
        return len(usable) - sum(usable), sum(usable)

    def renew(self) -> None:
        """Look anew at who is in service; to be called when addresses have come."""
        self._in_service = in_service(self.servers)
        self._balance.renew(self._in_service)

    def came(self) -> None:
        """Addresses have come or gone: who is in service, and who has a place now?"""
        self.renew()
        for server in self.servers:
            if not server.takes_back:
                self._let_go(server)
        self._admit_all()

    def _admit_all(self, changed: S | None = None) -> int:
        """Give away the places that a change has opened; how many of them at the one that changed."""
        if not self._waiting:
            return 0
        before = changed.sessions if changed is not None else 0
        while (turn := self._next_turn()) is not None:
            self._give(*turn)
        return changed.sessions - before if changed is not None else 0

    def _next_turn(self) -> tuple[S, Queue[Waiter[S]]] | None:
        """Whose turn is it at any server, by when they came? Of those that will do, the balance chooses one."""
        lines = [
            (server, line)
            for server, line in self._lines.items()
            if len(line)
            and server.takes_back
            and not server.is_full
            and self._is_due(next(iter(line)), server)
        ]
        first = min(lines, key=lambda each: next(iter(each[1])).came, default=None)
        head = next(iter(self._line), None)
        if head is not None and (first is None or head.came < next(iter(first[1])).came):
            server: S | None = self._balance.choose(None, self._due_elsewhere(head))  # type: ignore[assignment]  # it has no others
            if server is not None and self._is_due(head, server):
                return server, self._line
        return first

    def _let_go(self, server: S) -> list[Waiter[S]]:
        """Those who wait for this server alone have any other now, and their place in the line by when they came."""
        lost = list(self._lines[server])
        if not lost:
            return []
        for waiter in lost:
            self._note_position(waiter)
            waiter.wanted = None
        self._lines[server] = Queue()
        self._line.insert(lost, key=lambda waiter: waiter.came)
        self._line_changed(server)
        self._line_changed(None)
        return lost

    # Warming up

    def warm_up(self, now: float) -> bool:
        """Let those that came up have what is due to them by now; True if any has not all of it yet."""
        warming = [server for server in self.servers if server.throttle < 1.0]
        for server in warming:
            server.throttle = ramp(server, now)
        if warming:
            self.renew()
            self._admit_all()
        return any(server.throttle < 1.0 for server in warming)

    # Reload

    def take_over(self, old: Pool[S]) -> None:
        """Know what another pool knew of the servers that both have, by their names: states, counts, who sticks to whom.

        Sessions and those who wait stay with the old one. What clients had at servers that are gone is forgotten.
        """
        known = {server.name: server for server in old.servers}
        numbers: dict[int, int] = {}
        for number, server in enumerate(self.servers):
            before = known.get(server.name)
            if before is None:
                continue
            numbers[old._number[before]] = number
            server.state, server.changed, server.counts = before.state, before.changed, before.counts
            if server.slow_start and before.up_since is not None:
                server.up_since, server.throttle = before.up_since, before.throttle
            if server.health is not None and before.health is not None:
                server.health.take_over(before.health)
        if self.stick is not None and old.stick is not None:
            self.stick.restore(
                (key, numbers[number], until)
                for key, number, until in old.stick.entries()
                if number in numbers
            )
        self.renew()
