"""The supervisor: the process that was started. It forks the other processes, and replaces them.

It holds what must outlive its children. The listening sockets, one set for each slot: connections in the
accept queue of a worker that died wait for the next one. The TLS contexts: a session ticket of one worker is
valid at all of them. The shared memory of the counters.

It never enters trio and has no thread, so it can fork at any time. It waits for signals and for the exits of
its children. On the scoreboard it reads their heartbeats, and whether the control process has reloaded TLS
files. It loads those files, too, so that a worker forked later has them.

The control process decides what signals mean. If it hangs, the supervisor ends the workers itself
(`shutdown`).
"""

from __future__ import annotations

import math
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import BinaryIO

from attrs import define, field

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config
from mailproxy.errors import ConfigError, Fault
from mailproxy.ipc.board import SharedBoard
from mailproxy.ipc.channel import Descriptors, channel_pair, try_receive, try_send
from mailproxy.ipc.files import read_value, write_value
from mailproxy.ipc.wakeups import Wakeups
from mailproxy.log import Output
from mailproxy.net.listener import Slots, close_all, close_slots
from mailproxy.net.notify import (
    has_service_manager,
    notify_draining,
    notify_handed_over,
    notify_ready,
    notify_reloading,
    notify_stopping,
)
from mailproxy.proxy.process import max_sessions_per_process, tune_gc, worker_count
from mailproxy.proxy.signals import HANDED_OVER, SIGNALS, SignalAction, signal_action
from mailproxy.workers.child import WAKEUP, child_main, run_control, run_worker
from mailproxy.workers.messages import (
    ControlChannel,
    Drain,
    HandedOver,
    HandoverFailed,
    Message,
    PassSockets,
    ProcessExit,
    ReloadFailed,
    SignalReceived,
    WorkerChannel,
    decode,
    encode,
    prepare_encoding,
)
from mailproxy.workers.reload.commit import Committed, adopt_slots, prepare_commit
from mailproxy.workers.reload.document import ListenerInfo, ReloadDocument, pack_faults
from mailproxy.workers.reload.messages import ApplyReload, ReloadAnswer, ReloadProgress, RequestReload
from mailproxy.workers.scoreboard import Scoreboard
from mailproxy.workers.setup import ControlHelper, Setup, Start
from mailproxy.workers.supervision.child_process import ChildProcess
from mailproxy.workers.supervision.files import load_reloaded_files
from mailproxy.workers.supervision.handover import PendingHandover
from mailproxy.workers.supervision.outbox import ControlOutbox
from mailproxy.workers.supervision.shutdown import ShutdownStep, plan_drain, plan_stop
from mailproxy.workers.supervision.watchdog import CHECK_INTERVAL_S, ManagerWatchdog, Pulse

_MIN_WAIT_S = 0.01
_MAX_WAIT_S = 3600.0  # a child that exits ends the wait, too: SIGCHLD
_CONNECT_RETRY_S = 1.0
_READY_POLL_S = 0.05  # between looks at the scoreboard, while the service manager waits for readiness


def run_supervisor(
    config: Config,
    store: CertificateStore,
    slots: Slots,
    outputs: Sequence[Output],
    *,
    helper: ControlHelper | None = None,
    start: Start | None = None,
) -> None:
    """Run the workers until stopped by a signal. The caller closes the slots.

    There may be more slots than workers: the first workers then accept at the sockets of the others, too.
    ``helper`` runs beside the control process. ``start`` is what the process before has left.
    """
    workers = worker_count(config)
    scoreboard = Scoreboard(config, workers, max_sessions_per_worker=max_sessions_per_process())
    setup = Setup(
        config=config,
        reloader=CertificateReloader(config, store, stage=True) if store.files else None,
        server_contexts=store.server_contexts,
        supervisor_pidfd=os.pidfd_open(os.getpid()),
        slots=slots,
        adopted=adopt_slots(range(len(slots)), workers, ()),
        listener_infos=tuple(map(ListenerInfo.of, slots[0])),
        outputs=outputs,
        scoreboard=scoreboard,
        boards=[SharedBoard() for _ in range(scoreboard.workers_max + 1)],
        wakeups=Wakeups(scoreboard.workers_max),
        helper=helper,
        start=start,
    )
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # an ignored SIGCHLD would leave no exit codes to wait for
    signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGCHLD, WAKEUP))
    prepare_encoding()
    tune_gc()
    Supervisor(setup).run()


@define(eq=False)
class Supervisor:
    """Starts and replaces children until a signal ends the proxy and all of them have exited."""

    setup: Setup
    _control: ChildProcess = field(init=False)
    _workers: list[ChildProcess] = field(init=False)
    _outbox: ControlOutbox = field(factory=ControlOutbox, init=False)
    _stop_signals: list[int] = field(factory=list, init=False)  # those that came so far
    _is_urgent: bool = field(default=False, init=False)  # sessions get no time to end
    _shutdown: list[ShutdownStep] = field(factory=list, init=False)
    _check_due: float = field(default=0.0, init=False)  # of heartbeats
    # The control process has exited after the last worker, or all children were killed.
    _is_control_done: bool = field(default=False, init=False)
    _awaits_ready: bool = field(init=False)
    _manager: ManagerWatchdog = field(factory=ManagerWatchdog, init=False)
    _handover: PendingHandover = field(factory=PendingHandover, init=False)
    # Reloads whose begin was reported to the service manager, and whose end was not.
    _reloads: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        scoreboard = self.setup.scoreboard
        self._awaits_ready = has_service_manager() or self.setup.start is not None
        self._control = ChildProcess(None, scoreboard.counters(scoreboard.control))
        self._workers = [
            ChildProcess(slot, scoreboard.counters(slot)) for slot in range(worker_count(self.setup.config))
        ]

    @property
    def _children(self) -> list[ChildProcess]:
        return [self._control, *self._workers]

    def run(self) -> None:
        """Return when all children have exited. Raises nothing."""
        while True:
            self._load_reloaded_files()
            self._receive_from_control()
            self._start_due_children()
            self._run_due_shutdown_steps()
            self._notify_when_ready()
            self._kill_hung_children()
            self._manager.notify_if_due()
            if self._stop_signals and not any(child.is_alive for child in self._children):
                return
            caught = signal.sigtimedwait((*SIGNALS, signal.SIGCHLD, WAKEUP), self._seconds_to_wait())
            if caught is not None and caught.si_signo in SIGNALS:
                self._handle_signal(caught.si_signo)
            self._reap()

    def _seconds_to_wait(self) -> float:
        """Return the seconds until something is due."""
        dues = [step.due for step in self._shutdown[:1]]
        if any(child.is_alive for child in self._children):
            dues.append(self._check_due)
        if not self._is_control_done:
            starting = [self._control] if self._stop_signals else self._children
            dues += [child.start_due for child in starting if not child.is_alive]
        if self._control.is_alive:
            dues += [
                worker.connect_due for worker in self._workers if worker.is_alive and not worker.is_connected
            ]
        if self._awaits_ready:
            dues.append(time.monotonic() + _READY_POLL_S)
        dues.append(self._manager.due)
        wait = min(dues, default=math.inf) - time.monotonic()
        return min(max(_MIN_WAIT_S, wait), _MAX_WAIT_S)

    # Signals and shutdown

    def _handle_signal(self, number: int) -> None:
        """Pass a signal on to the control process. If it stops the proxy, schedule the shutdown here, too."""
        action = signal_action(number, is_draining=bool(self._stop_signals))
        if action in (SignalAction.DRAIN, SignalAction.STOP):
            self._schedule_shutdown(is_urgent=action is SignalAction.STOP)
            self._stop_signals.append(number)
            if self.setup.start is not None:
                self.setup.start.before_stop()
            close_slots(self.setup.slots)
        elif action is SignalAction.HAND_OVER:
            self._on_handed_over(())
            return
        elif action is SignalAction.RELOAD and not self._stop_signals and not self._awaits_ready:
            self._reloads += 1  # the control process reports the end
            notify_reloading()
        self._send_to_control(SignalReceived(number))

    def _on_handed_over(self, unused: Collection[str]) -> None:
        """Stop, because another proxy has got the listening sockets and accepts. Ignored if none has."""
        if self._handover.successor is None:
            return
        if not self._stop_signals:
            self._schedule_shutdown(is_urgent=False, successor=self._handover.successor)
        self._stop_signals.append(HANDED_OVER)
        self._handover.complete(self.setup, unused)
        close_slots(self.setup.slots)
        self._send_to_control(SignalReceived(HANDED_OVER))

    def _schedule_shutdown(self, *, is_urgent: bool, successor: int | None = None) -> None:
        drain_timeout = self.setup.config.process.drain_timeout
        if successor is not None:
            notify_handed_over(successor, drain_timeout)
        elif is_urgent:
            notify_stopping()
        else:
            notify_draining(drain_timeout)
        if not self._is_urgent:  # a third signal does not give the children more time
            self._is_urgent = is_urgent
            now = time.monotonic()
            self._shutdown = plan_stop(now) if is_urgent else plan_drain(now, drain_timeout)

    def _run_due_shutdown_steps(self) -> None:
        while self._shutdown and time.monotonic() >= self._shutdown[0].due:
            order = self._shutdown.pop(0).order
            if order is not None:
                self._send_to_workers(order)
            else:
                self._is_control_done = True
                for child in self._children:
                    child.kill()

    def _send_to_workers(self, message: Message) -> None:
        for worker in self._workers:
            if worker.channel is not None:
                try_send(worker.channel, encode(message))

    def _send_to_control(self, message: Message) -> None:
        self._outbox.send(self._control.channel, message)

    # Reload of the configuration

    def _receive_from_control(self) -> None:
        while self._control.channel is not None and (received := try_receive(self._control.channel)):
            packet, descriptors = received
            try:
                self._handle_control_message(decode(packet), descriptors)
            except Exception:  # noqa: BLE001 - the border: without descriptors or memory, all others must go on
                traceback.print_exc()
                self._control.kill()  # it would wait for an answer; the next one begins with what is in use
            finally:
                descriptors.close()

    def _handle_control_message(self, message: Message, descriptors: Descriptors) -> None:
        match message:
            case RequestReload(number):
                (file,) = descriptors.files
                self._reload(number, file)
            case ReloadProgress(is_running=True):
                self._reloads += 1
                notify_reloading()
            case ReloadProgress(is_running=False):
                self._end_reloads(1)
            case PassSockets(successor):
                self._handover.pass_sockets(self.setup, descriptors.sockets[0], successor)
            case HandedOver(unused):
                self._on_handed_over(unused)

    def _end_reloads(self, number: int) -> None:
        """Report to the service manager that this many reloads have ended, one way or the other."""
        for _ in range(min(number, self._reloads)):
            self._reloads -= 1
            if not self._stop_signals:
                notify_ready()

    def _reload(self, number: int, file: BinaryIO) -> None:
        """Use a configuration that the control process has checked, or answer why not."""
        leaving = {child.slot for child in self._workers if child.is_leaving and child.slot is not None}
        try:
            document = ReloadDocument.unpack(read_value(file))
            committed = prepare_commit(
                self.setup, document, leaving=leaving, is_stopping=bool(self._stop_signals)
            )
        except ConfigError as error:
            answer = pack_faults(error)
        except Exception as error:  # noqa: BLE001 - the border: nothing has changed yet
            answer = pack_faults(ConfigError([Fault("", f"cannot be used: {error!r}")]))
        else:
            answer = committed.answer.pack()
            self._commit(committed)
        with write_value(answer) as answer_file:
            packet = encode(ReloadAnswer(number))
            if self._control.channel and not try_send(self._control.channel, packet, answer_file):
                self._control.kill()  # it reads nothing: the next one begins with the configuration in use

    def _commit(self, committed: Committed) -> None:
        """Use a configuration from now on. Workers that run get it, and their number changes."""
        before, self.setup = self.setup, committed.setup
        try:
            committed.handover.complete()
        except OSError as error:  # an option of a socket cannot be set: it listens nevertheless
            self._send_to_control(ReloadFailed(repr(error)))
        for worker in tuple(self._workers):
            if worker.slot is not None and worker.slot >= committed.workers and not worker.is_leaving:
                self._let_go(worker)
            elif worker.channel is not None and not worker.is_leaving:
                self._send_configuration(worker, committed)
        slots = {worker.slot for worker in self._workers}
        for slot in range(committed.workers):
            if slot not in slots:
                counters = self.setup.scoreboard.counters(slot)
                self._workers.append(ChildProcess(slot, counters))
        if self.setup.start is not None:
            self.setup.start.on_reloaded(self.setup.slots)
        close_all(committed.handover.gone)
        if before.outputs is not self.setup.outputs:
            for output in before.outputs:
                output.target.close()

    def _send_configuration(self, worker: ChildProcess, committed: Committed) -> None:
        assert worker.slot is not None and worker.channel is not None  # noqa: S101, PT018 - the caller has looked
        try:
            with write_value(committed.worker_document(worker.slot).pack()) as file:
                is_sent = try_send(worker.channel, encode(ApplyReload(committed.setup.generation)), file)
        except OSError:  # without descriptors
            is_sent = False
        for message, sockets in committed.socket_messages(worker.slot):
            is_sent = is_sent and try_send(worker.channel, encode(message), *sockets)
        if not is_sent:
            worker.kill()  # it reads nothing: the next one begins with the configuration in use

    def _let_go(self, worker: ChildProcess) -> None:
        """Have a worker drain, since there are to be fewer. Others accept at its sockets."""
        worker.is_leaving = True
        drain = encode(Drain(self.setup.config.process.drain_timeout))
        if worker.channel is not None and not try_send(worker.channel, drain):
            worker.kill()
        if not worker.is_alive:
            self._forget_or_restart(worker)

    def _forget_or_restart(self, worker: ChildProcess) -> None:
        """Forget a worker that has drained, unless a later reload wants its slot."""
        worker.is_leaving = False
        if worker.slot is not None and worker.slot >= worker_count(self.setup.config):
            self._workers.remove(worker)
        else:
            worker.start_due = worker.backoff = 0.0

    # The scoreboard

    def _kill_hung_children(self) -> None:
        """Kill children whose loops have stopped: the kernel goes on giving connections to such a worker."""
        now = time.monotonic()
        if now < self._check_due:
            return
        self._check_due = now + CHECK_INTERVAL_S
        for child in self._children:
            if child.is_alive and child.pulse.check(child.counters.beat.local):
                child.is_hung = True
                child.kill()
        if not self._control.pulse.silent_checks:
            self._outbox.on_heartbeat()

    def _load_reloaded_files(self) -> None:
        error = load_reloaded_files(self._control.counters, self.setup.reloader)
        if error is not None:
            self._send_to_control(ReloadFailed(repr(error)))

    def _notify_when_ready(self) -> None:
        """Notify the service manager when all workers listen.

        It accepts that only from the process that it started. The control process marks it on the scoreboard,
        which is polled until then.
        """
        if self._awaits_ready and self.setup.scoreboard.is_ready and not self._stop_signals:
            self._awaits_ready = False
            if self.setup.start is None:
                notify_ready()
            elif (reason := self.setup.start.complete()) is not None:
                self._send_to_control(HandoverFailed(reason))

    # Exits

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self._children:
                if child.pid == pid:
                    self._on_child_exit(child, pid, os.waitstatus_to_exitcode(status))

    def _on_child_exit(self, child: ChildProcess, pid: int, code: int) -> None:
        child.on_exit(time.monotonic())
        if child is self._control:
            self._outbox.on_control_exit(was_hung=child.is_hung)
            self._end_reloads(self._reloads)
        sessions = self.setup.scoreboard.clear(child.slot) if child.slot is not None else 0
        if self._stop_signals and code == 0:
            self._is_control_done |= child is self._control
            return
        if child.is_leaving:
            self._forget_or_restart(child)
            if code == 0:
                return
        self._send_to_control(
            ProcessExit(
                slot=child.slot,
                pid=pid,
                reason=child.exit_reason(code),
                sessions=sessions,
                is_replaced=not self._stop_signals and child in self._children,
            )
        )

    # Starts

    def _start_due_children(self) -> None:
        now = time.monotonic()
        running = [worker for worker in self._workers if worker.is_alive]
        needs_control = not self._stop_signals or (bool(running) and not self._is_control_done)
        if needs_control and not self._control.is_alive and now >= self._control.start_due:
            self._start_control(running)
        for worker in self._workers:
            if not worker.is_alive and now >= worker.start_due and not self._stop_signals:
                self._start_worker(worker)
            elif worker.is_alive and not worker.is_connected and now >= worker.connect_due:
                self._connect(worker)

    def _start_control(self, running: list[ChildProcess]) -> None:
        is_restart = self._control.started_at > 0
        self._fork(
            self._control, partial(run_control, self.setup, running=len(running), is_restart=is_restart)
        )
        if self._control.is_alive:
            for worker in running:
                self._connect(worker)
            self._outbox.resend(self._control.channel, map(SignalReceived, self._stop_signals))

    def _start_worker(self, worker: ChildProcess) -> None:
        assert worker.slot is not None  # noqa: S101 - only the control process has none
        is_restart = worker.id_epoch > 0
        # Session ids of a slot count from another second each time, so that none comes twice.
        worker.id_epoch = max(int(time.time()), worker.id_epoch + 1)
        self._fork(
            worker,
            partial(run_worker, self.setup, worker.slot, id_epoch=worker.id_epoch, is_restart=is_restart),
        )
        self._connect(worker)

    def _connect(self, worker: ChildProcess) -> None:
        """Give a worker and the control process a channel to each other. If that fails, retry in 1 s."""
        if worker.channel is None or self._control.channel is None:
            return
        assert worker.slot is not None and worker.pid is not None  # noqa: S101, PT018 - it is a worker, and alive
        worker.connect_due = time.monotonic() + _CONNECT_RETRY_S
        try:
            workers_end, controls_end = channel_pair()
        except OSError:  # out of descriptors
            return
        with workers_end, controls_end:
            # If only one end arrives, its receiver sees the other one closed.
            worker.is_connected = try_send(
                worker.channel, encode(ControlChannel()), workers_end
            ) and try_send(
                self._control.channel, encode(WorkerChannel(worker.slot, worker.pid)), controls_end
            )

    def _fork(self, child: ChildProcess, run: Callable[[socket.socket], None]) -> None:
        child.counters.beat.local = 0
        child.pulse, child.is_hung = Pulse(), False
        child.started_at = time.monotonic()
        try:
            own_end, childs_end = channel_pair()
        except OSError:  # out of descriptors: try again
            child.on_exit(child.started_at)
            return
        try:
            pid = os.fork()
        except OSError:  # out of processes or memory: try again
            own_end.close()
            childs_end.close()
            child.on_exit(child.started_at)
            return
        if pid == 0:
            channels = [each.channel for each in self._children if each.channel is not None]
            child_main(run, childs_end, [own_end, *channels])
        childs_end.close()
        child.pid, child.channel = pid, own_end
