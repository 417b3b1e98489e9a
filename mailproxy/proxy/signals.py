"""What the signals of an operator mean. Stated once, for one process and for several.

signal         meaning
-------------  ---------------------------------------------------------------------------------------------
SIGTERM        drain: accept no more connections, end sessions within ``drain_timeout``, idle ones first
SIGTERM again  stop now: close all sessions
SIGINT         stop now
SIGHUP         reopen log files, and reload the configuration with its TLS files
SIGUSR2        reopen log files
SIGUSR1        ignored with a warning, because other proxies give it different meanings
SIGRTMAX       another process has taken the sockets over and accepts (`mailproxy.admin.handover`): drain, and
               leave everything to it that both have. Ignored if no process has got the sockets.
"""

from __future__ import annotations

import signal
from enum import Enum, auto

from mailproxy.log import Log
from mailproxy.log.events import SIGNAL_IGNORED, STOPPING

HANDED_OVER = signal.SIGRTMAX
"""Another process accepts from now on."""

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGUSR1, HANDED_OVER,
)  # fmt: skip
"""The signals of an operator."""


class SignalAction(Enum):
    """What to do at a signal."""

    DRAIN = auto()
    STOP = auto()
    RELOAD = auto()
    REOPEN_LOG = auto()
    HAND_OVER = auto()
    IGNORE = auto()


_ACTIONS = {
    signal.SIGTERM: SignalAction.DRAIN,
    signal.SIGINT: SignalAction.STOP,
    signal.SIGHUP: SignalAction.RELOAD,
    signal.SIGUSR2: SignalAction.REOPEN_LOG,
    signal.SIGUSR1: SignalAction.IGNORE,
    HANDED_OVER: SignalAction.HAND_OVER,
}


def signal_action(number: int, *, is_draining: bool) -> SignalAction:
    """Return what a signal means. ``is_draining``: whether SIGTERM has come before."""
    action = _ACTIONS[signal.Signals(number)]
    return SignalAction.STOP if action is SignalAction.DRAIN and is_draining else action


def log_ignored(log: Log) -> None:
    """Log that SIGUSR1 was ignored."""
    log.event(SIGNAL_IGNORED, "SIGUSR1 means nothing here: SIGUSR2 reopens the log, SIGTERM stops")


def log_stopping(log: Log, sessions: int) -> None:
    """Log that the proxy stops now, with the number of sessions that it closes."""
    log.event(STOPPING, f"stopping now, {sessions} sessions are closed")
