"""HAProxy's sentences about servers, to the letter: monitoring tools search logs for them.

Changes of state are worded as in ``srv_append_status`` and its callers in HAProxy's src/server.c, single
checks as in src/check.c.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from mailproxy.pool import AdminState, Server, StateChange
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome

_NAMED_SERVERS_MAX = 3  # in the line of each session that gets no server


@frozen
class BackendLoad:
    """The sessions of a backend when a server changes.

    Attributes:
        backend: The name of the backend.
        waiting: The sessions that wait in the backend.
        sessions: The sessions that the server had before the change.
    """

    backend: str
    waiting: int
    sessions: int


def state_change_messages(
    change: StateChange[BackendServer], load: BackendLoad, outcome: CheckOutcome | None
) -> tuple[str, ...]:
    """Return the sentences about a change of state.

    Args:
        change: The change.
        load: The backend's sessions.
        outcome: The check that made the change, None if the operator did.
    """
    server, before, after = change.server, change.before, change.after
    name = _server_name(load.backend, server)
    has_ended_stopping = before.is_stopping and not after.is_stopping
    if (before.is_up != after.is_up or has_ended_stopping) and outcome is not None:
        message = f"{name} is {'UP' if after.is_up else 'DOWN'}{_reason(outcome)}. {_counts(change, load)}"
        return (message, _remains(name)) if after.state is AdminState.DRAIN else (message,)
    word = "UP" if after.is_up else "DOWN"
    if before.state is after.state:  # the operator has set its health
        health = "stopping" if after.is_stopping else word
        return (f"{name} is {health}, changed from CLI. {_counts(change, load)}",)
    if after.state is AdminState.MAINT:
        if not before.is_up:
            return (f"{name} was DOWN and now enters maintenance.",)
        return (f"{name} is going DOWN for maintenance. {_counts(change, load)}",)
    if before.state is AdminState.MAINT:
        mode = "DRAIN" if after.state is AdminState.DRAIN else "READY"
        message = f"{name} is {word}/{mode} (leaving forced maintenance)."
        return (message, _remains(name)) if after.state is AdminState.DRAIN else (message,)
    if after.state is AdminState.DRAIN:
        return (f"{name} enters drain state. {_counts(change, load)}",)
    return (f"{name} is {word} (leaving forced drain).",)


def check_message(backend: str, server: BackendServer, outcome: CheckOutcome) -> str:
    """Return the sentence of ``option log-health-checks``: a check has moved a server towards down or up."""
    verdict = "succeeded" if outcome.result.code.is_passed else "failed"
    name = f"{'backup ' if server.is_backup else ''}server {backend}/{server.name}"
    progress = server.health.progress if server.health is not None else ""
    return f"Health check for {name} {verdict}{_reason(outcome)}, status: {progress}."


def no_server_message(backend: str, servers: Sequence[BackendServer]) -> str:
    """Return why none of these servers can be used. The words are mailproxy's own."""
    reasons = [f"{server.name}: {unusable_reason(server)}" for server in servers[:_NAMED_SERVERS_MAX]]
    if (more := len(servers) - _NAMED_SERVERS_MAX) > 0:
        reasons.append(f"and {more} more")
    return f"no server of {backend} can be used ({'; '.join(reasons)})"


def unusable_reason(server: BackendServer) -> str:
    """Return why new sessions do not go to a server, for one that is not eligible."""
    if not server.addresses:
        return server.resolve_error
    if server.is_stopping:
        return "stopping"
    if server.is_up and server.state is AdminState.READY:
        return "weight 0" if server.weight == 0 else "backup"
    result = f", {server.last_check.result}" if server.last_check and not server.is_up else ""
    return f"{server.status}{result}"


def _server_name(backend: str, server: Server) -> str:
    return f"{'Backup ' if server.is_backup else ''}Server {backend}/{server.name}"


def _remains(name: str) -> str:
    return f"{name} remains in forced drain mode."


def _reason(outcome: CheckOutcome) -> str:
    duration = f", check duration: {outcome.ms}ms" if outcome.ms >= 0 else ""
    return f", reason: {outcome.result}{duration}"


def _counts(change: StateChange[BackendServer], load: BackendLoad) -> str:
    active, backup = change.active, change.backup
    on_backup = " Running on backup." if backup and not active else ""
    if change.server.accepts_persistent:
        return (
            f"{active} active and {backup} backup servers online.{on_backup} "
            f"{change.requeued} sessions requeued, {load.waiting} total in queue."
        )
    return (
        f"{active} active and {backup} backup servers left.{on_backup} {load.sessions} sessions active, "
        f"{change.requeued} requeued, {load.waiting} remaining in queue."
    )
