"""When servers are checked, and how soon it is known that one is down or up: under a clock that jumps, without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from mailproxy.pool import AdminState, RandomSource
from mailproxy.protocol.checks.result import CheckCode, CheckResult
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.checks.checker import HealthChecker
from tests.support.proxy.check_harness import (
    PASSED,
    REFUSED,
    SILENT,
    RecordingLog,
    SimulatedCheck,
    make_backend,
    seeded_random,
)

ALMOST_S = 1e-6  # what sums of seconds are rounded by
OUT_OF_DESCRIPTORS = CheckResult(CheckCode.SOCKERR, "no socket: Too many open files")


class NoChance:
    """Every throw is the same."""

    def __init__(self, thrown: float = 0.0) -> None:
        self.thrown = thrown

    def random(self) -> float:
        return self.thrown


class Scripted:
    """What the checks of one server come to, one after the other, each taking so many seconds; the last one again and again."""

    def __init__(self, *outcomes: CheckResult | Exception, seconds: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.seconds = seconds
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self) -> CheckResult:
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def checking(
    *pairs: tuple[Backend, SimulatedCheck], diary: RecordingLog, chance: RandomSource | None = None
) -> AsyncIterator[None]:
    """Check meanwhile."""
    checks = HealthChecker(pairs, log=diary, chance=chance or NoChance())

    async def check() -> None:
        await checks.run()  # what it does before it says that it has started is looked at, too

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        yield
        nursery.cancel_scope.cancel()


def checked_backend(diary: RecordingLog | None = None, **check: Any) -> tuple[Backend, BackendServer]:
    """A backend with the server ``s``."""
    check = {"type": "tcp", "jitter": 0, **check}
    backend = make_backend({"name": "s", "address": "127.0.0.1:143"}, diary=diary, check=check)
    return backend, backend.servers[0]


async def begins(
    *outcomes: CheckResult | Exception,
    seconds: float = 0.0,
    during: float,
    chance: RandomSource | None = None,
    **check: Any,
) -> list[float]:
    """The moments at which the checks of a server began, with these outcomes, since the first one."""
    backend, server = checked_backend(**check)
    pretended = SimulatedCheck.of(server, Scripted(*outcomes, seconds=seconds))
    async with checking((backend, pretended), diary=RecordingLog(), chance=chance):
        await trio.sleep(during)
    return [begin - pretended.started_at[0] for begin in pretended.started_at]


def pauses(moments: Sequence[float]) -> list[float]:
    return [round(later - earlier, 6) for earlier, later in pairwise(moments)]


# How soon


@st.composite
def habits(draw: st.DrawFn) -> dict[str, Any]:
    """How a server is checked."""
    interval = draw(st.integers(100, 30_000))
    faster = st.one_of(st.none(), st.integers(interval // 10, interval))
    times = {
        "interval": interval,
        "fast_interval": draw(faster),
        "down_interval": draw(faster),
        "timeout": draw(st.integers(interval // 10, 3 * interval)),
    }
    return {
        **{key: f"{value}ms" for key, value in times.items() if value is not None},
        "jitter": draw(st.floats(0, 1)),
        "rise": draw(st.integers(1, 4)),
        "fall": draw(st.integers(1, 4)),
    }


class Outage:
    """A server that answers each check after a while, except from one moment to another: then it never does."""

    def __init__(self, server: BackendServer, *, begin: float, end: float, answer: float) -> None:
        assert server.config.check is not None
        self.limit = float(server.config.check.timeout or 0.0)
        self.begin, self.end = begin, end
        self.answer = answer * self.limit

    async def __call__(self) -> CheckResult:
        began = trio.current_time()
        await trio.sleep(self.answer)
        if not self.begin < trio.current_time() <= self.end:
            return PASSED
        await trio.sleep_until(began + self.limit)
        return SILENT


@settings(max_examples=150, deadline=None)
@given(
    check=habits(),
    phase=st.floats(0, 3),
    answer=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_a_server_that_stops_answering_is_down_in_time_and_comes_back_in_time(
    check: dict[str, Any], phase: float, answer: float, seed: int
) -> None:
    """Within ``fall`` intervals and one time limit, wherever it stops between two checks and whatever chance does."""

    async def main() -> None:
        diary = RecordingLog()
        backend, server = checked_backend(diary, **check)
        habit = server.config.check
        assert habit is not None
        normal, limit = habit.interval, float(habit.timeout or 0.0)
        step = max(normal, limit)  # a time limit beyond the interval holds the next check up
        begin = trio.current_time() + phase * normal
        outage = Outage(server, begin=begin, end=begin + (habit.fall + 1) * step + limit, answer=answer)
        async with checking(
            (backend, SimulatedCheck.of(server, outage)), diary=diary, chance=seeded_random(seed)
        ):
            await trio.sleep_until(outage.end + (habit.rise + 2) * step)

        (down,) = diary.events_named("server-down")
        assert down.time <= outage.begin + normal + (habit.fall - 1) * step + limit + ALMOST_S
        if limit <= normal:
            assert down.time <= outage.begin + habit.fall * normal + limit + ALMOST_S
        (up,) = diary.events_named("server-up")
        slow, fast = habit.down_interval or normal, max(habit.fast_interval or normal, outage.answer)
        assert up.time <= outage.end + max(slow, limit) + (habit.rise - 1) * fast + outage.answer + ALMOST_S
        assert up.time >= outage.end

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_an_answer_that_is_late_once_is_no_outage(autojump_clock: MockClock) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", rise=2, fall=3)
    pretended = SimulatedCheck.of(server, Scripted(PASSED, PASSED, SILENT, SILENT, PASSED))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(100)
    assert [entry.event for entry in diary.events] == ["server-check"] * 3
    assert server.status == "UP"


@pytest.mark.parametrize("rise", [1, 2, 5])
async def test_a_server_is_up_after_so_many_successes(autojump_clock: MockClock, rise: int) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", rise=rise, fall=1)
    pretended = SimulatedCheck.of(server, Scripted(REFUSED, PASSED))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(10 * rise + 5)
    (up,) = diary.events_named("server-up")
    assert up.time - pretended.started_at[0] == pytest.approx(10 * rise)


# When the next one comes


async def test_an_interval_is_from_beginning_to_beginning(autojump_clock: MockClock) -> None:
    assert await begins(PASSED, seconds=3, during=45, interval="10s") == pytest.approx([0, 10, 20, 30, 40])


@pytest.mark.parametrize("seconds", [0.0, 1.0])
async def test_who_is_long_in_leaving_keeps_no_check_waiting(
    autojump_clock: MockClock, seconds: float
) -> None:
    backend, server = checked_backend(interval="1s", fall=2)
    pretended = SimulatedCheck.of(server, Scripted(PASSED, SILENT, SILENT, PASSED, seconds=seconds))
    pretended.close_s = 2.0
    async with checking((backend, pretended), diary=RecordingLog()):
        await trio.sleep(4.5)
    assert pauses(pretended.started_at) == [1.0] * 4


async def test_a_check_that_takes_longer_than_the_interval_is_not_doubled(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="10s")
    outcome = Scripted(PASSED, seconds=25)
    pretended = SimulatedCheck.of(server, outcome)
    async with checking((backend, pretended), diary=RecordingLog()):
        await trio.sleep(99)
    assert pauses(pretended.started_at) == [25, 25, 25]
    assert outcome.most_at_once == 1


async def test_each_state_has_its_interval(autojump_clock: MockClock) -> None:
    outcomes = [
        PASSED,
        PASSED,
        REFUSED,
        PASSED,
        REFUSED,
        REFUSED,
        REFUSED,
        PASSED,
        REFUSED,
        PASSED,
        PASSED,
        PASSED,
    ]
    moments = await begins(
        *outcomes, during=80, interval="10s", fast_interval="2s", down_interval="5s", rise=2, fall=3
    )
    # up, up; failed once, up again; failed twice, then down; one success, none; two successes, up
    expected = [10, 10, 2, 10, 2, 2, 5, 2, 5, 2, 10, 10]
    assert pauses(moments)[: len(expected)] == expected


async def test_without_others_the_interval_holds_in_each_state(autojump_clock: MockClock) -> None:
    outcomes = [PASSED, REFUSED, REFUSED, REFUSED, PASSED, PASSED]
    assert pauses(await begins(*outcomes, during=95, interval="10s")) == [10] * 9


@pytest.mark.parametrize("thrown", [0.0, 0.5, 0.999])
async def test_jitter_only_shortens(autojump_clock: MockClock, thrown: float) -> None:
    moments = await begins(PASSED, during=100, interval="10s", jitter=0.4, chance=NoChance(thrown))
    assert pauses(moments) == pytest.approx([10 * (1 - 0.4 * thrown)] * (len(moments) - 1))


async def test_jitter_has_the_whole_share_to_itself(autojump_clock: MockClock) -> None:
    moments = await begins(PASSED, during=10_000, interval="10s", jitter=0.2, chance=seeded_random(1))
    found = pauses(moments)
    assert 8.0 <= min(found) < 8.1
    assert 9.9 < max(found) <= 10.0
    assert sum(found) / len(found) == pytest.approx(9.0, abs=0.05)


async def test_jitter_shortens_what_holds_in_a_state_too(autojump_clock: MockClock) -> None:
    check: dict[str, Any] = {
        "interval": "10s",
        "fast_interval": "2s",
        "down_interval": "6s",
        "fall": 2,
        "rise": 2,
    }
    moments = await begins(PASSED, REFUSED, REFUSED, during=20, jitter=0.5, chance=NoChance(0.5), **check)
    assert pauses(moments)[:4] == [7.5, 1.5, 4.5, 4.5]


# Many servers


def many(count: int, **check: Any) -> tuple[Backend, list[SimulatedCheck]]:
    servers = [{"name": f"s{number}", "address": "127.0.0.1:143"} for number in range(count)]
    backend = make_backend(*servers, check={"type": "tcp", **check})
    outcome = Scripted(PASSED, seconds=0.01)
    return backend, [SimulatedCheck.of(server, outcome) for server in backend.servers]


@pytest.mark.parametrize(("count", "within"), [(2, 0.002), (100, 0.1), (1000, 1.0), (2000, 1.0)])
async def test_the_first_checks_are_spread_over_time(
    autojump_clock: MockClock, count: int, within: float
) -> None:
    """In the order of the configuration, a millisecond apart, and all of them within a second."""
    backend, checks = many(count, interval="1h")
    start = trio.current_time()
    async with checking(*((backend, check) for check in checks), diary=RecordingLog()):
        await trio.sleep(5)
    first = [check.started_at[0] - start for check in checks]
    assert first == sorted(first)
    assert within * (count - 1) / count == pytest.approx(first[-1])
    assert len({round(moment, 6) for moment in first}) == count


async def test_servers_are_not_checked_in_step_for_long(autojump_clock: MockClock) -> None:
    """After some rounds their checks lie all over the interval."""
    backend, checks = many(50, interval="10s", jitter=0.2)
    start = trio.current_time()
    async with checking(
        *((backend, check) for check in checks), diary=RecordingLog(), chance=seeded_random(7)
    ):
        await trio.sleep(600)
    last = [check.started_at[-1] - start for check in checks]
    assert max(last) - min(last) > 5
    assert sum(1 for moment in last if moment < min(last) + 1) < 15


async def test_the_first_round_is_over_when_the_slowest_first_check_is(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="1h")
    async with trio.open_nursery() as nursery:
        slow = SimulatedCheck.of(server, Scripted(PASSED, seconds=1.5))
        start = trio.current_time()
        await nursery.start(HealthChecker([(backend, slow)], log=RecordingLog(), chance=NoChance()).run)
        assert trio.current_time() - start == pytest.approx(1.5)
        nursery.cancel_scope.cancel()


async def test_the_first_round_is_over_after_a_while_anyway(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="1h")
    async with trio.open_nursery() as nursery:
        hanging = SimulatedCheck.of(server, Scripted(PASSED, seconds=1000))
        start = trio.current_time()
        await nursery.start(HealthChecker([(backend, hanging)], log=RecordingLog(), chance=NoChance()).run)
        assert 2 <= trio.current_time() - start < 3.1
        nursery.cancel_scope.cancel()


async def test_nothing_to_check_is_no_reason_to_wait(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(HealthChecker([], log=RecordingLog(), chance=NoChance()).run)
        assert trio.current_time() == start
        nursery.cancel_scope.cancel()


# What judges nothing


async def test_a_fault_of_our_own_is_told_and_takes_no_server_down(autojump_clock: MockClock) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", fall=1)
    pretended = SimulatedCheck.of(
        server, Scripted(PASSED, ValueError("broken"), ValueError("broken"), PASSED)
    )
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(45)
    assert pauses(pretended.started_at) == [10] * 4, "the next one comes as if nothing had been"
    faults = diary.events_named("check-fault")
    assert diary.events == faults
    assert len(faults) == 2
    assert "a fault of mailproxy ended a check of b/s: ValueError('broken') at " in faults[0].message
    assert (faults[0].data["backend"], faults[0].data["server"]) == ("b", "s")
    assert faults[0].data["fault"] == "ValueError('broken')"
    assert server.status == "UP"


async def test_a_fault_in_the_first_check_keeps_nobody_waiting(autojump_clock: MockClock) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s")
    async with trio.open_nursery() as nursery:
        broken = SimulatedCheck.of(server, Scripted(ValueError("broken")))
        start = trio.current_time()
        await nursery.start(HealthChecker([(backend, broken)], log=diary, chance=NoChance()).run)
        assert trio.current_time() - start < 0.01
        nursery.cancel_scope.cancel()
    assert server.is_up


async def test_a_fault_in_one_check_does_not_touch_the_others(autojump_clock: MockClock) -> None:
    diary = RecordingLog()
    backend = make_backend(
        "127.0.0.1:143", "127.0.0.2:143", diary=diary, check={"interval": "10s", "jitter": 0}
    )
    one, two = backend.servers
    broken, well = (
        SimulatedCheck.of(one, Scripted(ValueError("broken"))),
        SimulatedCheck.of(two, Scripted(REFUSED, PASSED)),
    )
    async with checking((backend, broken), (backend, well), diary=diary):
        await trio.sleep(25)
    assert len(well.started_at) == len(broken.started_at) == 3
    assert [entry.event for entry in diary.events if entry.event != "check-fault"] == [
        "server-down",
        "server-check",
        "server-up",
    ]


async def test_out_of_descriptors_judges_nothing_and_is_said_once(autojump_clock: MockClock) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", fall=1)
    outcomes = [PASSED, *[OUT_OF_DESCRIPTORS] * 5, PASSED, OUT_OF_DESCRIPTORS, PASSED]
    pretended = SimulatedCheck.of(server, Scripted(*outcomes))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(95)
    said = 'Server b/s: Socket error, info: "no socket: Too many open files"'
    assert [entry.message for entry in diary.events_named("check-not-made")] == [said, said], "once each time"
    assert diary.events == diary.events_named("check-not-made")
    assert server.status == "UP"


async def test_out_of_descriptors_brings_no_server_up_either(autojump_clock: MockClock) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", rise=2)
    pretended = SimulatedCheck.of(server, Scripted(REFUSED, PASSED, OUT_OF_DESCRIPTORS))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(95)
    assert server.status == "DOWN 1/2"


# Maintenance


async def test_a_server_in_maintenance_is_not_checked(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="10s")
    pretended = SimulatedCheck.of(server, Scripted(PASSED))
    async with checking((backend, pretended), diary=RecordingLog()):
        await trio.sleep(15)
        backend.set_state(server, AdminState.MAINT)
        await trio.sleep(100)
        assert len(pretended.started_at) == 2
        left = trio.current_time()
        backend.set_state(server, AdminState.READY)
        await trio.sleep(25)
    assert pretended.started_at[2] == pytest.approx(left), (
        "at once, whenever the next one would have been due"
    )
    assert pauses(pretended.started_at[2:]) == [10, 10]


async def test_a_server_that_drains_is_checked_as_always(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="10s")
    pretended = SimulatedCheck.of(server, Scripted(PASSED))
    async with checking((backend, pretended), diary=RecordingLog()):
        await trio.sleep(15)
        backend.set_state(server, AdminState.DRAIN)
        await trio.sleep(30)
    assert pauses(pretended.started_at) == [10] * 4


@pytest.mark.parametrize("result", [REFUSED, PASSED, OUT_OF_DESCRIPTORS])
async def test_a_check_that_ends_in_maintenance_judges_nothing(
    autojump_clock: MockClock, result: CheckResult
) -> None:
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", fall=1)
    pretended = SimulatedCheck.of(server, Scripted(PASSED, result, seconds=3))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(11)
        before = server.last_check
        backend.set_state(server, AdminState.MAINT)
        await trio.sleep(5)
        assert server.last_check == before
    assert [entry.event for entry in diary.events] == ["server-state", "backend-down"]


@pytest.mark.parametrize("result", [REFUSED, PASSED, OUT_OF_DESCRIPTORS])
async def test_a_check_that_maintenance_came_and_went_in_judges_nothing(
    autojump_clock: MockClock, result: CheckResult
) -> None:
    """It began with another server, for all that is known; the next one comes as soon as it is over."""
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", rise=3, fall=3)
    pretended = SimulatedCheck.of(server, Scripted(PASSED, result, PASSED, seconds=3))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(11)
        before = server.last_check
        backend.set_state(server, AdminState.MAINT)
        backend.set_state(server, AdminState.READY)
        await trio.sleep(2.5)
        assert (server.last_check, server.status) == (before, "UP 1/3")
        await trio.sleep(15)
    assert pauses(pretended.started_at) == [10, 3, 10]
    assert [entry.event for entry in diary.events] == ["server-state", "backend-down", "server-state"]
    assert server.status == "UP"


async def test_a_server_that_was_down_is_new_when_it_leaves_maintenance(autojump_clock: MockClock) -> None:
    """It serves until its first check fails, and that one comes at once."""
    diary = RecordingLog()
    backend, server = checked_backend(diary, interval="10s", rise=3, fall=3)
    pretended = SimulatedCheck.of(server, Scripted(REFUSED))
    async with checking((backend, pretended), diary=diary):
        await trio.sleep(5)
        assert server.status == "DOWN"
        backend.set_state(server, AdminState.MAINT)
        backend.set_state(server, AdminState.READY)
        assert (server.status, server.is_usable) == ("UP 1/3", True)
        await trio.sleep(0.001)
        assert server.status == "DOWN"
    assert len(diary.events_named("server-down")) == 2
