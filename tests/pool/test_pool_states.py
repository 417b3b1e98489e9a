"""Up, down, draining, in maintenance: what a server is, who serves then, and what is written down and reported of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailproxy.pool import AdminState, Counts, Health, Pool, Server, StateChange, StickTable
from mailproxy.pool.server import ServerState
from tests.support.pool_servers import (
    ADDRESS,
    BALANCES,
    balances,
    eligible_servers,
    make_pool,
    make_servers,
    names,
)

READY, DRAIN, MAINT = AdminState.READY, AdminState.DRAIN, AdminState.MAINT
UNCHECKED = "e"


@frozen
class Plan:
    """What a configuration says of a server."""

    name: str
    rise: int
    fall: int
    is_backup: bool
    slow_start: int
    is_resolved: bool

    def built(self) -> Server:
        return Server(
            self.name,
            health=None if self.name == UNCHECKED else Health(self.rise, self.fall),
            is_backup=self.is_backup,
            slow_start=self.slow_start,
            addresses=ADDRESS if self.is_resolved else (),
        )


@define
class Book:
    """What the manual of HAProxy says of a server, in results in a row."""

    plan: Plan
    is_resolved: bool
    against: int  # results in a row that speak against what it is: ``fall`` bring it down, ``rise`` up
    state: AdminState = READY
    is_up: bool = True
    counts: Counts = field(factory=Counts)
    changed: float | None = None
    warms_since: float | None = None
    throttle: float = 1.0

    @classmethod
    def begun(cls, plan: Plan) -> Book:
        """It counts as up, but it is as if all failures but one had been seen: the first brings it down."""
        return cls(plan, plan.is_resolved, plan.fall - 1)

    def reloaded(self, plan: Plan) -> Book:
        """With another rise or fall, what is wholly up stays so, and what is down has all its passes to come."""
        new = evolve(self, plan=plan, is_resolved=plan.is_resolved)
        if (plan.rise, plan.fall) != (self.plan.rise, self.plan.fall):
            new.against = 0 if self.against == 0 or not self.is_up else plan.fall - 1
        if not plan.slow_start or self.warms_since is None:
            new.warms_since, new.throttle = None, 1.0
        return new

    def judge(self, now: float, *, passed: bool) -> None:
        if self.plan.name == UNCHECKED:
            return
        if self.is_up and not passed:
            self.counts.check_failures += 1
        self.against = 0 if passed == self.is_up else self.against + 1
        if self.against == (self.plan.fall if self.is_up else self.plan.rise):
            self._becomes(self.state, now, is_up=passed)
            self.against = 0

    def order(self, state: AdminState, now: float) -> None:
        """Out of maintenance it is as new."""
        if self.state is MAINT and state is not MAINT:
            self._becomes(state, now, is_up=True)
            self.against = self.plan.fall - 1
        elif self.state is not state:
            self._becomes(state, now, is_up=self.is_up)

    def _becomes(self, state: AdminState, now: float, *, is_up: bool) -> None:
        served, self.state, self.is_up = self.serves, state, is_up
        if served and not self.serves:
            self.counts.downs += 1
        if not served and self.changed is not None:
            self.counts.down_seconds += now - self.changed
        if self.serves and not served:
            self.warms_since = now if self.plan.slow_start else None
            self.throttle = 0.01 if self.plan.slow_start else 1.0
        self.changed = now

    def warm_up(self, now: float) -> None:
        if self.throttle < 1 and self.warms_since is not None:
            percent = 1 + 99 * (now - self.warms_since) / self.plan.slow_start
            self.throttle = min(1.0, percent / 100)

    @property
    def serves(self) -> bool:
        return self.is_up and self.state is not MAINT

    @property
    def takes_back(self) -> bool:
        return self.serves and self.is_resolved

    @property
    def is_usable(self) -> bool:
        return self.takes_back and self.state is READY

    @property
    def status(self) -> str:
        if self.state is MAINT:
            return "MAINT"
        if not self.is_resolved:
            return "MAINT (resolution)"
        if not self.is_up:
            return f"DOWN {self.against}/{self.plan.rise}" if self.against else "DOWN"
        word = "DRAIN" if self.state is DRAIN else "UP"
        if self.plan.name == UNCHECKED:
            return "no check" if word == "UP" else word
        return f"{word} {self.plan.fall - self.against}/{self.plan.fall}" if self.against else word


configurations = st.lists(
    st.builds(
        Plan,
        name=st.sampled_from("abcde"),
        rise=st.integers(1, 3),
        fall=st.integers(1, 3),
        is_backup=st.booleans(),
        slow_start=st.sampled_from([0, 10, 40]),
        is_resolved=st.sampled_from([True, True, False]),
    ),
    min_size=1,
    unique_by=lambda plan: plan.name,
)
numbers = st.integers(0, 4)


class AnyWalk(RuleBasedStateMachine):
    """A pool beside the books of its servers, over all that can happen to them."""

    @initialize(plans=configurations, kind=st.integers(0, BALANCES - 1))
    def begin(self, plans: list[Plan], kind: int) -> None:
        self.now, self.kind = 1000.0, kind
        self.pool = self.built(plans)
        self.books = {plan.name: Book.begun(plan) for plan in plans}
        self.had: dict[int, str] = {}  # client: server

    def built(self, plans: Sequence[Plan]) -> Pool[Server]:
        servers = [plan.built() for plan in plans]
        return Pool(servers, balances([])[self.kind], stick=StickTable(10, expire=1e6))

    def rebuilt(self, plans: Sequence[Plan]) -> list[Server]:
        before = {server.name: server for server in self.pool.servers}
        servers = [plan.built() for plan in plans]
        for server in servers:
            if server.name in before:
                server.take_over(before[server.name])
        return servers

    def picked(self, number: int) -> tuple[Server, Book]:
        server = self.pool.servers[number % len(self.pool.servers)]
        return server, self.books[server.name]

    @rule(seconds=st.sampled_from([1, 5, 10, 40]))
    def time_goes_on(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def warm_up(self) -> None:
        for book in self.books.values():
            book.warm_up(self.now)
        assert self.pool.warm_up(self.now) == any(book.throttle < 1 for book in self.books.values())

    @rule(number=numbers, results=st.lists(st.booleans(), min_size=1, max_size=4))
    def is_checked(self, number: int, results: list[bool]) -> None:
        server, book = self.picked(number)
        for passed in results if book.state is not MAINT else ():  # in maintenance nobody is checked
            before = ServerState(book.state, book.is_up)
            book.judge(self.now, passed=passed)
            self.has_changed(server, before, self.pool.record_check(server, self.now, passed=passed))

    @rule(number=numbers, state=st.sampled_from(AdminState))
    def the_operator_says(self, number: int, state: AdminState) -> None:
        server, book = self.picked(number)
        before = ServerState(book.state, book.is_up)
        book.order(state, self.now)
        self.has_changed(server, before, self.pool.set_state(server, state, self.now))

    def has_changed(self, server: Server, before: ServerState, change: StateChange[Server] | None) -> None:
        book = self.books[server.name]
        after = ServerState(book.state, book.is_up)
        if before == after:
            assert change is None
            return
        active = sum(other.is_usable and not other.plan.is_backup for other in self.books.values())
        backup = sum(other.is_usable and other.plan.is_backup for other in self.books.values())
        emptied = not active + backup and before.is_up and before.state is READY and book.is_resolved
        assert change == StateChange(
            server=server,
            before=before,
            after=after,
            requeued=0,
            active=active,
            backup=backup,
            backend_went_down=emptied,
        )
        served = before.is_up and before.state is not MAINT
        assert change.went_down == (served and not book.serves)

    @rule(number=numbers)
    def addresses_come_or_go(self, number: int) -> None:
        server, book = self.picked(number)
        book.is_resolved = not book.is_resolved
        server.addresses = ADDRESS if book.is_resolved else ()
        self.pool.addresses_changed()

    @rule(client=st.integers(0, 3), number=numbers)
    def a_client_has_a_server(self, client: int, number: int) -> None:
        server, book = self.picked(number)
        self.pool.store(client, server, self.now)
        self.had[client] = book.plan.name

    @rule(plans=configurations)
    def reload(self, plans: list[Plan]) -> None:
        """Some servers stay, with other settings perhaps, some go and some are new, in any order."""
        self.pool.reconfigure(self.rebuilt(plans), max_queue=0, stick=self.pool.stick)
        self.books = {
            plan.name: self.books[plan.name].reloaded(plan) if plan.name in self.books else Book.begun(plan)
            for plan in plans
        }
        self.had = {client: name for client, name in self.had.items() if name in self.books}

    @invariant()
    def each_is_what_it_ought_to_be(self) -> None:
        assert [server.name for server in self.pool.servers] == list(self.books)
        for server, book in zip(self.pool.servers, self.books.values(), strict=True):
            assert (server.state, server.is_up, server.status) == (book.state, book.is_up, book.status)
            assert (server.is_usable, server.accepts_persistent) == (book.is_usable, book.takes_back)
            assert server.changed_at == book.changed
            assert server.throttle == pytest.approx(book.throttle)
            counted = evolve(server.counts, sessions=0, most_sessions=0)
            assert counted == book.counts

    @invariant()
    def only_those_serve_who_ought_to(self) -> None:
        usable = [name for name, book in self.books.items() if book.is_usable]
        active = [name for name in usable if not self.books[name].plan.is_backup]
        assert sorted(names(eligible_servers(self.pool))) == sorted(active or usable[:1])
        assert self.pool.has_usable_server == bool(usable)
        assert self.pool.usable_counts == (len(active), len(usable) - len(active))

    @invariant()
    def clients_come_back_to_the_server_they_had(self) -> None:
        for client, name in self.had.items():
            server = self.pool.sticky_server(client, self.now)
            assert names([server]) == [name if self.books[name].takes_back else "nobody"]


TestAnyWalk = AnyWalk.TestCase


def checked(*, is_backup: bool = False, slow_start: float = 0.0, rise: int = 1, fall: int = 1) -> Server:
    (server,) = make_servers(1)
    server.health, server.is_backup, server.slow_start = Health(rise, fall), is_backup, slow_start
    return server


def test_the_first_backup_that_can_serves_alone_while_no_active_server_can() -> None:
    servers = make_servers(1, 1, 1, 1)
    for server in servers:
        server.health, server.is_backup = Health(1, 1), server.name in ("s2", "s3")
    pool = make_pool(*servers)
    told = [names(eligible_servers(pool))]
    for number, passed in [(0, False), (1, False), (2, False), (3, False), (3, True), (2, True), (1, True)]:
        pool.record_check(servers[number], 0.0, passed=passed)
        told.append(names(eligible_servers(pool)))
    assert told == [["s0", "s1"], ["s1"], ["s2"], ["s3"], [], ["s3"], ["s2"], ["s1"]]


def test_a_server_that_drains_leaves_its_place_to_a_backup() -> None:
    active, backup = make_servers(1, 1)
    backup.is_backup = True
    pool = make_pool(active, backup)
    pool.set_state(active, DRAIN, 0.0)
    assert names(eligible_servers(pool)) == ["s1"]
    assert active.status == "DRAIN"
    assert pool.usable_counts == (0, 1)


def test_it_is_reported_once_when_a_server_goes_down_and_once_when_it_comes_up() -> None:
    server = checked(rise=2, fall=3)
    pool = make_pool(server)
    told = []
    for moment, result in enumerate("+--+---+-++"):
        change = pool.record_check(server, float(moment), passed=result == "+")
        if change is not None:
            told.append((moment, server.status, change.active))
    assert told == [(6, "DOWN", 0), (10, "UP", 1)]
    assert (server.counts.check_failures, server.counts.downs, server.counts.down_seconds) == (5, 1, 4.0)
    assert pool.record_check(make_servers(1)[0], 11.0, passed=False) is None  # which is not checked


@pytest.mark.parametrize(
    ("is_up", "state", "then", "left"),
    [
        (True, READY, MAINT, True),
        (True, DRAIN, MAINT, True),
        (True, READY, DRAIN, False),
        (True, DRAIN, READY, False),
        (False, READY, MAINT, False),
        (False, READY, DRAIN, False),
        (True, MAINT, READY, False),
        (True, MAINT, DRAIN, False),
    ],
)
def test_a_server_leaves_service_where_it_goes_for_maintenance_and_was_not_down(
    is_up: bool, state: AdminState, then: AdminState, left: bool
) -> None:
    server = checked()
    pool = make_pool(server)
    if not is_up:
        down = pool.record_check(server, 0.0, passed=False)
        assert down is not None
        assert down.went_down
    pool.set_state(server, state, 1.0)
    change = pool.set_state(server, then, 2.0)
    assert change is not None
    assert change.went_down == left
    assert pool.set_state(server, then, 3.0) is None


def test_a_server_back_from_maintenance_serves_until_its_first_check_fails_whatever_it_was_before() -> None:
    server = checked(rise=2, fall=3)
    pool = make_pool(server)
    pool.record_check(server, 0.0, passed=False)
    words = [server.status]
    for state in (MAINT, READY):
        pool.set_state(server, state, 1.0)
        words.append(server.status)
    for passed in (False, True, True):
        pool.record_check(server, 2.0, passed=passed)
        words.append(server.status)
    assert words == ["DOWN", "MAINT", "UP 1/3", "DOWN", "DOWN 1/2", "UP"]


def test_the_time_in_which_a_server_served_nobody_is_counted_down_or_in_maintenance() -> None:
    server = checked()
    pool = make_pool(server)
    pool.record_check(server, 10.0, passed=False)
    pool.record_check(server, 13.0, passed=True)
    assert (server.counts.downs, server.counts.down_seconds) == (1, 3.0)
    pool.set_state(server, MAINT, 20.0)
    pool.set_state(server, READY, 25.0)
    assert (server.counts.downs, server.counts.down_seconds) == (2, 8.0)
    pool.set_state(server, DRAIN, 30.0)
    pool.record_check(server, 40.0, passed=False)
    pool.set_state(server, MAINT, 50.0)
    pool.set_state(server, READY, 60.0)
    assert (server.counts.downs, server.counts.down_seconds) == (3, 28.0)


@pytest.mark.parametrize("comes_from", ["down", "maintenance"])
def test_a_server_that_comes_into_service_warms_up_from_a_hundredth(comes_from: str) -> None:
    server = checked(slow_start=100.0)
    pool = make_pool(server)
    if comes_from == "down":
        pool.record_check(server, 0.0, passed=False)
        pool.record_check(server, 1000.0, passed=True)
    else:
        pool.set_state(server, MAINT, 0.0)
        pool.set_state(server, READY, 1000.0)
    shares = [server.throttle]
    for now in (1000.0, 1050.0, 1099.0):
        assert pool.warm_up(now)
        shares.append(server.throttle)
    assert shares == pytest.approx([0.01, 0.01, 0.505, 0.9901])
    assert not pool.warm_up(1100.0)
    assert server.throttle == 1.0


def test_neither_the_start_of_the_proxy_nor_the_end_of_draining_is_a_slow_start() -> None:
    server = checked(slow_start=100.0)
    pool = make_pool(server)
    pool.set_state(server, DRAIN, 0.0)
    pool.set_state(server, READY, 1000.0)
    assert not pool.warm_up(1000.0)
    assert server.throttle == 1.0


def test_a_server_that_warms_up_gets_few_sessions_beside_a_warm_one() -> None:
    cold, warm = make_servers(100, 100)
    cold.slow_start = 100.0
    pool = make_pool(cold, warm)
    pool.set_state(cold, MAINT, 0.0)
    pool.set_state(cold, READY, 0.0)
    assert names(pool.acquire() for _ in range(101)).count("s0") == 1
    pool.warm_up(100.0)
    assert names(pool.acquire() for _ in range(100)).count("s0") == 50


def test_over_a_reload_a_server_stays_what_it_was() -> None:
    before, after = checked(rise=2, fall=3, slow_start=100.0), checked(rise=2, fall=3, slow_start=100.0)
    old = make_pool(before)
    for moment, passed in enumerate((False, True, True, False)):
        old.record_check(before, float(moment), passed=passed)
    old.warm_up(52.0)
    old.set_state(before, DRAIN, 60.0)
    after.take_over(before)
    new = make_pool(after)
    assert after.health is not None
    assert (after.status, str(after.health), after.changed_at) == ("DRAIN 2/3", "UP 2/3", 60.0)
    assert after.throttle == pytest.approx(0.505)
    assert (after.counts.downs, after.counts.down_seconds) == (1, 2.0)
    assert new.warm_up(60.0)
    assert not new.warm_up(102.0)
    assert not new.has_usable_server


def test_over_a_reload_with_another_rise_and_fall_a_server_stays_up_or_down() -> None:
    before, after = make_servers(1, 1), make_servers(1, 1)
    for server in before:
        server.health = Health(1, 1)
    for server in after:
        server.health = Health(3, 5)
    old = make_pool(*before)
    old.record_check(before[0], 0.0, passed=False)
    for one, other in zip(before, after, strict=True):
        other.take_over(one)
    new = make_pool(*after)
    assert [server.status for server in after] == ["DOWN", "UP"]
    assert names(eligible_servers(new)) == ["s1"]
    new.record_check(after[0], 1.0, passed=True)
    new.record_check(after[1], 1.0, passed=False)
    assert [server.status for server in after] == ["DOWN 1/3", "UP 4/5"]


def test_a_server_that_is_new_in_a_reload_counts_as_up() -> None:
    pool = make_pool()
    pool.reconfigure([checked(fall=3)], max_queue=0, stick=None)
    assert names(eligible_servers(pool)) == ["s0"]
    assert [server.status for server in pool.servers] == ["UP 1/3"]
