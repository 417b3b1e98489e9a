"""The drainer on sessions that only have an idle time: which end when, under trio's virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from attrs import define, field

from mailproxy.log import Log
from mailproxy.log.end_reasons import DRAINED, KILLED, STOPPED, EndReason
from mailproxy.log.record import SessionRecord
from mailproxy.proxy.drain import PROCESS, Drainer, DrainTarget, Purpose
from mailproxy.proxy.session.registry import SessionRegistry

START = 1000.0  # on trio's clock: sessions may be older than the test


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    clock = trio.testing.MockClock(autojump_threshold=0)
    clock.jump(START)
    return clock


@define(eq=False)
class FakeSession:
    """A session whose last byte moved at ``active_at``, or that is busy all the time."""

    registry: SessionRegistry
    record: SessionRecord
    active_at: float
    is_busy: bool = False
    is_connected: bool = True
    has_unsent: bool = False
    ended_at: float | None = None
    reason: EndReason | None = None
    listener: Any = None
    server: Any = None
    local_address: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    counted_in: int = 0
    counted_out: int = 0

    @property
    def idle(self) -> float:
        return 0.0 if self.is_busy else trio.current_time() - self.active_at

    age = idle

    def end(self, reason: EndReason) -> None:
        self.ended_at, self.reason = trio.current_time() - START, reason
        del self.registry.sessions[self.record.id]


@define
class World:
    """Sessions, their drainer, and the events in its log."""

    drainer: Drainer
    registry: SessionRegistry
    sessions: list[FakeSession] = field(factory=list)

    def add(
        self, count: int, *, idle: float = 0.0, frontend: str = "f", server: str = "s1", **state: Any
    ) -> list[FakeSession]:
        added = []
        for _ in range(count):
            number = len(self.sessions)
            record = SessionRecord(
                id=number, accepted=0, frontend=frontend, bind="", tls=False, backend="b", server=server
            )
            session = FakeSession(self.registry, record, trio.current_time() - idle, **state)
            self.registry.sessions[number] = session
            self.sessions.append(session)
            added.append(session)
        return added

    def drain(self, target: DrainTarget, seconds: float, purpose: Purpose = Purpose.DRAIN) -> None:
        self.drainer.start(str(target), target.matches, seconds, purpose)

    async def wait_until_ended(self) -> None:
        with trio.fail_after(3600):
            while self.drainer.statuses():  # noqa: ASYNC110 - there is no event
                await trio.sleep(0.1)


@asynccontextmanager
async def world(*, idle_first: float = 30.0, rate: float = 200.0) -> AsyncIterator[World]:
    registry = SessionRegistry()
    drainer = Drainer(registry, Log([]), idle_first=idle_first, rate=rate, random=Random(1))  # noqa: S311 - the same in each run
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drainer.run)  # noqa: ASYNC113 - what is drained before it runs, it drains when it does
        yield World(drainer, registry)
        nursery.cancel_scope.cancel()


def ends_by_second(sessions: list[FakeSession]) -> list[int]:
    times = [session.ended_at for session in sessions if session.ended_at is not None]
    assert len(times) == len(sessions)
    return [sum(second <= time < second + 1 for time in times) for second in range(int(max(times)) + 1)]


async def test_thousand_sessions_end_idle_first_and_evenly(autojump_clock: object) -> None:
    async with world() as w:
        idle, rest = w.add(900, idle=60), w.add(100, idle=1)
        w.drain(PROCESS, 20, Purpose.STOP)
        await w.wait_until_ended()
    assert {session.reason for session in w.sessions} == {STOPPED}
    seconds = ends_by_second(idle)
    assert len(seconds) <= 16
    assert all(50 <= ended <= 70 for ended in seconds[:14])
    assert min(session.ended_at or 0 for session in rest) >= 15
    assert all(ended <= 30 for ended in ends_by_second(rest))
    assert max(session.ended_at or 0 for session in rest) <= 20.1


async def test_busy_sessions_end_at_the_deadline_alone(autojump_clock: object) -> None:
    async with world() as w:
        busy = w.add(10, is_busy=True)
        unsent = w.add(10, idle=5, has_unsent=True)
        connecting = w.add(10, idle=60, is_connected=False)
        w.drain(PROCESS, 20, Purpose.STOP)
        await w.wait_until_ended()
    assert {round(session.ended_at or 0, 2) for session in (*busy, *unsent, *connecting)} == {20.0}


async def test_session_that_becomes_busy_is_spared(autojump_clock: object) -> None:
    """Sessions are chosen once a second; one that moves a byte after that goes on."""
    async with world(rate=1) as w:
        (session,) = w.add(1, idle=60)
        w.drain(PROCESS, 100, Purpose.STOP)
        for _ in range(50):
            session.active_at = trio.current_time()
            await trio.sleep(1)
        assert len(w.registry) == 1
        session.active_at -= 60
        await w.wait_until_ended()
    assert 50 <= (session.ended_at or 0) <= 75


async def test_session_that_becomes_idle_ends_then(autojump_clock: object) -> None:
    async with world() as w:
        (session,) = w.add(1)
        w.drain(PROCESS, 1000)
        await w.wait_until_ended()
    assert 30 <= (session.ended_at or 0) <= 32


async def test_few_idle_sessions_end_soon(autojump_clock: object) -> None:
    """A tenth of the rate is the slowest: 20 idle sessions need a second, not three quarters of an hour."""
    async with world() as w:
        sessions = w.add(20, idle=60)
        w.drain(PROCESS, 3600)
        await w.wait_until_ended()
    assert all((session.ended_at or 0) <= 2.5 for session in sessions)


async def test_rate_is_kept_while_the_deadline_allows_it(autojump_clock: object) -> None:
    async with world(rate=10) as w:
        sessions = w.add(170, idle=60)
        w.drain(PROCESS, 20)
        await w.wait_until_ended()
    assert max(ends_by_second(sessions)) <= 13
    assert max(session.ended_at or 0 for session in sessions) <= 20.1


async def test_rate_is_exceeded_if_the_deadline_demands_it(autojump_clock: object) -> None:
    async with world(rate=10) as w:
        sessions = w.add(1000, idle=60)
        w.drain(PROCESS, 20)
        await w.wait_until_ended()
    assert max(ends_by_second(sessions)) <= 80
    assert max(session.ended_at or 0 for session in sessions) <= 20.1


async def test_ends_are_spread_within_a_second(autojump_clock: object) -> None:
    async with world() as w:
        sessions = w.add(300, idle=60)
        w.drain(PROCESS, 20)
        await w.wait_until_ended()
    assert len({session.ended_at for session in sessions}) == 300
    assert len({round((session.ended_at or 0) * 10) for session in sessions}) > 100


async def test_single_silent_session_has_all_the_time(autojump_clock: object) -> None:
    async with world() as w:
        (session,) = w.add(1, idle=2)
        w.drain(PROCESS, 10, Purpose.STOP)
        await w.wait_until_ended()
    assert session.ended_at == pytest.approx(10, abs=0.1)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.5])
async def test_short_deadline_is_met(autojump_clock: object, seconds: float) -> None:
    async with world() as w:
        sessions = [*w.add(500, idle=60), *w.add(50, is_busy=True)]
        w.drain(PROCESS, seconds, Purpose.STOP)
        await w.wait_until_ended()
    assert max(session.ended_at or 0 for session in sessions) <= seconds + 0.1


@pytest.mark.parametrize(
    ("target", "matching"),
    [
        (DrainTarget(backend="b", server="s1"), {"server": "s1"}),
        (DrainTarget(frontend="f"), {"frontend": "f"}),
    ],
)
async def test_only_matching_sessions_end(
    autojump_clock: object, target: DrainTarget, matching: dict[str, str]
) -> None:
    async with world() as w:
        theirs = w.add(5, idle=60, **matching)
        others = w.add(5, idle=60, frontend="g", server="s2")
        w.drain(target, 10)
        await w.wait_until_ended()
    assert {session.reason for session in theirs} == {DRAINED}
    assert {session.reason for session in others} == {None}


async def test_kill_ends_the_sessions_of_its_start_at_the_rate(autojump_clock: object) -> None:
    """Later ones go on, for the server still serves."""
    target = DrainTarget(backend="b", server="s1")
    async with world(rate=10) as w:
        sessions = [*w.add(15, idle=60), *w.add(15, is_busy=True)]
        w.drain(target, 30, Purpose.KILL)
        late = w.add(5)
        await w.wait_until_ended()
    assert {session.reason for session in sessions} == {KILLED}
    assert ends_by_second(sessions) == [10, 10, 10]
    assert all(session.ended_at is None for session in late)


async def test_drain_also_ends_sessions_that_come_later(autojump_clock: object) -> None:
    async with world() as w:
        w.add(1, is_busy=True)
        w.drain(DrainTarget(frontend="f"), 10)
        await trio.sleep(5)
        (late,) = w.add(1)
        await w.wait_until_ended()
    assert late.reason is DRAINED


async def test_second_drain_replaces_the_first(autojump_clock: object) -> None:
    async with world() as w:
        (session,) = w.add(1, is_busy=True)
        w.drain(PROCESS, 1000, Purpose.STOP)
        await trio.sleep(1)
        w.drain(PROCESS, 2, Purpose.STOP)
        assert len(w.drainer.statuses()) == 1
        await w.wait_until_ended()
    assert session.ended_at == pytest.approx(3, abs=0.1)


async def test_cancelled_drain_ends_nothing_more(autojump_clock: object) -> None:
    target = DrainTarget(backend="b", server="s1")
    async with world() as w:
        (session,) = w.add(1, idle=20)
        w.drain(target, 1000)
        await trio.sleep(5)
        assert w.drainer.cancel(str(target))
        assert not w.drainer.cancel(str(target))
        assert w.drainer.statuses() == []
        await trio.sleep(2000)
        assert session.ended_at is None


async def test_status_has_what_is_left_and_idle(autojump_clock: object) -> None:
    async with world(rate=1) as w:
        w.add(3, idle=60)
        w.add(2)
        w.drain(DrainTarget(backend="b", server="s1"), 30)
        w.drain(DrainTarget(frontend="f"), 100.4)
        assert [str(status) for status in w.drainer.statuses()] == [
            "server b/s1 left=5 idle=3 deadline=30s",
            "frontend f left=5 idle=3 deadline=100s",
        ]


async def test_drain_before_the_drainer_runs_begins_with_it(autojump_clock: object) -> None:
    registry = SessionRegistry()
    drainer = Drainer(registry, Log([]), idle_first=30, rate=200, random=Random(1))  # noqa: S311 - the same in each run
    w = World(drainer, registry)
    (session,) = w.add(1, is_busy=True)
    w.drain(PROCESS, 5, Purpose.STOP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drainer.run)
        await w.wait_until_ended()
        nursery.cancel_scope.cancel()
    assert session.reason is STOPPED


async def test_drains_go_on_after_a_failure(autojump_clock: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of a drain is restarted like every helper."""
    select, failures = SessionRegistry.select, [RuntimeError("once")]

    def select_or_fail(registry: SessionRegistry, matches: Callable[..., bool]) -> object:
        if failures and trio.current_time() > START + 1:
            raise failures.pop()
        return select(registry, matches)

    monkeypatch.setattr(SessionRegistry, "select", select_or_fail)
    async with world() as w:
        (session,) = w.add(1, is_busy=True)
        w.drain(PROCESS, 5, Purpose.STOP)
        await trio.sleep(10)
        assert failures == []
        assert session.reason is STOPPED
