"""The pool: the servers of a backend, their slots, and the queues of sessions that wait for a slot.

``acquire`` takes a free slot now. ``enqueue`` waits for one. A slot that becomes free goes to the waiter that
has waited longest and may have it. It becomes free when a session releases it, when a server comes up, or
when slow start gives a server more slots. Every method is synchronous and has done everything when it
returns.

Invariants, which hold whenever no method of the pool is running (``tests/support/pool_invariants.py`` checks them):

1. A waiter without a server is in exactly one queue. It is the queue of its required server, or the queue for
   any server if none is required. A waiter that has got a server is in none.
2. ``_waiting`` is the number of waiters in all queues.
3. Each queue is in the order of its waiters' tickets.
4. The queue of a server that accepts no persistent sessions is empty: its waiters have moved to the queue for
   any server.
5. No slot is free for a waiter whose turn it is. While a waiter takes any server, all eligible servers are
   full. While a waiter requires a server, that server is full. With other processes, a slot also stays free
   that an earlier waiter of another process may have.
6. The balance chooses among ``eligible_servers(servers, all_backups=all_backups)``.

A session counts at its server from the moment the slot is assigned, before the waiter is woken. So the slot
cannot be assigned twice, and a waiter that gives up in that moment has to release it (``cancel`` does).

The states of a session here, as HAProxy's src/queue.c lists those of a pending connection:

- ``acquire`` gives a server: the session holds a slot until ``release``.
- ``acquire`` gives None, ``enqueue`` True: it waits until ``wake`` is called. ``cancel`` gives up.
- ``enqueue`` gives False: ``max_queue`` sessions wait already.
- Its required server goes down: it moves to the queue for any server, at the position of its ticket.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Generic

from mailproxy.pool.balance.base import Balance
from mailproxy.pool.eligibility import eligible_servers, slow_start_factor, usable_counts
from mailproxy.pool.queue import Queue, S, Waiter
from mailproxy.pool.server import AdminState, ServerState
from mailproxy.pool.state_change import StateChange
from mailproxy.pool.stick_table import StickTable
from mailproxy.pool.turn_order import NEWCOMER, TurnOrder


class Pool(Generic[S]):
    """The servers of one backend. See the head of the module for its invariants.

    Moments (``now``) are seconds of any clock that does not go back.

    Attributes:
        servers: All servers, in the order of the configuration.
        max_queue: How many sessions may wait, 0 for any number.
        all_backups: Whether all backups serve while no active server is usable, and not the first alone.
        stick: The stick table, None if clients do not stick.
    """

    def __init__(
        self,
        servers: Sequence[S],
        balance: Balance,
        *,
        max_queue: int = 0,
        all_backups: bool = False,
        stick: StickTable | None = None,
        order: TurnOrder | None = None,
    ) -> None:
        self.servers = tuple(servers)
        self.max_queue, self.all_backups = max_queue, all_backups
        self.stick = stick
        self._balance = balance
        self._order = order or TurnOrder()
        self._eligible: Sequence[S] = ()
        self._queue: Queue[Waiter[S]] = Queue()
        self._server_queues: dict[S, Queue[Waiter[S]]] = {server: Queue() for server in self.servers}
        self._waiting = 0
        self.rebuild()

    # Slots and queues

    @property
    def has_usable_server(self) -> bool:
        """Whether a session that takes any server has one, even a full one."""
        return bool(self._eligible)

    @property
    def eligible(self) -> Sequence[S]:
        """The servers that may get new sessions now, full ones too."""
        return self._eligible

    @property
    def waiting(self) -> int:
        """The number of sessions that wait, in all processes."""
        return self._order.waiting

    @property
    def has_waiters(self) -> bool:
        """Whether a session of this process waits."""
        return self._waiting > 0

    def waiting_for(self, server: S) -> int:
        """Return how many sessions of all processes wait for this server alone."""
        return self._order.waiting_for(server, len(self._server_queues[server]))

    def acquire(
        self, key: bytes | None = None, *, required: S | None = None, excluded: Collection[S] = ()
    ) -> S | None:
        """Take a slot for a session, which gives it back with ``release``.

        Args:
            key: The client's key for the balance, see ``Balance.choose``.
            required: The only server that will do.
            excluded: Servers that are chosen only if no other one has a free slot.

        Returns:
            The server, or None if no slot is free for this session now.
        """
        # With other processes a free slot may be reserved for a waiter. Alone, a free slot has no waiter
        # (invariant 5).
        is_contended = self._order.is_shared and self._order.waiting
        server: S | None
        if required is not None:
            server = required if required.accepts_persistent and not required.is_full else None
            if server is not None and is_contended and not self._is_first(NEWCOMER, server):
                return None
        elif is_contended:
            server = self._choose_unreserved(NEWCOMER, key, excluded)
        else:
            server = self._balance.choose(key, excluded)  # type: ignore[assignment]  # set_servers gave it S only
        if server is not None:
            server.add_session()
        return server

    def candidates(self, key: bytes | None = None, *, required: S | None = None) -> Sequence[S]:
        """Return the servers of which ``acquire`` would give one now, if any. It takes no slot and no turn."""
        is_contended = self._order.is_shared and self._order.waiting
        if required is not None:
            is_free = required.accepts_persistent and not required.is_full
            return [required] if is_free and (not is_contended or self._is_first(NEWCOMER, required)) else []
        servers: Sequence[S] = self._balance.candidates(key)  # type: ignore[assignment]  # set_servers gave it S only
        if not is_contended or self._order.is_behind(NEWCOMER, None):
            return [] if is_contended else servers
        return [server for server in servers if not self._order.is_behind(NEWCOMER, server)]

    def release(self, server: S) -> None:
        """Give a slot back. It goes to the next waiter, if there is one."""
        server.remove_session()
        if self._order.waiting:
            self._serve_queue(server)
            if not server.is_full:
                self._order.wake_next(server)

    def enqueue(self, waiter: Waiter[S]) -> bool:
        """Let a session wait for a slot after ``acquire`` has given None.

        Returns:
            False if ``max_queue`` sessions wait already.
        """
        if 0 < self.max_queue <= self.waiting:
            return False
        waiter.ticket = self._order.next_ticket()
        self._queue_of(waiter).join(waiter)
        self._waiting += 1
        self._queue_changed(waiter.required)
        return True

    def cancel(self, waiter: Waiter[S]) -> None:
        """Stop waiting.

        If the waiter has just got a slot, the slot goes to the next one. A session that keeps its slot sets
        ``waiter.server`` to None first.
        """
        queue = self._queue_of(waiter)
        if waiter in queue:
            self._store_position(waiter)
            queue.remove(waiter)
            self._waiting -= 1
            self._queue_changed(waiter.required)
        elif waiter.server is not None:
            server, waiter.server = waiter.server, None
            self.release(server)

    def serve_queues(self, changed: S | None = None) -> int:
        """Assign free slots to the waiters of this process whose turn it is.

        With a shared order, also call it when another process wakes this one, and regularly while sessions wait.

        Returns:
            How many of the slots are the server's that has changed.
        """
        if not self._waiting:
            return 0
        waiting_before = self._waiting
        sessions_before = changed.sessions if changed is not None else 0
        while (turn := self._next_turn()) is not None:
            self._assign(*turn)
        if self._waiting < waiting_before:
            self._order.wake_next(None)  # there may be free slots for those that come next in other processes
        return changed.sessions - sessions_before if changed is not None else 0

    def _queue_of(self, waiter: Waiter[S]) -> Queue[Waiter[S]]:
        return (
            self._server_queues.get(waiter.required, self._queue)
            if waiter.required is not None
            else self._queue
        )

    def _queue_changed(self, server: S | None) -> None:
        queue = self._queue if server is None else self._server_queues[server]
        self._order.queue_changed(server, queue, self._waiting)

    def _store_position(self, waiter: Waiter[S]) -> None:
        position = self._queue_of(waiter).position(waiter)
        if waiter.required is None:
            waiter.backend_queue = position
        else:
            waiter.server_queue = position

    def _serve_queue(self, server: S) -> None:
        """Assign the free slots of one server."""
        while not server.is_full and (queue := self._next_queue_for(server)) is not None:
            self._assign(server, queue)

    def _assign(self, server: S, queue: Queue[Waiter[S]]) -> None:
        """Give a slot of the server to the first waiter in this queue."""
        waiter = queue.first
        assert waiter is not None  # noqa: S101 - the caller has looked
        self._store_position(waiter)
        queue.pop()
        self._waiting -= 1
        server.add_session()
        waiter.server = server
        self._queue_changed(None if queue is self._queue else server)
        waiter.wake()

    def _next_queue_for(self, server: S) -> Queue[Waiter[S]] | None:
        """Return the queue whose first waiter is next at this server: its own, or the one for any server."""
        if server not in self._server_queues:  # it is gone since a reload
            return None
        requires_it = self._server_queues[server].first if server.accepts_persistent else None
        takes_any = self._queue.first if server in self._eligible else None
        if takes_any is not None and (requires_it is None or takes_any.ticket < requires_it.ticket):
            return self._queue if self._is_first(takes_any.ticket, server) else None
        if requires_it is not None and self._is_first(requires_it.ticket, server):
            return self._server_queues[server]
        return None

    def _is_first(self, ticket: int, server: S) -> bool:
        """Whether no process has a waiter with an earlier ticket that may have a slot of this server."""
        order = self._order
        if not order.is_shared:
            return True
        return not order.is_behind(ticket, server) and not (
            server in self._eligible and order.is_behind(ticket, None)
        )

    def _choose_unreserved(self, ticket: int, key: bytes | None, excluded: Collection[S]) -> S | None:
        """Let the balance choose a server whose free slots no earlier waiter than ``ticket`` may have."""
        order = self._order
        if order.is_behind(ticket, None):
            return None
        reserved = {server for server in self._eligible if order.is_behind(ticket, server)}
        avoided = {*excluded, *reserved} if reserved else excluded
        server: S | None = self._balance.choose(key, avoided)  # type: ignore[assignment]  # set_servers gave it S only
        return None if server in reserved else server

    def _next_turn(self) -> tuple[S, Queue[Waiter[S]]] | None:
        """Return a server with a free slot, and the queue whose first waiter is next there.

        For a waiter that takes any server the balance chooses one.
        """
        turns = [
            (first.ticket, server)
            for server, queue in self._server_queues.items()
            if (first := queue.first) is not None
            and server.accepts_persistent
            and not server.is_full
            and self._is_first(first.ticket, server)
        ]
        ticket, required = min(turns, key=lambda turn: turn[0], default=(NEWCOMER, None))
        waiter = self._queue.first
        if waiter is not None and waiter.ticket < ticket:
            server = self._choose_unreserved(waiter.ticket, None, ())
            if server is not None:
                return server, self._queue
        return (required, self._server_queues[required]) if required is not None else None

    def _requeue(self, server: S) -> list[Waiter[S]]:
        """Move the waiters that require this server to the queue for any server, sorted by ticket."""
        moved = list(self._server_queues.get(server, ()))
        if not moved:
            return []
        for waiter in moved:
            self._store_position(waiter)
            waiter.required = None
        self._server_queues[server] = Queue()
        self._queue.merge(moved, key=lambda waiter: waiter.ticket)
        self._queue_changed(server)
        self._queue_changed(None)
        return moved

    # The stick table

    def sticky_server(self, key: int, now: float, *, renews: bool = True) -> S | None:
        """Return the server that this client had if it accepts its sessions, and renew the entry if ``renews``."""
        stick = self.stick
        index = None if stick is None else stick.lookup(key, now) if renews else stick.peek(key, now)
        if index is None or self.servers[index].is_vacated or not self.servers[index].accepts_persistent:
            return None
        return self.servers[index]

    def store(self, key: int, server: S, now: float) -> None:
        """Store that the client has this server now, unless the server is gone since a reload."""
        if self.stick is not None and server in self._indexes:
            self.stick.store(key, self._indexes[server], now)

    # States

    def record_check(self, server: S, now: float, *, passed: bool) -> StateChange[S] | None:
        """Count the result of a health check. Return the change if the server went up or down."""
        health, counts = server.health, server.counts
        if health is None or server.state is AdminState.MAINT:  # in maintenance no result counts
            return None
        before = server.operational_state
        if not passed and health.is_up:
            counts.check_failures += 1
        changed = health.record_pass() if passed else health.record_fail()
        if server.is_stopping and passed is health.is_up:  # as in HAProxy, the operator's word ends here
            server.is_stopping, changed = False, True
        return self._change(server, before, now) if changed else None

    def set_state(self, server: S, state: AdminState, now: float) -> StateChange[S] | None:
        """Set the administrative state. Return None if the server has it already."""
        server.is_vacated = False
        if server.state is state:
            return None
        before = server.operational_state
        if before.state is AdminState.MAINT:
            server.reset_health()
        server.state = state
        return self._change(server, before, now)

    def set_health(
        self, server: S, now: float, *, is_up: bool, is_stopping: bool = False
    ) -> StateChange[S] | None:
        """Let a server count as up or down until its checks, or the operator, say otherwise.

        With ``is_stopping`` it counts as up, and only clients that stick to it go there. Return None if the server counted so already.
        """
        before = server.operational_state
        server.force_health(is_up=is_up)
        server.is_stopping = is_stopping
        return self._change(server, before, now) if server.operational_state != before else None

    def set_max_sessions(self, server: S, sessions: int) -> None:
        """Set the number of slots, 0 for no limit. New slots go to waiters."""
        server.max_sessions = sessions
        self._update_servers()

    def set_vacated(self, server: S, is_vacated: bool) -> None:
        """Set whether clients that stick to the server get another one. If so, waiters that require it do, too."""
        server.is_vacated = is_vacated
        if is_vacated and self._requeue(server):
            self.serve_queues()

    def set_weight(self, server: S, weight: int) -> None:
        """Set the weight. If that makes the server eligible, waiters get its slots."""
        server.weight = weight
        self._update_servers()

    def addresses_changed(self) -> None:
        """Take note that addresses of servers have come or gone."""
        self._update_servers()

    def apply_snapshot(
        self,
        server: S,
        state: AdminState,
        health: int | None,
        now: float,
        *,
        up_for: float | None = None,
        is_stopping: bool = False,
    ) -> StateChange[S] | None:
        """Take over what another process knows of a server. Return the change if its state is another one.

        Args:
            server: The server.
            state: Its administrative state.
            health: The counter of its health, None if it is not checked.
            now: The moment.
            up_for: Seconds since its slow start began, None if it is not in slow start.
            is_stopping: Whether only clients that stick to it go there.
        """
        before = server.operational_state
        server.state = state
        server.is_stopping = is_stopping
        server.restore_health(health)
        change = self._change(server, before, now) if server.operational_state != before else None
        if server.slow_start:
            throttle, server.up_since = server.throttle, None if up_for is None else now - up_for
            server.throttle = slow_start_factor(server, now)
            if server.throttle != throttle:
                self.rebuild()
                self.serve_queues()
        return change

    def _change(self, server: S, before: ServerState, now: float) -> StateChange[S]:
        """Do everything that follows from a server's new state. No other method does."""
        after, counts = server.operational_state, server.counts
        if not before.is_serving and server.changed_at is not None:
            counts.down_seconds += now - server.changed_at
        server.changed_at = now
        counts.downs += before.is_serving and not after.is_serving
        if after.is_serving and not before.is_serving:
            server.up_since = now if server.slow_start else None
            server.throttle = slow_start_factor(server, now)
        had_usable_server = self.has_usable_server
        self.rebuild()
        moved = self._requeue(server) if not server.accepts_persistent else []
        requeued = len(moved) + self.serve_queues(server)
        for waiter in moved:
            if waiter.server is not None:
                waiter.backend_queue = 0  # it got a slot at once and did not wait in the queue for any server
        active, backup = usable_counts(self.servers)
        return StateChange(
            server=server,
            before=before,
            after=after,
            requeued=requeued,
            active=active,
            backup=backup,
            backend_went_down=had_usable_server and not self.has_usable_server,
        )

    def rebuild(self) -> None:
        """Compute the eligible servers again and give them to the balance."""
        self._indexes = {server: index for index, server in enumerate(self.servers)}
        self._eligible = eligible_servers(self.servers, all_backups=self.all_backups)
        self._balance.set_servers(self._eligible)

    def _update_servers(self) -> None:
        self.rebuild()
        for server in self.servers:
            if not server.accepts_persistent:
                self._requeue(server)
        self.serve_queues()

    # Slow start

    def warm_up(self, now: float) -> bool:
        """Give servers in slow start the weight and slots that are due by now. Return True while there is one."""
        warming = [server for server in self.servers if server.throttle < 1.0]
        for server in warming:
            server.throttle = slow_start_factor(server, now)
        if warming:
            self.rebuild()
            self.serve_queues()
        return any(server.throttle < 1.0 for server in warming)

    def resume(self, now: float) -> None:
        """Take note of servers whose state another process has left. There are no sessions yet."""
        for server in self.servers:
            if server.up_since is not None:
                server.throttle = slow_start_factor(server, now)
        self.rebuild()

    # Reload

    def reconfigure(
        self,
        servers: Sequence[S],
        balance: Balance | None = None,
        *,
        max_queue: int,
        stick: StickTable | None,
        all_backups: bool = False,
    ) -> None:
        """Use these servers from now on. Those that were there keep sessions and queue.

        Waiters that require a server which is gone move to the queue for any server.

        Args:
            servers: All servers, in the order of the configuration.
            balance: Another method; None for the one in use.
            max_queue: How many sessions may wait.
            stick: Another table, or the one in use, where entries stay with the names of servers.
            all_backups: Whether all backups serve while no active server is usable.
        """
        if stick is not None and stick is self.stick:
            stick.renumber([server.name for server in self.servers], [server.name for server in servers])
        for server in set(self.servers).difference(servers):
            self._requeue(server)
        self.servers, self.max_queue, self.stick = tuple(servers), max_queue, stick
        self.all_backups = all_backups
        self._server_queues = {server: self._server_queues.get(server, Queue()) for server in servers}
        self._balance = balance or self._balance
        self._update_servers()
