"""What the log tells beside sessions: constant names with a level; data come as keys."""

from __future__ import annotations

from attrs import frozen

LEVELS = ("debug", "info", "warning", "error")


@frozen
class Event:
    """A kind of event. ``level`` is one of LEVELS."""

    name: str
    level: str


LISTENING = Event("listening", "info")
READY = Event("ready", "info")
DRAINING = Event("draining", "warning")
STOPPING = Event("stopping", "warning")
STOPPED = Event("stopped", "info")
WORKER_DIED = Event("worker-died", "error")
CONTROL_DIED = Event("control-died", "error")
HELPER_FAILED = Event("helper-failed", "error")
CONTROL_SILENT = Event("control-silent", "warning")
MESSAGE_DROPPED = Event("message-dropped", "error")  # a fault of this program
ACCEPT_PAUSED = Event("accept-paused", "warning")
ACCEPT_RESUMED = Event("accept-resumed", "info")
SESSIONS_FULL = Event("sessions-full", "warning")
NAME_RESOLVED = Event("name-resolved", "info")
NAME_UNRESOLVED = Event("name-unresolved", "warning")
SERVER_DOWN = Event("server-down", "error")
SERVER_UP = Event("server-up", "warning")  # whoever reads that one went down wants to read this
SERVER_STATE = Event("server-state", "warning")
SERVER_CHECK = Event("server-check", "info")
BACKEND_DOWN = Event("backend-down", "error")
CHECK_FAULT = Event("check-fault", "error")
CHECK_NOT_MADE = Event("check-not-made", "warning")
LINES_LOST = Event("lines-lost", "error")
LOG_REOPENED = Event("log-reopened", "info")
LOG_NOT_REOPENED = Event("log-not-reopened", "error")
SESSION_FAULT = Event("session-fault", "error")
SESSION_STARTED = Event("session-started", "info")
CERTIFICATE_EXPIRES = Event("certificate-expires", "warning")
CERTIFICATES_RENEWED = Event("certificates-renewed", "info")
CERTIFICATES_KEPT = Event("certificates-kept", "error")
SIGNAL_IGNORED = Event("signal-ignored", "warning")
UNRAISABLE = Event("unraisable", "error")
