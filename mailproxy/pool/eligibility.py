"""Which servers of a backend may be chosen now, and which part of their weight counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mailproxy.pool.server import Server

_THROTTLE_MIN = 0.01  # HAProxy: "grows linearly from 1 to 100%" (configuration manual, "slowstart")

S = TypeVar("S", bound=Server)


def eligible_servers(servers: Sequence[S], *, all_backups: bool = False) -> Sequence[S]:
    """Return the usable active servers. If there are none, return the first usable backup, or all of them.

    ``all_backups`` is HAProxy's ``option allbackups``. A full server is eligible: sessions wait for it and
    do not go to a backup, which may be a server that must not get sessions while the active ones are up.
    """
    active = [server for server in servers if server.is_usable and not server.is_backup]
    if active:
        return active
    backups = [server for server in servers if server.is_usable and server.is_backup]
    return backups if all_backups else backups[:1]


def usable_counts(servers: Sequence[Server]) -> tuple[int, int]:
    """Return the numbers of usable servers: active ones and backups."""
    usable = [server.is_backup for server in servers if server.is_usable]
    return len(usable) - sum(usable), sum(usable)


def slow_start_factor(server: Server, now: float) -> float:
    """Return the part of its weight and ``max_sessions`` that a server has at ``now``.

    It grows linearly over ``slow_start`` from 0.01 to 1. It is 1 for a server that did not come up from down:
    as in HAProxy, the start of the proxy is no slow start.
    """
    if server.up_since is None or not server.slow_start or now >= server.up_since + server.slow_start:
        return 1.0
    part = max(now - server.up_since, 0.0) / server.slow_start
    return _THROTTLE_MIN + (1.0 - _THROTTLE_MIN) * part
