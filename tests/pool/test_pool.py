"""Slots and the queue for them: waiters are served once, in order, and never wait beside a free slot."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailproxy.pool import AdminState, Health, Pool, Server, StateChange, StickTable, Waiter
from tests.support.pool_invariants import assert_invariants
from tests.support.pool_servers import (
    ADDRESS,
    BALANCES,
    balances,
    make_pool,
    make_servers,
    names,
    seeded_random,
)

SLOW_START_S = 10.0
numbers = st.integers(0, 99)
some_servers = st.lists(
    st.builds(
        Server,
        st.just("s"),
        weight=st.sampled_from([1, 1, 1, 5, 0]),
        max_sessions=st.sampled_from([1, 1, 2, 4, 0]),
        is_backup=st.sampled_from([False, False, True]),
        slow_start=st.sampled_from([0.0, SLOW_START_S]),
    ),
    min_size=2,
    max_size=4,
)
Waiting = Waiter[Server]


class PoolMachine(RuleBasedStateMachine):
    """A pool and its model: lists of taken slots and of waiters, while servers change."""

    @initialize(
        servers=some_servers, kind=st.integers(0, BALANCES - 1), max_queue=st.sampled_from([0, 0, 1, 3])
    )
    def set_up(self, servers: list[Server], kind: int, max_queue: int) -> None:
        for number, server in enumerate(servers):
            server.name, server.addresses, server.health = f"s{number}", ADDRESS, Health(1, 1)
        self.now, self.max_queue = 1000.0, max_queue
        self.pool = Pool(servers, balances([])[kind], max_queue=max_queue)
        self.down: set[Server] = set()  # or in maintenance, or without an address
        self.draining: set[Server] = set()
        self.slots: list[tuple[Server, Waiting | None]] = []  # taken slots, each with the waiter that got it
        self.queue: list[Waiting] = []  # waiters for any server or for one, in the order of their arrival
        self.required: dict[Waiting, Server | None] = {}
        # How many were served from a waiter's queue since it was enqueued there.
        self.served_before: Counter[Waiting] = Counter()
        self.requeued: set[Waiting] = set()
        self.woken: list[Waiting] = []  # in this step
        self.sessions_started: Counter[Server] = Counter()

    # The model

    def eligible_servers(self) -> list[Server]:
        usable = [
            server
            for server in self.pool.servers
            if server not in self.down and server not in self.draining and server.weight
        ]
        return [server for server in usable if not server.is_backup] or usable[:1]

    def may_have(self, waiter: Waiting, server: Server) -> bool:
        required = self.required[waiter]
        return (
            server in self.eligible_servers()
            if required is None
            else server is required and server not in self.down
        )

    def slots_taken(self, server: Server) -> int:
        return sum(taken is server for taken, _ in self.slots)

    def has_free_slot(self, server: Server) -> bool:
        return not server.max_sessions or self.slots_taken(server) < server.effective_max_sessions

    def will_be_woken(self, freed: Server) -> int:
        """Return 1 if a waiter may have the slot that has just been freed, otherwise 0."""
        return int(self.has_free_slot(freed) and any(self.may_have(waiter, freed) for waiter in self.queue))

    # Calls from the pool

    def wake(self, waiter: Waiting) -> None:
        server = waiter.server
        assert server is not None
        assert self.may_have(waiter, server)
        assert self.has_free_slot(server)
        assert not any(self.may_have(other, server) for other in self.queue[: self.queue.index(waiter)])
        self.queue.remove(waiter)
        self.woken.append(waiter)
        self.slots.append((server, waiter))
        self.sessions_started[server] += 1
        self.has_position(waiter)
        for other in self.queue:
            self.served_before[other] += self.required[other] is self.required[waiter]

    def has_position(self, waiter: Waiting) -> None:
        position = self.served_before[waiter] + 1
        if self.required[waiter] is not None:
            assert (waiter.server_queue, waiter.backend_queue) == (position, 0)
        else:
            assert waiter.backend_queue == position
            assert waiter.server_queue == 0 or waiter in self.requeued

    # Sessions

    def acquire(self, key: bytes | None, required: Server | None, excluded: list[Server]) -> bool:
        candidates = (
            self.eligible_servers() if required is None else [required] if required not in self.down else []
        )
        free = [server for server in candidates if self.has_free_slot(server)]
        preferred = [server for server in free if server not in excluded] or free
        server = self.pool.acquire(key, required=required, excluded=excluded)
        assert server in preferred if preferred else server is None
        if server is not None:
            self.slots.append((server, None))
            self.sessions_started[server] += 1
        return server is not None

    @rule(key=st.sampled_from([None, b"one", b"two"]), excluded=st.sets(numbers))
    def new_session(self, key: bytes | None, excluded: set[int]) -> None:
        excluded_servers = [server for number, server in enumerate(self.pool.servers) if number in excluded]
        if not self.acquire(key, None, excluded_servers):
            self.enqueue(None)

    @rule(number=numbers)
    def sticky_session(self, number: int) -> None:
        required = self.pool.servers[number % len(self.pool.servers)]
        if not self.acquire(None, required, []) and required not in self.down:
            self.enqueue(required)

    def enqueue(self, required: Server | None) -> None:
        waiter: Waiting = Waiter(lambda: self.wake(waiter), required)
        has_joined = self.pool.enqueue(waiter)
        assert has_joined == (not self.max_queue or len(self.queue) < self.max_queue)
        if has_joined:
            self.queue.append(waiter)
            self.required[waiter] = required

    @precondition(lambda self: self.slots)
    @rule(number=numbers, gives_up=st.booleans())
    def slot_is_released(self, number: int, gives_up: bool) -> None:
        """Release the slot of a session that ends, or that gives up at the moment in which it is woken."""
        server, waiter = self.slots.pop(number % len(self.slots))
        expected = self.will_be_woken(server)
        if waiter is not None and gives_up:
            self.give_up(waiter)
        else:
            self.pool.release(server)
        assert len(self.woken) == expected

    @precondition(lambda self: self.queue)
    @rule(number=numbers)
    def waiter_gives_up(self, number: int) -> None:
        waiter = self.queue.pop(number % len(self.queue))
        self.give_up(waiter)
        self.has_position(waiter)
        assert not self.woken

    def give_up(self, waiter: Waiting) -> None:
        """Cancel twice. The second call has no effect."""
        self.pool.cancel(waiter)
        assert waiter.server is None
        self.pool.cancel(waiter)

    @rule(seed=numbers)
    def many_random_steps(self, seed: int) -> None:
        """Take twenty random steps. Hypothesis alone prefers small or equal numbers and short queues."""
        random = seeded_random(seed)
        for _ in range(20):
            number, step = int(100 * random.random()), random.random()
            if step < 0.25:
                self.new_session(None, set())
            elif step < 0.5:
                self.sticky_session(number)
            elif step < 0.8 and self.slots:
                self.slot_is_released(number, gives_up=number % 3 == 0)
            elif step < 0.85 and self.queue:
                self.waiter_gives_up(number)
            elif step < 0.95:
                self.server_is_checked(number, passed=step < 0.91)
            else:
                self.operator_sets_state(number, list(AdminState)[number % 3])
            self.waiters_and_sessions_match_model()
            self.no_waiter_beside_a_free_slot()

    # Servers

    @rule(
        number=numbers,
        state=st.sampled_from([AdminState.READY, AdminState.READY, AdminState.DRAIN, AdminState.MAINT]),
    )
    def operator_sets_state(self, number: int, state: AdminState) -> None:
        server = self.pool.servers[number % len(self.pool.servers)]
        if server.state is not state:
            is_down = state is AdminState.MAINT or (server.state is not AdminState.MAINT and not server.is_up)
            (self.draining.add if state is AdminState.DRAIN else self.draining.discard)(server)
            requeued_count = self.set_down(server, is_down=is_down or not server.addresses)
            self.check_change(self.pool.set_state(server, state, self.now), requeued_count)

    @rule(number=numbers, passed=st.sampled_from([True, True, False]))
    def server_is_checked(self, number: int, passed: bool) -> None:
        server = self.pool.servers[number % len(self.pool.servers)]
        if server.state is not AdminState.MAINT and server.is_up != passed:
            requeued_count = self.set_down(server, is_down=not passed or not server.addresses)
            self.check_change(self.pool.record_check(server, self.now, passed=passed), requeued_count)

    @rule(number=numbers)
    def addresses_change(self, number: int) -> None:
        server = self.pool.servers[number % len(self.pool.servers)]
        server.addresses = () if server.addresses else ADDRESS
        self.set_down(server, is_down=not server.accepts_persistent)
        self.pool.addresses_changed()

    @rule(number=numbers, is_replaced=st.booleans(), kind=st.integers(0, BALANCES))
    def reconfigure(self, number: int, is_replaced: bool, kind: int) -> None:
        """Reload: a server goes or is replaced by another one, perhaps with another balance."""
        gone = self.pool.servers[number % len(self.pool.servers)]
        servers = [server for server in self.pool.servers if server is not gone]
        if is_replaced or not servers:
            slots, name = gone.max_sessions, f"{gone.name}'"
            servers.insert(0, Server(name, max_sessions=slots, addresses=ADDRESS, health=Health(1, 1)))
        self.set_down(gone, is_down=True)
        balance = balances([])[kind] if kind < BALANCES else None
        self.pool.reconfigure(servers, balance, max_queue=self.max_queue, stick=None)

    def set_down(self, server: Server, *, is_down: bool) -> int:
        """Record that a server goes down or comes up. Return how many of its waiters are requeued."""
        (self.down.add if is_down else self.down.discard)(server)
        requeued = [waiter for waiter in self.queue if self.required[waiter] is server] if is_down else []
        for waiter in requeued:
            self.required[waiter], self.served_before[waiter] = None, 0
            self.requeued.add(waiter)
        return len(requeued)

    def check_change(self, change: StateChange[Server] | None, requeued_count: int) -> None:
        assert change is not None
        assigned = sum(waiter.server is change.server for waiter in self.woken)
        assert change.requeued == requeued_count + assigned

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0]))
    def warm_up(self, seconds: float) -> None:
        self.now += seconds
        self.pool.warm_up(self.now)

    # Invariants

    @invariant()
    def waiters_and_sessions_match_model(self) -> None:
        self.woken.clear()
        assert_invariants(self.pool)
        assert self.pool.waiting == len(self.queue)
        assert all(waiter.server is None for waiter in self.queue)
        for server in self.pool.servers:
            assert server.sessions == self.slots_taken(server)
            assert server.counts.sessions == self.sessions_started[server]

    @invariant()
    def no_waiter_beside_a_free_slot(self) -> None:
        for server in filter(self.has_free_slot, self.pool.servers):
            assert not any(self.may_have(waiter, server) for waiter in self.queue)
        assert self.pool.has_usable_server == bool(self.eligible_servers())


TestPool = PoolMachine.TestCase


def wait(pool: Pool[Server], required: Server | None = None) -> Waiting:
    waiter: Waiting = Waiter(lambda: None, required)
    assert pool.enqueue(waiter)
    return waiter


def slots(*waiters: Waiting) -> list[str]:
    return names(waiter.server for waiter in waiters)


def test_released_slot_goes_to_longest_waiter() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "none"]
    first, second = wait(pool), wait(pool)
    pool.release(server)
    assert slots(first, second) == ["s0", "none"]
    assert (server.sessions, pool.waiting) == (1, 1)


def test_slot_of_cancelled_waiter_goes_to_the_next() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    pool.acquire()
    first, second, third = wait(pool), wait(pool), wait(pool)
    pool.release(server)
    pool.cancel(first)
    assert slots(first, second, third) == ["none", "s0", "none"]
    pool.cancel(third)
    pool.cancel(second)
    assert (server.sessions, pool.waiting) == (0, 0)


def test_waiter_for_one_server_does_not_block_others() -> None:
    servers = make_servers(1, 1, max_sessions=1)
    pool = make_pool(*servers)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "s1"]
    sticky_waiter, other_waiter = wait(pool, servers[0]), wait(pool)
    pool.release(servers[1])
    assert slots(sticky_waiter, other_waiter) == ["none", "s1"]
    pool.release(servers[0])
    assert slots(sticky_waiter, other_waiter) == ["s0", "s1"]


def test_max_queue_limits_waiters_of_all_queues() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server, max_queue=2)
    pool.acquire()
    first = wait(pool)
    wait(pool, server)
    assert not pool.enqueue(Waiter(lambda: None))
    assert not pool.enqueue(Waiter(lambda: None, server))
    pool.cancel(first)
    wait(pool)
    assert pool.waiting == 2


def test_waiter_keeps_its_queue_position_for_the_log() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    pool.acquire()
    waiters = [wait(pool), wait(pool, server), wait(pool), wait(pool, server), wait(pool)]
    pool.cancel(waiters[4])
    for _ in range(4):
        pool.release(server)
    positions = [(waiter.server_queue, waiter.backend_queue) for waiter in waiters]
    assert positions == [(0, 1), (1, 0), (0, 2), (2, 0), (0, 1)]


@pytest.mark.parametrize("change_kind", ["down", "for maintenance"])
def test_requeued_waiter_is_served_by_ticket(
    change_kind: str,
) -> None:
    servers = make_servers(1, 1, max_sessions=1)
    servers[0].health = Health(1, 1)
    pool = make_pool(*servers)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "s1"]
    waiters = [wait(pool), wait(pool, servers[0]), wait(pool), wait(pool, servers[0]), wait(pool)]
    if change_kind == "down":
        change = pool.record_check(servers[0], 0.0, passed=False)
    else:
        change = pool.set_state(servers[0], AdminState.MAINT, 0.0)
    assert change is not None
    assert (change.requeued, pool.waiting) == (2, 5)
    for waiter in waiters:
        assert waiter.server is None
        pool.release(servers[1])
        assert slots(waiter) == ["s1"]


def test_waiter_for_draining_server_keeps_waiting() -> None:
    servers = make_servers(1, 1, max_sessions=1)
    pool = make_pool(*servers)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "s1"]
    new, back = wait(pool), wait(pool, servers[0])
    change = pool.set_state(servers[0], AdminState.DRAIN, 0.0)
    assert change is not None
    assert change.requeued == 0
    pool.release(servers[0])
    assert slots(new, back) == ["none", "s0"]


def test_requeued_waiter_gets_free_slot_at_once() -> None:
    servers = make_servers(1, 1, max_sessions=1)
    pool = make_pool(*servers)
    assert names([pool.acquire()]) == ["s0"]
    waiter = wait(pool, servers[0])
    change = pool.set_state(servers[0], AdminState.MAINT, 0.0)
    assert slots(waiter) == ["s1"]
    assert change is not None
    assert change.requeued == 1


def test_waiters_get_backup_when_last_server_drains() -> None:
    active, backup = make_servers(1, 1, max_sessions=1)
    backup.is_backup = True
    pool = make_pool(active, backup)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "none"]
    waiters = [wait(pool), wait(pool)]
    pool.set_state(active, AdminState.DRAIN, 0.0)
    assert slots(*waiters) == ["s1", "none"]
    pool.release(active)
    assert slots(*waiters) == ["s1", "none"]


def test_waiter_gets_slot_when_server_is_resolved() -> None:
    (server,) = make_servers(1)
    server.addresses = ()
    pool = make_pool(server)
    assert not pool.has_usable_server
    waiter = wait(pool)
    server.addresses = ADDRESS
    pool.addresses_changed()
    assert pool.has_usable_server
    assert slots(waiter) == ["s0"]


def test_slow_start_serves_waiters_gradually() -> None:
    (server,) = make_servers(1, max_sessions=100)
    server.health, server.slow_start = Health(1, 1), 50.0
    pool = make_pool(server)
    pool.record_check(server, 0.0, passed=False)
    waiters = [wait(pool) for _ in range(200)]
    change = pool.record_check(server, 1000.0, passed=True)
    assert change is not None
    sessions = [server.sessions]
    for now in (1010.0, 1025.0, 1049.0, 1050.0):
        assert pool.warm_up(now) == (now < 1050.0)
        sessions.append(server.sessions)
    assert sessions == [1, 20, 50, 98, 100]
    assert change.requeued == 1
    assert [waiter.server is server for waiter in waiters] == [True] * 100 + [False] * 100


@pytest.mark.parametrize(
    ("situation", "is_sticky"),
    [
        ("nothing", True),
        ("drain", True),
        ("no weight", True),
        ("no turn for a backup", True),
        ("full", True),  # the session waits for it
        ("maint", False),
        ("down", False),
        ("no address", False),
    ],
)
def test_sticky_server_is_used_if_up_and_resolved(situation: str, is_sticky: bool) -> None:
    server, another = make_servers(1, 1, max_sessions=1)
    server.health = Health(1, 1)
    pool = make_pool(server, another, stick=StickTable(10, expire=60.0))
    pool.store(1, server, 0.0)
    match situation:
        case "drain" | "maint":
            pool.set_state(server, AdminState(situation), 1.0)
        case "down":
            pool.record_check(server, 1.0, passed=False)
        case "full":
            pool.acquire(required=server)
        case "no weight":
            server.weight = 0
        case "no turn for a backup":
            server.is_backup = True
        case "no address":
            server.addresses = ()
    pool.addresses_changed()
    assert pool.sticky_server(1, 2.0) is (server if is_sticky else None)
    assert (pool.acquire(required=server) is server) == (is_sticky and situation != "full")


def test_sticky_server_is_used_again_after_recovery() -> None:
    (server,) = make_servers(1)
    server.health = Health(1, 1)
    pool = make_pool(server, stick=StickTable(10, expire=60.0))
    pool.store(1, server, 0.0)
    pool.record_check(server, 1.0, passed=False)
    assert pool.sticky_server(1, 2.0) is None
    pool.record_check(server, 3.0, passed=True)
    assert pool.sticky_server(1, 4.0) is server


def test_sticky_entry_expires_after_last_use() -> None:
    (server,) = make_servers(1)
    pool = make_pool(server, stick=StickTable(10, expire=60.0))
    pool.store(1, server, 0.0)
    assert names(pool.sticky_server(1, now) for now in (59.0, 118.0, 178.0)) == ["s0", "s0", "none"]


def test_pool_without_stick_table_has_no_sticky_server() -> None:
    (server,) = make_servers(1)
    pool = make_pool(server)
    pool.store(1, server, 0.0)
    assert pool.sticky_server(1, 0.0) is None


def test_reload_keeps_sticky_servers_by_name() -> None:
    def configured(*known: str) -> Pool[Server]:
        servers = [Server(name, addresses=ADDRESS) for name in known]
        return make_pool(*servers, stick=StickTable(10, expire=60.0))

    def had(pool: Pool[Server]) -> list[str]:
        return names(pool.sticky_server(client, 1.0) for client in range(3))

    pool = configured("a", "b", "c")
    for client, server in enumerate(pool.servers):
        pool.store(client, server, 0.0)
    for order in ("cda", "abc"):
        pool.reconfigure([Server(name, addresses=ADDRESS) for name in order], max_queue=0, stick=pool.stick)
        assert had(pool) == ["a", "none", "c"]


def test_reload_lets_all_backups_serve() -> None:
    servers = make_servers(1, 1)
    for server in servers:
        server.is_backup = True
    pool = make_pool(*servers)
    assert names(pool.eligible) == ["s0"]
    pool.reconfigure(servers, max_queue=0, stick=None, all_backups=True)
    assert names(pool.eligible) == ["s0", "s1"]


def test_session_releases_slot_of_server_that_is_gone() -> None:
    before, after = make_servers(1, 1, max_sessions=1)
    pool = make_pool(before, stick=StickTable(10, expire=60.0))
    pool.acquire()
    pool.store(1, before, 0.0)
    waiters = [wait(pool), wait(pool, before)]
    pool.reconfigure([after], max_queue=0, stick=pool.stick)
    assert waiters[0].server is after
    assert waiters[1].server is None
    pool.release(before)
    pool.store(1, before, 0.0)
    assert pool.waiting == 1
    assert pool.sticky_server(1, 0.0) is None
    pool.release(after)
    assert waiters[1].server is after
    assert_invariants(pool)


def test_waiter_cancels_slot_of_server_that_is_gone() -> None:
    before, after = make_servers(1, 1, max_sessions=1)
    pool = make_pool(before)
    pool.acquire()
    waiter = wait(pool, before)
    pool.release(before)
    assert waiter.server is before
    pool.reconfigure([after], max_queue=0, stick=None)
    pool.cancel(waiter)
    assert before.sessions == 0


def test_raised_limit_lets_waiters_in() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    pool.acquire()
    waiter = wait(pool)
    server.max_sessions = 2
    pool.reconfigure([server], max_queue=0, stick=None)
    assert waiter.server is server


def test_vacated_server_loses_its_waiters_and_its_sticky_clients() -> None:
    """A server in the state drain keeps both. Setting its state again ends it."""
    a, b = make_servers(1, 1, max_sessions=1)
    pool = make_pool(a, b, stick=StickTable(10, 100.0))
    assert pool.acquire(required=a) is a
    assert pool.acquire(required=b) is b
    pool.store(7, a, 0.0)
    waiting = wait(pool, a)
    pool.set_state(a, AdminState.DRAIN, 1.0)
    assert pool.sticky_server(7, 1.0) is a
    pool.release(b)
    assert waiting.server is None
    pool.set_vacated(a, True)
    assert_invariants(pool)
    assert waiting.server is b
    assert pool.sticky_server(7, 1.0) is None
    pool.set_state(a, AdminState.READY, 2.0)
    assert pool.sticky_server(7, 2.0) is a
