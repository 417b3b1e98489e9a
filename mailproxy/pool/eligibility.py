"""Which servers of a backend serve now: the active ones or a backup, each with the part of its weight that counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from mailproxy.pool.server import Server

_LEAST_THROTTLE = 0.01  # HAProxy: "grows linearly from 1 to 100%" (configuration manual, "slowstart")

AnyServer = TypeVar("AnyServer", bound=Server)


def eligible_servers(servers: Sequence[AnyServer]) -> Sequence[AnyServer]:
    """The usable servers that are no backups; if there are none, the first usable backup alone; else nobody.

    HAProxy's rule without ``option allbackups``. A full server is in service: sessions wait for it, and do not go to a
    backup, which may be one that must not see them while the others live.
    """
    active = [server for server in servers if server.is_usable and not server.is_backup]
    if active:
        return active
    return [server for server in servers if server.is_usable and server.is_backup][:1]


def slow_start_factor(server: Server, now: float) -> float:
    """The part of its weight and ``max_sessions`` that a server has at ``now``, from 0.01 to 1: linear over ``slow_start``.

    A server that did not come up from down has all of it: as in HAProxy, the start of the proxy is no slow start.
    HAProxy takes a new step each twentieth of ``slow_start``, but not more often than each second.
    """
    if server.up_since is None or not server.slow_start or now >= server.up_since + server.slow_start:
        return 1.0
    part = max(now - server.up_since, 0.0) / server.slow_start
    return _LEAST_THROTTLE + (1.0 - _LEAST_THROTTLE) * part
