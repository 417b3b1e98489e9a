"""The drainer: ends the sessions of each drain of one process, spread over the time until its deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio
from attrs import define

from mailproxy.log import Log
from mailproxy.log.events import DRAIN_CANCELLED, DRAIN_ENDED, DRAIN_PROGRESS, DRAIN_STARTED
from mailproxy.pool import RandomSource
from mailproxy.proxy.drain.pace import Pace
from mailproxy.proxy.drain.target import DrainStatus, Purpose
from mailproxy.proxy.session.registry import LiveSession, SessionRegistry
from mailproxy.proxy.supervise import supervise

# Sessions are chosen once in a turn, which takes a second, or less if the drain is short. The choice looks at
# every session.
_TURN_S = 1.0
_TURNS_MIN = 20
_SHORTEST_TURN_S = 0.01
# A session in which a byte moved so recently is busy: it ends at the deadline.
_QUIET_S = 1.0
_PROGRESS_INTERVAL_S = 10.0  # between two lines about one drain; more if it takes long
_PROGRESS_LINES = 60
_ENDS_PER_CHECKPOINT = 200  # sessions that end at the deadline, before other tasks have their turn


@define(eq=False)
class _Drain:
    """A drain in progress.

    Attributes:
        what: Which sessions it ends, in words.
        matches: Whether a session is one of them.
        purpose: Why they end.
        pace: How fast.
        deadline: On trio's clock.
        scope: The scope of its task, cancelled with the drain. None before the task runs.
        ids: The sessions, once no more are added.
        is_over: Whether the drain ended or was cancelled.
    """

    what: str
    matches: Callable[[LiveSession], bool]
    purpose: Purpose
    pace: Pace
    deadline: float
    scope: trio.CancelScope | None = None
    ids: set[int] | None = None
    is_over: bool = False


class Drainer:
    """The drains of one process.

    Args:
        registry: The sessions of the process.
        log: Where progress is logged.
        idle_first: The seconds without a byte after which a session is idle.
        rate: The sessions that a drain of this process ends in a second.
        random: Spreads the ends within a turn.
    """

    def __init__(
        self, registry: SessionRegistry, log: Log, *, idle_first: float, rate: float, random: RandomSource
    ) -> None:
        self._registry = registry
        self._log = log
        self._idle_first = idle_first
        self._rate = rate
        self._random = random
        self._drains: dict[str, _Drain] = {}
        self._changed = trio.Event()

    def reconfigure(self, *, idle_first: float, rate: float) -> None:
        """Use another configuration for the drains that begin from now on; see the class for the arguments."""
        self._idle_first = idle_first
        self._rate = rate

    async def run(self) -> None:
        """Drain until cancelled. May be called again after a failure: drains go on."""
        async with trio.open_nursery() as nursery:
            running: set[_Drain] = set()
            while True:
                for drain in self._drains.values():
                    if drain not in running:
                        running.add(drain)
                        nursery.start_soon(supervise, self._log, f"drain of {drain.what}", self._run, drain)
                running = {drain for drain in running if not drain.is_over}
                await self._changed.wait()
                self._changed = trio.Event()

    def start(
        self, what: str, matches: Callable[[LiveSession], bool], seconds: float, purpose: Purpose
    ) -> None:
        """Begin a drain. It replaces one with the same ``what``.

        Args:
            what: Which sessions it ends, in words.
            matches: Whether a session is one of them. With KILL those count that there are now, otherwise also
                those that come before the deadline.
            seconds: The time until all of them have ended.
            purpose: Why they end. KILL does not prefer idle sessions.
        """
        if (before := self._drains.pop(what, None)) is not None:
            self._finish(before)
        deadline = trio.current_time() + seconds
        drain = _Drain(what, matches, purpose, Pace(self._rate, seconds), deadline)
        sessions = self._registry.select(matches)
        if purpose is Purpose.KILL:
            drain.ids = {session.record.id for session in sessions}
        self._drains[what] = drain
        self._changed.set()
        if purpose is not Purpose.STOP:
            log_drain_started(self._log, what, purpose, len(sessions), seconds)

    def cancel(self, what: str) -> bool:
        """Let the sessions of a drain go on. Return False if there is no such drain."""
        drain = self._drains.pop(what, None)
        if drain is None:
            return False
        self._finish(drain)
        log_drain_cancelled(self._log, what, len(self._sessions(drain)))
        return True

    def statuses(self) -> list[DrainStatus]:
        """Return how far each drain has come, the oldest first."""
        return [self._status(drain) for drain in self._drains.values()]

    def _status(self, drain: _Drain) -> DrainStatus:
        sessions = self._sessions(drain)
        return DrainStatus(
            drain.what,
            drain.purpose,
            left=len(sessions),
            idle=sum(self._is_idle(session) for session in sessions),
            seconds=drain.deadline - trio.current_time(),
        )

    def _sessions(self, drain: _Drain) -> list[LiveSession]:
        if drain.ids is None:
            return self._registry.select(drain.matches)
        return [session for number in drain.ids if (session := self._registry.get(number)) is not None]

    def _is_idle(self, session: LiveSession) -> bool:
        return session.is_connected and session.idle >= self._idle_first

    # A drain

    async def _run(self, drain: _Drain) -> None:
        if drain.is_over:
            return
        with trio.CancelScope() as drain.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._log_progress, drain)
                await self._end_spread(drain)
                await self._end_rest(drain)
                nursery.cancel_scope.cancel()
            self._drains.pop(drain.what, None)
            self._finish(drain)
            if drain.purpose is not Purpose.STOP:
                log_drain_ended(self._log, drain.what)

    def _finish(self, drain: _Drain) -> None:
        drain.is_over = True
        if drain.scope is not None:
            drain.scope.cancel()
        self._changed.set()

    async def _end_spread(self, drain: _Drain) -> None:
        """End sessions one after the other, until none is left or the deadline has come."""
        turn = max(_SHORTEST_TURN_S, min(_TURN_S, drain.pace.seconds / _TURNS_MIN))
        credit = 0.0
        while sessions := self._sessions(drain):
            seconds_left = drain.deadline - trio.current_time()
            if seconds_left <= turn:
                await trio.sleep_until(drain.deadline)
                return
            rate, quiet_s, due = self._choose(drain, sessions, seconds_left)
            credit = credit + max(0.0, rate) * turn if due else 0.0
            number = min(int(credit), len(due))
            credit = min(credit - number, 1.0)
            await self._end_within(drain, due[:number], quiet_s, turn)

    def _choose(
        self, drain: _Drain, sessions: Sequence[LiveSession], seconds_left: float
    ) -> tuple[float, float, list[LiveSession]]:
        """Return how many sessions end in a second, how silent they must be, and those that may end, in order."""
        pace, left = drain.pace, len(sessions)
        if drain.purpose is Purpose.KILL:
            return pace.of_all(left, seconds_left), 0.0, _most_silent_first(sessions)
        if not pace.is_last_part(seconds_left):
            idle = [session for session in sessions if self._is_idle(session)]
            return pace.of_idle(len(idle), left, seconds_left), self._idle_first, _most_silent_first(idle)
        quiet_s = min(_QUIET_S, pace.seconds / _TURNS_MIN)
        quiet = [session for session in sessions if _is_quiet(session, quiet_s)]
        return pace.of_rest(len(quiet), left, seconds_left), quiet_s, _most_silent_first(quiet)

    async def _end_within(
        self, drain: _Drain, sessions: Sequence[LiveSession], quiet_s: float, seconds: float
    ) -> None:
        """End these sessions at random moments of a turn, unless they have become busy before."""
        start = trio.current_time()
        moments = sorted(self._random.random() * seconds for _ in sessions)
        for session, moment in zip(sessions, moments, strict=True):
            await trio.sleep_until(start + moment)
            if self._registry.get(session.record.id) is session and (
                not quiet_s or _is_quiet(session, quiet_s)
            ):
                session.end(drain.purpose.end_reason)
        await trio.sleep_until(start + seconds)

    async def _end_rest(self, drain: _Drain) -> None:
        """End all sessions that are left at the deadline, and wait until they have ended."""
        rest = self._sessions(drain)
        drain.ids = {session.record.id for session in rest}
        for number, session in enumerate(rest, 1):
            session.end(drain.purpose.end_reason)
            if not number % _ENDS_PER_CHECKPOINT:
                await trio.lowlevel.checkpoint()
        while self._sessions(drain):  # noqa: ASYNC110 - they end in the next scheduler steps
            await trio.sleep(_SHORTEST_TURN_S)

    async def _log_progress(self, drain: _Drain) -> None:
        interval = progress_interval(drain.pace.seconds)
        while True:
            await trio.sleep(interval)
            log_drain_progress(self._log, self._status(drain))


def _most_silent_first(sessions: Sequence[LiveSession]) -> list[LiveSession]:
    return sorted(sessions, key=lambda session: -session.idle)


def _is_quiet(session: LiveSession, seconds: float) -> bool:
    """Whether nothing moves in a session, or waits for a side that takes it."""
    return session.is_connected and not session.has_unsent and session.idle >= seconds


# Lines, which the control process writes if there are several processes


def progress_interval(seconds: float) -> float:
    """Return the seconds between two lines about a drain that takes this long."""
    return max(_PROGRESS_INTERVAL_S, seconds / _PROGRESS_LINES)


def log_drain_started(log: Log, what: str, purpose: Purpose, sessions: int, seconds: float) -> None:
    """Log that sessions of a server or a frontend begin to end."""
    log.event(
        DRAIN_STARTED,
        f"{what}: {sessions} sessions end within {seconds:g}s",
        what=what,
        purpose=purpose.value,
        sessions=sessions,
        seconds=seconds,
    )


def log_drain_progress(log: Log, status: DrainStatus) -> None:
    """Log how far a drain has come."""
    log.event(
        DRAIN_PROGRESS,
        f"{status.what}: {status.left} sessions are left ({status.idle} idle), "
        f"{max(0.0, status.seconds):.0f}s until the deadline",
        what=status.what,
        left=status.left,
        idle=status.idle,
        seconds=round(max(0.0, status.seconds)),
    )


def log_drain_ended(log: Log, what: str) -> None:
    """Log that the last session of a drain has ended."""
    log.event(DRAIN_ENDED, f"{what}: all sessions have ended", what=what)


def log_drain_cancelled(log: Log, what: str, left: int) -> None:
    """Log that the operator has cancelled a drain."""
    log.event(DRAIN_CANCELLED, f"{what}: {left} sessions go on", what=what, left=left)
