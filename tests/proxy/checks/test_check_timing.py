"""When servers are checked, and how soon they are down or up, with a simulated clock and without sockets."""

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

ROUNDING_S = 1e-6  # rounding error of sums of seconds
OUT_OF_DESCRIPTORS = CheckResult(CheckCode.SOCKERR, "no socket: Too many open files")


class FixedRandom:
    """Returns the same number each time."""

    def __init__(self, number: float = 0.0) -> None:
        self.number = number

    def random(self) -> float:
        return self.number


class ScriptedOutcomes:
    """The outcomes of a server's checks in order, after ``seconds`` each. The last one is repeated."""

    def __init__(self, *outcomes: CheckResult | Exception, seconds: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.seconds = seconds
        self.running = 0
        self.max_running = 0

    async def __call__(self) -> CheckResult:
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.running -= 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@asynccontextmanager
async def run_checker(
    *pairs: tuple[Backend, SimulatedCheck], log: RecordingLog, random: RandomSource | None = None
) -> AsyncIterator[None]:
    """Run the health checker inside the context."""
    checks = HealthChecker(pairs, log=log, random=random or FixedRandom())

    async def check() -> None:
        await checks.run()  # the steps before it reports its start count, too

    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        yield
        nursery.cancel_scope.cancel()


def checked_backend(log: RecordingLog | None = None, **check: Any) -> tuple[Backend, BackendServer]:
    """Return a backend with the server ``s``."""
    check = {"type": "tcp", "jitter": 0, **check}
    backend = make_backend({"name": "s", "address": "127.0.0.1:143"}, log=log, check=check)
    return backend, backend.servers[0]


async def start_times(
    *outcomes: CheckResult | Exception,
    seconds: float = 0.0,
    during: float,
    random: RandomSource | None = None,
    **check: Any,
) -> list[float]:
    """Return when the checks of a server with these outcomes began, relative to the first one."""
    backend, server = checked_backend(**check)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(*outcomes, seconds=seconds))
    async with run_checker((backend, simulated), log=RecordingLog(), random=random):
        await trio.sleep(during)
    return [begin - simulated.started_at[0] for begin in simulated.started_at]


def pauses(times: Sequence[float]) -> list[float]:
    return [round(later - earlier, 6) for earlier, later in pairwise(times)]


# How soon


@st.composite
def check_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the settings of a check."""
    interval = draw(st.integers(100, 30_000))
    faster = st.one_of(st.none(), st.integers(interval // 10, interval))
    values = {
        "interval": interval,
        "fast_interval": draw(faster),
        "down_interval": draw(faster),
        "timeout": draw(st.integers(interval // 10, 3 * interval)),
    }
    return {
        **{key: f"{value}ms" for key, value in values.items() if value is not None},
        "jitter": draw(st.floats(0, 1)),
        "rise": draw(st.integers(1, 4)),
        "fall": draw(st.integers(1, 4)),
    }


class Outage:
    """A server that answers each check after ``answer`` times the timeout, but never during the outage."""

    def __init__(self, server: BackendServer, *, begin: float, end: float, answer: float) -> None:
        assert server.config.check is not None
        self.timeout = float(server.config.check.timeout or 0.0)
        self.begin, self.end = begin, end
        self.answer = answer * self.timeout

    async def __call__(self) -> CheckResult:
        started_at = trio.current_time()
        await trio.sleep(self.answer)
        if not self.begin < trio.current_time() <= self.end:
            return PASSED
        await trio.sleep_until(started_at + self.timeout)
        return SILENT


@settings(max_examples=150, deadline=None)
@given(
    check=check_settings(),
    phase=st.floats(0, 3),
    answer=st.floats(0, 0.9),
    seed=st.integers(0, 2**32),
)
def test_outage_is_detected_and_ended_in_time(
    check: dict[str, Any], phase: float, answer: float, seed: int
) -> None:
    """Within ``fall`` intervals and one timeout, for any moment between two checks and any random numbers."""

    async def main() -> None:
        log = RecordingLog()
        backend, server = checked_backend(log, **check)
        check_config = server.config.check
        assert check_config is not None
        normal, timeout = check_config.interval, float(check_config.timeout or 0.0)
        step = max(normal, timeout)  # a timeout longer than the interval delays the next check
        begin = trio.current_time() + phase * normal
        outage = Outage(
            server, begin=begin, end=begin + (check_config.fall + 1) * step + timeout, answer=answer
        )
        async with run_checker(
            (backend, SimulatedCheck.of(server, outage)), log=log, random=seeded_random(seed)
        ):
            await trio.sleep_until(outage.end + (check_config.rise + 2) * step)

        (down,) = log.events_named("server-down")
        assert down.time <= outage.begin + normal + (check_config.fall - 1) * step + timeout + ROUNDING_S
        if timeout <= normal:
            assert down.time <= outage.begin + check_config.fall * normal + timeout + ROUNDING_S
        (up,) = log.events_named("server-up")
        slow, fast = (
            check_config.down_interval or normal,
            max(check_config.fast_interval or normal, outage.answer),
        )
        assert (
            up.time
            <= outage.end + max(slow, timeout) + (check_config.rise - 1) * fast + outage.answer + ROUNDING_S
        )
        assert up.time >= outage.end

    trio.run(main, clock=MockClock(autojump_threshold=0))


async def test_two_late_answers_are_no_outage(autojump_clock: MockClock) -> None:
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", rise=2, fall=3)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(PASSED, PASSED, SILENT, SILENT, PASSED))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(100)
    assert [entry.event for entry in log.events] == ["server-check"] * 3
    assert server.status == "UP"


@pytest.mark.parametrize("rise", [1, 2, 5])
async def test_server_is_up_after_rise_successes(autojump_clock: MockClock, rise: int) -> None:
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", rise=rise, fall=1)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(REFUSED, PASSED))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(10 * rise + 5)
    (up,) = log.events_named("server-up")
    assert up.time - simulated.started_at[0] == pytest.approx(10 * rise)


# When the next check starts


async def test_interval_counts_from_start_to_start(autojump_clock: MockClock) -> None:
    assert await start_times(PASSED, seconds=3, during=45, interval="10s") == pytest.approx(
        [0, 10, 20, 30, 40]
    )


@pytest.mark.parametrize("seconds", [0.0, 1.0])
async def test_slow_close_does_not_delay_next_check(autojump_clock: MockClock, seconds: float) -> None:
    backend, server = checked_backend(interval="1s", fall=2)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(PASSED, SILENT, SILENT, PASSED, seconds=seconds))
    simulated.close_s = 2.0
    async with run_checker((backend, simulated), log=RecordingLog()):
        await trio.sleep(4.5)
    assert pauses(simulated.started_at) == [1.0] * 4


async def test_slow_checks_do_not_overlap(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="10s")
    outcome = ScriptedOutcomes(PASSED, seconds=25)
    simulated = SimulatedCheck.of(server, outcome)
    async with run_checker((backend, simulated), log=RecordingLog()):
        await trio.sleep(99)
    assert pauses(simulated.started_at) == [25, 25, 25]
    assert outcome.max_running == 1


async def test_each_state_has_own_interval(autojump_clock: MockClock) -> None:
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
    times = await start_times(
        *outcomes, during=80, interval="10s", fast_interval="2s", down_interval="5s", rise=2, fall=3
    )
    # up twice, failed once, up, failed twice and then down, one success, failed, two successes, up
    expected = [10, 10, 2, 10, 2, 2, 5, 2, 5, 2, 10, 10]
    assert pauses(times)[: len(expected)] == expected


async def test_interval_is_default_for_each_state(autojump_clock: MockClock) -> None:
    outcomes = [PASSED, REFUSED, REFUSED, REFUSED, PASSED, PASSED]
    assert pauses(await start_times(*outcomes, during=95, interval="10s")) == [10] * 9


@pytest.mark.parametrize("number", [0.0, 0.5, 0.999])
async def test_jitter_only_shortens_interval(autojump_clock: MockClock, number: float) -> None:
    times = await start_times(PASSED, during=100, interval="10s", jitter=0.4, random=FixedRandom(number))
    assert pauses(times) == pytest.approx([10 * (1 - 0.4 * number)] * (len(times) - 1))


async def test_jitter_uses_full_range(autojump_clock: MockClock) -> None:
    times = await start_times(PASSED, during=10_000, interval="10s", jitter=0.2, random=seeded_random(1))
    measured = pauses(times)
    assert 8.0 <= min(measured) < 8.1
    assert 9.9 < max(measured) <= 10.0
    assert sum(measured) / len(measured) == pytest.approx(9.0, abs=0.05)


async def test_jitter_shortens_interval_of_each_state(autojump_clock: MockClock) -> None:
    check: dict[str, Any] = {
        "interval": "10s",
        "fast_interval": "2s",
        "down_interval": "6s",
        "fall": 2,
        "rise": 2,
    }
    times = await start_times(
        PASSED, REFUSED, REFUSED, during=20, jitter=0.5, random=FixedRandom(0.5), **check
    )
    assert pauses(times)[:4] == [7.5, 1.5, 4.5, 4.5]


# Many servers


def make_checks(count: int, **check: Any) -> tuple[Backend, list[SimulatedCheck]]:
    servers = [{"name": f"s{number}", "address": "127.0.0.1:143"} for number in range(count)]
    backend = make_backend(*servers, check={"type": "tcp", **check})
    outcome = ScriptedOutcomes(PASSED, seconds=0.01)
    return backend, [SimulatedCheck.of(server, outcome) for server in backend.servers]


@pytest.mark.parametrize(("count", "spread_s"), [(2, 0.002), (100, 0.1), (1000, 1.0), (2000, 1.0)])
async def test_first_checks_are_spread_over_time(
    autojump_clock: MockClock, count: int, spread_s: float
) -> None:
    """In the order of the configuration, a millisecond apart, and all within a second."""
    backend, checks = make_checks(count, interval="1h")
    start = trio.current_time()
    async with run_checker(*((backend, check) for check in checks), log=RecordingLog()):
        await trio.sleep(5)
    first = [check.started_at[0] - start for check in checks]
    assert first == sorted(first)
    assert spread_s * (count - 1) / count == pytest.approx(first[-1])
    assert len({round(time, 6) for time in first}) == count


async def test_checks_of_servers_drift_apart(autojump_clock: MockClock) -> None:
    """After some rounds the checks are spread over the interval."""
    backend, checks = make_checks(50, interval="10s", jitter=0.2)
    start = trio.current_time()
    async with run_checker(
        *((backend, check) for check in checks), log=RecordingLog(), random=seeded_random(7)
    ):
        await trio.sleep(600)
    last = [check.started_at[-1] - start for check in checks]
    assert max(last) - min(last) > 5
    assert sum(1 for time in last if time < min(last) + 1) < 15


async def test_first_round_waits_for_slowest_check(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="1h")
    async with trio.open_nursery() as nursery:
        slow = SimulatedCheck.of(server, ScriptedOutcomes(PASSED, seconds=1.5))
        start = trio.current_time()
        await nursery.start(HealthChecker([(backend, slow)], log=RecordingLog(), random=FixedRandom()).run)
        assert trio.current_time() - start == pytest.approx(1.5)
        nursery.cancel_scope.cancel()


async def test_first_round_has_time_limit(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="1h")
    async with trio.open_nursery() as nursery:
        hanging = SimulatedCheck.of(server, ScriptedOutcomes(PASSED, seconds=1000))
        start = trio.current_time()
        await nursery.start(HealthChecker([(backend, hanging)], log=RecordingLog(), random=FixedRandom()).run)
        assert 2 <= trio.current_time() - start < 3.1
        nursery.cancel_scope.cancel()


async def test_checker_without_servers_starts_at_once(autojump_clock: MockClock) -> None:
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(HealthChecker([], log=RecordingLog(), random=FixedRandom()).run)
        assert trio.current_time() == start
        nursery.cancel_scope.cancel()


# Results that do not count


async def test_internal_fault_is_logged_and_does_not_count(autojump_clock: MockClock) -> None:
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", fall=1)
    simulated = SimulatedCheck.of(
        server, ScriptedOutcomes(PASSED, ValueError("broken"), ValueError("broken"), PASSED)
    )
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(45)
    assert pauses(simulated.started_at) == [10] * 4, "the next check must be on time"
    faults = log.events_named("check-fault")
    assert log.events == faults
    assert len(faults) == 2
    assert "a fault of mailproxy ended a check of b/s: ValueError('broken') at " in faults[0].message
    assert (faults[0].data["backend"], faults[0].data["server"]) == ("b", "s")
    assert faults[0].data["fault"] == "ValueError('broken')"
    assert server.status == "UP"


async def test_fault_in_first_check_does_not_delay_readiness(autojump_clock: MockClock) -> None:
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s")
    async with trio.open_nursery() as nursery:
        broken = SimulatedCheck.of(server, ScriptedOutcomes(ValueError("broken")))
        start = trio.current_time()
        await nursery.start(HealthChecker([(backend, broken)], log=log, random=FixedRandom()).run)
        assert trio.current_time() - start < 0.01
        nursery.cancel_scope.cancel()
    assert server.is_up


async def test_fault_in_one_check_does_not_affect_others(autojump_clock: MockClock) -> None:
    log = RecordingLog()
    backend = make_backend("127.0.0.1:143", "127.0.0.2:143", log=log, check={"interval": "10s", "jitter": 0})
    first_server, second_server = backend.servers
    broken, healthy = (
        SimulatedCheck.of(first_server, ScriptedOutcomes(ValueError("broken"))),
        SimulatedCheck.of(second_server, ScriptedOutcomes(REFUSED, PASSED)),
    )
    async with run_checker((backend, broken), (backend, healthy), log=log):
        await trio.sleep(25)
    assert len(healthy.started_at) == len(broken.started_at) == 3
    assert [entry.event for entry in log.events if entry.event != "check-fault"] == [
        "server-down",
        "server-check",
        "server-up",
    ]


async def test_lack_of_descriptors_does_not_count_as_failure(autojump_clock: MockClock) -> None:
    """It is logged once for each period."""
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", fall=1)
    outcomes = [PASSED, *[OUT_OF_DESCRIPTORS] * 5, PASSED, OUT_OF_DESCRIPTORS, PASSED]
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(*outcomes))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(95)
    message = 'Server b/s: Socket error, info: "no socket: Too many open files"'
    assert [entry.message for entry in log.events_named("check-not-made")] == [message, message], (
        "once for each period"
    )
    assert log.events == log.events_named("check-not-made")
    assert server.status == "UP"


async def test_lack_of_descriptors_does_not_bring_server_up(autojump_clock: MockClock) -> None:
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", rise=2)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(REFUSED, PASSED, OUT_OF_DESCRIPTORS))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(95)
    assert server.status == "DOWN 1/2"


# Maintenance


async def test_server_in_maintenance_is_not_checked(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="10s")
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(PASSED))
    async with run_checker((backend, simulated), log=RecordingLog()):
        await trio.sleep(15)
        backend.set_state(server, AdminState.MAINT)
        await trio.sleep(100)
        assert len(simulated.started_at) == 2
        ready_at = trio.current_time()
        backend.set_state(server, AdminState.READY)
        await trio.sleep(25)
    assert simulated.started_at[2] == pytest.approx(ready_at), "at once, not when the next check was due"
    assert pauses(simulated.started_at[2:]) == [10, 10]


async def test_draining_server_is_checked_as_usual(autojump_clock: MockClock) -> None:
    backend, server = checked_backend(interval="10s")
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(PASSED))
    async with run_checker((backend, simulated), log=RecordingLog()):
        await trio.sleep(15)
        backend.set_state(server, AdminState.DRAIN)
        await trio.sleep(30)
    assert pauses(simulated.started_at) == [10] * 4


@pytest.mark.parametrize("result", [REFUSED, PASSED, OUT_OF_DESCRIPTORS])
async def test_check_ending_in_maintenance_does_not_count(
    autojump_clock: MockClock, result: CheckResult
) -> None:
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", fall=1)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(PASSED, result, seconds=3))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(11)
        before = server.last_check
        backend.set_state(server, AdminState.MAINT)
        await trio.sleep(5)
        assert server.last_check == before
    assert [entry.event for entry in log.events] == ["server-state", "backend-down"]


@pytest.mark.parametrize("result", [REFUSED, PASSED, OUT_OF_DESCRIPTORS])
async def test_check_around_maintenance_does_not_count(
    autojump_clock: MockClock, result: CheckResult
) -> None:
    """The check may have begun with another server. The next check starts when it is over."""
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", rise=3, fall=3)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(PASSED, result, PASSED, seconds=3))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(11)
        before = server.last_check
        backend.set_state(server, AdminState.MAINT)
        backend.set_state(server, AdminState.READY)
        await trio.sleep(2.5)
        assert (server.last_check, server.status) == (before, "UP 1/3")
        await trio.sleep(15)
    assert pauses(simulated.started_at) == [10, 3, 10]
    assert [entry.event for entry in log.events] == ["server-state", "backend-down", "server-state"]
    assert server.status == "UP"


async def test_down_server_leaves_maintenance_as_new(autojump_clock: MockClock) -> None:
    """It serves until its first check fails, which is made at once."""
    log = RecordingLog()
    backend, server = checked_backend(log, interval="10s", rise=3, fall=3)
    simulated = SimulatedCheck.of(server, ScriptedOutcomes(REFUSED))
    async with run_checker((backend, simulated), log=log):
        await trio.sleep(5)
        assert server.status == "DOWN"
        backend.set_state(server, AdminState.MAINT)
        backend.set_state(server, AdminState.READY)
        assert (server.status, server.is_usable) == ("UP 1/3", True)
        await trio.sleep(0.001)
        assert server.status == "DOWN"
    assert len(log.events_named("server-down")) == 2
