"""The keeper of the state file: takes it up at the start, writes it every minute and at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import trio

from mailproxy.config import Config
from mailproxy.log import Log
from mailproxy.log.events import STATE_IGNORED, STATE_NOT_WRITTEN, STATE_RESTORED
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.state.codec import StateError, decode, encode
from mailproxy.proxy.state.file import read_lines, replace
from mailproxy.proxy.state.frontends import FrontendOwner, FrontendsRecord
from mailproxy.proxy.state.value import ProxyState

_INTERVAL_S = 60.0
_WRITE_TIMEOUT_S = 5.0  # at the end; a disk that hangs must not keep the proxy from stopping
_READ_TIMEOUT_S = 5.0
_CLOCK_ERROR_S = 60.0  # a state may be from the future by this much: clocks are set


class StateKeeper:
    """Keeps the state of backends in a file.

    Args:
        path: The file.
        backends: The backends, by name.
        max_age: An older file is not taken up.
        log: Where it is logged what was taken up, or why not.

    Attributes:
        frontends: Has the frontends whose settings are kept; None for none.
    """

    def __init__(self, path: Path, backends: Mapping[str, Backend], *, max_age: float, log: Log) -> None:
        self._path = path
        self._backends = backends
        self._max_age = max_age
        self._log = log
        self.frontends: FrontendOwner | None = None
        self._is_failing = False
        self._may_write = False
        # A write that is abandoned goes on in its thread. The next one waits for it, or the older one would stay.
        self._writing = trio.CapacityLimiter(1)

    def reconfigure(self, backends: Mapping[str, Backend]) -> None:
        """Keep the state of these backends from now on: a reload has added or removed some."""
        self._backends = backends

    async def restore(self) -> None:
        """Take up the file, before servers are checked and sessions accepted. A file that is no good is logged."""
        state = None
        with trio.move_on_after(_READ_TIMEOUT_S) as scope:
            try:
                state = await trio.to_thread.run_sync(self._read, abandon_on_cancel=True)
            except (StateError, OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
                self._log_ignored(_reason(error))
        if scope.cancelled_caught:
            self._log_ignored(f"it was not read within {_READ_TIMEOUT_S:g} s")
        if state is not None:
            self._apply(state)
        self.allow_writing()

    def allow_writing(self) -> None:
        """Let the file be written from now on: this process knows what the file has, or better."""
        self._may_write = True

    def forbid_writing(self) -> None:
        """Write the file no longer: another process keeps it."""
        self._may_write = False

    async def run(self) -> None:
        """Write the file every minute until cancelled."""
        while True:
            await trio.sleep(_INTERVAL_S)
            await self._write()

    async def finish(self) -> None:
        """Write the file for the last time.

        Cancellation:
            Shielded, for 5 s at most.
        """
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _WRITE_TIMEOUT_S):
            await self._write()

    def _read(self) -> ProxyState | None:
        lines = read_lines(self._path)
        return None if lines is None else decode(lines)

    def _apply(self, state: ProxyState) -> None:
        age = time.time() - state.written_at
        if not -_CLOCK_ERROR_S <= age <= self._max_age:
            self._log_ignored(
                f"it is {age:.0f} s old, and process.state_max_age is {self._max_age:g} s"
                if age > 0
                else f"it is from {-age:.0f} s in the future"
            )
            return
        state.apply(self._backends.values(), now=trio.current_time(), wall_clock=time.time())
        if self.frontends is not None:
            self.frontends.apply_frontends(state.frontends)
        age = max(0.0, age)
        self._log.event(
            STATE_RESTORED,
            f"{self._path}: states, health and stick tables of {age:.0f} s ago are in use",
            file=str(self._path),
            age=round(age),
        )

    async def _write(self) -> None:
        if not self._may_write:
            return
        state = ProxyState.capture(
            self._backends.values(),
            now=trio.current_time(),
            wall_clock=time.time(),
            frontends=FrontendsRecord() if self.frontends is None else self.frontends.capture_frontends(),
        )
        try:
            await trio.to_thread.run_sync(
                replace, self._path, encode(state), abandon_on_cancel=True, limiter=self._writing
            )
        except (OSError, RuntimeError) as error:
            if not self._is_failing:
                self._log.event(
                    STATE_NOT_WRITTEN,
                    f"{self._path} cannot be written: {_reason(error)}",
                    file=str(self._path),
                    reason=_reason(error),
                )
            self._is_failing = True
        else:
            self._is_failing = False

    def _log_ignored(self, reason: str) -> None:
        self._log.event(
            STATE_IGNORED, f"{self._path} is ignored: {reason}", file=str(self._path), reason=reason
        )


def open_keeper(config: Config, backends: Mapping[str, Backend], log: Log) -> StateKeeper | None:
    """Return the keeper of these backends' state, None if the configuration names no file."""
    process = config.process
    if process.state_file is None:
        return None
    return StateKeeper(process.state_file, backends, max_age=process.state_max_age, log=log)


async def restore_state(
    keeper: StateKeeper | None,
    passed: ProxyState | None,
    backends: Iterable[Backend],
    frontends: FrontendOwner,
) -> None:
    """Give backends and frontends their state, before servers are checked and sessions accepted.

    Args:
        keeper: Has the state file; None without one.
        passed: The state of the process that this one replaces, which is newer than the file; None without one.
        backends: The backends.
        frontends: Has the frontends.
    """
    if passed is not None:
        passed.apply(backends, now=trio.current_time(), wall_clock=time.time())
        frontends.apply_frontends(passed.frontends)
        if keeper is not None:
            keeper.allow_writing()
    elif keeper is not None:
        await keeper.restore()


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
