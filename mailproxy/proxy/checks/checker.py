"""Health checks: a task for each server that is checked, which checks it every now and then and tells its backend."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

import trio

from mailproxy.log import Log
from mailproxy.log.events import CHECK_FAULT
from mailproxy.pool import AdminState, RandomSource
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.checks.check import Check
from mailproxy.proxy.supervise import supervise

# The first checks of all servers begin within this time, and for so much longer nothing waits for them.
_SPREAD_S = 1.0
_SPREAD_EACH_S = 0.001  # a server; of 2,000 checks that begin at once the last ones would be late
_FIRST_ROUND_S = 2.0


class HealthChecker:
    """The checks of all backends, in a nursery of their own."""

    def __init__(self, checks: Sequence[tuple[Backend, Check]], *, log: Log, chance: RandomSource) -> None:
        self._checks = checks
        self._log = log
        self._chance = chance
        self._not_checked_yet = {check.server for _, check in checks}
        self._first_round = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check until cancelled; started when every server was checked once, or has been slow about it."""
        if not self._checks:
            task_status.started()
            return
        spread = min(_SPREAD_S, _SPREAD_EACH_S * len(self._checks))
        async with trio.open_nursery() as nursery:
            for place, (backend, check) in enumerate(self._checks):
                name = f"health checker of {backend.name}/{check.server.name}"
                delay = spread * place / len(self._checks)
                nursery.start_soon(supervise, self._log, name, self._check_loop, backend, check, delay)
            with trio.move_on_after(spread + _FIRST_ROUND_S):
                await self._first_round.wait()
            task_status.started()

    async def _check_loop(self, backend: Backend, check: Check, delay: float) -> None:
        server = check.server
        await trio.sleep(delay)
        while True:
            began, health = trio.current_time(), server.health
            if server.state is not AdminState.MAINT:
                await self._check(backend, check, began)
            self._was_checked(server)
            if server.health is not health:
                continue  # it was in maintenance meanwhile: what was found is of another time
            # From beginning to beginning: a server that lets its checks run into their time limit is found as soon.
            server.next_check_scope = trio.CancelScope(deadline=began + self._pause(server))
            with server.next_check_scope:
                await trio.sleep_forever()

    def _was_checked(self, server: BackendServer) -> None:
        self._not_checked_yet.discard(server)
        if not self._not_checked_yet:
            self._first_round.set()

    def _pause(self, server: BackendServer) -> float:
        """Seconds to the next check. Chance only shortens them, so that the interval is what nobody waits longer than."""
        settings = server.config.check
        assert settings is not None  # noqa: S101 - or there would be no check
        normal = settings.interval
        fast, down = settings.fast_interval or normal, settings.down_interval or normal
        seconds = server.health.interval(normal, fast, down) if server.health is not None else normal
        return seconds * (1.0 - settings.jitter * self._chance.random())

    async def _check(self, backend: Backend, check: Check, began: float) -> None:
        server = check.server
        health, politeness = server.health, trio.CancelScope()

        def tell(checked: CheckOutcome) -> None:
            server.counts.checks += 1
            # What the operator wanted meanwhile counts: nothing is known of a server in maintenance, or just out of it.
            if server.state is not AdminState.MAINT and server.health is health:
                backend.record_check(server, checked)
            self._was_checked(server)
            politeness.deadline = began + self._pause(server)  # it keeps no next check waiting

        try:
            with politeness:
                await check.run(tell)
        except Exception as fault:  # noqa: BLE001 - the border: no fault of one check touches another, or a server's state
            place = traceback.extract_tb(fault.__traceback__)[-1]
            self._log.event(
                CHECK_FAULT,
                f"a fault of mailproxy ended a check of {backend.name}/{server.name}: {fault!r} at "
                f"{place.filename}:{place.lineno}",
                backend=backend.name,
                server=server.name,
                fault=repr(fault),
                place=f"{place.filename}:{place.lineno}",
            )
