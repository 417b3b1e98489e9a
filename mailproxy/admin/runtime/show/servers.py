"""``show servers state``, ``show servers conn`` and ``show backend``: lists of what there is, for scripts."""

from __future__ import annotations

from collections.abc import Iterator

from mailproxy.address import TcpAddress
from mailproxy.admin.runtime.call import Call
from mailproxy.admin.runtime.show.numbering import backend_id
from mailproxy.admin.runtime.show.stat import seconds_since_change
from mailproxy.pool import AdminState
from mailproxy.protocol.checks.result import CheckCode
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer

_STATE_VERSION = 1
_STATE_FIELDS = (
    "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight "
    "srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state "
    "bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr "
    "srv_agent_port"
)
_CONN_FIELDS = (
    "bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb idle_lim idle_cur "
    "idle_per_thr[1]"
)
# Numbers of HAProxy's enumerations in include/haproxy/server-t.h and check-t.h.
_STOPPED, _STARTING, _RUNNING, _STOPPING = 0, 1, 2, 3
_ADMIN_STATES = {AdminState.READY: 0x00, AdminState.MAINT: 0x01, AdminState.DRAIN: 0x08}
_RESOLUTION_MAINT = 0x20
_CHECK_STATUS = {
    CheckCode.UNK: 0, CheckCode.INI: 1, CheckCode.HANA: 4, CheckCode.SOCKERR: 5, CheckCode.L4OK: 6, CheckCode.L4TOUT: 7,
    CheckCode.L4CON: 8, CheckCode.L6OK: 9, CheckCode.L6TOUT: 10, CheckCode.L6RSP: 11, CheckCode.L7TOUT: 12,
    CheckCode.L7RSP: 13, CheckCode.L7OK: 15, CheckCode.L7OKC: 16, CheckCode.L7STS: 17,
}  # fmt: skip
_RESULT_UNKNOWN, _RESULT_FAILED, _RESULT_PASSED = 0, 2, 3
_CHECK_CONFIGURED, _CHECK_ENABLED, _CHECK_PAUSED = 2, 4, 8
_UNCHECKED_HEALTH = 2  # HAProxy's default of rise
_PURGE_DELAY_MS = 5000


def show_servers_state(call: Call, *words: str) -> str:
    """Answer ``show servers state [BACKEND]``, from which HAProxy restores states."""
    lines = [str(_STATE_VERSION), f"# {_STATE_FIELDS}"]
    for backend, iid in _backends(call, *words):
        for index, server in enumerate(backend.servers):
            lines.append(" ".join(map(str, _state(call, backend, server, iid, index + 1))))
    return "\n".join(lines) + "\n"


def show_servers_conn(call: Call, *words: str) -> str:
    """Answer ``show servers conn [BACKEND]``. Idle connections do not exist here: each session has its own."""
    lines = [f"# {_CONN_FIELDS}"]
    for backend, iid in _backends(call, *words):
        for index, server in enumerate(backend.servers):
            host, port = _host_and_port(server)
            most = max(call.target.server_counts(backend, server).most_sessions, server.sessions)
            lines.append(
                f"{backend.name}/{server.name} {iid}/{index + 1} {host} {port} - {_PURGE_DELAY_MS} {server.sessions} {most} "
                "0 0 0 -1 0 0"
            )
    return "\n".join(lines) + "\n"


def show_backend(call: Call, *_: str) -> str:
    """Answer ``show backend``."""
    return "".join(f"{line}\n" for line in ("# name", *call.target.backends))


def _backends(call: Call, name: str = "", *_: str) -> Iterator[tuple[Backend, int]]:
    config = call.target.config
    wanted = call.backend(name, "Can't find backend.") if name else None
    for index, backend in enumerate(call.target.backends.values()):
        if wanted in (None, backend):
            yield backend, backend_id(config, index)


def _state(call: Call, backend: Backend, server: BackendServer, iid: int, sid: int) -> Iterator[object]:
    host, port = _host_and_port(server)
    address = server.config.address
    admin_state = _ADMIN_STATES[server.state] | (0 if server.endpoints else _RESOLUTION_MAINT)
    outcome, check_state = server.last_check, 0
    result = _RESULT_UNKNOWN
    if server.is_checked:
        check_state = _CHECK_CONFIGURED | (0 if server.checks_paused else _CHECK_ENABLED)
        if server.state is AdminState.MAINT:
            check_state |= _CHECK_PAUSED
        if outcome is not None:
            result = _RESULT_PASSED if outcome.result.code.is_passed else _RESULT_FAILED
    yield from (iid, backend.name, sid, server.name, host or "-", _operational_state(server), admin_state)
    yield from (server.weight, server.config.weight, seconds_since_change(call, server))
    yield from (_CHECK_STATUS[outcome.result.code if outcome is not None else CheckCode.INI], result)
    yield server.health.counter if server.is_checked and server.health is not None else _UNCHECKED_HEALTH
    yield from (check_state, 0, 0, 0)
    is_named = isinstance(address, TcpAddress) and not address.is_literal
    yield from (address.host if isinstance(address, TcpAddress) and is_named else "-", port)
    yield from ("-", int(server.config.tls is not None), server.check_port or 0, "-", "-", 0)


def _operational_state(server: BackendServer) -> int:
    if not server.operational_state.is_serving or not server.endpoints:
        return _STOPPED
    if server.is_stopping:
        return _STOPPING
    return _STARTING if server.throttle < 1.0 else _RUNNING


def _host_and_port(server: BackendServer) -> tuple[str, int]:
    if not server.endpoints:
        return "-", 0
    endpoint = server.endpoints[0]
    return endpoint.host, endpoint.port or 0
