"""The supervisor's children: set-up after the fork, then a worker or the control process in trio."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Collection, Iterable
from functools import partial

import trio

from mailproxy.log import Log
from mailproxy.log.events import DESCRIPTORS_SHORT, Event
from mailproxy.net.listener import Listener
from mailproxy.net.process_name import set_process_name
from mailproxy.proxy.process import (
    descriptor_shortage,
    log_unraisable_errors,
    max_sessions,
    max_sessions_per_process,
    worker_count,
)
from mailproxy.proxy.session.ids import seed_session_ids
from mailproxy.proxy.signals import SIGNALS
from mailproxy.workers.control.control import Control
from mailproxy.workers.control.slot import ControlSlot
from mailproxy.workers.messages import open_channel
from mailproxy.workers.setup import Setup
from mailproxy.workers.worker import LOGGED_BY_CONTROL, WorkerSlot, build_worker

_CHILD_FAILED = 1  # exit code

WAKEUP = signal.SIGRTMIN
"""With this signal the control process wakes the supervisor: TLS files were reloaded, or there is a message."""


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
    own = setup.listeners_of(slot)
    for listeners in setup.slots:
        _close_listeners_of_slot(each for each in listeners if each not in own)
    if setup.helper is not None:
        setup.helper.close_copies()
    seed_session_ids(id_epoch, slot, setup.scoreboard.workers_max)
    worker = build_worker(
        setup.config,
        [listener.for_worker() for listener in own],
        setup.current_server_contexts,
        reloader=setup.reloader,
        log=log,
        max_sessions=max_sessions(setup.config),
        slot=WorkerSlot(
            slot=slot,
            scoreboard=setup.scoreboard,
            board=setup.boards[slot],
            wakeups=setup.wakeups,
            supervisor=open_channel(end, log),
            max_sessions=max_sessions_per_process(),
            is_restart=is_restart,
            generation=setup.generation,
        ),
    )
    trio.run(worker.run)
    if worker.has_failed:
        sys.exit(1)


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
            scoreboard=setup.scoreboard,
            boards=setup.boards,
            supervisor=open_channel(end, log),
            wake_supervisor=partial(_wake_supervisor, setup.supervisor_pidfd),
            workers=worker_count(setup.config),
            running=running,
            generation=setup.generation,
        ),
        helper=setup.helper.run if setup.helper is not None else None,
        state=setup.start.state if setup.start is not None and not is_restart else None,
    )
    if setup.start is not None and not is_restart:
        setup.start.log_events(log)
    for listeners in setup.slots:
        _close_listeners_of_slot(listeners)
    for listener in setup.slots[0]:
        listener.socket.close()
    if not is_restart and (shortage := descriptor_shortage(setup.config)) is not None:
        log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
    trio.run(control.run)
    if control.has_failed:
        sys.exit(1)


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
    if setup.start is not None:
        setup.start.close_copies()
    log = Log(setup.outputs, suppressed=suppressed)
    if is_restart:
        log.reopen(quietly=True)
    log_unraisable_errors(log)
    return log


def _wake_supervisor(pidfd: int) -> None:
    with contextlib.suppress(OSError):  # the supervisor is gone: the channel to it tells the control process
        signal.pidfd_send_signal(pidfd, WAKEUP)


def _close_listeners_of_slot(listeners: Iterable[Listener]) -> None:
    """Close, in this process, the sockets that belong to one slot alone."""
    for listener in listeners:
        if listener.is_of_slot:
            listener.socket.close()


def child_main(
    run: Callable[[socket.socket], None], end: socket.socket, supervisors_ends: list[socket.socket]
) -> None:
    """Run a child and exit. Never returns: the code after the fork is the supervisor's alone."""
    code = _CHILD_FAILED
    try:
        # While a child holds them open, its siblings do not notice that the supervisor is gone.
        for supervisors_end in supervisors_ends:
            supervisors_end.close()
        run(end)
        code = 0
    except SystemExit:  # the child has logged why
        pass
    except BaseException:  # noqa: BLE001, ASYNC103 - the last border; no trio loop runs here
        traceback.print_exc()
    finally:
        os._exit(code)
