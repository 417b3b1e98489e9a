"""How changes of servers are told: HAProxy's sentences, to the letter, because monitoring greps for them.

They are those of ``srv_append_status`` and its callers in src/server.c, and of src/check.c for single checks.
"""

from __future__ import annotations

from attrs import frozen

from mailproxy.pool import AdminState, Server, StateChange
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome


@frozen
class BackendLoad:
    """Where a server stands at the moment of its change: how many wait in the backend for any server, how many it has."""

    backend: str
    waiting: int
    sessions: int


def state_change_messages(
    change: StateChange[BackendServer], situation: BackendLoad, checked: CheckOutcome | None
) -> tuple[str, ...]:
    """What is said of a change; ``checked``: the check that made it, None if the operator did."""
    server, before, after = change.server, change.before, change.after
    who = _server_name(situation.backend, server)
    if before.is_up != after.is_up and checked is not None:
        said = f"{who} is {'UP' if after.is_up else 'DOWN'}{_reason(checked)}. {_left(change, situation)}"
        return (said, _remains(who)) if after.state is AdminState.DRAIN else (said,)
    word = "UP" if after.is_up else "DOWN"
    if after.state is AdminState.MAINT:
        if not before.is_up:
            return (f"{who} was DOWN and now enters maintenance.",)
        return (f"{who} is going DOWN for maintenance. {_left(change, situation)}",)
    if before.state is AdminState.MAINT:
        mode = "DRAIN" if after.state is AdminState.DRAIN else "READY"
        said = f"{who} is {word}/{mode} (leaving forced maintenance)."
        return (said, _remains(who)) if after.state is AdminState.DRAIN else (said,)
    if after.state is AdminState.DRAIN:
        return (f"{who} enters drain state. {_left(change, situation)}",)
    return (f"{who} is {word} (leaving forced drain).",)


def check_message(backend: str, server: BackendServer, checked: CheckOutcome) -> str:
    """What is said of a check that brought a server nearer to going down or coming up (``option log-health-checks``)."""
    verdict = "succeeded" if checked.result.code.is_passed else "failed"
    who = f"{'backup ' if server.is_backup else ''}server {backend}/{server.name}"
    progress = server.health.progress if server.health is not None else ""
    return f"Health check for {who} {verdict}{_reason(checked)}, status: {progress}."


def _server_name(backend: str, server: Server) -> str:
    return f"{'Backup ' if server.is_backup else ''}Server {backend}/{server.name}"


def _remains(who: str) -> str:
    return f"{who} remains in forced drain mode."


def _reason(checked: CheckOutcome) -> str:
    duration = f", check duration: {checked.ms}ms" if checked.ms >= 0 else ""
    return f", reason: {checked.result}{duration}"


def _left(change: StateChange[BackendServer], situation: BackendLoad) -> str:
    active, backup = change.active, change.backup
    on_backup = " Running on backup." if backup and not active else ""
    if change.server.accepts_persistent:
        return (
            f"{active} active and {backup} backup servers online.{on_backup} "
            f"{change.requeued} sessions requeued, {situation.waiting} total in queue."
        )
    return (
        f"{active} active and {backup} backup servers left.{on_backup} {situation.sessions} sessions active, "
        f"{change.requeued} requeued, {situation.waiting} remaining in queue."
    )
