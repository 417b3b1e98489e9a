"""A pool that several workers have together: what each gives, and whose turn it is."""

from __future__ import annotations

import itertools

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from mailproxy.pool import (
    AdminState,
    BackendCounters,
    LeastConn,
    Pool,
    Server,
    ServerCounters,
    SharedCounter,
    SharedPassiveHealth,
    SharedSessions,
    SharedTurnOrder,
    Waiter,
)
from tests.support.pool_servers import ADDRESS

SECOND = 1_000_000_000


class SharedServer(SharedSessions, Server):
    """As the proxy's own."""


@define
class Crew:
    """Workers with a pool each, over the same servers; ``ticks`` is their clock. Bells are heard when told to."""

    workers: int = 2
    servers: int = 1
    max_sessions: int = 1
    max_queue: int = 0
    ticks: itertools.count[int] = field(factory=lambda: itertools.count(10 * SECOND))
    rung: list[int] = field(factory=list)
    pools: list[Pool[SharedServer]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        columns = [[0] * self.workers for _ in range(3 + 4 * self.servers)]
        self.pools = [self.pool(columns, slot) for slot in range(self.workers)]

    def pool(self, columns: list[list[int]], slot: int) -> Pool[SharedServer]:
        tallies = [SharedCounter(column, slot) for column in columns]
        shares = tuple(ServerCounters(*tallies[3 + 4 * n : 7 + 4 * n]) for n in range(self.servers))
        servers = []
        for number, share in enumerate(shares):
            server = SharedServer(f"s{number}", addresses=ADDRESS, max_sessions=self.max_sessions)
            server.counters = share
            servers.append(server)
        counters = BackendCounters(tallies[0], tallies[1], tallies[2], shares)
        order = SharedTurnOrder(
            servers, counters, clock=self.ticks.__next__, wake_worker=self.rung.append, queue_timeout=60
        )
        return Pool(servers, LeastConn(), max_queue=self.max_queue, order=order)

    def hear(self) -> None:
        """Let everybody look who was rung for, until all is quiet."""
        while self.rung:
            self.pools[self.rung.pop(0)].serve_queues()

    def wait(self, slot: int, wanted: int | None = None) -> Waiter[SharedServer]:
        pool = self.pools[slot]
        waiter = Waiter[SharedServer](lambda: None, pool.servers[wanted] if wanted is not None else None)
        assert pool.enqueue(waiter)
        return waiter

    def enter(self, slot: int) -> SharedServer | None:
        return self.pools[slot].acquire()


def test_sessions_are_those_of_all() -> None:
    group = Crew(max_sessions=3)
    first, second = group.enter(0), group.enter(1)
    assert first is not None
    assert second is not None
    assert first.sessions == second.sessions == 2
    assert (first.counts.sessions, second.counts.most_sessions) == (1, 2)
    group.pools[0].release(first)
    assert second.sessions == 1


def test_a_server_is_full_by_what_all_have_there() -> None:
    group = Crew(servers=2)
    first, second = group.enter(0), group.enter(1)
    assert first is not None
    assert second is not None
    assert first.name != second.name
    assert group.enter(0) is None


def test_a_freed_place_is_for_who_waits_longest_in_whichever_worker() -> None:
    group = Crew()
    server = group.enter(0)
    assert server is not None
    far, near = group.wait(1), group.wait(0)
    group.rung.clear()
    group.pools[0].release(server)
    assert (far.server, near.server) == (None, None)
    assert group.rung == [1]
    group.hear()
    assert far.server is group.pools[1].servers[0]
    assert near.server is None


def test_several_places_go_on_from_worker_to_worker() -> None:
    group = Crew(workers=3, max_sessions=4)
    entered = [group.enter(0) for _ in range(4)]
    waiting = [group.wait(slot) for slot in (1, 2, 1, 0, 2)]
    group.hear()
    for server in entered:
        assert server is not None
        group.pools[0].release(server)
    group.hear()
    assert [waiter.server is not None for waiter in waiting] == [True, True, True, True, False]


def test_who_comes_later_does_not_get_ahead_anywhere() -> None:
    group = Crew()
    server = group.enter(0)
    assert server is not None
    group.wait(1)
    group.pools[0].release(server)
    assert group.enter(0) is None  # it is free, and not for everybody
    group.hear()
    assert group.pools[1].servers[0].sessions == 1


def test_whoever_waits_for_one_server_alone_is_not_passed_there_and_others_are_free() -> None:
    group = Crew(servers=2)
    entered = [group.enter(0), group.enter(0)]
    group.wait(1, wanted=0)
    for server in entered:
        assert server is not None
        group.pools[0].release(server)
    other = group.enter(0)
    assert other is not None
    assert other.name == "s1"
    assert group.pools[0].acquire(required=group.pools[0].servers[0]) is None


def test_a_bound_on_the_queue_is_over_all() -> None:
    group = Crew(max_queue=2)
    group.enter(0)
    group.wait(0)
    group.wait(1)
    assert group.pools[0].waiting == 2
    assert not group.pools[0].enqueue(Waiter(lambda: None))


def test_who_gives_up_is_waited_for_no_longer() -> None:
    group = Crew()
    server = group.enter(0)
    assert server is not None
    first, second = group.wait(1), group.wait(0)
    group.pools[1].cancel(first)
    group.pools[0].release(server)
    assert second.server is not None


def test_a_worker_that_hangs_keeps_nobody_waiting_for_ever() -> None:
    """Its first would have given up by itself long ago."""
    group = Crew()
    server = group.enter(0)
    assert server is not None
    group.wait(1)
    group.ticks = itertools.count(10 * SECOND + 62 * SECOND)
    for pool in group.pools:
        pool._order._clock = group.ticks.__next__  # type: ignore[attr-defined]  # a shared one
    waiter = group.wait(0)
    group.pools[0].release(server)
    assert waiter.server is not None


def test_what_is_adopted_moves_those_who_wait_for_it() -> None:
    group = Crew(servers=2)
    for _ in range(2):
        group.enter(0)
    stuck = group.wait(1, wanted=0)
    pool = group.pools[1]
    change = pool.apply_snapshot(pool.servers[0], AdminState.MAINT, None, 0.0)
    assert change is not None
    assert (change.requeued, stuck.required) == (1, None)
    assert pool.apply_snapshot(pool.servers[0], AdminState.MAINT, None, 0.0) is None


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["come", "leave", "give up"]), st.integers(0, 2)), max_size=60),
)
def test_whatever_happens_first_come_is_first_served(places: int, steps: list[tuple[str, int]]) -> None:
    """When all bells were heard there is nobody who waits beside a free place, and nobody was passed by a later one."""
    group = Crew(workers=3, max_sessions=places)
    there: list[tuple[int, SharedServer]] = []
    line: list[tuple[int, Waiter[SharedServer]]] = []
    for step, slot in steps:
        if step == "come":
            server = group.enter(slot)
            if server is not None:
                assert not line
                there.append((slot, server))
            else:
                line.append((slot, group.wait(slot)))
        elif step == "leave" and there:
            where, server = there.pop(slot % len(there))
            group.pools[where].release(server)
        elif step == "give up" and line:
            where, waiter = line.pop(slot % len(line))
            group.pools[where].cancel(waiter)
        group.hear()
        for pool in group.pools:
            pool.assert_invariants()
        while line and line[0][1].server is not None:
            where, waiter = line.pop(0)
            assert waiter.server is not None
            there.append((where, waiter.server))
            waiter.server = None
        assert all(waiter.server is None for _, waiter in line)
        assert len(there) <= places
        assert not line or len(there) == places
        assert [pool.waiting for pool in group.pools] == [len(line)] * 3


def test_a_success_anywhere_ends_a_row_of_failures() -> None:
    successes = [0, 0]
    seen = SharedPassiveHealth(3, successes=SharedCounter(successes, 0))
    assert [seen.record_failure("a"), seen.record_failure("b")] == [0, 0]
    successes[1] += 1
    assert [seen.record_failure("a"), seen.record_failure("b"), seen.record_failure("c")] == [0, 0, 3]
