"""Every metric: its name behind ``mailproxy_``, its type, its meaning, its labels."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import frozen

MetricType = Literal["counter", "gauge", "histogram"]


@frozen
class Metric:
    """A metric.

    Attributes:
        name: Its name behind the prefix.
        type: Its type.
        help: What it means, in one sentence.
        labels: Its labels.
        field: For metrics that HAProxy has, the field of ``show stat`` or ``show info``; empty if computed.
        factor: What the field is multiplied with, to have seconds.
        is_haproxys: Whether HAProxy has it under the same name.
    """

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...] = ()
    field: str = ""
    factor: float = 1
    is_haproxys: bool = attrs.field(default=True, kw_only=True)


_PROXY = ("proxy",)
_LABELS = {
    "frontend": _PROXY,
    "listener": ("proxy", "listener"),
    "backend": _PROXY,
    "server": ("proxy", "server"),
}
_MS = 0.001

# Name, type, field, the kinds of objects that have it (frontend, listener, backend, server), meaning.
_TABLE: tuple[tuple[str, MetricType, str, str, str], ...] = (
    ("current_queue", "gauge", "qcur", "bs", "Sessions in the queue."),
    ("max_queue", "gauge", "qmax", "bs", "The most sessions in the queue so far."),
    ("current_sessions", "gauge", "scur", "flbs", "Open sessions."),
    ("max_sessions", "gauge", "smax", "flbs", "The most open sessions so far."),
    ("limit_sessions", "gauge", "slim", "fls", "The limit on open sessions."),
    ("sessions_total", "counter", "stot", "flbs", "Sessions so far, open ones included."),
    ("connections_total", "counter", "conn_tot", "f", "Connections so far."),
    ("max_session_rate", "gauge", "rate_max", "fbs", "The most sessions in a second so far."),
    ("connections_rate_max", "gauge", "conn_rate_max", "f", "The most connections in a second so far."),
    ("bytes_in_total", "counter", "bin", "flbs", "Bytes from clients, without TLS."),
    ("bytes_out_total", "counter", "bout", "flbs", "Bytes from servers, without TLS."),
    ("requests_denied_total", "counter", "dreq", "fl", "Sessions that a route rejected."),
    ("request_errors_total", "counter", "ereq", "fl", "Sessions that ended before they had a route, by the client's fault."),
    ("denied_connections_total", "counter", "dcon", "fl", "Connections from addresses that may not send a PROXY header."),
    ("denied_sessions_total", "counter", "dses", "fl", "Sessions of clients over their limits."),
    ("internal_errors_total", "counter", "eint", "fbs", "Sessions that ended by a fault of the proxy."),
    ("connection_errors_total", "counter", "econ", "bs", "Failed attempts to connect to a server."),
    ("retry_warnings_total", "counter", "wretr", "bs", "Attempts that were repeated at the same server."),
    ("redispatch_warnings_total", "counter", "wredis", "bs", "Attempts that were repeated at another server."),
    ("connection_attempts_total", "counter", "connect", "bs", "Sessions that got a slot at a server."),
    ("loadbalanced_total", "counter", "lbtot", "bs", "Sessions that got a slot at a server, sticky ones included."),
    ("used_connections_current", "gauge", "used_conn_cur", "s", "Connections to the server."),
    ("client_aborts_total", "counter", "cli_abrt", "bs", "Sessions that the client has aborted."),
    ("server_aborts_total", "counter", "srv_abrt", "bs", "Sessions that the server has aborted."),
    ("weight", "gauge", "weight", "bs", "The weight that counts now; of a backend, that of its usable servers."),
    ("uweight", "gauge", "uweight", "bs", "The weight without slow start."),
    ("active_servers", "gauge", "act", "b", "Usable servers that are no backups."),
    ("backup_servers", "gauge", "bck", "b", "Usable backup servers."),
    ("current_throttle", "gauge", "throttle", "s", "Slow start in percent; missing outside of it."),
    ("check_failures_total", "counter", "chkfail", "s", "Health checks that failed while the server was up."),
    ("check_up_down_total", "counter", "chkdown", "bs", "How often it went down."),
    ("check_last_change_seconds", "gauge", "lastchg", "bs", "Seconds since the state has changed."),
    ("downtime_seconds_total", "counter", "downtime", "bs", "Seconds that it was down."),
    ("check_code", "gauge", "check_code", "s", "The code that the server gave the last health check."),
    ("check_duration_seconds", "gauge", "check_duration", "s", "How long the last health check took."),
    ("last_session_seconds", "gauge", "lastsess", "bs", "Seconds since the last session began."),
    ("queue_time_average_seconds", "gauge", "qtime", "bs", "Time in the queue, averaged over 512 sessions."),
    ("connect_time_average_seconds", "gauge", "ctime", "bs", "Time to connect, averaged over 512 sessions."),
    ("total_time_average_seconds", "gauge", "ttime", "bs", "Time of a session, averaged over 512 sessions."),
    ("max_queue_time_seconds", "gauge", "qtime_max", "bs", "The longest time in the queue so far."),
    ("max_connect_time_seconds", "gauge", "ctime_max", "bs", "The longest time to connect so far."),
    ("max_total_time_seconds", "gauge", "ttime_max", "bs", "The longest session so far."),
)  # fmt: skip
_MILLISECONDS = ("check_duration", "qtime", "ctime", "ttime", "qtime_max", "ctime_max", "ttime_max")
_KINDS = {"f": "frontend", "l": "listener", "b": "backend", "s": "server"}


def _metrics_of(letter: str) -> tuple[Metric, ...]:
    kind = _KINDS[letter]
    return tuple(
        Metric(
            f"{kind}_{name}", metric_type, text, _LABELS[kind], column, _MS if column in _MILLISECONDS else 1
        )
        for name, metric_type, column, kinds, text in _TABLE
        if letter in kinds
    )


FRONTEND, LISTENER, BACKEND, SERVER = map(_metrics_of, "flbs")
"""Those whose value is one field of ``show stat``."""

FRONTEND_STATUS = Metric("frontend_status", "gauge", "1 for its state: UP or DOWN.", ("proxy", "state"))
LISTENER_STATUS = Metric(
    "listener_status", "gauge", "1 for its state: OPEN, FULL or WAITING.", ("proxy", "listener", "state")
)
BACKEND_STATUS = Metric("backend_status", "gauge", "1 for its state: UP or DOWN.", ("proxy", "state"))
SERVER_STATUS = Metric(
    "server_status",
    "gauge",
    "1 for its state: UP, DOWN, MAINT, DRAIN, or NOLB (weight 0).",
    ("proxy", "server", "state"),
)
CHECK_STATUS = Metric(
    "server_check_status", "gauge", "1 for the result of the last health check.", ("proxy", "server", "state")
)
AGG_SERVER_STATUS = Metric(
    "backend_agg_server_status", "gauge", "Servers of the backend in each state.", ("proxy", "state")
)
AGG_CHECK_STATUS = Metric(
    "backend_agg_check_status", "gauge", "Servers with each result of their last check.", ("proxy", "state")
)
TABLE_SIZE = Metric("sticktable_size", "gauge", "The most entries of the stick table.", ("name", "type"))
TABLE_USED = Metric("sticktable_used", "gauge", "Entries of the stick table.", ("name", "type"))

PROCESS = (
    Metric("process_nbthread", "gauge", "Threads that serve in a process: 1.", (), "Nbthread"),
    Metric("process_nbproc", "gauge", "Processes that serve.", (), "Nbproc"),
    Metric("process_relative_process_id", "gauge", "1.", (), "Process_num"),
    Metric("process_uptime_seconds", "gauge", "Seconds since the start of this process.", (), "Uptime_sec"),
    Metric("process_start_time_seconds", "gauge", "When this process was started, in seconds since 1970.", (), "Start_time_sec"),
    Metric("process_max_fds", "gauge", "The limit on open files of a process.", (), "Ulimit-n"),
    Metric("process_max_sockets", "gauge", "The limit on sockets of a process.", (), "Maxsock"),
    Metric("process_max_connections", "gauge", "The limit on open sessions.", (), "Maxconn"),
    Metric("process_hard_max_connections", "gauge", "The limit on open sessions.", (), "Hard_maxconn"),
    Metric("process_current_connections", "gauge", "Open sessions.", (), "CurrConns"),
    Metric("process_connections_total", "counter", "Sessions so far.", (), "CumConns"),
    Metric("process_requests_total", "counter", "Sessions so far.", (), "CumReq"),
    Metric("process_ssl_connections_total", "counter", "Sessions whose TLS with the client ended here.", (), "CumSslConns"),
    Metric("process_current_connection_rate", "gauge", "Sessions that began in the last second.", (), "ConnRate"),
    Metric("process_max_connection_rate", "gauge", "The most sessions in a second so far.", (), "MaxConnRate"),
    Metric("process_current_session_rate", "gauge", "Sessions that began in the last second.", (), "SessRate"),
    Metric("process_max_session_rate", "gauge", "The most sessions in a second so far.", (), "MaxSessRate"),
    Metric("process_current_tasks", "gauge", "Tasks of the process that answers.", (), "Tasks"),
    Metric("process_stopping", "gauge", "1 while the proxy drains or stops.", (), "Stopping"),
    Metric("process_jobs", "gauge", "Open sessions and listeners.", (), "Jobs"),
    Metric("process_listeners", "gauge", "Binds.", (), "Listeners"),
    Metric("process_dropped_logs_total", "counter", "Log lines lost.", (), "DroppedLogs"),
    Metric("process_failed_resolutions_total", "counter", "Failed look-ups of host names.", (), "FailedResolutions"),
    Metric("process_bytes_out_total", "counter", "Bytes from servers, without TLS.", (), "TotalBytesOut"),
)  # fmt: skip
BUILD_INFO = Metric("process_build_info", "gauge", "1, with the version as label.", ("version",))

_ENDED = ("frontend", "backend")


def _own(name: str, metric_type: MetricType, text: str, *labels: str) -> Metric:
    return Metric(name, metric_type, text, labels, is_haproxys=False)


SESSIONS_ENDED = _own(
    "sessions_ended_total", "counter", "Sessions in the log by end reason.", "frontend", "backend", "end"
)
QUEUE_SECONDS = _own(
    "queue_seconds", "histogram", "Time in the queue, of sessions that had a server.", *_ENDED
)
CONNECT_SECONDS = _own(
    "connect_seconds", "histogram", "Time to connect, of sessions that were connected.", *_ENDED
)
HANDSHAKE_SECONDS = _own("handshake_seconds", "histogram", "Time of TLS handshakes with clients.", *_ENDED)
SESSION_SECONDS = _own("session_seconds", "histogram", "Time from accepting to the end.", *_ENDED)
SESSION_BYTES = _own("session_bytes", "histogram", "Bytes of a session in both directions together.", *_ENDED)
TLS_SESSIONS = _own(
    "tls_sessions_total",
    "counter",
    "Sessions by TLS version and cipher of the client.",
    "frontend",
    "version",
    "cipher",
)
CERTIFICATE_EXPIRY = _own(
    "certificate_expiry_seconds", "gauge", "When the certificate ends, in seconds since 1970.", "name"
)
_MANAGED = ("name", "authority")
ACME_LAST_ATTEMPT = _own(
    "acme_last_attempt_seconds",
    "gauge",
    "When the last attempt to obtain the certificate began, in seconds since 1970.",
    *_MANAGED,
)
ACME_LAST_SUCCESS = _own(
    "acme_last_attempt_success", "gauge", "1 if the last attempt obtained the certificate, else 0.", *_MANAGED
)
ACME_FAILURES = _own(
    "acme_failures", "gauge", "Attempts to obtain the certificate that failed in a row.", *_MANAGED
)
ACME_NEXT_ATTEMPT = _own(
    "acme_next_attempt_seconds",
    "gauge",
    "When the next attempt to obtain the certificate is due, in seconds since 1970.",
    *_MANAGED,
)
CHECK_SECONDS = _own("check_seconds", "histogram", "Time of health checks.", "proxy", "server")
ACCEPT_PAUSES = _own(
    "accept_pauses_total",
    "counter",
    "How often accepting has waited, for a limit or for resources.",
    "proxy",
    "reason",
)
RELAY_TURNS = _own("relay_turns_total", "counter", "Turns of the relay.")
WORKER_RESTARTS = _own("worker_restarts_total", "counter", "Workers that were replaced because they died.")
LOG_LINES_LOST = _own(
    "log_lines_lost_total", "counter", "Log lines lost because targets were too slow or failed."
)
LOOP_LAG = _own("loop_lag_seconds", "gauge", "How late tasks run, in the process where that is worst.")

OWN = (
    SESSIONS_ENDED, QUEUE_SECONDS, CONNECT_SECONDS, HANDSHAKE_SECONDS, SESSION_SECONDS, SESSION_BYTES, TLS_SESSIONS,
    CERTIFICATE_EXPIRY, ACME_LAST_ATTEMPT, ACME_LAST_SUCCESS, ACME_FAILURES, ACME_NEXT_ATTEMPT, CHECK_SECONDS, ACCEPT_PAUSES, RELAY_TURNS, WORKER_RESTARTS, LOG_LINES_LOST, LOOP_LAG,
)  # fmt: skip

METRICS = (
    *PROCESS, BUILD_INFO, *FRONTEND, FRONTEND_STATUS, *LISTENER, LISTENER_STATUS, *BACKEND, BACKEND_STATUS,
    AGG_SERVER_STATUS, AGG_CHECK_STATUS, *SERVER, SERVER_STATUS, CHECK_STATUS, TABLE_SIZE, TABLE_USED, *OWN,
)  # fmt: skip
"""All of them, in the order in which they are written."""
