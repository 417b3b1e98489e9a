"""Server states (up, down, drain, maintenance): which servers serve, what is counted and what is reported."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mailproxy.pool import AdminState, Counts, Health, Pool, Server, StateChange, StickTable
from mailproxy.pool.eligibility import usable_counts
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
class ServerPlan:
    """The configuration of a server."""

    name: str
    rise: int
    fall: int
    is_backup: bool
    slow_start: int
    is_resolved: bool

    def build(self) -> Server:
        return Server(
            self.name,
            health=None if self.name == UNCHECKED else Health(self.rise, self.fall),
            is_backup=self.is_backup,
            slow_start=self.slow_start,
            addresses=ADDRESS if self.is_resolved else (),
        )


@define
class ServerModel:
    """A server as HAProxy's manual describes it, in consecutive check results."""

    plan: ServerPlan
    is_resolved: bool
    against: int  # results in a row that contradict the state: `fall` bring the server down, `rise` up
    state: AdminState = READY
    is_up: bool = True
    counts: Counts = field(factory=Counts)
    changed: float | None = None
    slow_start_since: float | None = None
    throttle: float = 1.0

    @classmethod
    def new(cls, plan: ServerPlan) -> ServerModel:
        """Return a new server: it counts as up, and its first failure brings it down."""
        return cls(plan, plan.is_resolved, plan.fall - 1)

    def reload(self, plan: ServerPlan) -> ServerModel:
        """Return the model after a reload.

        With another rise or fall, a settled server that is up stays settled, and one that is down needs all passes.
        """
        new = evolve(self, plan=plan, is_resolved=plan.is_resolved)
        if (plan.rise, plan.fall) != (self.plan.rise, self.plan.fall):
            new.against = 0 if self.against == 0 or not self.is_up else plan.fall - 1
        if not plan.slow_start or self.slow_start_since is None:
            new.slow_start_since, new.throttle = None, 1.0
        return new

    def record_check(self, now: float, *, passed: bool) -> None:
        if self.plan.name == UNCHECKED:
            return
        if self.is_up and not passed:
            self.counts.check_failures += 1
        self.against = 0 if passed == self.is_up else self.against + 1
        if self.against == (self.plan.fall if self.is_up else self.plan.rise):
            self._change(self.state, now, is_up=passed)
            self.against = 0

    def set_state(self, state: AdminState, now: float) -> None:
        """Set the administrative state. A server that leaves maintenance is like a new one."""
        if self.state is MAINT and state is not MAINT:
            self._change(state, now, is_up=True)
            self.against = self.plan.fall - 1
        elif self.state is not state:
            self._change(state, now, is_up=self.is_up)

    def _change(self, state: AdminState, now: float, *, is_up: bool) -> None:
        served, self.state, self.is_up = self.serves, state, is_up
        if served and not self.serves:
            self.counts.downs += 1
        if not served and self.changed is not None:
            self.counts.down_seconds += now - self.changed
        if self.serves and not served:
            self.slow_start_since = now if self.plan.slow_start else None
            self.throttle = 0.01 if self.plan.slow_start else 1.0
        self.changed = now

    def warm_up(self, now: float) -> None:
        if self.throttle < 1 and self.slow_start_since is not None:
            percent = 1 + 99 * (now - self.slow_start_since) / self.plan.slow_start
            self.throttle = min(1.0, percent / 100)

    @property
    def serves(self) -> bool:
        return self.is_up and self.state is not MAINT

    @property
    def accepts_persistent(self) -> bool:
        return self.serves and self.is_resolved

    @property
    def is_usable(self) -> bool:
        return self.accepts_persistent and self.state is READY

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
        ServerPlan,
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


class PoolStatesMachine(RuleBasedStateMachine):
    """A pool and the models of its servers, over all events of a server."""

    @initialize(plans=configurations, kind=st.integers(0, BALANCES - 1))
    def set_up(self, plans: list[ServerPlan], kind: int) -> None:
        self.now, self.kind = 1000.0, kind
        self.pool = self.build(plans)
        self.models = {plan.name: ServerModel.new(plan) for plan in plans}
        self.sticky_servers: dict[int, str] = {}  # client: server

    def build(self, plans: Sequence[ServerPlan]) -> Pool[Server]:
        servers = [plan.build() for plan in plans]
        return Pool(servers, balances([])[self.kind], stick=StickTable(10, expire=1e6))

    def rebuild(self, plans: Sequence[ServerPlan]) -> list[Server]:
        before = {server.name: server for server in self.pool.servers}
        servers = [plan.build() for plan in plans]
        for server in servers:
            if server.name in before:
                server.take_over(before[server.name])
        return servers

    def pick(self, number: int) -> tuple[Server, ServerModel]:
        server = self.pool.servers[number % len(self.pool.servers)]
        return server, self.models[server.name]

    @rule(seconds=st.sampled_from([1, 5, 10, 40]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def warm_up(self) -> None:
        for model in self.models.values():
            model.warm_up(self.now)
        assert self.pool.warm_up(self.now) == any(model.throttle < 1 for model in self.models.values())

    @rule(number=numbers, results=st.lists(st.booleans(), min_size=1, max_size=4))
    def server_is_checked(self, number: int, results: list[bool]) -> None:
        server, model = self.pick(number)
        for passed in results if model.state is not MAINT else ():  # servers in maintenance are not checked
            before = ServerState(model.state, model.is_up)
            model.record_check(self.now, passed=passed)
            self.check_change(server, before, self.pool.record_check(server, self.now, passed=passed))

    @rule(number=numbers, state=st.sampled_from(AdminState))
    def operator_sets_state(self, number: int, state: AdminState) -> None:
        server, model = self.pick(number)
        before = ServerState(model.state, model.is_up)
        model.set_state(state, self.now)
        self.check_change(server, before, self.pool.set_state(server, state, self.now))

    def check_change(self, server: Server, before: ServerState, change: StateChange[Server] | None) -> None:
        model = self.models[server.name]
        after = ServerState(model.state, model.is_up)
        if before == after:
            assert change is None
            return
        active = sum(other.is_usable and not other.plan.is_backup for other in self.models.values())
        backup = sum(other.is_usable and other.plan.is_backup for other in self.models.values())
        backend_went_down = (
            not active + backup and before.is_up and before.state is READY and model.is_resolved
        )
        assert change == StateChange(
            server=server,
            before=before,
            after=after,
            requeued=0,
            active=active,
            backup=backup,
            backend_went_down=backend_went_down,
        )
        served = before.is_up and before.state is not MAINT
        assert change.went_down == (served and not model.serves)

    @rule(number=numbers)
    def addresses_change(self, number: int) -> None:
        server, model = self.pick(number)
        model.is_resolved = not model.is_resolved
        server.addresses = ADDRESS if model.is_resolved else ()
        self.pool.addresses_changed()

    @rule(client=st.integers(0, 3), number=numbers)
    def store_sticky_server(self, client: int, number: int) -> None:
        server, model = self.pick(number)
        self.pool.store(client, server, self.now)
        self.sticky_servers[client] = model.plan.name

    @rule(plans=configurations)
    def reload(self, plans: list[ServerPlan]) -> None:
        """Reload: servers stay, perhaps with other keys, or disappear, or are new, in any order."""
        self.pool.reconfigure(self.rebuild(plans), max_queue=0, stick=self.pool.stick)
        self.models = {
            plan.name: self.models[plan.name].reload(plan)
            if plan.name in self.models
            else ServerModel.new(plan)
            for plan in plans
        }
        self.sticky_servers = {
            client: name for client, name in self.sticky_servers.items() if name in self.models
        }

    @invariant()
    def servers_match_models(self) -> None:
        assert [server.name for server in self.pool.servers] == list(self.models)
        for server, model in zip(self.pool.servers, self.models.values(), strict=True):
            assert (server.state, server.is_up, server.status) == (model.state, model.is_up, model.status)
            assert (server.is_usable, server.accepts_persistent) == (
                model.is_usable,
                model.accepts_persistent,
            )
            assert server.changed_at == model.changed
            assert server.throttle == pytest.approx(model.throttle)
            counted = evolve(server.counts, sessions=0, most_sessions=0)
            assert counted == model.counts

    @invariant()
    def eligible_servers_match_model(self) -> None:
        usable = [name for name, model in self.models.items() if model.is_usable]
        active = [name for name in usable if not self.models[name].plan.is_backup]
        assert sorted(names(eligible_servers(self.pool))) == sorted(active or usable[:1])
        assert self.pool.has_usable_server == bool(usable)
        assert usable_counts(self.pool.servers) == (len(active), len(usable) - len(active))

    @invariant()
    def sticky_servers_match_model(self) -> None:
        for client, name in self.sticky_servers.items():
            server = self.pool.sticky_server(client, self.now)
            assert names([server]) == [name if self.models[name].accepts_persistent else "none"]


TestPoolStates = PoolStatesMachine.TestCase


def make_checked_server(
    *, is_backup: bool = False, slow_start: float = 0.0, rise: int = 1, fall: int = 1
) -> Server:
    (server,) = make_servers(1)
    server.health, server.is_backup, server.slow_start = Health(rise, fall), is_backup, slow_start
    return server


def test_first_usable_backup_serves_if_no_active_server() -> None:
    servers = make_servers(1, 1, 1, 1)
    for server in servers:
        server.health, server.is_backup = Health(1, 1), server.name in ("s2", "s3")
    pool = make_pool(*servers)
    reported = [names(eligible_servers(pool))]
    for number, passed in [(0, False), (1, False), (2, False), (3, False), (3, True), (2, True), (1, True)]:
        pool.record_check(servers[number], 0.0, passed=passed)
        reported.append(names(eligible_servers(pool)))
    assert reported == [["s0", "s1"], ["s1"], ["s2"], ["s3"], [], ["s3"], ["s2"], ["s1"]]


def test_backup_serves_while_active_server_drains() -> None:
    active, backup = make_servers(1, 1)
    backup.is_backup = True
    pool = make_pool(active, backup)
    pool.set_state(active, DRAIN, 0.0)
    assert names(eligible_servers(pool)) == ["s1"]
    assert active.status == "DRAIN"
    assert usable_counts(pool.servers) == (0, 1)


def test_state_change_is_reported_once() -> None:
    server = make_checked_server(rise=2, fall=3)
    pool = make_pool(server)
    reported = []
    for moment, result in enumerate("+--+---+-++"):
        change = pool.record_check(server, float(moment), passed=result == "+")
        if change is not None:
            reported.append((moment, server.status, change.active))
    assert reported == [(6, "DOWN", 0), (10, "UP", 1)]
    assert (server.counts.check_failures, server.counts.downs, server.counts.down_seconds) == (5, 1, 4.0)
    assert pool.record_check(make_servers(1)[0], 11.0, passed=False) is None  # a server without checks


@pytest.mark.parametrize(
    ("is_up", "state", "next_state", "went_down"),
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
def test_maintenance_of_an_up_server_counts_as_down(
    is_up: bool, state: AdminState, next_state: AdminState, went_down: bool
) -> None:
    server = make_checked_server()
    pool = make_pool(server)
    if not is_up:
        down = pool.record_check(server, 0.0, passed=False)
        assert down is not None
        assert down.went_down
    pool.set_state(server, state, 1.0)
    change = pool.set_state(server, next_state, 2.0)
    assert change is not None
    assert change.went_down == went_down
    assert pool.set_state(server, next_state, 3.0) is None


def test_server_after_maintenance_serves_until_first_failure() -> None:
    server = make_checked_server(rise=2, fall=3)
    pool = make_pool(server)
    pool.record_check(server, 0.0, passed=False)
    statuses = [server.status]
    for state in (MAINT, READY):
        pool.set_state(server, state, 1.0)
        statuses.append(server.status)
    for passed in (False, True, True):
        pool.record_check(server, 2.0, passed=passed)
        statuses.append(server.status)
    assert statuses == ["DOWN", "MAINT", "UP 1/3", "DOWN", "DOWN 1/2", "UP"]


def test_down_time_includes_maintenance() -> None:
    server = make_checked_server()
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


@pytest.mark.parametrize("returns_from", ["down", "maintenance"])
def test_slow_start_begins_at_one_percent(returns_from: str) -> None:
    server = make_checked_server(slow_start=100.0)
    pool = make_pool(server)
    if returns_from == "down":
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


def test_no_slow_start_after_startup_or_drain() -> None:
    server = make_checked_server(slow_start=100.0)
    pool = make_pool(server)
    pool.set_state(server, DRAIN, 0.0)
    pool.set_state(server, READY, 1000.0)
    assert not pool.warm_up(1000.0)
    assert server.throttle == 1.0


def test_server_in_slow_start_gets_few_sessions() -> None:
    cold, warm = make_servers(100, 100)
    cold.slow_start = 100.0
    pool = make_pool(cold, warm)
    pool.set_state(cold, MAINT, 0.0)
    pool.set_state(cold, READY, 0.0)
    assert names(pool.acquire() for _ in range(101)).count("s0") == 1
    pool.warm_up(100.0)
    assert names(pool.acquire() for _ in range(100)).count("s0") == 50


def test_reload_keeps_server_state() -> None:
    before, after = (
        make_checked_server(rise=2, fall=3, slow_start=100.0),
        make_checked_server(rise=2, fall=3, slow_start=100.0),
    )
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


def test_reload_with_other_rise_and_fall_keeps_state() -> None:
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


def test_new_server_in_reload_counts_as_up() -> None:
    pool = make_pool()
    pool.reconfigure([make_checked_server(fall=3)], max_queue=0, stick=None)
    assert names(eligible_servers(pool)) == ["s0"]
    assert [server.status for server in pool.servers] == ["UP 1/3"]


# Stopping


def test_passed_check_ends_stopping() -> None:
    server = make_checked_server(fall=3)
    pool = make_pool(server)
    change = pool.set_health(server, 1.0, is_up=True, is_stopping=True)
    assert change is not None
    assert change.backend_went_down
    assert (server.status, server.accepts_persistent, server.is_usable) == ("NOLB", True, False)
    assert pool.set_health(server, 2.0, is_up=True, is_stopping=True) is None
    assert pool.record_check(server, 3.0, passed=False) is None
    assert server.status == "NOLB 2/3"
    change = pool.record_check(server, 4.0, passed=True)
    assert change is not None
    assert (change.before.is_stopping, change.after.is_stopping) == (True, False)
    assert server.status == "UP"


def test_stopping_server_goes_down() -> None:
    server = make_checked_server(fall=1)
    pool = make_pool(server)
    pool.set_health(server, 1.0, is_up=True, is_stopping=True)
    change = pool.record_check(server, 2.0, passed=False)
    assert change is not None
    assert change.went_down
    pool.record_check(server, 3.0, passed=True)
    pool.record_check(server, 3.0, passed=True)
    assert server.status == "UP"


def test_stopping_brings_a_server_up_that_is_down() -> None:
    """As in HAProxy: the operator's word counts more than the checks so far."""
    server = make_checked_server(fall=1)
    pool = make_pool(server)
    pool.record_check(server, 1.0, passed=False)
    pool.set_health(server, 2.0, is_up=True, is_stopping=True)
    assert (server.status, server.accepts_persistent) == ("NOLB", True)
