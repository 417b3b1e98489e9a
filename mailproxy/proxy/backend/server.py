"""A server at work: the pool's server with what it takes to reach it, who is there, and what its checks said."""

from __future__ import annotations

import math
from typing import Protocol

import trio
from attrs import define, field, frozen

from mailproxy import config
from mailproxy.address import ServerAddress, TcpAddress, unmap_ipv4
from mailproxy.net.dial import Endpoint, Options, Source
from mailproxy.net.tls.context import Context
from mailproxy.pool import PassiveHealth, Server
from mailproxy.protocol.capabilities import Capabilities
from mailproxy.protocol.checks.result import CheckResult
from mailproxy.proxy.backend.header_builder import ProxyHeaderBuilder


class ActiveSession(Protocol):
    """A session that has a place at a server."""

    def on_server_down(self, *, close_sessions: bool) -> None:
        """The server is down or in maintenance; ``shut_down``: sessions there are to end."""


@frozen
class CheckOutcome:
    """The outcome of the last check: how it ended, how long it took in milliseconds, -1 where nobody measured."""

    result: CheckResult
    ms: int
    login: Login | None = None


@frozen
class Login:
    """What a check that passed has learnt of a connection which the server sees as those of sessions whose TLS ends here.

    ``obstacle``: why no client can log in over it, in words, with the remedy; empty where one can.
    """

    capabilities: Capabilities
    obstacle: str


@define(eq=False, kw_only=True)
class BackendServer(Server):
    """A server with what it takes to reach it. ``nap`` is what its checks wait in for the next one to be due."""

    config: config.Server
    tls_context: Context | None
    proxy_header: ProxyHeaderBuilder | None
    options: Options = field(default=())
    source: Source | None = field(default=None)
    resolve_error: str = field(default="not looked up yet")
    active_sessions: set[ActiveSession] = field(factory=set)
    last_check: CheckOutcome | None = field(default=None)
    passive_health: PassiveHealth | None = field(default=None)
    login: Login | None = field(default=None)
    # Sessions that could not be connected since the last line about them.
    failures: int = field(default=0)
    failure_logged: float = field(default=-math.inf)
    next_check_scope: trio.CancelScope = field(factory=trio.CancelScope)

    @property
    def server_name(self) -> str | None:
        """The name to ask for and to verify."""
        return tls_name(self.config.tls, self.config.address)

    def source_for(self, client: tuple[str, int] | None) -> Source | None:
        """The local address of a connection for this client; None for the route's, as where the client has no address."""
        if self.config.source != "client":
            return self.source
        return Source(unmap_ipv4(client[0]), is_foreign=True) if client is not None else None

    def check_soon(self, seconds: float = 0.0) -> None:
        """Let the next check come after so long at most."""
        self.next_check_scope.deadline = min(self.next_check_scope.deadline, trio.current_time() + seconds)

    def expect(self) -> None:
        """It has an address at last: have it checked now, and be up if that check passes.

        The checks before failed for want of an address, which says nothing of the server.
        """
        if self.health is not None:
            self.health.require_one_pass()
        self.check_soon()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What to connect to; empty while a host name has no address."""
        return self.addresses  # type: ignore[return-value]  # the pool knows them as opaque values


def tls_name(tls: config.ServerTls | None, address: ServerAddress) -> str | None:
    """The name that a server at this address is asked for and verified by."""
    if tls is not None and tls.server_name is not None:
        return tls.server_name
    if not isinstance(address, TcpAddress):
        return None
    return address.host.rstrip(".")  # certificates have names without the root's dot
