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

from mailproxy.app.startup import Slots
from mailproxy.certificates.reloader import Renewal
from mailproxy.config import Config
from mailproxy.ipc.channel import Line
from mailproxy.ipc.shared_memory import Bells
from mailproxy.log import Log, Output
from mailproxy.log.events import DESCRIPTORS_SHORT, Event
from mailproxy.net.listener import Listener
from mailproxy.net.process_name import set_process_name
from mailproxy.proxy.backend.backend import Connectors
from mailproxy.proxy.process import descriptor_shortage, max_sessions, own_max_sessions
from mailproxy.proxy.session.session import number_sessions
from mailproxy.proxy.unraisable import unraisable
from mailproxy.workers.control import Control, Listening
from mailproxy.workers.scoreboard import Board
from mailproxy.workers.worker import SAID_BY_CONTROL, Place, Worker

RENEWED = signal.SIGRTMIN
"""Tells the launcher that files of TLS were renewed."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGUSR1)


@frozen(eq=False)
class Setup:
    """What the launcher has opened and loaded, and all children are forked with.

    ``renewal`` has the files of TLS as they are in use, None where there are none; ``launcher`` is a descriptor of the
    launcher's process, which never means another one (pidfd_open(2)).
    """

    config: Config
    renewal: Renewal | None
    connectors: Connectors
    launcher: int
    slots: Slots
    listening: Sequence[Listening]
    outputs: Sequence[Output]
    board: Board
    bells: Bells

    @property
    def connectors_now(self) -> Connectors:
        """TLS towards servers as its files are in use."""
        return self.connectors if self.renewal is None else self.renewal.material.connectors


def work(setup: Setup, slot: int, end: socket.socket, *, second: int, is_late: bool) -> None:
    """Serve in this slot. ``end`` is that of the line to the launcher; session ids count from ``second``."""
    log = _settle(setup, f"worker {slot + 1}", without=SAID_BY_CONTROL, is_late=is_late)
    for other, listeners in enumerate(setup.slots):
        if other != slot:
            _close_own(listeners)
    number_sessions(second, slot, len(setup.slots))
    worker = Worker(
        setup.config,
        [listener.for_worker() for listener in setup.slots[slot]],
        setup.connectors_now,
        looks=setup.renewal,
        log=log,
        max_sessions=max_sessions(setup.config),
        place=Place(
            slot=slot,
            shares=setup.board.shares(slot),
            bells=setup.bells,
            launcher=Line(end),
            most_sessions=own_max_sessions(),
            is_late=is_late,
        ),
    )
    trio.run(worker.work)


def control(setup: Setup, end: socket.socket, *, running: int, is_late: bool) -> None:
    """Control the workers, of which so many are ``running`` already."""
    log = _settle(setup, "control", without=(), is_late=is_late)
    made = Control(
        setup.config,
        setup.listening,
        setup.connectors_now,
        looks=setup.renewal,
        log=log,
        shares=setup.board.shares(setup.board.control),
        launcher=Line(end),
        ring_launcher=partial(_ring, setup.launcher),
        workers=len(setup.slots),
        running=running,
    )
    for listeners in setup.slots:
        _close_own(listeners)
    for listener in setup.slots[0]:
        listener.socket.close()
    if not is_late and (shortage := descriptor_shortage(setup.config)) is not None:
        log.event(DESCRIPTORS_SHORT, f"process.max_sessions: {shortage}")
    trio.run(made.run)


def _settle(setup: Setup, name: str, *, without: Collection[Event], is_late: bool) -> Log:
    """Become a child: signals are the launcher's business, also those that a terminal sends to all.

    ``is_late``: others were there before, and the log may have been rotated since the launcher opened it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGCHLD))
    set_process_name(f"mp {name}")
    log = Log(setup.outputs, without=without)
    if is_late:
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
