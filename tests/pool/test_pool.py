"""Places and those who wait for them: nobody is lost or served twice, nobody waits while there is room, and in order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailproxy.pool import AdminState, Health, Pool, Server, StateChange, StickTable, Waiter
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


class AnyCrowd(RuleBasedStateMachine):
    """A pool beside lists of who has a place and who waits, while servers come and go."""

    @initialize(
        servers=some_servers, kind=st.integers(0, BALANCES - 1), max_queue=st.sampled_from([0, 0, 1, 3])
    )
    def begin(self, servers: list[Server], kind: int, max_queue: int) -> None:
        for number, server in enumerate(servers):
            server.name, server.addresses, server.health = f"s{number}", ADDRESS, Health(1, 1)
        self.now, self.max_queue = 1000.0, max_queue
        self.pool = Pool(servers, balances([])[kind], max_queue=max_queue)
        self.down: set[Server] = set()  # or in maintenance, or without an address
        self.draining: set[Server] = set()
        self.places: list[tuple[Server, Waiting | None]] = []  # and who waited for them
        self.line: list[Waiting] = []  # all who wait, whatever for, by when they came
        self.wanted: dict[Waiting, Server | None] = {}
        self.served_before: Counter[Waiting] = Counter()  # from the line it stands in, since it stands there
        self.has_moved: set[Waiting] = set()
        self.woken: list[Waiting] = []  # in this step
        self.began: Counter[Server] = Counter()

    # What ought to be

    def in_service(self) -> list[Server]:
        usable = [
            server
            for server in self.pool.servers
            if server not in self.down and server not in self.draining and server.weight
        ]
        return [server for server in usable if not server.is_backup] or usable[:1]

    def may_have(self, waiter: Waiting, server: Server) -> bool:
        wanted = self.wanted[waiter]
        return server in self.in_service() if wanted is None else server is wanted and server not in self.down

    def taken(self, server: Server) -> int:
        return sum(its is server for its, _ in self.places)

    def has_room(self, server: Server) -> bool:
        return not server.max_sessions or self.taken(server) < server.effective_max_sessions

    def will_be_woken(self, freed: Server) -> int:
        """One, if anybody waits that may have the place that has just become free."""
        return int(self.has_room(freed) and any(self.may_have(waiter, freed) for waiter in self.line))

    # What comes from the pool

    def wake(self, waiter: Waiting) -> None:
        server = waiter.server
        assert server is not None
        assert self.may_have(waiter, server)
        assert self.has_room(server)
        assert not any(self.may_have(other, server) for other in self.line[: self.line.index(waiter)])
        self.line.remove(waiter)
        self.woken.append(waiter)
        self.places.append((server, waiter))
        self.began[server] += 1
        self.has_position(waiter)
        for other in self.line:
            self.served_before[other] += self.wanted[other] is self.wanted[waiter]

    def has_position(self, waiter: Waiting) -> None:
        position = self.served_before[waiter] + 1
        if self.wanted[waiter] is not None:
            assert (waiter.server_queue, waiter.backend_queue) == (position, 0)
        else:
            assert waiter.backend_queue == position
            assert waiter.server_queue == 0 or waiter in self.has_moved

    # Sessions

    def enter(self, key: bytes | None, wanted: Server | None, avoiding: list[Server]) -> bool:
        will_do = self.in_service() if wanted is None else [wanted] if wanted not in self.down else []
        rooms = [server for server in will_do if self.has_room(server)]
        best = [server for server in rooms if server not in avoiding] or rooms
        server = self.pool.acquire(key, required=wanted, excluded=avoiding)
        assert server in best if best else server is None
        if server is not None:
            self.places.append((server, None))
            self.began[server] += 1
        return server is not None

    @rule(key=st.sampled_from([None, b"one", b"two"]), avoiding=st.sets(numbers))
    def a_session_comes(self, key: bytes | None, avoiding: set[int]) -> None:
        avoided = [server for number, server in enumerate(self.pool.servers) if number in avoiding]
        if not self.enter(key, None, avoided):
            self.join(None)

    @rule(number=numbers)
    def a_session_comes_back(self, number: int) -> None:
        wanted = self.pool.servers[number % len(self.pool.servers)]
        if not self.enter(None, wanted, []) and wanted not in self.down:
            self.join(wanted)

    def join(self, wanted: Server | None) -> None:
        waiter: Waiting = Waiter(lambda: self.wake(waiter), wanted)
        has_joined = self.pool.enqueue(waiter)
        assert has_joined == (not self.max_queue or len(self.line) < self.max_queue)
        if has_joined:
            self.line.append(waiter)
            self.wanted[waiter] = wanted

    @precondition(lambda self: self.places)
    @rule(number=numbers, gives_up=st.booleans())
    def a_place_is_given_back(self, number: int, gives_up: bool) -> None:
        """By a session that ends, or that gives up in the very moment in which it is woken."""
        server, waiter = self.places.pop(number % len(self.places))
        expected = self.will_be_woken(server)
        if waiter is not None and gives_up:
            self.give_up(waiter)
        else:
            self.pool.release(server)
        assert len(self.woken) == expected

    @precondition(lambda self: self.line)
    @rule(number=numbers)
    def one_that_waits_gives_up(self, number: int) -> None:
        waiter = self.line.pop(number % len(self.line))
        self.give_up(waiter)
        self.has_position(waiter)
        assert not self.woken

    def give_up(self, waiter: Waiting) -> None:
        """Which it may say more than once."""
        self.pool.cancel(waiter)
        assert waiter.server is None
        self.pool.cancel(waiter)

    @rule(seed=numbers)
    def many_come_and_go(self, seed: int) -> None:
        """All at the mercy of chance: hypothesis likes numbers that are small or equal, and crowds that are small, too."""
        chance = seeded_random(seed)
        for _ in range(20):
            number, step = int(100 * chance.random()), chance.random()
            if step < 0.25:
                self.a_session_comes(None, set())
            elif step < 0.5:
                self.a_session_comes_back(number)
            elif step < 0.8 and self.places:
                self.a_place_is_given_back(number, gives_up=number % 3 == 0)
            elif step < 0.85 and self.line:
                self.one_that_waits_gives_up(number)
            elif step < 0.95:
                self.is_checked(number, passed=step < 0.91)
            else:
                self.the_operator_says(number, list(AdminState)[number % 3])
            self.nobody_is_lost_or_served_twice()
            self.nobody_waits_for_what_is_there()

    # Servers

    @rule(
        number=numbers,
        state=st.sampled_from([AdminState.READY, AdminState.READY, AdminState.DRAIN, AdminState.MAINT]),
    )
    def the_operator_says(self, number: int, state: AdminState) -> None:
        server = self.pool.servers[number % len(self.pool.servers)]
        if server.state is not state:
            is_down = state is AdminState.MAINT or (server.state is not AdminState.MAINT and not server.is_up)
            (self.draining.add if state is AdminState.DRAIN else self.draining.discard)(server)
            lost = self.goes_down(server, is_down=is_down or not server.addresses)
            self.has_changed(self.pool.set_state(server, state, self.now), lost)

    @rule(number=numbers, passed=st.sampled_from([True, True, False]))
    def is_checked(self, number: int, passed: bool) -> None:
        server = self.pool.servers[number % len(self.pool.servers)]
        if server.state is not AdminState.MAINT and server.is_up != passed:
            lost = self.goes_down(server, is_down=not passed or not server.addresses)
            self.has_changed(self.pool.record_check(server, self.now, passed=passed), lost)

    @rule(number=numbers)
    def addresses_come_or_go(self, number: int) -> None:
        server = self.pool.servers[number % len(self.pool.servers)]
        server.addresses = () if server.addresses else ADDRESS
        self.goes_down(server, is_down=not server.accepts_persistent)
        self.pool.addresses_changed()

    @rule(number=numbers, is_replaced=st.booleans(), kind=st.integers(0, BALANCES))
    def servers_are_reconfigured(self, number: int, is_replaced: bool, kind: int) -> None:
        """One goes or makes room for another, in a reload; perhaps with another method of balance."""
        gone = self.pool.servers[number % len(self.pool.servers)]
        servers = [server for server in self.pool.servers if server is not gone]
        if is_replaced or not servers:
            slots, name = gone.max_sessions, f"{gone.name}'"
            servers.insert(0, Server(name, max_sessions=slots, addresses=ADDRESS, health=Health(1, 1)))
        self.goes_down(gone, is_down=True)
        balance = balances([])[kind] if kind < BALANCES else None
        self.pool.reconfigure(servers, balance, max_queue=self.max_queue, stick=None)

    def goes_down(self, server: Server, *, is_down: bool) -> int:
        """Or comes up; those who waited for it alone have any other now. How many were they?"""
        (self.down.add if is_down else self.down.discard)(server)
        lost = [waiter for waiter in self.line if self.wanted[waiter] is server] if is_down else []
        for waiter in lost:
            self.wanted[waiter], self.served_before[waiter] = None, 0
            self.has_moved.add(waiter)
        return len(lost)

    def has_changed(self, change: StateChange[Server] | None, lost: int) -> None:
        assert change is not None
        got_it = sum(waiter.server is change.server for waiter in self.woken)
        assert change.requeued == lost + got_it

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0]))
    def it_gets_warmer(self, seconds: float) -> None:
        self.now += seconds
        self.pool.warm_up(self.now)

    # What always holds

    @invariant()
    def nobody_is_lost_or_served_twice(self) -> None:
        self.woken.clear()
        self.pool.assert_invariants()
        assert self.pool.waiting == len(self.line)
        assert all(waiter.server is None for waiter in self.line)
        for server in self.pool.servers:
            assert server.sessions == self.taken(server)
            assert server.counts.sessions == self.began[server]

    @invariant()
    def nobody_waits_for_what_is_there(self) -> None:
        for server in filter(self.has_room, self.pool.servers):
            assert not any(self.may_have(waiter, server) for waiter in self.line)
        assert self.pool.has_usable_server == bool(self.in_service())


TestAnyCrowd = AnyCrowd.TestCase


def wait(pool: Pool[Server], wanted: Server | None = None) -> Waiting:
    waiter: Waiting = Waiter(lambda: None, wanted)
    assert pool.enqueue(waiter)
    return waiter


def places(*waiters: Waiting) -> list[str]:
    return names(waiter.server for waiter in waiters)


def test_whoever_has_waited_longest_gets_the_place_that_is_given_back() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "nobody"]
    first, second = wait(pool), wait(pool)
    pool.release(server)
    assert places(first, second) == ["s0", "nobody"]
    assert (server.sessions, pool.waiting) == (1, 1)


def test_a_place_for_one_that_gives_up_in_that_moment_goes_to_the_next() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    pool.acquire()
    first, second, third = wait(pool), wait(pool), wait(pool)
    pool.release(server)
    pool.cancel(first)
    assert places(first, second, third) == ["nobody", "s0", "nobody"]
    pool.cancel(third)
    pool.cancel(second)
    assert (server.sessions, pool.waiting) == (0, 0)


def test_who_waits_for_one_server_alone_leaves_the_places_of_others_to_those_behind_it() -> None:
    servers = make_servers(1, 1, max_sessions=1)
    pool = make_pool(*servers)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "s1"]
    picky, easy = wait(pool, servers[0]), wait(pool)
    pool.release(servers[1])
    assert places(picky, easy) == ["nobody", "s1"]
    pool.release(servers[0])
    assert places(picky, easy) == ["s0", "s1"]


def test_no_more_may_wait_than_max_queue_says_whatever_they_wait_for() -> None:
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


def test_the_log_can_tell_where_each_stood_in_the_line_of_its_server_or_of_all() -> None:
    (server,) = make_servers(1, max_sessions=1)
    pool = make_pool(server)
    pool.acquire()
    waiters = [wait(pool), wait(pool, server), wait(pool), wait(pool, server), wait(pool)]
    pool.cancel(waiters[4])
    for _ in range(4):
        pool.release(server)
    positions = [(waiter.server_queue, waiter.backend_queue) for waiter in waiters]
    assert positions == [(0, 1), (1, 0), (0, 2), (2, 0), (0, 1)]


@pytest.mark.parametrize("goes", ["down", "for maintenance"])
def test_who_waited_for_a_server_that_goes_stands_where_it_would_have_stood_had_it_waited_for_any(
    goes: str,
) -> None:
    servers = make_servers(1, 1, max_sessions=1)
    servers[0].health = Health(1, 1)
    pool = make_pool(*servers)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "s1"]
    waiters = [wait(pool), wait(pool, servers[0]), wait(pool), wait(pool, servers[0]), wait(pool)]
    if goes == "down":
        change = pool.record_check(servers[0], 0.0, passed=False)
    else:
        change = pool.set_state(servers[0], AdminState.MAINT, 0.0)
    assert change is not None
    assert (change.requeued, pool.waiting) == (2, 5)
    for waiter in waiters:
        assert waiter.server is None
        pool.release(servers[1])
        assert places(waiter) == ["s1"]


def test_who_waits_for_a_server_that_drains_goes_on_waiting_for_it() -> None:
    servers = make_servers(1, 1, max_sessions=1)
    pool = make_pool(*servers)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "s1"]
    new, back = wait(pool), wait(pool, servers[0])
    change = pool.set_state(servers[0], AdminState.DRAIN, 0.0)
    assert change is not None
    assert change.requeued == 0
    pool.release(servers[0])
    assert places(new, back) == ["nobody", "s0"]


def test_who_waited_for_a_server_that_goes_has_a_free_place_of_another_at_once() -> None:
    servers = make_servers(1, 1, max_sessions=1)
    pool = make_pool(*servers)
    assert names([pool.acquire()]) == ["s0"]
    waiter = wait(pool, servers[0])
    change = pool.set_state(servers[0], AdminState.MAINT, 0.0)
    assert places(waiter) == ["s1"]
    assert change is not None
    assert change.requeued == 1


def test_those_who_wait_go_to_the_backup_when_the_last_active_server_goes() -> None:
    active, backup = make_servers(1, 1, max_sessions=1)
    backup.is_backup = True
    pool = make_pool(active, backup)
    assert names([pool.acquire(), pool.acquire()]) == ["s0", "nobody"]
    waiters = [wait(pool), wait(pool)]
    pool.set_state(active, AdminState.DRAIN, 0.0)
    assert places(*waiters) == ["s1", "nobody"]
    pool.release(active)
    assert places(*waiters) == ["s1", "nobody"]


def test_those_who_wait_have_a_place_when_the_first_server_gets_an_address() -> None:
    (server,) = make_servers(1)
    server.addresses = ()
    pool = make_pool(server)
    assert not pool.has_usable_server
    waiter = wait(pool)
    server.addresses = ADDRESS
    pool.addresses_changed()
    assert pool.has_usable_server
    assert places(waiter) == ["s0"]


def test_a_server_that_warms_up_lets_in_more_and_more_of_those_who_wait() -> None:
    (server,) = make_servers(1, max_sessions=100)
    server.health, server.slow_start = Health(1, 1), 50.0
    pool = make_pool(server)
    pool.record_check(server, 0.0, passed=False)
    waiters = [wait(pool) for _ in range(200)]
    change = pool.record_check(server, 1000.0, passed=True)
    assert change is not None
    there = [server.sessions]
    for now in (1010.0, 1025.0, 1049.0, 1050.0):
        assert pool.warm_up(now) == (now < 1050.0)
        there.append(server.sessions)
    assert there == [1, 20, 50, 98, 100]
    assert change.requeued == 1
    assert [waiter.server is server for waiter in waiters] == [True] * 100 + [False] * 100


@pytest.mark.parametrize(
    ("what", "comes_back"),
    [
        ("nothing", True),
        ("drain", True),
        ("no weight", True),
        ("no turn for a backup", True),
        ("full", True),  # and waits for it
        ("maint", False),
        ("down", False),
        ("no address", False),
    ],
)
def test_a_client_that_comes_back_has_the_server_it_had_while_that_is_up_and_not_in_maintenance(
    what: str, comes_back: bool
) -> None:
    server, another = make_servers(1, 1, max_sessions=1)
    server.health = Health(1, 1)
    pool = make_pool(server, another, stick=StickTable(10, expire=60.0))
    pool.store(1, server, 0.0)
    match what:
        case "drain" | "maint":
            pool.set_state(server, AdminState(what), 1.0)
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
    assert pool.sticky_server(1, 2.0) is (server if comes_back else None)
    assert (pool.acquire(required=server) is server) == (comes_back and what != "full")


def test_a_client_has_its_server_again_when_that_is_up_again() -> None:
    (server,) = make_servers(1)
    server.health = Health(1, 1)
    pool = make_pool(server, stick=StickTable(10, expire=60.0))
    pool.store(1, server, 0.0)
    pool.record_check(server, 1.0, passed=False)
    assert pool.sticky_server(1, 2.0) is None
    pool.record_check(server, 3.0, passed=True)
    assert pool.sticky_server(1, 4.0) is server


def test_a_client_is_forgotten_when_it_has_not_come_for_long_enough() -> None:
    (server,) = make_servers(1)
    pool = make_pool(server, stick=StickTable(10, expire=60.0))
    pool.store(1, server, 0.0)
    assert names(pool.sticky_server(1, now) for now in (59.0, 118.0, 178.0)) == ["s0", "s0", "nobody"]


def test_without_a_stick_table_nobody_sticks() -> None:
    (server,) = make_servers(1)
    pool = make_pool(server)
    pool.store(1, server, 0.0)
    assert pool.sticky_server(1, 0.0) is None


def test_clients_have_their_servers_over_a_reload_wherever_those_stand_in_the_configuration_now() -> None:
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
        assert had(pool) == ["a", "nobody", "c"]


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
    pool.assert_invariants()


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
