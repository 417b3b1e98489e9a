"""The supervisor's children: set-up after the fork, then a worker or the control process in trio."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Collection, Iterable, Sequence
from functools import partial
from typing import Protocol

import trio
from attrs import frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.ipc.board import SharedBoard
from mailproxy.ipc.wakeups import Wakeups
from mailproxy.log import Log, Output
from mailproxy.log.events import DESCRIPTORS_SHORT, Event
from mailproxy.net.listener import Listener, Slots
from mailproxy.net.process_name import set_process_name
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.process import (
    descriptor_shortage,
    log_unraisable_errors,
    max_sessions,
    max_sessions_per_process,
)
from mailproxy.proxy.session.session import seed_session_ids
from mailproxy.proxy.signals import SIGNALS
from mailproxy.workers.control.control import Control, ControlSlot, ListenerInfo
from mailproxy.workers.messages import open_channel
from mailproxy.workers.scoreboard import Scoreboard
from mailproxy.workers.worker import LOGGED_BY_CONTROL, WorkerSlot, build_worker

CERTIFICATES_RELOADED = signal.SIGRTMIN
"""With this signal the control process wakes the supervisor after a reload of TLS files."""


class ControlHelper(Protocol):
    """What runs beside the control process, such as the admin sockets."""

    async def run(self, control: Control) -> None:
        """Run until cancelled, or until there is nothing to do."""

    def close_copies(self) -> None:
        """Close, in a worker, the descriptors that are the control process's."""


@frozen(eq=False)
class Setup:
    """What the supervisor has opened and loaded. All children are forked with it.

    Attributes:
        config: The configuration.
        reloader: Has the TLS files as they are in use; None if the configuration names none.
        server_contexts: TLS towards servers, as it was loaded at the start.
        supervisor_pidfd: A descriptor of the supervisor's process, which never means another one
            (pidfd_open(2)).
        slots: The listeners of each worker.
        listener_infos: Where the workers listen.
        outputs: The open log targets.
        scoreboard: The shared counters.
        boards: Where each worker counts, by slot, then where the control process does.
        wakeups: Where workers wake each other.
        helper: What runs beside the control process; None for nothing.
    """

    config: Config
    reloader: CertificateReloader | None
    server_contexts: ServerContexts
    supervisor_pidfd: int
    slots: Slots
    listener_infos: Sequence[ListenerInfo]
    outputs: Sequence[Output]
    scoreboard: Scoreboard
    boards: Sequence[SharedBoard]
    wakeups: Wakeups
    helper: ControlHelper | None = None

    @property
    def current_server_contexts(self) -> ServerContexts:
        """TLS towards servers, as its files are in use now."""
        return self.server_contexts if self.reloader is None else self.reloader.store.server_contexts


def run_worker(setup: Setup, slot: int, end: socket.socket, *, id_epoch: int, is_restart: bool) -> None:
    """Run the worker of a slot until it is stopped.

    Args:
        setup: What the supervisor has opened.
        slot: The slot, from 0.
        end: The worker's end of the channel to the supervisor.
        id_epoch: A second since 1970, different for each worker of this slot. Session ids count from it.
        is_restart: Whether the worker replaces another one.
    """
    log = _init_child(setup, f"worker {slot + 1}", suppressed=LOGGED_BY_CONTROL, is_restart=is_restart)
    for other, listeners in enumerate(setup.slots):
        if other != slot:
            _close_listeners_of_slot(listeners)
    if setup.helper is not None:
        setup.helper.close_copies()
    seed_session_ids(id_epoch, slot, len(setup.slots))
    worker = build_worker(
        setup.config,
        [listener.for_worker() for listener in setup.slots[slot]],
        setup.current_server_contexts,
        reloader=setup.reloader,
        log=log,
        max_sessions=max_sessions(setup.config),
        slot=WorkerSlot(
            slot=slot,
            counters=setup.scoreboard.counters(slot),
            board=setup.boards[slot],
            wakeups=setup.wakeups,
            supervisor=open_channel(end, log),
            max_sessions=max_sessions_per_process(),
            is_restart=is_restart,
        ),
    )
    trio.run(worker.run)


def run_control(setup: Setup, end: socket.socket, *, running: int, is_restart: bool) -> None:
    """Run the control process until the last worker is gone.

    Args:
        setup: What the supervisor has opened.
        end: The control process's end of the channel to the supervisor.
        running: The number of workers that serve already.
        is_restart: Whether this one replaces another control process.
    """
    log = _init_child(setup, "control", suppressed=(), is_restart=is_restart)
    control = Control(
        setup.config,
        setup.listener_infos,
        setup.current_server_contexts,
        reloader=setup.reloader,
        log=log,
        slot=ControlSlot(
            counters=setup.scoreboard.counters(setup.scoreboard.control),
            boards=setup.boards,
            supervisor=open_channel(end, log),
            wake_supervisor=partial(_wake_supervisor, setup.supervisor_pidfd),
            workers=len(setup.slots),
            running=running,
        ),
        helper=setup.helper.run if setup.helper is not None else None,
    )
    for listeners in setup.slots:
        _close_listeners_of_slot(listeners)
    for listener in setup.slots[0]:
        listener.socket.close()
    if not is_restart and (shortage := descriptor_shortage(setup.config)) is not None:
        log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
    trio.run(control.run)


def _init_child(setup: Setup, name: str, *, suppressed: Collection[Event], is_restart: bool) -> Log:
    """Set up a child right after the fork, and return its log.

    Signals are the supervisor's business, also those that a terminal sends to the whole process group. A
    child that replaces another one opens the log files again, since they may have been rotated since the
    supervisor opened them.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGCHLD))
    set_process_name(f"mp {name}")
    log = Log(setup.outputs, suppressed=suppressed)
    if is_restart:
        log.reopen(quietly=True)
    log_unraisable_errors(log)
    return log


def _wake_supervisor(pidfd: int) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone: the channel to it tells the control process
        signal.pidfd_send_signal(pidfd, CERTIFICATES_RELOADED)


def _close_listeners_of_slot(listeners: Iterable[Listener]) -> None:
    """Close, in this process, the sockets that belong to one slot alone."""
    for listener in listeners:
        if listener.is_of_slot:
            listener.socket.close()
