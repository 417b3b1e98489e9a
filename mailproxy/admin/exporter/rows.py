"""The metrics that HAProxy has, from the rows of ``show stat`` and the fields of ``show info``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from mailproxy.admin.exporter import names
from mailproxy.admin.exporter.names import Metric
from mailproxy.admin.history import listener_key
from mailproxy.admin.runtime.call import Call
from mailproxy.admin.runtime.show.info import info_figures
from mailproxy.admin.runtime.show.stat import stat_rows
from mailproxy.protocol.checks.result import CheckCode
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.frontend import FrontendState
from mailproxy.version import __version__

Sample = tuple[Metric, tuple[str, ...], float]
"""A metric, the values of its labels, and its value."""

_SERVER_STATES = ("UP", "DOWN", "MAINT", "DRAIN", "NOLB")
_CHECK_STATES = tuple(code.name for code in CheckCode if code not in (CheckCode.UNK, CheckCode.INI))


def haproxy_samples(call: Call) -> Iterator[Sample]:
    """Yield the samples of all metrics that HAProxy has."""
    info = info_figures(call)
    yield from _fields(names.PROCESS, (), info)
    yield names.BUILD_INFO, (__version__,), 1
    yield from _listeners(call)
    for row in stat_rows(call):
        name, server_name = str(row.values["pxname"]), str(row.values["svname"])
        match row.kind:
            case "F":
                yield from _fields(names.FRONTEND, (name,), row.values)
                is_up = row.values["status"] == FrontendState.OPEN.value
                yield from _states(names.FRONTEND_STATUS, (name,), "UP" if is_up else "DOWN", ("DOWN", "UP"))
            case "B":
                yield from _fields(names.BACKEND, (name,), row.values)
                yield from _states(names.BACKEND_STATUS, (name,), str(row.values["status"]), ("DOWN", "UP"))
            case _:
                yield from _fields(names.SERVER, (name, server_name), row.values)
    for backend in call.target.backends.values():
        yield from _servers(backend.name, backend.servers)
        if (stick := backend.pool.stick) is not None:
            labels = (backend.name, "ip")
            yield names.TABLE_SIZE, labels, stick.size
            yield names.TABLE_USED, labels, len(stick)


def _fields(
    metrics: Iterable[Metric], labels: tuple[str, ...], values: Mapping[str, object]
) -> Iterator[Sample]:
    for metric in metrics:
        value = values.get(metric.field, 0 if not labels else None)
        # -1 is HAProxy's "never", such as of the last session.
        if isinstance(value, int) and value >= 0:
            yield metric, labels, value * metric.factor


def _states(metric: Metric, labels: tuple[str, ...], state: str, states: Iterable[str]) -> Iterator[Sample]:
    for each in states:
        yield metric, (*labels, each), int(each == state)


def _listeners(call: Call) -> Iterator[Sample]:
    target = call.target
    for frontend, bind in dict.fromkeys(target.listeners):
        figures, traffic = target.frontend(frontend), target.figures.listener(frontend, bind)
        limit = figures.limit or target.max_sessions
        trend = call.history.trend(listener_key(frontend, bind))
        sessions = target.figures.open_sessions(frontend, bind)
        values: dict[str, object] = {
            "scur": sessions, "smax": max(trend.most_sessions, sessions), "slim": limit, "stot": traffic.sessions,
            "bin": traffic.bytes_in, "bout": traffic.bytes_out, "dreq": traffic.denied_requests,
            "ereq": traffic.failed_requests, "dcon": traffic.denied_connections, "dses": traffic.denied_sessions,
        }  # fmt: skip
        yield from _fields(names.LISTENER, (frontend, bind), values)
        is_full = figures.sessions >= limit or target.sessions >= target.max_sessions
        state = "WAITING" if figures.state is not FrontendState.OPEN else "FULL" if is_full else "OPEN"
        yield from _states(names.LISTENER_STATUS, (frontend, bind), state, ("FULL", "OPEN", "WAITING"))


def _servers(backend: str, servers: Iterable[BackendServer]) -> Iterator[Sample]:
    states: Counter[str] = Counter()
    checks: Counter[str] = Counter()
    for server in servers:
        labels, state = (backend, server.name), server_state(server)
        states[state] += 1
        yield from _states(names.SERVER_STATUS, labels, state, _SERVER_STATES)
        outcome = server.last_check
        if server.health is not None and outcome is not None:
            code = outcome.result.code.name
            checks[code] += 1
            yield from _states(names.CHECK_STATUS, labels, code, _CHECK_STATES)
    for state in _SERVER_STATES:
        yield names.AGG_SERVER_STATUS, (backend, state), states[state]
    for code in _CHECK_STATES:
        yield names.AGG_CHECK_STATUS, (backend, code), checks[code]


def server_state(server: BackendServer) -> str:
    """Return UP, DOWN, MAINT, DRAIN or NOLB (weight 0)."""
    status = server.status
    if status.startswith(("MAINT", "DOWN", "DRAIN")):
        return status[:5] if status.startswith(("MAINT", "DRAIN")) else "DOWN"
    return "UP" if server.weight else "NOLB"
