"""The tasks that check servers: one for each server, which tells its backend each outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence

import trio
from attrs import define, field

from mailproxy.log import Log
from mailproxy.log.events import CHECK_FAULT
from mailproxy.pool import AdminState, RandomSource
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.checks.check import Check
from mailproxy.proxy.faults import log_fault
from mailproxy.proxy.supervise import supervise

# The first checks are spread over 1 ms for each server, up to 1 s in all. If 2,000 checks began at once, the
# last ones would be late.
_SPREAD_S = 1.0
_SPREAD_PER_SERVER_S = 0.001
_FIRST_ROUND_S = 2.0  # after the spread: start-up waits no longer for servers that are slow to answer


@define(eq=False)
class _CheckLoop:
    """The task that checks one server."""

    backend: Backend
    check: Check
    scope: trio.CancelScope = field(factory=trio.CancelScope)


def _spread(checks: Sequence[tuple[Backend, Check]]) -> float:
    return min(_SPREAD_S, _SPREAD_PER_SERVER_S * len(checks))


class HealthChecker:
    """The checks of all backends, in a nursery of their own."""

    def __init__(self, checks: Sequence[tuple[Backend, Check]], *, log: Log, random: RandomSource) -> None:
        self._checks = checks
        self._loops: dict[BackendServer, _CheckLoop] = {}
        self._nursery: trio.Nursery | None = None
        self._log = log
        self._random = random
        self._not_checked_yet = {check.server for _, check in checks}
        self._first_round = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check until cancelled.

        It counts as started once every server has been checked, or after 3 s at most: 1 s spread, 2 s first
        round.
        """
        async with trio.open_nursery() as self._nursery:
            self._start(self._checks)
            if self._checks:
                with trio.move_on_after(_spread(self._checks) + _FIRST_ROUND_S):
                    await self._first_round.wait()
            task_status.started()
            await trio.sleep_forever()

    def reconfigure(self, checks: Sequence[tuple[Backend, Check]]) -> None:
        """Make these checks from now on. What stays as it is goes on undisturbed."""
        before, self._loops = self._loops, {}
        new = []
        for backend, check in checks:
            loop = before.get(check.server)
            if loop is not None and loop.backend is backend and loop.check.is_like(check):
                self._loops[check.server] = before.pop(check.server)
            else:
                new.append((backend, check))
        for loop in before.values():
            loop.scope.cancel()
        self._checks = checks
        if self._nursery is not None:
            self._start(new)

    def _start(self, checks: Sequence[tuple[Backend, Check]]) -> None:
        assert self._nursery is not None  # noqa: S101 - called while it runs
        spread = _spread(checks)
        for index, (backend, check) in enumerate(checks):
            self._loops[check.server] = loop = _CheckLoop(backend, check)
            self._nursery.start_soon(self._run_loop, loop, spread * index / len(checks))

    async def _run_loop(self, loop: _CheckLoop, delay: float) -> None:
        backend, check = loop.backend, loop.check
        name = f"health checker of {backend.name}/{check.server.name}"
        with loop.scope:
            await supervise(self._log, name, self._check_loop, backend, check, delay)

    async def _check_loop(self, backend: Backend, check: Check, delay: float) -> None:
        server = check.server
        await trio.sleep(delay)
        while True:
            started_at, health = trio.current_time(), server.health
            if server.state is not AdminState.MAINT and not server.checks_paused:
                await self._check(backend, check, started_at)
            self._mark_checked(server)
            if server.health is not health:
                continue  # the server was in maintenance meanwhile, so the outcome says nothing about it now
            # The interval is from start to start, so that a server whose checks time out is found as soon.
            server.next_check_scope = trio.CancelScope(deadline=started_at + self._interval(server))
            with server.next_check_scope:
                await trio.sleep_forever()

    def _mark_checked(self, server: BackendServer) -> None:
        self._not_checked_yet.discard(server)
        if not self._not_checked_yet:
            self._first_round.set()

    def _interval(self, server: BackendServer) -> float:
        """Return the seconds to the next check.

        Jitter only shortens it, so the configured interval is the longest.
        """
        check = server.config.check
        if check is None:  # a reload has removed it, and cancels the loop in this scheduler step
            return math.inf
        normal = check.interval
        fast, down = check.fast_interval or normal, check.down_interval or normal
        seconds = server.health.interval(normal, fast, down) if server.health is not None else normal
        return seconds * (1.0 - check.jitter * self._random.random())

    async def _check(self, backend: Backend, check: Check, started_at: float) -> None:
        server = check.server
        health, close_scope = server.health, trio.CancelScope()

        def report(outcome: CheckOutcome) -> None:
            server.counts.checks += 1
            # The outcome does not count if the operator has put the server into maintenance meanwhile, or
            # taken it out, or if a reload has removed it.
            is_counted = server.health is health and not server.is_gone and not server.checks_paused
            if is_counted and server.state is not AdminState.MAINT:
                backend.record_check(server, outcome)
            self._mark_checked(server)
            # Closing must not delay the next check.
            close_scope.deadline = started_at + self._interval(server)

        try:
            with close_scope:
                await check.run(report)
        except Exception as fault:  # noqa: BLE001 - the border: no fault of one check touches another, or a server's state
            name = f"{backend.name}/{server.name}"
            log_fault(
                self._log, CHECK_FAULT, f"a check of {name}", fault, backend=backend.name, server=server.name
            )
