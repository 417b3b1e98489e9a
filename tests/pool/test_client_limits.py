"""The limits per client: which sessions exceed one, what counts, and when counts expire."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import floor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailproxy.pool import (
    ClientLimits,
    CountTable,
    LimitReached,
    Published,
    RateCounts,
    SessionCounts,
    client_hash,
    client_key,
    words_for,
)
from mailproxy.pool.client_limits import LimitName

SESSIONS: LimitName = "max_sessions_per_client"
RATE: LimitName = "max_session_rate_per_client"


def tables(workers: int, keys: int = 64) -> list[Published]:
    """Return for each worker its own table and those of the other workers."""
    every = [CountTable(memoryview(bytearray(8 * words_for(keys))).cast("Q")) for _ in range(workers)]
    return [Published(own, [each for each in every if each is not own]) for own in every]


def limits(
    *, sessions: int = 0, rate: int = 0, per: float = 60.0, workers: int = 1
) -> Sequence[ClientLimits]:
    """Return the limits of each worker, or those of a single process."""
    published = tables(workers) if workers > 1 else [None]
    rates = tables(workers) if workers > 1 else [None]
    return [
        ClientLimits(
            max_sessions=sessions,
            max_rate=rate,
            sessions=SessionCounts(own),
            rates=RateCounts(per, published=own_rates) if rate else None,
        )
        for own, own_rates in zip(published, rates, strict=True)
    ]


# Sessions at once


def test_client_at_limit_is_accepted_after_session_end() -> None:
    (limit,) = limits(sessions=2)
    assert [limit.add(1, 0.0) for _ in range(3)] == [None, None, LimitReached(SESSIONS, 2)]
    assert limit.add(2, 0.0) is None, "another client"
    limit.remove(2)
    assert limit.add(1, 0.0) == LimitReached(SESSIONS, 2)
    limit.remove(1)
    assert limit.add(1, 0.0) is None


STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.booleans()), max_size=200)


@pytest.mark.parametrize("workers", [1, 3])
@given(steps=STEPS, max_sessions=st.integers(1, 4))
def test_workers_keep_the_limit_exactly(
    workers: int, steps: list[tuple[int, int, bool]], max_sessions: int
) -> None:
    """Workers that count one after the other keep the limit. They forget clients without sessions."""
    each = limits(sessions=max_sessions, workers=workers)
    model: Counter[int] = Counter()
    active: Counter[tuple[int, int]] = Counter()
    for number, client, arrives in steps:
        worker = number % workers
        if arrives:
            reached = each[worker].add(client, 0.0)
            assert reached == (None if model[client] < max_sessions else LimitReached(SESSIONS, max_sessions))
            if reached is None:
                model[client] += 1
                active[worker, client] += 1
        elif active[worker, client]:
            each[worker].remove(client)
            model[client] -= 1
            active[worker, client] -= 1
    assert [len(limit.sessions) for limit in each] == [
        sum(count > 0 for (worker, _), count in active.items() if worker == number)
        for number in range(workers)
    ]


# Rate


def test_rate_counts_rejected_connections() -> None:
    (limit,) = limits(rate=2, per=10.0)
    assert [limit.add(1, now) for now in (0.0, 1.0, 2.0, 9.0)] == [
        None,
        None,
        LimitReached(RATE, 3),
        LimitReached(RATE, 4),
    ]
    assert limit.add(2, 9.0) is None
    assert limit.add(1, 15.0) == LimitReached(RATE, 3), "half of the four before, and this one"
    assert limit.add(1, 30.0) is None


def test_session_over_both_limits_reports_the_session_limit() -> None:
    (limit,) = limits(sessions=1, rate=1)
    assert limit.add(1, 0.0) is None
    assert limit.add(1, 0.0) == LimitReached(SESSIONS, 1)
    limit.remove(1)
    assert limit.add(1, 0.0) == LimitReached(RATE, 3), "rejected connections count"


class HAProxyRate:
    """The rate as HAProxy computes it, for one client, with all connections in one counter."""

    def __init__(self, per: float) -> None:
        self.per = per
        self.windows: Counter[int] = Counter()

    def add(self, now: float) -> int:
        window = floor(now / self.per)
        self.windows[window] += 1
        remaining = 1 - now / self.per % 1
        return self.windows[window] + floor(self.windows[window - 1] * remaining)


# Quarters of seconds, so that what is computed in floating point is exact.
ARRIVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=150
)


@pytest.mark.parametrize("workers", [1, 3])
@given(arrivals=ARRIVALS, per=st.sampled_from([0.5, 1.0, 4.0]))
def test_rate_over_workers_equals_one_counter(
    workers: int, arrivals: list[tuple[int, int, int]], per: float
) -> None:
    published: Sequence[Published | None] = tables(workers) if workers > 1 else [None]
    each = [RateCounts(per, published=own) for own in published]
    models: defaultdict[int, HAProxyRate] = defaultdict(lambda: HAProxyRate(per))
    now = 0.0
    for quarters, worker, client in arrivals:
        now += quarters / 4
        rate = models[client].add(now)
        assert each[worker % workers].peek(client, now) == rate
        assert each[worker % workers].add(client, now) == rate


@given(arrivals=ARRIVALS, count=st.integers(1, 6))
def test_rate_is_between_half_and_twice_the_limit(arrivals: list[tuple[int, int, int]], count: int) -> None:
    """A client never has more than twice the count in a period. One with at most half is never rejected."""
    (limit,) = limits(rate=count, per=4.0)
    accepted: defaultdict[int, list[float]] = defaultdict(list)
    tried: defaultdict[int, list[float]] = defaultdict(list)
    now = 0.0
    for quarters, _, client in arrivals:
        now += quarters / 4
        tried[client].append(now)
        recent = [sum(start <= time < start + 4 for time in tried[client]) for start in tried[client]]
        reached = limit.add(client, now)
        if 2 * max(recent) <= count:
            assert reached is None
        if reached is None:
            accepted[client].append(now)
    for times in accepted.values():
        assert all(sum(start <= time < start + 4 for time in times) <= 2 * count for start in times)


def test_rate_restarts_after_two_periods() -> None:
    rates = RateCounts(1.0)
    assert [rates.add(1, 0.5) for _ in range(100)] == list(range(1, 101))
    assert rates.add(1, 2.0) == 1


def test_count_saturates_at_sixteen_bits() -> None:
    own, other = tables(2)
    rates, others = RateCounts(1.0, published=own), RateCounts(1.0, published=other)
    assert max(rates.add(1, 1.25) for _ in range(65_600)) == 65_535
    assert others.add(1, 1.25) == 65_536
    assert others.add(1, 2.5) == 1 + 65_536 // 2


def test_window_numbers_wrap_without_a_gap() -> None:
    """The window number wraps, as after 49 days with windows of a millisecond."""
    rates = RateCounts(0.001)
    end = 2.0**32 * 0.001
    assert rates.add(1, end - 0.0005) == 1
    assert rates.add(1, end + 0.00025) == 1 + 0
    assert rates.add(1, end + 0.00025) == 2


# Memory


def test_expired_clients_are_dropped_as_others_connect() -> None:
    rates = RateCounts(1.0)
    for client in range(1, 1001):
        rates.add(client, 0.0)
    assert len(rates) == 1000
    for _ in range(600):
        rates.add(9999, 5.0)
    assert len(rates) == 1


def test_clients_of_the_last_window_are_kept() -> None:
    rates = RateCounts(1.0)
    for client in range(1, 101):
        rates.add(client, 0.9)
    assert rates.add(1, 1.25) == 1 + 0
    assert len(rates) == 100


@pytest.mark.parametrize("workers", [1, 2])
def test_clients_beyond_the_size_replace_the_longest_idle(workers: int) -> None:
    """A replaced client begins at 0 again, also for other workers. A busy client is not replaced."""
    published = tables(2, keys=8)
    rates = RateCounts(60.0, size=8, published=published[0] if workers > 1 else None)
    for client in range(1, 100):
        rates.add(client, 1.0)
        rates.add(1000, 1.0)
        assert len(rates) <= 8
    assert rates.add(1000, 1.0) == 100
    assert rates.add(1, 1.0) == 1
    if workers > 1:
        others = RateCounts(60.0, published=published[1])
        assert others.add(1000, 1.0) == 101
        assert others.add(2, 1.0) == 1


def test_many_addresses_take_bounded_memory() -> None:
    """Connections from many addresses never cause the rejection of another client."""
    (limit,) = limits(sessions=3, rate=30)
    for client in range(200_000):
        if limit.add(client, 1.0) is None:
            limit.remove(client)
        if client % 20_000 == 0:
            assert limit.add(-1, 1.0) is None
            limit.remove(-1)
    assert limit.rates is not None
    assert len(limit.rates) == 65_536
    assert len(limit.sessions) == 0


def test_full_table_leaves_count_to_its_worker() -> None:
    """Other workers do not see such a count. Its own worker continues it until its sessions end."""
    own, others = (SessionCounts(each) for each in tables(2, keys=1))
    for client in range(1, 101):
        own.add(client)
    assert all(own.total(client) == 1 for client in range(1, 101))
    assert sum(others.total(client) for client in range(1, 101)) == 16
    for client in range(1, 101):
        own.remove(client)
    assert sum(others.total(client) for client in range(1, 101)) == 0


# Clients


def test_hashes_differ_by_client_and_by_secret() -> None:
    hosts = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1", "::"]
    hashes = {client_hash(client_key(host), secret) for host in hosts for secret in (b"one", b"two")}
    assert len(hashes) == 10
    assert all(0 < each < 2**64 for each in hashes)
    assert client_hash(client_key("2001:db8::1"), b"one") == client_hash(client_key("2001:db8::ffff"), b"one")
    assert client_hash(client_key("::ffff:192.0.2.1"), b"one") == client_hash(client_key("192.0.2.1"), b"one")


@settings(max_examples=20)
@given(st.integers(1, 50))
def test_attacker_cannot_exclude_another_client(speed: int) -> None:
    """Sessions of the other client are counted separately, at any rate of the attacker's connections."""
    first, second = limits(sessions=2, rate=10, workers=2)
    for now in range(30):
        for _ in range(speed):
            for limit in (first, second):
                if limit.add(1, float(now)) is None:
                    limit.remove(1)
        if now % 12 == 0:
            assert second.add(2, float(now)) is None
            second.remove(2)
