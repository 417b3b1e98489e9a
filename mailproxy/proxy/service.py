"""The service: owner of every task that serves sessions.

Tasks live in nested nurseries. What outlives sessions (poller, relay, timers, monitor) surrounds the
frontends, and each frontend owns its sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from random import SystemRandom
from typing import TYPE_CHECKING, Protocol

import trio
from attrs import frozen

from mailproxy import config
from mailproxy.config import Config, Tracing
from mailproxy.log import Log, Record
from mailproxy.log.events import DRAINING, HANDED_OVER, HANDOVER_FAILED, READY, STOPPED
from mailproxy.metrics.board import Board, LocalBoard
from mailproxy.metrics.maxima import clear_maxima
from mailproxy.metrics.recent import RecentSessions
from mailproxy.metrics.servers import SERVER, SESSIONS
from mailproxy.metrics.sessions import SessionCounter
from mailproxy.net.handover import Handover
from mailproxy.net.listener import Listener, close_all
from mailproxy.net.passing.adopt import leave_files
from mailproxy.net.poller import open_poller
from mailproxy.net.relay import open_relay
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.client_limits import Clients
from mailproxy.proxy.drain import PROCESS, DrainCommands, Drainer, LocalDrains, Purpose
from mailproxy.proxy.frontend import Frontend, FrontendState
from mailproxy.proxy.limits import SessionLimit, SessionLimits
from mailproxy.proxy.process import worker_count
from mailproxy.proxy.session.registry import LiveSession, SessionRegistry
from mailproxy.proxy.state import FrontendsRecord, ProxyState, StateKeeper, restore_state
from mailproxy.proxy.supervise import contained, log_failure, supervise

if TYPE_CHECKING:
    from mailproxy.log.tracing import SessionTracer

_LOOK_INTERVAL_S = 1.0  # between two looks at the sessions that select their route after a reload
_STOP_TIMEOUT_S = 1.0  # for the sessions that are ended at the deadline of a drain


class Monitor(Protocol):
    """Keeps the state of servers current: with health checks, or from another process that makes them."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until cancelled; started when frontends may accept connections."""


@frozen
class FrontendLimits:
    """The limits of one frontend: on all of its sessions, and on those of each client if not None."""

    sessions: SessionLimits
    clients: Clients | None


class Service:
    """A configuration at work in one trio loop.

    `build_single_process` and `build_worker` make one: the parts that are given here are the ones that
    differ.

    Args:
        config: The configuration.
        listeners: The open sockets of all frontends. They are closed when ``run`` ends.
        backends: The backends, by name.
        limits: The limits of each frontend, by name.
        process_limit: The limit on sessions of the whole process, or of all workers.
        monitor: Keeps the state of servers current.
        log: The log. It is finished when ``run`` ends.
        state: Keeps the state of the backends in a file; None if there is none, or another process does.
        initial_state: The state of the process that this one replaces. The file is not read then.
        board: Where everything is counted; None for one of this process alone.

    Attributes:
        registry: The live sessions of this process.
        board: Where everything is counted.
        counter: Counts the sessions there.
        is_draining: Whether it accepts no more connections.
        limit_wish: The operator's limit on sessions, 0 for that of the configuration.
        frontends: The frontends, by name.
        ended: Set when ``run`` has ended.
        drainer: Ends them, spread over time.
        drains: What commands of an operator call to end them.
        on_listeners_changed: Called with the listeners that a reload has left, before those that are gone are
            closed.
    """

    def __init__(
        self,
        config: Config,
        listeners: list[Listener],
        *,
        backends: Mapping[str, Backend],
        limits: Mapping[str, FrontendLimits],
        process_limit: SessionLimit,
        monitor: Monitor,
        log: Log,
        state: StateKeeper | None = None,
        initial_state: ProxyState | None = None,
        board: Board | None = None,
    ) -> None:
        self.config = config
        self.backends = backends
        self.log = log
        self.registry = SessionRegistry()
        self.board = board if board is not None else LocalBoard()
        self.counter = SessionCounter(self.board)
        self._count_on_board(backends.values())
        self._recent_sessions = RecentSessions()
        self._follow_log()
        self.drainer = Drainer(
            self.registry,
            log,
            idle_first=config.process.idle_first,
            rate=config.process.drain_rate / worker_count(config),
            random=SystemRandom(),
        )
        self.drains: DrainCommands = LocalDrains(self.drainer)
        self.limits = limits
        self._listeners: Sequence[Listener] = listeners
        self.process_limit = process_limit
        self._monitor = monitor
        self._state = state
        if state is not None:
            state.frontends = self
        self._initial_state = initial_state
        self._nursery: trio.Nursery | None = None
        self._frontends_nursery: trio.Nursery | None = None
        self._reloads = 0
        self._orphans: list[set[int]] = []  # the sessions that each reload drains, by id
        self.on_listeners_changed: Callable[[Sequence[Listener]], object] = len
        self._poller = open_poller(partial(log_failure, log, "a session"))
        self._relay = open_relay(config.process.relay, self._poller)
        self.frontends = {
            name: self._make_frontend(
                frontend, [listener for listener in listeners if listener.frontend == name]
            )
            for name, frontend in config.frontends.items()
        }
        self.ended = trio.Event()
        self.is_draining, self.limit_wish = False, 0
        self._configured_limit = process_limit.limit

    def _follow_log(self) -> None:
        """Keep the last sessions and the times of phases if something wants them. Call it before frontends are made."""
        if self.config.admin.http is not None:
            self.log.subscribe(self._recent_sessions.add)
        self.log.wants_phases = self.config.tracing.otlp is not None

    def _make_frontend(self, frontend: config.Frontend, listeners: Sequence[Listener]) -> Frontend:
        limits = self.limits[frontend.name]
        return Frontend(
            frontend,
            listeners,
            backends=self.backends,
            limits=limits.sessions,
            clients=limits.clients,
            registry=self.registry,
            relay=self._relay,
            poller=self._poller,
            log=self.log,
            counter=self.counter,
        )

    def _count_on_board(self, backends: Iterable[Backend]) -> None:
        for backend in backends:
            backend.count_on(self.board)

    def count_live(self) -> None:
        """Count what open sessions have moved so far. All else is always counted."""
        self.counter.count_live(self.registry)

    def recent_records(self, events: int, *, with_sessions: bool) -> list[Record]:
        """Return the last events of the log, and if wanted the last sessions, which are kept for HTTP alone."""
        recent = self.log.recent
        sessions = self._recent_sessions.records() if with_sessions else ()
        return [*islice(recent, max(0, len(recent) - events), None), *sessions]

    def relay_turns(self) -> int:
        """Return the turns of the relay so far."""
        return self._poller.turns

    @property
    def is_serving(self) -> bool:
        """Whether it accepts sessions: it has been started, and does not drain."""
        return self._frontends_nursery is not None and not self.is_draining

    @property
    def listeners(self) -> Sequence[Listener]:
        """The open listeners of all frontends."""
        return self._listeners

    @property
    def sessions(self) -> int:
        """The sessions of all frontends now; in a worker, those of all workers."""
        return self.process_limit.sessions

    @property
    def max_sessions(self) -> int:
        """The limit on them."""
        return self.process_limit.limit

    def capture_frontends(self) -> FrontendsRecord:
        """Return what the operator has set of frontends, for the state file."""
        wishes = {
            name: (frontend.state is FrontendState.PAUSED, frontend.limit)
            for name, frontend in self.frontends.items()
        }
        return FrontendsRecord.of(self.config, wishes, self.limit_wish)

    def apply_frontends(self, record: FrontendsRecord) -> None:
        """Set what the operator had set in an earlier process."""
        for name, is_paused, limit in record.wishes(self.config):
            self.frontends[name].set_limit(limit)
            if is_paused:
                self.frontends[name].set_state(FrontendState.PAUSED)
        self.set_limit(record.limit(self.config))

    def clear_maxima(self) -> None:
        """Let the highest values begin again, at those of now."""
        clear_maxima(self.board)
        for backend in self.backends.values():
            backend.restart_maxima()

    def set_limit(self, sessions: int) -> None:
        """Set the limit on the sessions of all frontends; 0 for that of the configuration."""
        self.limit_wish = sessions
        self.process_limit.change(sessions or self._configured_limit)

    def reconfigure_limit(self, sessions: int, *, keeps_wish: bool) -> None:
        """Use another limit of the configuration.

        Args:
            sessions: The limit.
            keeps_wish: Whether that of the operator stays, since the file's own value is as before.
        """
        self._configured_limit = sessions
        self.set_limit(self.limit_wish if keeps_wish else 0)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled; started once servers were checked and every bind listens.

        Closes:
            The listeners, and the log's targets after the last line.

        Cancellation:
            Open sessions are closed and logged.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.log.run)
                await nursery.start(self._poller.serve)
                nursery.start_soon(supervise, self.log, "timers", self._poller.timers.serve)
                nursery.start_soon(supervise, self.log, "relay", self._relay.serve)
                if self.config.tracing.otlp is not None:
                    tracer = _make_tracer(self.config.tracing)
                    nursery.start_soon(supervise, self.log, "tracing", tracer.run, self.log)
                nursery.start_soon(supervise, self.log, "drainer", self.drainer.run)
                for backend in self.backends.values():
                    nursery.start_soon(backend.run_timers)
                await restore_state(self._state, self._initial_state, self.backends.values(), self)
                if self._state is not None:
                    nursery.start_soon(supervise, self.log, "state file", self._state.run)
                await nursery.start(self._monitor.run)
                async with trio.open_nursery() as frontends:
                    for frontend in self.frontends.values():
                        await frontends.start(frontend.run)
                    self._frontends_nursery = frontends
                    self.log.event(READY, "mailproxy is ready")
                    task_status.started()
                nursery.cancel_scope.cancel()
        finally:
            self.is_draining = True
            close_all(self._listeners)  # also those of frontends that were never started
            sessions = sum(cells[SESSIONS] for key, cells in self.board.blocks() if key[0] == SERVER)
            if self._state is not None:
                await self._state.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.log.event(STOPPED, "mailproxy has stopped", sessions=sessions)
            await self.log.finish()  # noqa: ASYNC102 - shields itself, with a deadline of its own
            self.ended.set()

    def drain(self, seconds: float, *, closed: Collection[str] = ()) -> None:
        """Accept no more connections, and end all sessions within ``seconds``, idle ones first.

        ``run`` then ends.

        Args:
            seconds: Until when sessions have to end.
            closed: Addresses at which no other process listens. What waits there is accepted first.
        """
        self.is_draining = True
        for frontend in self.frontends.values():
            frontend.accept_queued(each for each in frontend.listeners if str(each.bind.address) in closed)
        log_draining(self.log, self.sessions, seconds)
        self.drainer.start(str(PROCESS), PROCESS.matches, seconds, Purpose.STOP)
        # The drainer ends the last sessions at the deadline. This is for what it cannot end.
        deadline = trio.current_time() + seconds + _STOP_TIMEOUT_S
        for frontend in self.frontends.values():
            frontend.drain(deadline)

    def hand_over(self, seconds: float, *, pid: int, unused: Collection[str]) -> None:
        """Drain, because another process accepts at the same sockets. What both have is left to it.

        Args:
            seconds: Until when sessions have to end.
            pid: The other process.
            unused: The addresses that it does not listen on.
        """
        leave_files(self._listeners, unused)
        if self._state is not None:
            self._state.forbid_writing()
        log_handed_over(self.log, pid, unused)
        if not self.is_draining:
            self.drain(seconds, closed=unused)

    # Reload

    def reconfigure(
        self,
        config: Config,
        handover: Handover,
        *,
        backends: Mapping[str, Backend],
        limits: Mapping[str, FrontendLimits],
    ) -> None:
        """Use another configuration from now on, while it serves.

        The caller has reconfigured backends and limits. New sessions use it, and those that are there keep
        theirs. If their bind, their route or their server is gone, or the server has another address, they
        have ``drain_timeout`` to end.

        Args:
            config: The configuration.
            handover: Its listeners.
            backends: Its backends by name.
            limits: The limits of each frontend, by name.
        """
        assert self._nursery is not None  # noqa: S101 - is_serving
        seconds = config.process.drain_timeout
        self.drainer.reconfigure(
            idle_first=config.process.idle_first, rate=config.process.drain_rate / worker_count(config)
        )
        for name, backend in backends.items():
            if name not in self.backends:
                self._nursery.start_soon(backend.run_timers)
        for name, backend in self.backends.items():
            if name not in backends:
                backend.retire()
        self.config, self.backends, self.limits = config, backends, limits
        self._count_on_board(backends.values())
        if self._state is not None:
            self._state.reconfigure(backends)
        self._listeners = handover.listeners
        self._reconfigure_frontends(handover, seconds)
        self.on_listeners_changed(self._listeners)
        close_all(handover.gone)
        self._drain_orphans(seconds)

    def _reconfigure_frontends(self, handover: Handover, seconds: float) -> None:
        """Have the frontends use the configuration, make new ones, and drain those that are gone."""
        assert self._frontends_nursery is not None  # noqa: S101 - is_serving
        config = self.config
        for name, frontend in self.frontends.items():
            frontend.accept_queued(each for each in handover.gone if each.frontend == name)
        before, self.frontends = self.frontends, {}
        for name, frontend in before.items():
            if name not in config.frontends:
                frontend.retire(trio.current_time() + seconds + _STOP_TIMEOUT_S)
        # Sockets that move leave their old frontends before the new ones accept there: two tasks cannot wait
        # at one socket.
        moved = {new.socket for new, old in handover.kept if new.frontend != old.frontend}
        for name, frontend in before.items():
            if name in config.frontends:
                frontend.release(moved)
        # An option that the kernel refuses must not leave half a configuration: the socket listens without it.
        with contained(self.log, "options of listening sockets"):
            handover.complete()
        for name, table in config.frontends.items():
            listeners = [listener for listener in handover.listeners if listener.frontend == name]
            known = before.get(name)
            if known is None:
                self.frontends[name] = new = self._make_frontend(table, listeners)
                self._frontends_nursery.start_soon(new.run)
            else:
                self.frontends[name] = known
                known.reconfigure(table, listeners, backends=self.backends, clients=self.limits[name].clients)

    def _drain_orphans(self, seconds: float) -> None:
        """Have the sessions end within ``seconds`` that are orphans, or that become it while they connect."""
        assert self._nursery is not None  # noqa: S101 - is_serving
        self._reloads += 1
        orphans = {session.record.id for session in self.registry.select(self._is_orphan)}
        # Those of an earlier reload keep their deadline, unless this one brings their route back.
        for earlier in self._orphans:
            earlier.intersection_update(orphans)
        self._orphans = [earlier for earlier in self._orphans if earlier]
        new = orphans.difference(*self._orphans)
        if new:
            self._orphans.append(new)
            self.drainer.start(
                f"reload {self._reloads}", lambda session: session.record.id in new, seconds, Purpose.DRAIN
            )
        connecting = {
            session.record.id
            for session in self.registry.select(lambda session: not session.is_connected)
            if session.record.id not in orphans
        }
        if connecting:
            self._nursery.start_soon(self._end_late_orphans, connecting, seconds, self._reloads)

    async def _end_late_orphans(self, numbers: set[int], seconds: float, reload: int) -> None:
        """End the sessions that select their route in the configuration before, and so are orphans.

        Some do so after the deadline: a client may take minutes to its STARTTLS. A later reload looks at those that
        are left, and gives them its own time.
        """
        await trio.sleep(seconds)
        while numbers and reload == self._reloads:
            for number in tuple(numbers):
                session = self.registry.get(number)
                if session is not None and self._is_orphan(session):
                    session.end(Purpose.DRAIN.end_reason)
                elif session is not None and not session.is_connected:
                    continue
                numbers.discard(number)
            await trio.sleep(_LOOK_INTERVAL_S)

    def _is_orphan(self, session: LiveSession) -> bool:
        """Whether the bind, the route or the server of a session is gone."""
        record, server = session.record, session.server
        frontend = self.frontends.get(record.frontend)
        if frontend is None or not frontend.has_socket(session.listener):
            return True
        if not record.backend:  # it has no route yet
            return False
        return record.backend not in frontend.backend_names or (server is not None and server.is_gone)


def _make_tracer(tracing: Tracing) -> SessionTracer:
    from mailproxy.log.tracing import SessionTracer  # late: its packages are an extra, and take 0.4 s

    return SessionTracer(str(tracing.otlp), service=tracing.service, share=tracing.sample)


def log_draining(log: Log, sessions: int, seconds: float) -> None:
    """Log that draining begins, with the number of open sessions."""
    log.event(
        DRAINING,
        f"stopping: no more connections are accepted, open sessions ({sessions}) have {seconds:g}s to end",
        sessions=sessions,
        seconds=seconds,
    )


def log_handed_over(log: Log, pid: int, unused: Collection[str]) -> None:
    """Log that another process accepts from now on."""
    rest = f"; it does not listen on {', '.join(sorted(unused))}" if unused else ""
    log.event(HANDED_OVER, f"process {pid} has taken over and accepts{rest}", pid=pid, unused=sorted(unused))


def log_handover_failed(log: Log, reason: str) -> None:
    """Log that the process that this one replaces may still accept."""
    log.event(HANDOVER_FAILED, f"the process before may still accept: {reason}", reason=reason)
