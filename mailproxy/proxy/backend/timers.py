"""What time changes in a backend: servers in slow start get more sessions, and stick entries expire."""

from __future__ import annotations

import trio

from mailproxy.log import Log
from mailproxy.pool import Pool, StickTable
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.supervise import supervise

_SLOW_START_STEPS = 20  # HAProxy's: a step each twentieth of slow_start
_SLOW_START_STEP_MIN_S = 1.0  # HAProxy's, too: but not more often than each second
_EXPIRE_INTERVAL_S = 1.0


class BackendTimers:
    """The timers of one backend: slow start and the expiry of its stick table."""

    def __init__(self, backend: str, pool: Pool[BackendServer], log: Log) -> None:
        self._backend = backend
        self._pool = pool
        self._log = log
        self._has_slow_start = trio.Event()
        self._changed = trio.Event()
        self._is_stopped = False

    def notify_slow_start(self) -> None:
        """Let the timer run: a server has begun its slow start."""
        self._has_slow_start.set()

    def reconfigure(self) -> None:
        """Run the timers that the backend needs now: servers or stick table have changed."""
        self._changed.set()

    def stop(self) -> None:
        """End ``run``."""
        self._is_stopped = True
        self._changed.set()

    async def run(self) -> None:
        """Run the timers that this backend needs until stopped or cancelled."""
        while not self._is_stopped:
            self._changed = trio.Event()
            async with trio.open_nursery() as nursery:
                if any(server.slow_start for server in self._pool.servers):
                    nursery.start_soon(
                        supervise, self._log, f"slow start of {self._backend}", self._run_slow_start
                    )
                if (stick := self._pool.stick) is not None:
                    nursery.start_soon(
                        supervise, self._log, f"expiry of {self._backend}'s stick table", self._expire, stick
                    )
                await self._changed.wait()
                nursery.cancel_scope.cancel()

    async def _run_slow_start(self) -> None:
        shortest = min(server.slow_start for server in self._pool.servers if server.slow_start)
        step = max(shortest / _SLOW_START_STEPS, min(_SLOW_START_STEP_MIN_S, shortest))
        while True:
            await self._has_slow_start.wait()
            await trio.sleep(step)
            if not self._pool.warm_up(trio.current_time()):
                self._has_slow_start = trio.Event()

    async def _expire(self, stick: StickTable) -> None:
        while True:
            has_more = stick.expire(trio.current_time())
            await trio.sleep(0 if has_more else _EXPIRE_INTERVAL_S)
