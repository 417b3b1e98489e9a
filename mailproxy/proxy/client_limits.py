"""The limits per client of a frontend: the client that a session counts for, and what is logged."""

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

# The smallest network that a provider assigns to a customer (RFC 6177). A device may use any address in it.
_PREFIX_V6 = 64


class Clients:
    """The clients of one frontend, and their limits.

    Args:
        frontend: The frontend's table in the configuration.
        tables: Where the counts of all workers are; None in a single process.

    Attributes:
        refused: The number of sessions that were rejected so far because of a limit.
        remove_session: Counts a session out. Takes what ``add_session`` returned.
    """

    def __init__(self, frontend: config.Frontend, tables: ClientTables | None = None) -> None:
        rate = frontend.max_session_rate_per_client
        sessions, rates = (tables.sessions, tables.rates) if tables is not None else (None, None)
        self.rejected = 0
        self._rate = rate
        exempt = frontend.max_sessions_per_client_exempt
        self._exempt = Networks(exempt) if exempt else None
        self._tables = tables
        self._secret = tables.secret if tables is not None else None
        self._clock: Callable[[], float] = time.monotonic  # not trio's, whose offset differs between workers
        self._limits = ClientLimits(
            max_sessions=frontend.max_sessions_per_client,
            max_rate=rate.count if rate is not None else 0,
            sessions=SessionCounts(sessions),
            rates=RateCounts(rate.per, published=rates) if rate is not None else None,
        )
        self.remove_session: Callable[[int], None] = self._limits.remove

    def take_over(self, before: Clients) -> None:
        """Count on from another configuration of this frontend, as far as both limit the same."""
        self.rejected = before.rejected
        tables = self._tables
        # Shared tables have one writer in each worker, also for the sessions of the configuration before.
        if tables is not None or (self._limits.max_sessions and before._limits.max_sessions):
            self._limits.sessions = before._limits.sessions
        if self._rate is not None and before._rate is not None and self._rate.per == before._rate.per:
            self._limits.rates = before._limits.rates
        if tables is not None:
            self.share_with(tables)

    def share_with(self, tables: ClientTables) -> None:
        """Count the sessions of these workers, too: there are more than before."""
        self._tables = tables
        self._limits.sessions.share_with(tables.sessions)
        if self._limits.rates is not None:
            self._limits.rates.share_with(tables.rates)

    def add_session(self, client_info: ClientInfo) -> int | None:
        """Count a session of this client.

        Returns:
            What to give to ``remove_session`` when the session ends; None if there is nothing to count out.

        Raises:
            SessionEndedError: The client has reached a limit. There is nothing to count out then.
        """
        client = self._client(client_info)
        if client is None:
            return None
        reached = self._limits.add(client, self._clock())
        if reached is not None:
            self.rejected += 1
            raise SessionEndedError(end_reasons.CLIENT_LIMIT, self._describe(client_info.host, reached))
        return client if self._limits.max_sessions else None

    def limit_reached(self, client_info: ClientInfo) -> str:
        """Return why ``add_session`` would raise now; empty if it would not. It counts nothing."""
        client = self._client(client_info)
        reached = self._limits.peek(client, self._clock()) if client is not None else None
        return self._describe(client_info.host, reached) if reached is not None else ""

    def _client(self, client_info: ClientInfo) -> int | None:
        """Return what this client counts for; None if it is not limited."""
        source = client_info.source
        if source is None or client_info.is_proxy:
            return None
        host = source[0]
        if self._exempt is not None and host in self._exempt:
            return None
        client = client_key(host, prefix_v6=_PREFIX_V6)
        return client if self._secret is None else client_hash(client, self._secret)

    def _describe(self, host: str, reached: LimitReached) -> str:
        name = client_network(host)
        rate = self._rate
        if rate is None or reached.limit == "max_sessions_per_client":
            limit, s = self._limits.max_sessions, "s" if reached.count > 1 else ""
            return f"{name} has {reached.count} session{s}, max_sessions_per_client is {limit}"
        per = write_duration(rate.per)
        return f"{name} made {reached.count} connections in {per}, max_session_rate_per_client is {rate.count} in {per}"


def client_limits(frontend: config.Frontend, tables: ClientTables | None = None) -> Clients | None:
    """Return the clients of a frontend; None if it does not limit them."""
    return Clients(frontend, tables) if frontend.limits_clients else None


def client_network(host: str) -> str:
    """Return what the log calls the client that an address counts for: an IPv4 address or an IPv6 network."""
    host = unmap_ipv4(host.partition("%")[0])
    return str(ip_network((host, _PREFIX_V6), strict=False)) if ":" in host else host
