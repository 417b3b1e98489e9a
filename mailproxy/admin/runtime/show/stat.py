"""``show stat``: the figures of every frontend, backend and server, in HAProxy's fields."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator

from attrs import frozen

from mailproxy.address import TcpAddress
from mailproxy.admin.history import backend_key, frontend_key, server_key
from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.admin.runtime.numbers import parse_number
from mailproxy.admin.runtime.show.formats import TypedValue, Value
from mailproxy.admin.runtime.show.numbering import backend_id, frontend_id
from mailproxy.admin.runtime.show.stat_fields import CONSTANTS, FIELDS
from mailproxy.config import Config
from mailproxy.metrics.servers import SERVER
from mailproxy.metrics.traffic import Times, Traffic
from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState, read_counts
from mailproxy.pool.eligibility import usable_counts
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer

_FRONTEND, _BACKEND, _SERVER = 1, 2, 4
_TYPES = {"F": _FRONTEND, "B": _BACKEND, "S": _SERVER}
_NAMES = {"F": "Frontend", "B": "Backend", "S": "Server"}
_FIELD_NAMES = tuple(field.name for field in FIELDS)
_PROXY_FIELDS = 103  # HAProxy writes a "-" between these and those of its modules


@frozen
class Row:
    """The figures of one object.

    Attributes:
        kind: ``F`` for a frontend, ``B`` for a backend, ``S`` for a server.
        values: Its values by name. Fields that it does not have are missing.
        is_up: Whether it can be used, for the filter ``up``.
        is_in_maintenance: Whether the operator has taken it out, for the filter ``no-maint``.
    """

    kind: str
    values: dict[str, Value]
    is_up: bool = True
    is_in_maintenance: bool = False

    def csv(self) -> str:
        """Return the line of the CSV output."""
        values = self.values
        cells = [_quoted(values[name]) if name in values else "" for name in _FIELD_NAMES]
        return ",".join([*cells[:_PROXY_FIELDS], "-", *cells[_PROXY_FIELDS:]]) + ","

    def typed_values(self) -> Iterator[TypedValue]:
        """Yield the values with their types."""
        for position, field in enumerate(FIELDS):
            if (value := self.values.get(field.name)) is not None and value != "":
                yield TypedValue(position, field.name, field.tags_of(self.kind), field.type, value)

    def typed(self) -> str:
        """Return the lines of the typed output."""
        prefix = f"{self.kind}.{self.values['iid']}.{self.values['sid']}."
        return "".join(f"{value.typed(prefix)}\n" for value in self.typed_values())

    def json(self) -> list[dict[str, object]]:
        """Return the array of the JSON output."""
        head = {"objType": _NAMES[self.kind], "proxyId": self.values["iid"], "id": self.values["sid"]}
        return [{**head, **value.json()} for value in self.typed_values()]


_HEADER = ",".join(
    [
        *(field.name for field in FIELDS[:_PROXY_FIELDS]),
        "-",
        *(field.name for field in FIELDS[_PROXY_FIELDS:]),
    ]
)


async def show_stat(call: Call, *words: str) -> str:
    """Answer ``show stat [ID|NAME TYPE SID] [typed|json|up|no-maint]``.

    TYPE is a sum of 1 for frontends, 2 for backends, 4 for servers; -1 means all, as it does for ID and SID.
    """
    await call.target.refresh()
    call.history.look()
    rows: Iterable[Row] = stat_rows(call)
    if words and (len(words) >= 3 or parse_number(words[0]) is not None):
        proxy, kinds, server = (*words[:3], "-1", "-1")[:3]
        rows = _select(
            rows, _proxy_id(call.target.config, proxy), parse_number(kinds) or 0, parse_number(server) or 0
        )
        words = words[3:]
    if "up" in words:
        rows = (row for row in rows if row.is_up)
    if "no-maint" in words:
        rows = (row for row in rows if not row.is_in_maintenance)
    if "json" in words:
        return json.dumps([row.json() for row in rows], separators=(",", ":")) + "\n"
    if "typed" in words:
        return "".join(row.typed() for row in rows)
    return f"# {_HEADER},\n" + "".join(f"{row.csv()}\n" for row in rows)


def stat_rows(call: Call) -> Iterator[Row]:
    """Yield the rows of all frontends, then of each backend's servers and the backend."""
    config = call.target.config
    for number, name in enumerate(config.frontends):
        yield _frontend_row(call, name, frontend_id(number))
    for number, backend in enumerate(call.target.backends.values()):
        iid = backend_id(config, number)
        for index, server in enumerate(backend.servers):
            yield _server_row(call, backend, server, iid, index + 1)
        yield _backend_row(call, backend, iid)


def _select(rows: Iterable[Row], proxy: int, kinds: int, server: int) -> Iterator[Row]:
    for row in rows:
        is_wanted = proxy in (-1, row.values["iid"]) and kinds & _TYPES[row.kind]
        if is_wanted and (row.kind != "S" or server in (-1, row.values["sid"])):
            yield row


def _proxy_id(config: Config, text: str) -> int:
    """Return the number of a proxy that is given as a number or by its name."""
    ids = {name: frontend_id(index) for index, name in enumerate(config.frontends)}
    ids.update({name: backend_id(config, index) for index, name in enumerate(config.backends)})
    if text in ids:
        return ids[text]
    number = parse_number(text)
    if number is None:
        raise CommandError("No such proxy.")
    return number


def _quoted(value: Value) -> str:
    if isinstance(value, int):  # most of them
        return str(value)
    if "," in value or '"' in value or "\n" in value:
        return '"' + value.replace('"', '""') + '"'
    return value


# The rows


def _frontend_row(call: Call, name: str, iid: int) -> Row:
    figures, trend = call.target.frontend(name), call.history.trend(frontend_key(name))
    traffic = call.since_cleared(frontend_key(name), figures.traffic)
    return Row("F", {
        **CONSTANTS["F"],
        "pxname": name, "svname": "FRONTEND", "iid": iid, "sid": 0, "type": 0, "status": figures.state.value,
        "scur": figures.sessions, "smax": max(traffic.most_sessions, figures.sessions),
        "slim": figures.limit or call.target.max_sessions,
        "stot": traffic.sessions, "conn_tot": traffic.sessions, "bin": traffic.bytes_in, "bout": traffic.bytes_out,
        "dreq": traffic.denied_requests, "dcon": traffic.denied_connections, "dses": traffic.denied_sessions,
        "ereq": traffic.failed_requests, "rate": trend.rate, "rate_max": trend.most_rate,
        "conn_rate": trend.rate, "conn_rate_max": trend.most_rate,
        "ssl_sess": traffic.tls_sessions, "ssl_failed_handshake": traffic.failed_handshakes,
        "eint": traffic.internal_errors,
    })  # fmt: skip


def _server_row(call: Call, backend: Backend, server: BackendServer, iid: int, sid: int) -> Row:
    key = server_key(backend.name, server.name)
    trend = call.history.trend(key)
    counts = call.since_cleared(key, call.target.server_counts(backend, server))
    traffic = call.since_cleared(key, call.target.figures.server(backend.name, server.name))
    is_checked = server.is_checked and not server.checks_paused
    values: dict[str, Value] = {
        **CONSTANTS["S"],
        "pxname": backend.name, "svname": server.name, "iid": iid, "sid": sid, "type": 2,
        "status": server_status(server), "qcur": backend.pool.waiting_for(server), "qmax": trend.most_waiting,
        "scur": server.sessions, "used_conn_cur": server.sessions, "smax": max(counts.most_sessions, server.sessions),
        "stot": counts.sessions, "connect": counts.sessions, "lbtot": counts.sessions,
        "bin": traffic.bytes_in, "bout": traffic.bytes_out, "econ": counts.connect_errors,
        "wretr": counts.retries, "wredis": counts.redispatches,
        "cli_abrt": traffic.client_aborts, "srv_abrt": traffic.server_aborts, "eint": traffic.internal_errors,
        "weight": math.ceil(server.effective_weight), "uweight": server.weight,
        "act": int(not server.is_backup), "bck": int(server.is_backup),
        "lastchg": seconds_since_change(call, server), "rate": trend.rate, "rate_max": trend.most_rate,
        "lastsess": _age(call, trend.last_session_at), "addr": server_address(server),
        "ssl_sess": 0, "ssl_failed_handshake": 0, **_times(traffic),
    }  # fmt: skip
    if server.max_sessions:
        values["slim"] = server.max_sessions
    if is_checked:
        values["chkfail"], values["chkdown"] = counts.check_failures, counts.downs
        down_now = 0 if server.operational_state.is_serving else seconds_since_change(call, server)
        values["downtime"] = int(counts.down_seconds) + down_now
        if server.throttle < 1.0:
            values["throttle"] = max(1, round(server.throttle * 100))
        if server.state is not AdminState.MAINT:
            values.update(_check_values(server))
    return Row(
        "S", values, is_up=server.operational_state.is_serving,
        is_in_maintenance=server.state is AdminState.MAINT,
    )  # fmt: skip


def _check_values(server: BackendServer) -> dict[str, Value]:
    outcome, health, check = server.last_check, server.health, server.config.check
    if outcome is None or health is None or check is None:
        return {"check_status": "INI"}
    result = outcome.result
    values: dict[str, Value] = {
        "check_status": result.code.name, "check_desc": result.code.value, "last_chk": result.info,
        "check_rise": check.rise, "check_fall": check.fall, "check_health": health.counter,
    }  # fmt: skip
    if outcome.ms >= 0:
        values["check_duration"] = outcome.ms
    if result.code.has_status:
        values["check_code"] = result.status
    return values


def _backend_row(call: Call, backend: Backend, iid: int) -> Row:
    key = backend_key(backend.name)
    trend = call.history.trend(key)
    traffic = call.since_cleared(key, call.target.figures.backend(backend.name))
    counts = [
        call.since_cleared(server_key(backend.name, server.name), call.target.server_counts(backend, server))
        for server in backend.servers
    ]
    if call.ignores_clear:  # servers that a reload has removed count on
        present = {server.name for server in backend.servers}
        counts += [
            read_counts(cells)
            for (name, server_name), cells in call.target.figures.blocks(SERVER)
            if name == backend.name and server_name not in present
        ]
    active, backup = usable_counts(backend.servers)
    downs, down_seconds = call.backend_downs(trend)
    is_up = backend.pool.has_usable_server
    changed = _age(call, trend.changed_at)
    weight = sum(
        math.ceil(server.effective_weight)
        for server in backend.servers
        if server.is_usable and not server.is_backup
    )
    return Row("B", {
        **CONSTANTS["B"],
        "pxname": backend.name, "svname": "BACKEND", "iid": iid, "sid": 0, "type": 1, "status": "UP" if is_up else "DOWN",
        "qcur": backend.pool.waiting, "qmax": trend.most_waiting,
        "scur": backend.sessions, "smax": max(traffic.most_sessions, backend.sessions),
        "stot": traffic.sessions, "bin": traffic.bytes_in, "bout": traffic.bytes_out, "dreq": 0,
        "econ": sum(each.connect_errors for each in counts), "wretr": sum(each.retries for each in counts),
        "wredis": sum(each.redispatches for each in counts), "connect": sum(each.sessions for each in counts),
        "lbtot": sum(each.sessions for each in counts),
        "cli_abrt": traffic.client_aborts, "srv_abrt": traffic.server_aborts, "eint": traffic.internal_errors,
        "weight": weight, "uweight": weight, "act": active, "bck": backup,
        "chkdown": downs, "lastchg": changed, "downtime": int(down_seconds) + (0 if is_up else changed),
        "rate": trend.rate, "rate_max": trend.most_rate, "lastsess": _age(call, trend.last_session_at),
        "algo": backend.config.balance, "ssl_sess": 0, "ssl_failed_handshake": 0,
        "agg_server_status": 0, "agg_server_check_status": 0, "agg_check_status": 0, **_times(traffic),
    }, is_up=is_up)  # fmt: skip


# Single values


def server_status(server: BackendServer) -> str:
    """Return the status of a server, ``no check`` if the operator has switched its checks off."""
    if server.checks_paused and server.status.startswith("UP"):
        return "no check"
    return server.status


def server_address(server: BackendServer) -> str:
    """Return the first address of a server with its port, as sessions are connected to it."""
    if not server.endpoints:
        return ""
    endpoint: Endpoint = server.endpoints[0]
    port = server.config.address.port if isinstance(server.config.address, TcpAddress) else None
    return endpoint.text(port or 0)


def seconds_since_change(call: Call, server: BackendServer) -> int:
    """Return the seconds since the server's state has changed, or since the start."""
    return _age(call, server.changed_at if server.changed_at is not None else call.history.started_at)


def _age(call: Call, moment: float | None) -> int:
    return -1 if moment is None else int(call.history.clock() - moment)


def _times(traffic: Traffic) -> dict[str, Value]:
    names: dict[str, Times] = {"qtime": traffic.queue, "ctime": traffic.connect, "ttime": traffic.total}
    averages = {name: round(times.average) for name, times in names.items()}
    return {**averages, **{f"{name}_max": times.longest for name, times in names.items()}}
