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
from mailproxy.pool.eligibility import eligible_servers, slow_start_factor
from mailproxy.pool.health import Health
from mailproxy.pool.queue import Queue
from mailproxy.pool.server import AdminState, Server, ServerState
from mailproxy.pool.stick_table import StickTable

S = TypeVar("S", bound=Server)


@define(eq=False)
class Waiter(Generic[S]):
    """Who waits for a place. ``wake`` is called once, when ``server`` has one for it, whose count has it already.

    ``wanted``: the one server that will do, None for any. The two positions are HAProxy's ``srv_queue`` and
    ``backend_queue``, 0 where it did not wait there; ``came`` numbers those who came to wait.
    """

    wake: Callable[[], None]
    required: S | None = None
    server_queue: int = field(default=0, init=False)
    backend_queue: int = field(default=0, init=False)
    ticket: int = field(default=0, init=False)
    server: S | None = field(default=None, init=False)


@frozen(kw_only=True)
class StateChange(Generic[S]):
    """What became of a server. ``requeued``: waiters who lost it, or who got it; ``active`` and ``backup``: how many servers
    can be used now; ``emptied``: there was one before.
    """

    server: S
    before: ServerState
    after: ServerState
    requeued: int
    active: int
    backup: int
    backend_went_down: bool

    @property
    def went_down(self) -> bool:
        """Did it go down, or for maintenance?"""
        return _is_serving(self.before) and not _is_serving(self.after)


def _is_serving(standing: ServerState) -> bool:
    return standing.is_up and standing.state is not AdminState.MAINT


class Pool(Generic[S]):
    """``max_queue``: how many may wait, 0 for any number. Moments are seconds, of any clock that does not go back."""

    def __init__(
        self, servers: Sequence[S], balance: Balance, *, max_queue: int = 0, stick: StickTable | None = None
    ) -> None:
        self.servers = tuple(servers)
        self.max_queue = max_queue
        self.stick = stick
        self._balance = balance
        self._eligible: Sequence[S] = ()
        self._queue: Queue[Waiter[S]] = Queue()
        self._server_queues: dict[S, Queue[Waiter[S]]] = {server: Queue() for server in self.servers}
        self._number = {server: number for number, server in enumerate(self.servers)}
        self._last_ticket = 0
        self._waiting = 0
        self.rebuild()

    # Places

    @property
    def has_usable_server(self) -> bool:
        """Is there a server for those that any will do for, be it full?"""
        return bool(self._eligible)

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    def acquire(
        self, key: bytes | None = None, *, required: S | None = None, excluded: Collection[S] = ()
    ) -> S | None:
        """A place for a session; None if there is none now. Whoever has it gives it back with ``leave``.

        ``key``: as in Balance; ``wanted``: the only server that will do; ``avoiding``: those that will do if nobody else
        has a place.
        """
        if required is None:
            server: S | None = self._balance.choose(key, excluded)  # type: ignore[assignment]  # it has no others
        else:
            server = required if required.accepts_persistent and not required.is_full else None
        if server is not None:
            server.add_session()
        return server

    def release(self, server: S) -> None:
        """Give a place back; who waits longest for it has it then."""
        server.remove_session()
        if self._waiting:
            self._serve_queue(server)

    def enqueue(self, waiter: Waiter[S]) -> bool:
        """Wait for a place, at the end of the line; False if too many wait already.

        For those to whom ``enter`` gave none: there is a server for them then, now or when another one leaves.
        """
        if 0 < self.max_queue <= self.waiting:
            return False
        waiter.ticket = self._next_ticket()
        self._queue_of(waiter).join(waiter)
        self._waiting += 1
        self._queue_changed(waiter.required)
        return True

    def cancel(self, waiter: Waiter[S]) -> None:
        """Wait no longer; a place that it was given in this very moment goes on to the next, unless ``server`` was taken off
        the waiter.
        """
        line = self._queue_of(waiter)
        if waiter in line:
            self._note_position(waiter)
            line.remove(waiter)
            self._waiting -= 1
            self._queue_changed(waiter.required)
        elif waiter.server is not None:
            server, waiter.server = waiter.server, None
            self.release(server)

    def _queue_of(self, waiter: Waiter[S]) -> Queue[Waiter[S]]:
        return self._queue if waiter.required is None else self._server_queues[waiter.required]

    def _note_position(self, waiter: Waiter[S]) -> None:
        position = self._queue_of(waiter).position(waiter)
        if waiter.required is None:
            waiter.backend_queue = position
        else:
            waiter.server_queue = position

    def _serve_queue(self, server: S) -> None:
        """Give its places to those who wait for them longest."""
        while not server.is_full and (line := self._next_queue_for(server)) is not None:
            self._assign(server, line)

    def _assign(self, server: S, line: Queue[Waiter[S]]) -> None:
        """Give a place to the first in this line."""
        self._note_position(next(iter(line)))
        waiter = line.pop()
        assert waiter is not None  # noqa: S101 - there is one
        self._waiting -= 1
        server.add_session()
        waiter.server = server
        self._queue_changed(None if line is self._queue else server)
        waiter.wake()

    def _next_queue_for(self, server: S) -> Queue[Waiter[S]] | None:
        """Whose turn is it at this server: those who wait for it alone, or those for whom any will do?"""
        own = next(iter(self._server_queues[server]), None) if server.accepts_persistent else None
        any_ = next(iter(self._queue), None) if server in self._eligible else None
        if any_ is not None and (own is None or any_.ticket < own.ticket):
            return self._queue if self._is_first_overall(any_, server) else None
        return (
            self._server_queues[server] if own is not None and self._is_first_overall(own, server) else None
        )

    # For those who have a pool together with others

    def _next_ticket(self) -> int:
        """The number of who comes to wait."""
        self._last_ticket += 1
        return self._last_ticket

    def _is_first_overall(self, waiter: Waiter[S], server: S) -> bool:  # noqa: ARG002 - see SharedPool
        """Is a place there this waiter's, who is the first here?"""
        return True

    def _reserved_elsewhere(self, waiter: Waiter[S]) -> Collection[S]:  # noqa: ARG002 - see SharedPool
        """Servers that others wait for longer than this waiter."""
        return ()

    def _queue_changed(self, server: S | None) -> None:
        """There are others now in the line of this server, or in that for any."""

    # Where clients stick

    def sticky_server(self, key: int, now: float) -> S | None:
        """The server that this client had, if it may have it again."""
        number = self.stick.lookup(key, now) if self.stick is not None else None
        if number is None or not self.servers[number].accepts_persistent:
            return None
        return self.servers[number]

    def store(self, key: int, server: S, now: float) -> None:
        """The client has that server now."""
        if self.stick is not None:
            self.stick.store(key, self._number[server], now)

    # States

    def record_check(self, server: S, now: float, *, passed: bool) -> StateChange[S] | None:
        """Take the result of a check; what it changed, None if the server is as up or down as before."""
        health, counts = server.health, server.counts
        if health is None or server.state is AdminState.MAINT:  # of which nothing is known
            return None
        before = server.standing
        if not passed and health.is_up:
            counts.check_failures += 1
        changed = health.record_pass() if passed else health.record_fail()
        return self._change(server, before, now) if changed else None

    def set_state(self, server: S, state: AdminState, now: float) -> StateChange[S] | None:
        """What the operator wants of it; None if that is so already."""
        if server.state is state:
            return None
        before = server.standing
        health = server.health
        if health is not None and before.state is AdminState.MAINT:
            # Nothing is known of it any more: it counts as up until its first check fails, as at the start.
            server.health = Health(rise=health.rise, fall=health.fall)
        server.state = state
        return self._change(server, before, now)

    def set_weight(self, server: S, weight: int) -> None:
        """Give a server another weight; waiting sessions go where that opens a slot."""
        server.weight = weight
        self.addresses_changed()

    def apply_snapshot(
        self, server: S, state: AdminState, health: int | None, now: float, *, up_for: float | None = None
    ) -> StateChange[S] | None:
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
            server.throttle = slow_start_factor(server, now)
            if server.throttle != throttle:
                self.rebuild()
                self._serve_queues()
        return change

    def _change(self, server: S, before: ServerState, now: float) -> StateChange[S]:
        """The one place where a server that has changed is seen to."""
        after, counts = server.standing, server.counts
        if not _is_serving(before) and server.changed is not None:
            counts.down_seconds += now - server.changed
        server.changed = now
        counts.downs += _is_serving(before) and not _is_serving(after)
        if _is_serving(after) and not _is_serving(before):
            server.up_since = now if server.slow_start else None
            server.throttle = slow_start_factor(server, now)
        could_serve = self.has_usable_server
        self.rebuild()
        lost = self._requeue(server) if not server.accepts_persistent else []
        requeued = len(lost) + self._serve_queues(server)
        for waiter in lost:
            if waiter.server is not None:
                waiter.backend_queue = 0  # it went from one line to a place, and did not wait in the other
        active, backup = self.usable
        return StateChange(
            server=server,
            before=before,
            after=after,
            requeued=requeued,
            active=active,
            backup=backup,
            backend_went_down=could_serve and not self.has_usable_server,
        )

    @property
    def usable(self) -> tuple[int, int]:
        """How many servers can be used: active ones, backups."""
        usable = [server.is_backup for server in self.servers if server.is_usable]
        return len(usable) - sum(usable), sum(usable)

    def rebuild(self) -> None:
        """Look anew at who is in service; to be called when addresses have come."""
        self._eligible = eligible_servers(self.servers)
        self._balance.set_servers(self._eligible)

    def addresses_changed(self) -> None:
        """Addresses have come or gone: who is in service, and who has a place now?"""
        self.rebuild()
        for server in self.servers:
            if not server.accepts_persistent:
                self._requeue(server)
        self._serve_queues()

    def _serve_queues(self, changed: S | None = None) -> int:
        """Give away the places that a change has opened; how many of them at the one that changed."""
        if not self._waiting:
            return 0
        before = changed.sessions if changed is not None else 0
        while (turn := self._next_turn()) is not None:
            self._assign(*turn)
        return changed.sessions - before if changed is not None else 0

    def _next_turn(self) -> tuple[S, Queue[Waiter[S]]] | None:
        """Whose turn is it at any server, by when they came? Of those that will do, the balance chooses one."""
        lines = [
            (server, line)
            for server, line in self._server_queues.items()
            if len(line)
            and server.accepts_persistent
            and not server.is_full
            and self._is_first_overall(next(iter(line)), server)
        ]
        first = min(lines, key=lambda each: next(iter(each[1])).ticket, default=None)
        head = next(iter(self._queue), None)
        if head is not None and (first is None or head.ticket < next(iter(first[1])).ticket):
            server: S | None = self._balance.choose(None, self._reserved_elsewhere(head))  # type: ignore[assignment]  # it has no others
            if server is not None and self._is_first_overall(head, server):
                return server, self._queue
        return first

    def _requeue(self, server: S) -> list[Waiter[S]]:
        """Those who wait for this server alone have any other now, and their place in the line by when they came."""
        lost = list(self._server_queues[server])
        if not lost:
            return []
        for waiter in lost:
            self._note_position(waiter)
            waiter.required = None
        self._server_queues[server] = Queue()
        self._queue.merge(lost, key=lambda waiter: waiter.ticket)
        self._queue_changed(server)
        self._queue_changed(None)
        return lost

    # Warming up

    def warm_up(self, now: float) -> bool:
        """Let those that came up have what is due to them by now; True if any has not all of it yet."""
        warming = [server for server in self.servers if server.throttle < 1.0]
        for server in warming:
            server.throttle = slow_start_factor(server, now)
        if warming:
            self.rebuild()
            self._serve_queues()
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
        self.rebuild()
