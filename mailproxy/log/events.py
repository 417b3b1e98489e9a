"""Events: what the log has beside sessions. Each kind has a constant name and a level; its data are keys.

``docs/log-fields.md`` has a list of them, made from this module by ``scripts/write-reference``.
"""

from __future__ import annotations

from attrs import field, frozen

LEVELS = ("debug", "info", "warning", "error")
"""From the least important to the most important."""


@frozen
class Event:
    """A kind of event.

    Attributes:
        name: The value of ``event`` in JSON. The constant of this module has the same name.
        level: One of ``LEVELS``.
        keys: The keys of its data, also those that some of its lines lack.
        meaning: The description in the documentation.
    """

    name: str
    level: str
    keys: tuple[str, ...] = ()
    meaning: str = field(kw_only=True)


_SERVER = ("backend", "server", "status", "state", "check", "info", "check_ms", "sessions")
_ACME = ("names", "key_type", "authority")
_SERVER_CHANGE = (*_SERVER, "active", "backup", "requeued", "waiting")

# The table: name, level, keys, meaning.
# fmt: off

# Start and stop.

LISTENING = Event("listening", "info", ("frontend", "bind", "address", "mode"),
    meaning="a bind listens; `address` has the real port")
READY = Event("ready", "info", ("workers",),
    meaning="every bind listens, host names are resolved, servers have been checked once")
DRAINING = Event("draining", "warning", ("sessions", "seconds"),
    meaning="the proxy stops: it accepts no more sessions, and open ones end within `drain_timeout`, idle ones first")
DRAIN_STARTED = Event("drain-started", "warning", ("what", "purpose", "sessions", "seconds"),
    meaning="the operator has the sessions of a server or frontend (`what`) ended within `seconds`; `purpose` is `drain` if "
    "idle ones end first, or `kill`")
DRAIN_PROGRESS = Event("drain-progress", "info", ("what", "left", "idle", "seconds"),
    meaning="how far a drain has come, also that of the whole process (`what` is `process`): `left` sessions have `seconds` "
    "until the deadline; every 10 seconds, or 60 times if it takes over 10 minutes")
# Warnings like drain-started, so that a target with the level warning has both.
DRAIN_ENDED = Event("drain-ended", "warning", ("what",),
    meaning="the last session of a drain has ended")
DRAIN_CANCELLED = Event("drain-cancelled", "warning", ("what", "left"),
    meaning="the operator has cancelled a drain; `left` sessions go on")
STOPPING = Event("stopping", "warning",
    meaning="the proxy stops at once and closes all sessions")
STOPPED = Event("stopped", "info", ("sessions",),
    meaning="the proxy has stopped; `sessions` is how many its servers have had in all")
STATE_RESTORED = Event("state-restored", "info", ("file", "age"),
    meaning="`process.state_file` was taken up; it is from `age` seconds ago")
STATE_IGNORED = Event("state-ignored", "warning", ("file", "reason"),
    meaning="`process.state_file` cannot be taken up: it is damaged, too old, or not this proxy's. Servers begin as the "
    "configuration says")
STATE_NOT_WRITTEN = Event("state-not-written", "error", ("file", "reason"),
    meaning="`process.state_file` cannot be written; once until it can be again")
SIGNAL_IGNORED = Event("signal-ignored", "warning",
    meaning="the proxy received a signal that has no meaning here")

RELOADED = Event("reloaded", "info", ("changes", "needs_restart", "ms"),
    meaning="a new configuration is in use; `changes` has a line for each change, and `needs_restart` for each that only a "
    "restart makes")
RELOAD_FAILED = Event("reload-failed", "error", ("faults",),
    meaning="a new configuration is faulty; the proxy keeps the one that it has")

# Hand-over to another process.

HANDOVER_STARTED = Event("handover-started", "info", ("pid",),
    meaning="another process (`run --replace`) gets the listening sockets; this one goes on until that one accepts")
HANDOVER_FAILED = Event("handover-failed", "error", ("pid", "reason"),
    meaning="the other process has ended before it accepted, and this one goes on; or the new one could not tell the old one "
    "to stop")
HANDED_OVER = Event("handed-over", "warning", ("pid", "unused"),
    meaning="another process accepts from now on, and this one drains; `unused` are the addresses that the other one does "
    "not listen on")
TOOK_OVER = Event("took-over", "info", ("pid", "version", "sockets"),
    meaning="at the start with `--replace`: listening sockets and state of the running process are in use")
NOTHING_REPLACED = Event("nothing-replaced", "warning", ("socket",),
    meaning="started with `--replace`, but no instance answers at the admin socket: a normal start")
STORED_SOCKETS_USED = Event("stored-sockets-used", "info", ("sockets",),
    meaning="at the start: the service manager has kept listening sockets of the process before, and they are in use")

# Several processes.

WORKER_DIED = Event("worker-died", "error", ("slot", "pid", "why", "sessions"),
    meaning="a worker has ended by itself, its sessions with it; another one takes its slot")
CONTROL_DIED = Event("control-died", "error", ("pid", "why"),
    meaning="the control process has ended by itself; another one replaces it")
CONTROL_SILENT = Event("control-silent", "warning", ("slot", "seconds"),
    meaning="the control process has sent nothing to a new worker for `seconds`; the worker serves with the states in the "
    "configuration")
HELPER_FAILED = Event("helper-failed", "error", ("helper", "fault", "place"),
    meaning="a task beside the sessions failed and restarts in a moment; sessions go on")
MESSAGE_DROPPED = Event("message-dropped", "error",
    meaning="a message between the processes was not understood; please report it")

# Accepting.

ACCEPT_PAUSED = Event("accept-paused", "warning", ("frontend", "reason", "waiting"),
    meaning="a frontend cannot accept, usually because descriptors or memory are used up; `waiting` connections are in its "
    "accept queue")
# A warning like accept-paused, so that a target with the level warning has both.
ACCEPT_RESUMED = Event("accept-resumed", "warning", ("frontend", "seconds", "late", "limit", "key"),
    meaning="a frontend has accepted all that waited in its accept queue for `seconds`, `late` connections; `limit` and `key` "
    "are null where accepting had failed")
SESSIONS_FULL = Event("sessions-full", "warning", ("frontend", "limit", "key", "waiting"),
    meaning="there are as many sessions as the limit `key` allows: a frontend pauses accepting, and `waiting` connections are "
    "in its accept queue; once a minute")
DESCRIPTORS_SHORT = Event("descriptors-short", "warning",
    meaning="the limit of descriptors is too low for `process.max_sessions`, or allows few sessions only")

# Servers.

NAME_RESOLVED = Event("name-resolved", "info", ("backend", "server", "addresses"),
    meaning="the host name of a server has new addresses")
NAME_UNRESOLVED = Event("name-unresolved", "warning", ("backend", "server", "reason"),
    meaning="the host name of a server cannot be resolved; its last addresses stay in use")
SERVER_DOWN = Event("server-down", "error", _SERVER_CHANGE,
    meaning="a server went down: its checks failed `fall` times, or `observe` found it dead")
# A warning, so that a target with the level warning that has server-down also has the end of it.
SERVER_UP = Event("server-up", "warning", _SERVER_CHANGE,
    meaning="a server came up: its checks passed `rise` times")
CONNECT_FAILED = Event("connect-failed", "warning", ("backend", "server", "reason", "failures"),
    meaning="a session could not be connected to a server, or its TLS failed; once a minute for each server, and `failures` "
    "is how many there were since the last line")
SERVER_STATE = Event("server-state", "warning", _SERVER_CHANGE,
    meaning="the operator changed the state of a server")
SERVER_CHECK = Event("server-check", "info", _SERVER,
    meaning="the result of a check differs from the one before, which does not change the server's state yet")
BACKEND_DOWN = Event("backend-down", "error", ("backend",),
    meaning="no server of a backend can be used")
CHECK_FAULT = Event("check-fault", "error", ("backend", "server", "fault", "place"),
    meaning="a fault of the proxy itself ended a check; please report it")
LOGIN_DISABLED = Event("login-disabled", "warning", _SERVER,
    meaning="no client can log in to a server over connections like those of sessions")
LOGIN_ENABLED = Event("login-enabled", "info", _SERVER,
    meaning="clients can log in to a server again")
OFFERS_LESS = Event("offers-less", "warning", _SERVER,
    meaning="a server lacks capabilities of the one whose list is announced before TLS")
IDENTITY_REFUSED = Event("identity-refused", "warning", _SERVER,
    meaning="a server does not take the client's identity (`identity`), so its log has the proxy's address; once for each "
    "server")
CHECK_NOT_MADE = Event("check-not-made", "warning", _SERVER,
    meaning="the proxy has no resources for a check; the server's state stays")

# The log itself.

LINES_LOST = Event("lines-lost", "error", ("lost",),
    meaning="`lost` lines could not be written to this target since the last that were")
LOG_NOT_WRITTEN = Event("log-not-written", "error", ("to", "reason"),
    meaning="another target of the log cannot be written; once until it works again")
LOG_REOPENED = Event("log-reopened", "info",
    meaning="the log's files were opened again on SIGUSR2 or SIGHUP")
LOG_NOT_REOPENED = Event("log-not-reopened", "error", ("reason",),
    meaning="a file of the log could not be opened again; the old one stays in use")

TRACES_NOT_SENT = Event("traces-not-sent", "warning", ("to", "reason", "lost"),
    meaning="the collector of `tracing.otlp` does not take spans; once until it does; `lost` sessions did not fit into the "
    "queue since the last such line")

# Sessions.

SESSION_FAULT = Event("session-fault", "error", ("id", "fault", "place"),
    meaning="a fault of the proxy itself ended a session; please report it")
SESSION_STARTED = Event("session-started", "info",
    ("frontend", "backend", "server", "client", "server_address", "id"),
    meaning="a session is connected to its server, in frontends with `log_start = true`")
SESSION_STEPS = Event("session-steps", "info",
    ("frontend", "backend", "server", "client", "id", "steps"),
    meaning="how many milliseconds a session that has ended was in each phase, in frontends with `log_steps = true`")

# Certificates.

CERTIFICATE_EXPIRES = Event("certificate-expires", "warning", ("path", "fact"),
    meaning="a certificate or revocation list is out of date or soon will be; once a day")
CERTIFICATES_RENEWED = Event("certificates-renewed", "info", ("files",),
    meaning="files of certificates, keys, CAs or revocation lists changed and are in use now")
CERTIFICATES_KEPT = Event("certificates-kept", "error", ("path", "fact"),
    meaning="such a file changed and is faulty; the proxy keeps using what it had")
TLS_READS_UNBOUNDED = Event("tls-reads-unbounded", "warning",
    meaning="this Python has OpenSSL built in, so that one client of TLS can keep a process busy")

ACME_STARTED = Event("acme-started", "info", _ACME,
    meaning="the proxy obtains or renews a certificate")
ACME_OBTAINED = Event("acme-obtained", "info", (*_ACME, "until"),
    meaning="an authority has issued a certificate; it is stored, and in use in a moment (`certificates-renewed`)")
ACME_FAILED = Event("acme-failed", "error", (*_ACME, "reason", "expiry"),
    meaning="a certificate could not be obtained; the one that there is stays in use until `expiry`, and another attempt "
    "follows")
ACME_MUST_STAPLE = Event("acme-must-staple", "warning", _ACME,
    meaning="an authority has issued a certificate that demands OCSP stapling, which the proxy cannot do")

# Faults.

UNRAISABLE = Event("unraisable", "error",
    meaning="Python met an error where it could not be raised; please report it")
# fmt: on

EVENTS: tuple[Event, ...] = tuple(each for each in vars().values() if isinstance(each, Event))
"""All of them, in the order of this module."""
