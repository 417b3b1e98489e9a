"""Commands that change a server: its state, weight, health, address, checks and limit.

The sentences of errors are HAProxy's, from ``cli_parse_set_server`` and its callees in src/server.c.
"""

from __future__ import annotations

from ipaddress import ip_address

from mailproxy.admin.runtime.call import Call, CommandError
from mailproxy.admin.runtime.numbers import split_number
from mailproxy.config.values import WEIGHT_MAX
from mailproxy.pool import AdminState
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer

_BY = "by 'stats socket command'"
_PORT_MAX = 65535


def set_server(call: Call, *words: str) -> str:
    """Answer ``set server B/S state|weight|health|addr|check-port …``."""
    name, what, value, *more = (*words, "", "", "")
    backend, server = call.server(name)
    match what:
        case "state":
            _set_state(backend, server, value)
        case "weight":
            _set_weight(backend, server, value)
        case "health":
            _set_health(backend, server, value)
        case "check-port":
            _set_check_port(backend, server, value)
        case "addr":
            return _set_address(backend, server, value, *more)
        case _:
            raise CommandError(
                "usage: set server <backend>/<server> addr | check-port | health | state | weight"
            )
    return ""


def enable_server(call: Call, name: str = "", *_: str) -> str:
    """Answer ``enable server B/S``: end maintenance, which is the opposite of ``disable server``."""
    backend, server = call.server(name)
    if server.state is AdminState.MAINT:
        backend.set_state(server, AdminState.READY)
    return ""


def disable_server(call: Call, name: str = "", *_: str) -> str:
    """Answer ``disable server B/S``: put it into maintenance."""
    backend, server = call.server(name)
    backend.set_state(server, AdminState.MAINT)
    return ""


def enable_health(call: Call, name: str = "", *_: str) -> str:
    """Answer ``enable health B/S``."""
    backend, server = call.server(name)
    if server.config.check is None:
        raise CommandError("Health check was not configured on this server, cannot enable.")
    backend.pause_checks(server, is_paused=False)
    return ""


def disable_health(call: Call, name: str = "", *_: str) -> str:
    """Answer ``disable health B/S``: the server keeps its state, and is not checked."""
    backend, server = call.server(name)
    backend.pause_checks(server, is_paused=True)
    return ""


def get_weight(call: Call, name: str = "", *_: str) -> str:
    """Answer ``get weight B/S``."""
    server = call.server(name)[1]
    return f"{server.weight} (initial {server.config.weight})\n"


def set_weight(call: Call, name: str = "", weight: str = "", *_: str) -> str:
    """Answer ``set weight B/S N[%]``."""
    backend, server = call.server(name)
    _set_weight(backend, server, weight)
    return ""


def set_maxconn_server(call: Call, name: str = "", number: str = "", *_: str) -> str:
    """Answer ``set maxconn server B/S N``."""
    backend, server = call.server(name)
    if not number:
        raise CommandError("Require <maxconn>.")
    limit, rest = split_number(number)
    if limit is None:
        raise CommandError("maxconn string empty or preceded by garbage")
    if rest:
        raise CommandError("Trailing garbage in maxconn string")
    backend.set_max_sessions(server, limit)
    return ""


def _set_state(backend: Backend, server: BackendServer, value: str) -> None:
    if value not in {state.value for state in AdminState}:
        raise CommandError("'set server <srv> state' expects 'ready', 'drain' and 'maint'.")
    backend.set_state(server, AdminState(value))


def _set_weight(backend: Backend, server: BackendServer, value: str) -> None:
    if not value:
        raise CommandError("Require <weight> or <weight%>.")
    is_negative = value.startswith("-")
    number, rest = split_number(value.removeprefix("-"))
    if number is None:
        raise CommandError("Empty weight string empty or preceded by garbage")
    if rest not in ("", "%"):
        raise CommandError("Trailing garbage in weight string")
    if rest:
        if is_negative:
            raise CommandError("Relative weight must be positive.")
        number = min(server.config.weight * number // 100, WEIGHT_MAX)
    if is_negative:
        number = -number
    if not 0 <= number <= WEIGHT_MAX:
        raise CommandError("Absolute weight can only be between 0 and 256 inclusive.")
    backend.set_weight(server, number)


def _set_health(backend: Backend, server: BackendServer, value: str) -> None:
    if value not in ("up", "stopping", "down"):
        raise CommandError("'set server <srv> health' expects 'up', 'stopping', or 'down'.")
    if value == "stopping":
        backend.set_stopping(server)
    else:
        backend.set_health(server, is_up=value == "up")


def _set_check_port(backend: Backend, server: BackendServer, value: str) -> None:
    if not value:
        raise CommandError("set server <b>/<s> check-port requires a port.")
    if server.config.check is None:
        raise CommandError("health checks are not enabled on this server")
    port, rest = split_number(value)
    if rest or port is None:
        raise CommandError("provided port is not an integer")
    if not 0 < port <= _PORT_MAX:
        raise CommandError("provided port is invalid")
    backend.set_check_port(server, port)


def _set_address(
    backend: Backend, server: BackendServer, host: str, word: str = "", port: str = "", *_: str
) -> str:
    if not host:
        raise CommandError("set server <b>/<s> addr requires an address and optionally a port.")
    try:
        address = ip_address(host)
    except ValueError:
        raise CommandError(f"Invalid addr '{host}' {_BY}") from None
    before = server.endpoints[0] if server.endpoints else None
    old_host, old_port = (before.host, before.port) if before is not None else ("(none)", None)
    new_port, answers = old_port, []
    if str(address) == old_host:
        answers.append("no need to change the addr")
    else:
        answers.append(f"IP changed from '{old_host}' to '{address}'")
    if word == "port" and port:
        number, rest = split_number(port)
        if rest or number is None:
            raise CommandError(f"{answers[0]}, problem converting port '{port}' to an int {_BY}")
        if not 0 < number <= _PORT_MAX:
            raise CommandError(f"{answers[0]}, provided port is not valid {_BY}")
        new_port = number
        if new_port == old_port:
            answers.append("no need to change the port")
        else:
            answers.append(f"port changed from '{old_port or 0}' to '{new_port}'")
    answer = f"{', '.join(answers)} {_BY}"
    if (str(address), new_port) != (old_host, old_port):
        backend.set_address(server, str(address), new_port, f"{backend.name}/{server.name} changed: {answer}")
    return f"{answer}\n"
