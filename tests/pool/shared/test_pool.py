"""Pools of several workers that share servers: which worker gets a free slot, and in which order."""

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
from tests.support.pool_invariants import assert_invariants
from tests.support.pool_servers import ADDRESS

SECOND = 1_000_000_000


class SharedServer(SharedSessions, Server):
    """A server with shared counts, composed as the proxy's own."""


@define
class SharedPools:
    """One pool for each worker, over the same servers.

    Attributes:
        ticks: the clock of all workers, in nanoseconds.
        woken: the workers that were woken. They react when `serve_wakeups` is called.
    """

    workers: int = 2
    servers: int = 1
    max_sessions: int = 1
    max_queue: int = 0
    ticks: itertools.count[int] = field(factory=lambda: itertools.count(10 * SECOND))
    woken: list[int] = field(factory=list)
    pools: list[Pool[SharedServer]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        columns = [[0] * self.workers for _ in range(3 + 4 * self.servers)]
        self.pools = [self.pool(columns, slot) for slot in range(self.workers)]

    def pool(self, columns: list[list[int]], slot: int) -> Pool[SharedServer]:
        counters_of_all = [SharedCounter(column, slot) for column in columns]
        server_counters = tuple(
            ServerCounters(*counters_of_all[3 + 4 * n : 7 + 4 * n]) for n in range(self.servers)
        )
        servers = []
        for number, server_counter in enumerate(server_counters):
            server = SharedServer(f"s{number}", addresses=ADDRESS, max_sessions=self.max_sessions)
            server.counters = server_counter
            servers.append(server)
        counters = BackendCounters(
            counters_of_all[0], counters_of_all[1], counters_of_all[2], server_counters
        )
        order = SharedTurnOrder(
            servers, counters, clock=self.ticks.__next__, wake_worker=self.woken.append, queue_timeout=60
        )
        return Pool(servers, LeastConn(), max_queue=self.max_queue, order=order)

    def serve_wakeups(self) -> None:
        """Let each woken worker serve its queues, until no wakeup is left."""
        while self.woken:
            self.pools[self.woken.pop(0)].serve_queues()

    def wait(self, slot: int, required: int | None = None) -> Waiter[SharedServer]:
        pool = self.pools[slot]
        waiter = Waiter[SharedServer](lambda: None, pool.servers[required] if required is not None else None)
        assert pool.enqueue(waiter)
        return waiter

    def acquire(self, slot: int) -> SharedServer | None:
        return self.pools[slot].acquire()


def test_sessions_of_all_workers_are_counted() -> None:
    group = SharedPools(max_sessions=3)
    first, second = group.acquire(0), group.acquire(1)
    assert first is not None
    assert second is not None
    assert first.sessions == second.sessions == 2
    assert (first.counts.sessions, second.counts.most_sessions) == (1, 2)
    group.pools[0].release(first)
    assert second.sessions == 1


def test_server_is_full_by_sessions_of_all_workers() -> None:
    group = SharedPools(servers=2)
    first, second = group.acquire(0), group.acquire(1)
    assert first is not None
    assert second is not None
    assert first.name != second.name
    assert group.acquire(0) is None


def test_freed_slot_goes_to_longest_waiter() -> None:
    group = SharedPools()
    server = group.acquire(0)
    assert server is not None
    other_worker, own_worker = group.wait(1), group.wait(0)
    group.woken.clear()
    group.pools[0].release(server)
    assert (other_worker.server, own_worker.server) == (None, None)
    assert group.woken == [1]
    group.serve_wakeups()
    assert other_worker.server is group.pools[1].servers[0]
    assert own_worker.server is None


def test_several_freed_slots_pass_between_workers() -> None:
    group = SharedPools(workers=3, max_sessions=4)
    acquired = [group.acquire(0) for _ in range(4)]
    waiting = [group.wait(slot) for slot in (1, 2, 1, 0, 2)]
    group.serve_wakeups()
    for server in acquired:
        assert server is not None
        group.pools[0].release(server)
    group.serve_wakeups()
    assert [waiter.server is not None for waiter in waiting] == [True, True, True, True, False]


def test_later_session_does_not_overtake_in_other_worker() -> None:
    group = SharedPools()
    server = group.acquire(0)
    assert server is not None
    group.wait(1)
    group.pools[0].release(server)
    assert group.acquire(0) is None  # the free slot is reserved for the waiter
    group.serve_wakeups()
    assert group.pools[1].servers[0].sessions == 1


def test_waiter_for_one_server_leaves_other_servers_free() -> None:
    group = SharedPools(servers=2)
    acquired = [group.acquire(0), group.acquire(0)]
    group.wait(1, required=0)
    for server in acquired:
        assert server is not None
        group.pools[0].release(server)
    other = group.acquire(0)
    assert other is not None
    assert other.name == "s1"
    assert group.pools[0].acquire(required=group.pools[0].servers[0]) is None


def test_max_queue_counts_waiters_of_all_workers() -> None:
    group = SharedPools(max_queue=2)
    group.acquire(0)
    group.wait(0)
    group.wait(1)
    assert group.pools[0].waiting == 2
    assert not group.pools[0].enqueue(Waiter(lambda: None))


def test_cancelled_waiter_holds_up_no_other() -> None:
    group = SharedPools()
    server = group.acquire(0)
    assert server is not None
    first, second = group.wait(1), group.wait(0)
    group.pools[1].cancel(first)
    group.pools[0].release(server)
    assert second.server is not None


def test_hanging_worker_does_not_block_the_queue() -> None:
    """The first waiter of the worker that hangs would have given up long ago."""
    group = SharedPools()
    server = group.acquire(0)
    assert server is not None
    group.wait(1)
    group.ticks = itertools.count(10 * SECOND + 62 * SECOND)
    for pool in group.pools:
        pool._order._clock = group.ticks.__next__  # type: ignore[attr-defined]  # a shared order
    waiter = group.wait(0)
    group.pools[0].release(server)
    assert waiter.server is not None


def test_snapshot_requeues_waiters_of_the_server() -> None:
    group = SharedPools(servers=2)
    for _ in range(2):
        group.acquire(0)
    waiter = group.wait(1, required=0)
    pool = group.pools[1]
    change = pool.apply_snapshot(pool.servers[0], AdminState.MAINT, None, 0.0)
    assert change is not None
    assert (change.requeued, waiter.required) == (1, None)
    assert pool.apply_snapshot(pool.servers[0], AdminState.MAINT, None, 0.0) is None


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.sampled_from(["arrive", "leave", "give up"]), st.integers(0, 2)), max_size=60),
)
def test_queue_of_all_workers_is_fifo(slots: int, steps: list[tuple[str, int]]) -> None:
    """After all wakeups no session waits beside a free slot, and no later session overtakes an earlier one."""
    group = SharedPools(workers=3, max_sessions=slots)
    active: list[tuple[int, SharedServer]] = []
    queue: list[tuple[int, Waiter[SharedServer]]] = []
    for step, slot in steps:
        if step == "arrive":
            server = group.acquire(slot)
            if server is not None:
                assert not queue
                active.append((slot, server))
            else:
                queue.append((slot, group.wait(slot)))
        elif step == "leave" and active:
            owner, server = active.pop(slot % len(active))
            group.pools[owner].release(server)
        elif step == "give up" and queue:
            owner, waiter = queue.pop(slot % len(queue))
            group.pools[owner].cancel(waiter)
        group.serve_wakeups()
        for pool in group.pools:
            assert_invariants(pool)
        while queue and queue[0][1].server is not None:
            owner, waiter = queue.pop(0)
            assert waiter.server is not None
            active.append((owner, waiter.server))
            waiter.server = None
        assert all(waiter.server is None for _, waiter in queue)
        assert len(active) <= slots
        assert not queue or len(active) == slots
        assert [pool.waiting for pool in group.pools] == [len(queue)] * 3


def test_success_in_any_worker_ends_failure_streak() -> None:
    successes = [0, 0]
    seen = SharedPassiveHealth(3, successes=SharedCounter(successes, 0))
    assert [seen.record_failure("a"), seen.record_failure("b")] == [0, 0]
    successes[1] += 1
    assert [seen.record_failure("a"), seen.record_failure("b"), seen.record_failure("c")] == [0, 0, 3]
