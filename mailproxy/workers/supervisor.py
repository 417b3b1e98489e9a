"""The launcher: the process that was started, when several serve. It forks control and the workers and replaces what dies.

It holds what must outlive them: the listening sockets, one for each slot, so that connections in the queue of a worker that
died are the next one's; the TLS contexts, so that a ticket of one worker is good at all; the memory of the counts. It never
enters trio and has no thread, so that it can fork at any time. It waits for signals and for the ends of its children, and
looks at the board for their heartbeats and for files that control has taken up: it loads those, too, so that what it forks
later has them. What signals mean is control's to know; where that hangs, the launcher itself sees to the end.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial

from attrs import define, field

from mailproxy.app.privileges import check_capabilities, drop_privileges, wanted_owner
from mailproxy.app.startup import close_slots, open_all
from mailproxy.certificates.reloader import Renewal
from mailproxy.certificates.store import Material
from mailproxy.certificates.watcher import take_up_prepared
from mailproxy.config import Config
from mailproxy.ipc.channel import open_pair, post
from mailproxy.ipc.shared_memory import Bells
from mailproxy.net.notify import has_service_manager, notify_draining, notify_ready, notify_stopping
from mailproxy.proxy.collector import spare_collector
from mailproxy.proxy.process import own_max_sessions
from mailproxy.workers.child import RENEWED, SIGNALS, Setup, control, work
from mailproxy.workers.control import Listening
from mailproxy.workers.scoreboard import Board, Shares
from mailproxy.workers.watchdog import LOOK_S, Pulse

_STABLE_S = 1.0  # who lives for less is not replaced at once
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_SHORTEST_WAIT_S = 0.01
_LONGEST_WAIT_S = 3600.0  # a child that ends is a signal, too
_CONNECT_AGAIN_S = 1.0
_CONTROL_S = 2.0  # for control to pass on that there is an end; one that hangs does not
_END_S = 6.0  # for children to end when they were told to
_READY_POLL_S = 0.05  # between looks at the board, while the service manager waits for us to be ready
_FAILED = 1


def launch(config: Config, material: Material, workers: int) -> None:
    """Run until stopped by a signal. Raises ConfigError, with nothing left open, before anything is served."""
    owner = wanted_owner(config)
    slots, outputs = open_all(config, material, workers=workers, owner=owner)
    try:
        drop_privileges(config)
        check_capabilities(config)
        listening = tuple(map(Listening.of, slots[0]))
        renewal = Renewal(config, material, prepare=True) if material.files else None
        setup = Setup(
            config, renewal, material.connectors, os.pidfd_open(os.getpid()), slots, listening, outputs,
            Board(config, workers, most_sessions=own_max_sessions()), Bells(workers),
        )  # fmt: skip
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored ones have no ends that could be waited for
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGCHLD, RENEWED))
        spare_collector()
        Launcher(setup).run()
    finally:
        close_slots(slots)


@define(eq=False)
class _Role:
    """What a child is for, and the one that is it now; ``slot`` None is control. ``due``: when the next one is to start."""

    slot: int | None
    shares: Shares = field(repr=False)
    pid: int | None = None
    line: socket.socket | None = None
    began: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    second: int = 0
    is_connected: bool = False
    connect_due: float = 0.0
    pulse: Pulse = field(factory=Pulse)
    is_hung: bool = False

    @property
    def is_alive(self) -> bool:
        return self.pid is not None

    def died(self, now: float) -> None:
        """It is to be replaced at once, unless it keeps dying."""
        if now - self.began >= _STABLE_S:
            self.pause = 0.0
        else:
            self.pause = min(max(2 * self.pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self.due = now + self.pause
        self.pid = None
        self.is_connected = False
        if self.line is not None:
            self.line.close()
            self.line = None


@define(eq=False)
class Launcher:
    """Starts and replaces children until they are to end, and have."""

    setup: Setup
    _control: _Role = field(init=False)
    _workers: list[_Role] = field(init=False)
    _untold: list[dict[str, object]] = field(factory=list, init=False)
    _stops: list[int] = field(factory=list, init=False)  # the signals that told it to end
    _is_urgent: bool = field(default=False, init=False)
    _steps: list[tuple[float, Callable[[], None]]] = field(
        factory=list, init=False
    )  # towards the end, when due
    _look_due: float = field(default=0.0, init=False)
    # Ends that control may not have read if it hangs now; the first so many were posted before the last look.
    _unread: list[dict[str, object]] = field(factory=list, init=False)
    _unread_before: int = field(default=0, init=False)
    _is_over: bool = field(default=False, init=False)  # control has seen the last line of a worker end

    _awaits_ready: bool = field(factory=has_service_manager, init=False)

    def __attrs_post_init__(self) -> None:
        board = self.setup.board
        self._control = _Role(None, board.shares(board.control))
        self._workers = [_Role(slot, board.shares(slot)) for slot in range(len(self.setup.slots))]

    @property
    def _roles(self) -> list[_Role]:
        return [self._control, *self._workers]

    def run(self) -> None:
        """Raises nothing; returns when all have ended."""
        while True:
            self._take_up_renewals()
            self._start_due()
            self._insist()
            self._notify_when_ready()
            self._kill_hung()
            if self._stops and not any(role.is_alive for role in self._roles):
                return
            caught = signal.sigtimedwait((*SIGNALS, signal.SIGCHLD, RENEWED), self._wait())
            if caught is not None and caught.si_signo in SIGNALS:
                self._obey(caught.si_signo)
            self._reap()

    def _wait(self) -> float:
        """Seconds until something is due."""
        dues = [due for due, _ in self._steps[:1]]
        if any(role.is_alive for role in self._roles):
            dues.append(self._look_due)
        if not self._is_over:
            starting = [self._control] if self._stops else self._roles
            dues += [role.due for role in starting if not role.is_alive]
        if self._control.is_alive:
            dues += [role.connect_due for role in self._workers if role.is_alive and not role.is_connected]
        if self._awaits_ready:
            dues.append(time.monotonic() + _READY_POLL_S)
        wait = min(dues, default=math.inf) - time.monotonic()
        return min(max(_SHORTEST_WAIT_S, wait), _LONGEST_WAIT_S)

    def _obey(self, number: int) -> None:
        """Control knows what they mean; here it is only known that there is an end."""
        if number in (signal.SIGTERM, signal.SIGINT):
            is_urgent = bool(self._stops) or number == signal.SIGINT
            if is_urgent:
                notify_stopping()
            else:
                notify_draining(self.setup.config.process.drain_timeout)
            self._plan_end(is_urgent=is_urgent)
            self._stops.append(number)
            close_slots(self.setup.slots)
        self._tell({"signal": number})

    def _plan_end(self, *, is_urgent: bool) -> None:
        """What is due if control does not see to it, be it stopped or hanging."""
        if self._is_urgent:
            return
        self._is_urgent = is_urgent
        now, seconds = time.monotonic(), self.setup.config.process.drain_timeout
        stop = now + _CONTROL_S if is_urgent else now + seconds + _END_S
        self._steps = [(stop, partial(self._tell_workers, {"stop": True})), (stop + _END_S, self._kill)]
        if not is_urgent:
            self._steps.insert(0, (now + _CONTROL_S, partial(self._tell_workers, {"drain": seconds})))

    def _insist(self) -> None:
        while self._steps and time.monotonic() >= self._steps[0][0]:
            self._steps.pop(0)[1]()

    def _tell_workers(self, message: dict[str, object]) -> None:
        for role in self._workers:
            if role.line is not None:
                post(role.line, message)

    def _kill(self) -> None:
        self._is_over = True
        for role in self._roles:
            if role.pid is not None:
                os.kill(role.pid, signal.SIGKILL)  # not reaped yet, so it is nobody else's id

    def _tell(self, message: dict[str, object]) -> None:
        if self._control.line is None or not post(self._control.line, message):
            self._untold.append(message)
        elif "died" in message:
            self._unread.append(message)

    # What children show on the board

    def _kill_hung(self) -> None:
        """A loop that has stopped serves nobody, and the kernel deals connections to it: another one takes its place."""
        now = time.monotonic()
        if now < self._look_due:
            return
        self._look_due = now + LOOK_S
        for role in self._roles:
            if role.pid is None:
                continue
            if role.pulse.look(role.shares.beat.own):
                role.is_hung = True
                os.kill(role.pid, signal.SIGKILL)  # not reaped yet, so it is nobody else's id

        if not self._control.pulse.silent:
            self._unread = self._unread[self._unread_before :]
            self._unread_before = len(self._unread)

    def _take_up_renewals(self) -> None:
        """Files that control has taken up: a worker that is forked later, when they may be damaged, has them, too."""
        shares = self._control.shares
        wanted, renewal = shares.renewals.own, self.setup.renewal
        if shares.renewed.own == wanted or renewal is None:
            return
        try:
            renewed = renewal.look()
            if renewed is not None:
                take_up_prepared(renewal, renewed)
        except Exception as error:  # noqa: BLE001 - the border: a fault of a file must not end all processes
            self._tell({"kept": repr(error)})
        shares.renewed.own = wanted

    def _notify_when_ready(self) -> None:
        """Tell the service manager that all workers serve: it listens to the process that it started, and to no child.

        Control marks that on the board, which the launcher reads until then.
        """
        if self._awaits_ready and self.setup.board.is_ready:
            self._awaits_ready = False
            notify_ready()

    # Ends

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for role in self._roles:
                if role.pid == pid:
                    self._bury(role, pid, os.waitstatus_to_exitcode(status))

    def _bury(self, role: _Role, pid: int, code: int) -> None:
        silent, hung = role.pulse.silent * LOOK_S, role.is_hung
        role.died(time.monotonic())
        if role is self._control:
            self._untold = [*(self._unread if hung else ()), *self._untold]
            self._unread, self._unread_before = [], 0
        sessions = self.setup.board.clear(role.slot) if role.slot is not None else 0
        if self._stops and code == 0:
            self._is_over |= role is self._control
            return
        why = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if hung:
            why = f"hung for {silent:g} s and was killed"
        self._tell(
            {
                "died": {
                    "slot": role.slot,
                    "pid": pid,
                    "why": why,
                    "sessions": sessions,
                    "replaced": not self._stops,
                }
            }
        )

    # Starts

    def _start_due(self) -> None:
        now = time.monotonic()
        running = [role for role in self._workers if role.is_alive]
        is_wanted = bool(running) and not self._is_over if self._stops else True
        if is_wanted and not self._control.is_alive and now >= self._control.due:
            self._start_control(running)
        for role in self._workers:
            if not role.is_alive and now >= role.due and not self._stops:
                self._start_worker(role)
            elif role.is_alive and not role.is_connected and now >= role.connect_due:
                self._connect(role)

    def _start_control(self, running: list[_Role]) -> None:
        is_late = self._control.began > 0
        self._fork(self._control, partial(control, self.setup, running=len(running), is_late=is_late))
        if self._control.is_alive:
            for role in running:
                self._connect(role)
            untold, self._untold = self._untold, []
            stops: list[dict[str, object]] = [{"signal": number} for number in self._stops]
            for message in [*(each for each in untold if each not in stops), *stops]:
                self._tell(message)

    def _start_worker(self, role: _Role) -> None:
        assert role.slot is not None  # noqa: S101 - control has none
        is_late = role.second > 0
        # A slot's ids begin at another second each time, so that they never come twice.
        role.second = max(int(time.time()), role.second + 1)
        self._fork(role, partial(work, self.setup, role.slot, second=role.second, is_late=is_late))
        self._connect(role)

    def _connect(self, role: _Role) -> None:
        """Give a worker and control the ends of a line; tried again later if one of them takes none now."""
        if role.line is None or self._control.line is None:
            return
        role.connect_due = time.monotonic() + _CONNECT_AGAIN_S
        theirs, controls = open_pair()
        with theirs, controls:
            # Whoever gets an end alone sees the other one closed.
            role.is_connected = post(role.line, {"control": self._control.pid}, theirs) and post(
                self._control.line, {"worker": role.slot, "pid": role.pid}, controls
            )

    def _fork(self, role: _Role, run: Callable[[socket.socket], None]) -> None:
        own, childs = open_pair()
        role.shares.beat.own = 0
        role.pulse, role.is_hung = Pulse(), False
        role.began = time.monotonic()
        try:
            pid = os.fork()
        except OSError:  # out of processes or memory: try again
            own.close()
            childs.close()
            role.died(role.began)
            return
        if pid == 0:
            _be_child(run, childs, [own, *(each.line for each in self._roles if each.line is not None)])
        childs.close()
        role.pid, role.line = pid, own


def _be_child(run: Callable[[socket.socket], None], end: socket.socket, others: list[socket.socket]) -> None:
    """Never returns: what the launcher does at its end is not the child's to do."""
    code = _FAILED
    try:
        for line in others:  # or a sister would not notice the launcher's end
            line.close()
        run(end)
        code = 0
    except BaseException:  # noqa: BLE001, ASYNC103 - the last border there is, and no loop runs any more
        traceback.print_exc()
    finally:
        os._exit(code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"
