"""What the log has beside sessions: constant names with a level; data come as keys.

``docs/logging.md`` has a table of them, made from here by ``scripts/write-reference``.
"""

from __future__ import annotations

from attrs import field, frozen

LEVELS = ("debug", "info", "warning", "error")


@frozen
class Event:
    """A kind of event. ``level`` is one of LEVELS; ``meaning`` and ``keys`` are what the documentation says of it.

    ``keys`` are those of its data. One that is absent in some of its lines is among them, too.
    """

    name: str
    level: str
    meaning: str = field(kw_only=True)
    keys: tuple[str, ...] = field(default=(), kw_only=True)


_SERVER = ("backend", "server", "status", "state", "check", "info", "check_ms", "sessions")
_SERVER_CHANGE = (*_SERVER, "active", "backup", "requeued", "waiting")

# Start and stop.

LISTENING = Event(
    "listening", "info", meaning="a bind listens; `address` has the real port",
    keys=("frontend", "bind", "address", "mode"),
)  # fmt: skip
READY = Event(
    "ready", "info", meaning="every bind listens, names are resolved, servers have been checked once", keys=("workers",)
)  # fmt: skip
DRAINING = Event(
    "draining", "warning", meaning="the proxy stops: it accepts no more, open sessions have `drain_timeout` to end",
    keys=("sessions", "seconds"),
)  # fmt: skip
STOPPING = Event("stopping", "warning", meaning="the proxy stops at once and closes all sessions")
STOPPED = Event(
    "stopped", "info", meaning="the proxy has stopped; `sessions` is how many its servers have had in all", keys=("sessions",)
)  # fmt: skip
SIGNAL_IGNORED = Event("signal-ignored", "warning", meaning="a signal came that has no meaning here")

CONFIG_CHANGED = Event(
    "config-changed", "warning", meaning="SIGHUP came, and the configuration file is not as it was at the start: that takes a "
    "restart; not logged where `process.user` may not read the file", keys=("file",),
)  # fmt: skip

# Processes, where there are several.

WORKER_DIED = Event(
    "worker-died", "error", meaning="a worker has ended by itself, its sessions with it; another one takes its slot",
    keys=("slot", "pid", "why", "sessions"),
)  # fmt: skip
CONTROL_DIED = Event(
    "control-died", "error", meaning="the control process has ended by itself; another one takes its place", keys=("pid", "why")
)  # fmt: skip
CONTROL_SILENT = Event(
    "control-silent", "warning", meaning="a new worker has had no word of the control process for `seconds`, and serves with what the "
    "configuration says", keys=("slot", "seconds"),
)  # fmt: skip
HELPER_FAILED = Event(
    "helper-failed", "error", meaning="a task beside the sessions failed, and runs again in a moment; sessions go on",
    keys=("helper", "fault", "place"),
)  # fmt: skip
MESSAGE_DROPPED = Event(
    "message-dropped", "error", meaning="a message between the processes was not understood; please report it"
)

# Accepting.

ACCEPT_PAUSED = Event(
    "accept-paused", "warning", meaning="a frontend cannot accept, mostly because descriptors or memory are used up; "
    "`waiting` connections are in its queue", keys=("frontend", "reason", "waiting"),
)  # fmt: skip
ACCEPT_RESUMED = Event(  # a warning, as its beginning is
    "accept-resumed", "warning", meaning="a frontend has accepted all that waited in its queue for `seconds`, `late` connections; "
    "`limit` and `key` are null where accepting had failed", keys=("frontend", "seconds", "late", "limit", "key"),
)  # fmt: skip
SESSIONS_FULL = Event(
    "sessions-full", "warning", meaning="there are as many sessions as the limit `key` allows: a frontend waits with accepting, "
    "and `waiting` connections are in its queue; once a minute", keys=("frontend", "limit", "key", "waiting"),
)  # fmt: skip

# Servers.

DESCRIPTORS_SHORT = Event(
    "descriptors-short",
    "warning",
    meaning="the limit of descriptors does not hold `process.max_sessions`, or few sessions only",
)
NAME_RESOLVED = Event(
    "name-resolved", "info", meaning="the host name of a server has new addresses", keys=("backend", "server", "addresses")
)  # fmt: skip
NAME_UNRESOLVED = Event(
    "name-unresolved", "warning", meaning="the host name of a server cannot be resolved; known addresses stay in use",
    keys=("backend", "server", "reason"),
)  # fmt: skip
SERVER_DOWN = Event(
    "server-down", "error", meaning="a server went down: its checks failed `fall` times, or `observe` found it dead",
    keys=_SERVER_CHANGE,
)  # fmt: skip
SERVER_UP = Event(  # a warning: whoever reads that one went down wants to read this
    "server-up", "warning", meaning="a server came up: its checks passed `rise` times", keys=_SERVER_CHANGE
)
CONNECT_FAILED = Event(
    "connect-failed", "warning", meaning="a session could not be connected to a server, or its TLS failed; once a minute for "
    "each server, and `failures` is how many there were since the last line", keys=("backend", "server", "reason", "failures"),
)  # fmt: skip
SERVER_STATE = Event(
    "server-state", "warning", meaning="the operator changed the state of a server", keys=_SERVER_CHANGE
)
SERVER_CHECK = Event(
    "server-check", "info", meaning="a check ended otherwise than the one before, which does not change the server's state yet",
    keys=_SERVER,
)  # fmt: skip
BACKEND_DOWN = Event("backend-down", "error", meaning="no server of a backend can be used", keys=("backend",))
CHECK_FAULT = Event(
    "check-fault", "error", meaning="a fault of the proxy itself ended a check; please report it",
    keys=("backend", "server", "fault", "place"),
)  # fmt: skip
LOGIN_DISABLED = Event(
    "login-disabled", "warning", meaning="no client can log in to a server over connections like those of sessions",
    keys=_SERVER,
)  # fmt: skip
LOGIN_ENABLED = Event("login-enabled", "info", meaning="clients can log in to a server again", keys=_SERVER)
CHECK_NOT_MADE = Event(
    "check-not-made", "warning", meaning="a check could not be made for want of resources of the proxy; the server's state stays",
    keys=_SERVER,
)  # fmt: skip

# The log itself.

LINES_LOST = Event(
    "lines-lost", "error", meaning="so many lines could not be written to this target since the last that were", keys=("lost",)
)  # fmt: skip
LOG_NOT_WRITTEN = Event(
    "log-not-written", "error", meaning="another target of the log takes no lines; once until it does again", keys=("to", "reason")
)  # fmt: skip
LOG_REOPENED = Event("log-reopened", "info", meaning="the log's files were opened again on SIGUSR2 or SIGHUP")
LOG_NOT_REOPENED = Event(
    "log-not-reopened", "error", meaning="a file of the log could not be opened again; the old one stays in use", keys=("reason",)
)  # fmt: skip

# Sessions.

SESSION_FAULT = Event(
    "session-fault", "error", meaning="a fault of the proxy itself ended a session; please report it",
    keys=("id", "fault", "place"),
)  # fmt: skip
SESSION_STARTED = Event(
    "session-started", "info", meaning="a session is connected to its server, in frontends with `log_start = true`",
    keys=("frontend", "backend", "server", "client", "server_address", "id"),
)  # fmt: skip

# Certificates.

CERTIFICATE_EXPIRES = Event(
    "certificate-expires", "warning", meaning="a certificate is expired or soon will be; once a day", keys=("path", "fact")
)  # fmt: skip
CERTIFICATES_RENEWED = Event(
    "certificates-renewed", "info", meaning="files of certificates, keys, CAs or revocation lists changed and are in use now",
    keys=("files",),
)  # fmt: skip
CERTIFICATES_KEPT = Event(
    "certificates-kept", "error", meaning="such a file changed and is faulty; the proxy goes on with what it had", keys=("path", "fact")
)  # fmt: skip

TLS_READS_UNBOUNDED = Event(
    "tls-reads-unbounded",
    "warning",
    meaning="this Python has OpenSSL built in, so that one client of TLS can keep a process busy",
)

# Faults.

UNRAISABLE = Event(
    "unraisable", "error", meaning="Python met an error where it could not be raised; please report it"
)

EVENTS: tuple[Event, ...] = tuple(each for each in vars().values() if isinstance(each, Event))
"""All of them, in the order of this page."""
