"""The limits per client of a frontend at work: which client a session counts for, and what the log says of one too many."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_network

from mailproxy import config
from mailproxy.address import Networks, unmap_ipv4
from mailproxy.config.units import write_duration
from mailproxy.log import end_reasons
from mailproxy.pool import (
    ClientLimits,
    ClientTables,
    LimitReached,
    RateCounts,
    SessionCounts,
    client_hash,
    client_key,
)
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.session.errors import SessionEndedError

# What a customer of a provider has at least (RFC 6177). A device may take any address in it.
_PREFIX_V6 = 64


class Clients:
    """The clients of one frontend.

    Attributes:
        refused: sessions ended so far because their client was over a limit.
        leave: ends a session of the client that ``enter`` returned.
    """

    def __init__(self, settings: config.Frontend, tables: ClientTables | None = None) -> None:
        rate = settings.max_session_rate_per_client
        sessions, rates = (tables.sessions, tables.rates) if tables is not None else (None, None)
        self.refused = 0
        self._rate = rate
        exempt = settings.max_sessions_per_client_exempt
        self._exempt = Networks(exempt) if exempt else None
        self._secret = tables.secret if tables is not None else None
        self._clock: Callable[[], float] = time.monotonic  # trio's begins elsewhere in each worker
        self._limits = ClientLimits(
            max_sessions=settings.max_sessions_per_client,
            max_rate=rate.count if rate is not None else 0,
            sessions=SessionCounts(sessions),
            rates=RateCounts(rate.per, published=rates) if rate is not None else None,
        )
        self.leave: Callable[[int], None] = self._limits.remove

    def enter(self, caller: ClientInfo) -> int | None:
        """Begin a session of this client.

        Returns:
            What to give to ``leave`` when it ends; None if nothing is counted until then.

        Raises:
            SessionEndedError: the client is over a limit; there is nothing to leave then.
        """
        source = caller.source
        if source is None or caller.is_proxy:
            return None
        host = source[0]
        if self._exempt is not None and host in self._exempt:
            return None
        client = client_key(host, prefix_v6=_PREFIX_V6)
        if self._secret is not None:
            client = client_hash(client, self._secret)
        reached = self._limits.add(client, self._clock())
        if reached is not None:
            self.refused += 1
            raise SessionEndedError(end_reasons.CLIENT_LIMIT, self._detail(host, reached))
        return client if self._limits.max_sessions else None

    def _detail(self, host: str, reached: LimitReached) -> str:
        name = _client_name(host)
        rate = self._rate
        if rate is None or reached.limit == "max_sessions_per_client":
            limit, s = self._limits.max_sessions, "s" if reached.count > 1 else ""
            return f"{name} has {reached.count} session{s}, max_sessions_per_client is {limit}"
        per = write_duration(rate.per)
        return f"{name} made {reached.count} connections in {per}, max_session_rate_per_client is {rate.count} in {per}"


def client_limits(settings: config.Frontend, tables: ClientTables | None = None) -> Clients | None:
    """The clients of a frontend that limits them, else None."""
    return Clients(settings, tables) if settings.limits_clients else None


def _client_name(host: str) -> str:
    """A client as the limits know it: an IPv4 address or an IPv6 network."""
    host = unmap_ipv4(host.partition("%")[0])
    return str(ip_network((host, _PREFIX_V6), strict=False)) if ":" in host else host
