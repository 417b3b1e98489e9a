"""What the launcher's children do: a worker serves, control controls; each in a trio loop of its own, made after the fork."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import partial

import trio
from attrs import frozen

from mailproxy.certificates.reloader import CertificateReloader
from mailproxy.config import Config
from mailproxy.ipc.channel import Channel
from mailproxy.ipc.shared_memory import Wakeups
from mailproxy.log import Log, Output
from mailproxy.log.events import DESCRIPTORS_SHORT, Event
from mailproxy.net.listener import Listener, Slots
from mailproxy.net.process_name import set_process_name
from mailproxy.proxy.backend.server import ServerContexts
from mailproxy.proxy.process import descriptor_shortage, max_sessions, max_sessions_per_process
from mailproxy.proxy.session.session import seed_session_ids
from mailproxy.proxy.unraisable import unraisable
from mailproxy.workers.control import Control, Listening
from mailproxy.workers.scoreboard import Scoreboard
from mailproxy.workers.worker import LOGGED_BY_CONTROL, Worker, WorkerSlot

RENEWED = signal.SIGRTMIN
"""Tells the launcher that files of TLS were renewed."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGUSR1)


@frozen(eq=False)
class Setup:
    """What the launcher has opened and loaded, and all children are forked with.

    ``reloader`` has the files of TLS as they are in use, None where there are none; ``launcher`` is a descriptor of the
    launcher's process, which never means another one (pidfd_open(2)).
    """

    config: Config
    reloader: CertificateReloader | None
    connectors: ServerContexts
    launcher: int
    slots: Slots
    listening: Sequence[Listening]
    outputs: Sequence[Output]
    scoreboard: Scoreboard
    wakeups: Wakeups

    @property
    def connectors_now(self) -> ServerContexts:
        """TLS towards servers as its files are in use."""
        return self.connectors if self.reloader is None else self.reloader.store.server_contexts


def run_worker(setup: Setup, slot: int, end: socket.socket, *, id_epoch: int, is_restart: bool) -> None:
    """Serve in this slot. ``end`` is that of the line to the launcher; session ids count from ``second``."""
    log = _init_child(setup, f"worker {slot + 1}", suppressed=LOGGED_BY_CONTROL, is_restart=is_restart)
    for other, listeners in enumerate(setup.slots):
        if other != slot:
            _close_own(listeners)
    seed_session_ids(id_epoch, slot, len(setup.slots))
    worker = Worker(
        setup.config,
        [listener.for_worker() for listener in setup.slots[slot]],
        setup.connectors_now,
        reloader=setup.reloader,
        log=log,
        max_sessions=max_sessions(setup.config),
        place=WorkerSlot(
            slot=slot,
            counters=setup.scoreboard.counters(slot),
            wakeups=setup.wakeups,
            supervisor=Channel(end),
            most_sessions=max_sessions_per_process(),
            is_restart=is_restart,
        ),
    )
    trio.run(worker.work)


def run_control(setup: Setup, end: socket.socket, *, running: int, is_restart: bool) -> None:
    """Control the workers, of which so many are ``running`` already."""
    log = _init_child(setup, "control", suppressed=(), is_restart=is_restart)
    made = Control(
        setup.config,
        setup.listening,
        setup.connectors_now,
        reloader=setup.reloader,
        log=log,
        shares=setup.scoreboard.counters(setup.scoreboard.control),
        launcher=Channel(end),
        ring_launcher=partial(_ring, setup.launcher),
        workers=len(setup.slots),
        running=running,
    )
    for listeners in setup.slots:
        _close_own(listeners)
    for listener in setup.slots[0]:
        listener.socket.close()
    if not is_restart and (shortage := descriptor_shortage(setup.config)) is not None:
        log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
    trio.run(made.run)


def _init_child(setup: Setup, name: str, *, suppressed: Collection[Event], is_restart: bool) -> Log:
    """Become a child: signals are the launcher's business, also those that a terminal sends to all.

    ``is_late``: others were there before, and the log may have been rotated since the launcher opened it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGCHLD))
    set_process_name(f"mp {name}")
    log = Log(setup.outputs, suppressed=suppressed)
    if is_restart:
        log.reopen(quietly=True)
    sys.unraisablehook = partial(unraisable, log)
    return log


def _ring(launcher: int) -> None:
    with contextlib.suppress(OSError):  # it is gone, which control notices otherwise
        signal.pidfd_send_signal(launcher, RENEWED)


def _close_own(listeners: Iterable[Listener]) -> None:
    """Close the sockets that are of one slot alone, in this process."""
    for listener in listeners:
        if listener.is_of_slot:
            listener.socket.close()
