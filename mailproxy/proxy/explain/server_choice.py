"""The choice of a server, as ``Dispatch`` and ``SlotLease`` make it, without taking a slot."""

from __future__ import annotations

from collections.abc import Sequence

from mailproxy.config.units import write_duration
from mailproxy.log import end_reasons
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.backend.state_messages import unusable_reason
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.explain.connection import describe_connection
from mailproxy.proxy.explain.explanation import Explanation
from mailproxy.proxy.explain.question import View

_BALANCE = {
    "leastconn": "the server with the fewest sessions for its weight",
    "roundrobin": "each server in turn, by weight",
    "first": "the first server that is not full",
    "random": "the better of two servers drawn by weight",
    "source": "the server to which the hash of the client's address belongs",
}


def choose_server(answer: Explanation, backend: Backend, client: ClientInfo, view: View) -> None:
    """Add the steps from the backend to the server."""
    key = backend.client_key(client)
    sticky = _sticky_server(answer, backend, key, view)
    if sticky is None:
        _list_unusable(answer, backend)
    candidates = backend.candidates(key, required=sticky)
    if not candidates:
        _queue(answer, backend, sticky)
        return
    answer.candidates = tuple(server.name for server in candidates)
    if sticky is None:
        _balance(answer, backend, candidates, is_running=view.frontends is not None)
    if len(candidates) == 1:
        answer.server = candidates[0].name
    described = describe_connection(backend.config, candidates, client)
    for sentence in described:
        answer.add_step(sentence)


def _sticky_server(
    answer: Explanation, backend: Backend, key: int | None, view: View
) -> BackendServer | None:
    """Return the server that the client had, if it accepts its sessions, and describe it."""
    pool = backend.pool
    if pool.stick is None or key is None:
        return None
    if view.frontends is None:
        answer.add_step("Clients return to the server that they had (stick). Here the client is new.")
        return None
    index = pool.stick.peek(key, view.now)
    if index is None:
        answer.add_step(
            "Clients return to the server that they had (stick). The table has no entry for this one."
        )
        return None
    had = pool.servers[index]
    sticky = pool.sticky_server(key, view.now, renews=False)
    if sticky is None:
        reason = (
            "is being drained of its sessions"
            if had.is_vacated
            else f"cannot be used ({unusable_reason(had)})"
        )
        answer.add_step(f"The client had server {had.name} (stick), but that {reason}.")
    else:
        answer.add_step(f"The client had server {sticky.name}, and returns to it (stick).")
    return sticky


def _list_unusable(answer: Explanation, backend: Backend) -> None:
    """Describe which servers new sessions do not get, and why."""
    eligible = set(backend.pool.eligible)
    out = [
        f"{server.name}: {unusable_reason(server)}" for server in backend.servers if server not in eligible
    ]
    if out:
        answer.add_step(f"Of backend {backend.name}, these servers get no new clients now: {'; '.join(out)}.")
    if any(server.is_backup for server in eligible):
        backups = "all backups are" if backend.pool.all_backups else "the first usable backup is"
        answer.add_step(f"No active server can be used, so {backups}.")


def _balance(
    answer: Explanation, backend: Backend, candidates: Sequence[BackendServer], *, is_running: bool
) -> None:
    """Describe how the balance method decides."""
    method = backend.config.balance
    rule = f"Backend {backend.name} has balance {method}: {_BALANCE[method]}"
    full = [server.name for server in backend.pool.eligible if server.is_full]
    if full:
        rule += f", without {', '.join(full)}, whose slots are all taken (max_sessions)"
    names = ", ".join(_with_load(server) if is_running else server.name for server in candidates)
    if len(candidates) == 1:
        only = ", the only one that can be used" if len(backend.pool.eligible) == 1 else ""
        answer.add_step(f"{rule}. That is {names}{only}.")
        return
    depends = "turns decide" if is_running else "it depends on the sessions that there are"
    answer.add_step(f"{rule}. It is one of {names}: {depends}.")


def _with_load(server: BackendServer) -> str:
    plural = "" if server.sessions == 1 else "s"
    return f"{server.name} ({server.sessions} session{plural}, weight {server.effective_weight:g})"


def _queue(answer: Explanation, backend: Backend, sticky: BackendServer | None) -> None:
    """Describe a session that gets no slot now."""
    pool = backend.pool
    if sticky is None and not pool.has_usable_server:
        answer.refuse(end_reasons.NO_SERVER, backend.no_server_reason())
        return
    waiting = pool.waiting
    if 0 < pool.max_queue <= waiting:
        answer.refuse(end_reasons.QUEUE_FULL, f"{waiting} wait already, which is max_queue")
        return
    what = f"server {sticky.name} has no free slot" if sticky is not None else "no server has a free slot"
    ahead = f"{waiting} wait already" if waiting else "nothing else waits"
    seconds = write_duration(backend.config.timeouts.queue)
    answer.add_step(
        f"Because {what} (max_sessions), the session waits in the queue of backend {backend.name}, where {ahead}. "
        f"After {seconds} it ends with queue-timeout (timeouts.queue)."
    )
    if sticky is not None:
        answer.candidates, answer.server = (sticky.name,), sticky.name
