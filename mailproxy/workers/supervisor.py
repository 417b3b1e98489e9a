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
from collections.abc import Callable, Sequence
from functools import partial

from attrs import define, field

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.ipc.channel import channel_pair, try_send
from mailproxy.ipc.shared_memory import Wakeups
from mailproxy.log import Output
from mailproxy.net.listener import Slots, close_slots
from mailproxy.net.notify import has_service_manager, notify_draining, notify_ready, notify_stopping
from mailproxy.proxy.collector import tune_gc
from mailproxy.proxy.process import max_sessions_per_process
from mailproxy.workers.child import RENEWED, SIGNALS, Setup, run_control, run_worker
from mailproxy.workers.control import Listening
from mailproxy.workers.scoreboard import ProcessCounters, Scoreboard
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


def run_supervisor(config: Config, store: CertificateStore, slots: Slots, outputs: Sequence[Output]) -> None:
    """Run one worker for each of ``slots`` until stopped by a signal. The caller closes the slots."""
    workers = len(slots)
    listening = tuple(map(Listening.of, slots[0]))
    reloader = CertificateReloader(config, store, stage=True) if store.files else None
    setup = Setup(
        config, reloader, store.server_contexts, os.pidfd_open(os.getpid()), slots, listening, outputs,
        Scoreboard(config, workers, most_sessions=max_sessions_per_process()), Wakeups(workers),
    )  # fmt: skip
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an ignored SIGCHLD would leave no exit codes to wait for
    signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGCHLD, RENEWED))
    tune_gc()
    Supervisor(setup).run()


@define(eq=False)
class _Child:
    """What a child is for, and the one that is it now; ``slot`` None is control. ``due``: when the next one is to start."""

    slot: int | None
    shares: ProcessCounters = field(repr=False)
    pid: int | None = None
    channel: socket.socket | None = None
    began: float = 0.0
    pause: float = 0.0
    due: float = 0.0
    id_epoch: int = 0
    is_connected: bool = False
    connect_due: float = 0.0
    pulse: Pulse = field(factory=Pulse)
    is_hung: bool = False

    @property
    def is_alive(self) -> bool:
        return self.pid is not None

    def on_exit(self, now: float) -> None:
        """It is to be replaced at once, unless it keeps dying."""
        if now - self.began >= _STABLE_S:
            self.pause = 0.0
        else:
            self.pause = min(max(2 * self.pause, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self.due = now + self.pause
        self.pid = None
        self.is_connected = False
        if self.channel is not None:
            self.channel.close()
            self.channel = None


@define(eq=False)
class Supervisor:
    """Starts and replaces children until they are to end, and have."""

    setup: Setup
    _control: _Child = field(init=False)
    _workers: list[_Child] = field(init=False)
    _undelivered: list[dict[str, object]] = field(factory=list, init=False)
    _stops: list[int] = field(factory=list, init=False)  # the signals that told it to end
    _is_urgent: bool = field(default=False, init=False)
    _escalation: list[tuple[float, Callable[[], None]]] = field(
        factory=list, init=False
    )  # towards the end, when due
    _look_due: float = field(default=0.0, init=False)
    # Ends that control may not have read if it hangs now; the first so many were posted before the last look.
    _unread: list[dict[str, object]] = field(factory=list, init=False)
    _unread_before: int = field(default=0, init=False)
    _is_over: bool = field(default=False, init=False)  # control has seen the last line of a worker end

    _awaits_ready: bool = field(factory=has_service_manager, init=False)

    def __attrs_post_init__(self) -> None:
        board = self.setup.scoreboard
        self._control = _Child(None, board.counters(board.control))
        self._workers = [_Child(slot, board.counters(slot)) for slot in range(len(self.setup.slots))]

    @property
    def _children(self) -> list[_Child]:
        return [self._control, *self._workers]

    def run(self) -> None:
        """Raises nothing; returns when all have ended."""
        while True:
            self._reload_certificates()
            self._start_due()
            self._run_escalation()
            self._notify_when_ready()
            self._kill_hung()
            if self._stops and not any(role.is_alive for role in self._children):
                return
            caught = signal.sigtimedwait((*SIGNALS, signal.SIGCHLD, RENEWED), self._wait())
            if caught is not None and caught.si_signo in SIGNALS:
                self._handle_signal(caught.si_signo)
            self._reap()

    def _wait(self) -> float:
        """Seconds until something is due."""
        dues = [due for due, _ in self._escalation[:1]]
        if any(role.is_alive for role in self._children):
            dues.append(self._look_due)
        if not self._is_over:
            starting = [self._control] if self._stops else self._children
            dues += [role.due for role in starting if not role.is_alive]
        if self._control.is_alive:
            dues += [role.connect_due for role in self._workers if role.is_alive and not role.is_connected]
        if self._awaits_ready:
            dues.append(time.monotonic() + _READY_POLL_S)
        wait = min(dues, default=math.inf) - time.monotonic()
        return min(max(_SHORTEST_WAIT_S, wait), _LONGEST_WAIT_S)

    def _handle_signal(self, number: int) -> None:
        """Control knows what they mean; here it is only known that there is an end."""
        if number in (signal.SIGTERM, signal.SIGINT):
            is_urgent = bool(self._stops) or number == signal.SIGINT
            if is_urgent:
                notify_stopping()
            else:
                notify_draining(self.setup.config.process.drain_timeout)
            self._schedule_shutdown(is_urgent=is_urgent)
            self._stops.append(number)
            close_slots(self.setup.slots)
        self._send_to_control({"signal": number})

    def _schedule_shutdown(self, *, is_urgent: bool) -> None:
        """What is due if control does not see to it, be it stopped or hanging."""
        if self._is_urgent:
            return
        self._is_urgent = is_urgent
        now, seconds = time.monotonic(), self.setup.config.process.drain_timeout
        stop = now + _CONTROL_S if is_urgent else now + seconds + _END_S
        self._escalation = [
            (stop, partial(self._send_to_workers, {"stop": True})),
            (stop + _END_S, self._kill),
        ]
        if not is_urgent:
            self._escalation.insert(0, (now + _CONTROL_S, partial(self._send_to_workers, {"drain": seconds})))

    def _run_escalation(self) -> None:
        while self._escalation and time.monotonic() >= self._escalation[0][0]:
            self._escalation.pop(0)[1]()

    def _send_to_workers(self, message: dict[str, object]) -> None:
        for role in self._workers:
            if role.channel is not None:
                try_send(role.channel, message)

    def _kill(self) -> None:
        self._is_over = True
        for role in self._children:
            if role.pid is not None:
                os.kill(role.pid, signal.SIGKILL)  # not reaped yet, so it is nobody else's id

    def _send_to_control(self, message: dict[str, object]) -> None:
        if self._control.channel is None or not try_send(self._control.channel, message):
            self._undelivered.append(message)
        elif "died" in message:
            self._unread.append(message)

    # What children show on the board

    def _kill_hung(self) -> None:
        """A loop that has stopped serves nobody, and the kernel deals connections to it: another one takes its place."""
        now = time.monotonic()
        if now < self._look_due:
            return
        self._look_due = now + LOOK_S
        for role in self._children:
            if role.pid is None:
                continue
            if role.pulse.look(role.shares.beat.local):
                role.is_hung = True
                os.kill(role.pid, signal.SIGKILL)  # not reaped yet, so it is nobody else's id

        if not self._control.pulse.silent:
            self._unread = self._unread[self._unread_before :]
            self._unread_before = len(self._unread)

    def _reload_certificates(self) -> None:
        """Reload files that control has reloaded: a worker forked later, when they may be damaged, starts with them."""
        shares = self._control.shares
        wanted, reloader = shares.renewals.local, self.setup.reloader
        if shares.renewed.local == wanted or reloader is None:
            return
        try:
            result = reloader.scan()
            if result is not None:
                reloader.apply_staged(result)
        except Exception as error:  # noqa: BLE001 - the border: a fault of a file must not end all processes
            self._send_to_control({"kept": repr(error)})
        shares.renewed.local = wanted

    def _notify_when_ready(self) -> None:
        """Tell the service manager that all workers serve: it listens to the process that it started, and to no child.

        Control marks that on the board, which the launcher reads until then.
        """
        if self._awaits_ready and self.setup.scoreboard.is_ready:
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
            for role in self._children:
                if role.pid == pid:
                    self._on_child_exit(role, pid, os.waitstatus_to_exitcode(status))

    def _on_child_exit(self, role: _Child, pid: int, code: int) -> None:
        silent, hung = role.pulse.silent * LOOK_S, role.is_hung
        role.on_exit(time.monotonic())
        if role is self._control:
            self._undelivered = [*(self._unread if hung else ()), *self._undelivered]
            self._unread, self._unread_before = [], 0
        sessions = self.setup.scoreboard.clear(role.slot) if role.slot is not None else 0
        if self._stops and code == 0:
            self._is_over |= role is self._control
            return
        why = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        if hung:
            why = f"hung for {silent:g} s and was killed"
        self._send_to_control(
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

    def _start_control(self, running: list[_Child]) -> None:
        is_late = self._control.began > 0
        self._fork(self._control, partial(run_control, self.setup, running=len(running), is_restart=is_late))
        if self._control.is_alive:
            for role in running:
                self._connect(role)
            untold, self._undelivered = self._undelivered, []
            stops: list[dict[str, object]] = [{"signal": number} for number in self._stops]
            for message in [*(each for each in untold if each not in stops), *stops]:
                self._send_to_control(message)

    def _start_worker(self, role: _Child) -> None:
        assert role.slot is not None  # noqa: S101 - control has none
        is_late = role.id_epoch > 0
        # A slot's ids begin at another second each time, so that they never come twice.
        role.id_epoch = max(int(time.time()), role.id_epoch + 1)
        self._fork(
            role, partial(run_worker, self.setup, role.slot, id_epoch=role.id_epoch, is_restart=is_late)
        )
        self._connect(role)

    def _connect(self, role: _Child) -> None:
        """Give a worker and control the ends of a line; tried again later if one of them takes none now."""
        if role.channel is None or self._control.channel is None:
            return
        role.connect_due = time.monotonic() + _CONNECT_AGAIN_S
        theirs, controls = channel_pair()
        with theirs, controls:
            # Whoever gets an end alone sees the other one closed.
            role.is_connected = try_send(role.channel, {"control": self._control.pid}, theirs) and try_send(
                self._control.channel, {"worker": role.slot, "pid": role.pid}, controls
            )

    def _fork(self, role: _Child, run: Callable[[socket.socket], None]) -> None:
        own, childs = channel_pair()
        role.shares.beat.local = 0
        role.pulse, role.is_hung = Pulse(), False
        role.began = time.monotonic()
        try:
            pid = os.fork()
        except OSError:  # out of processes or memory: try again
            own.close()
            childs.close()
            role.on_exit(role.began)
            return
        if pid == 0:
            _child_main(
                run, childs, [own, *(each.channel for each in self._children if each.channel is not None)]
            )
        childs.close()
        role.pid, role.channel = pid, own


def _child_main(
    run: Callable[[socket.socket], None], end: socket.socket, others: list[socket.socket]
) -> None:
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
