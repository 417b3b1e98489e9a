"""A server as sessions and health checks use it: the pool's server, and what a connection to it needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import trio
from attrs import define, field, frozen

from mailproxy import config
from mailproxy.address import ServerAddress, TcpAddress, unmap_ipv4
from mailproxy.net.dial import Endpoint, Options, Source
from mailproxy.net.tls.context import Context, make_client_context
from mailproxy.pool import PassiveHealth, Server
from mailproxy.protocol.capabilities import Capabilities
from mailproxy.protocol.checks.result import CheckResult
from mailproxy.proxy.backend.header_builder import ProxyHeaderBuilder

_IDENTITY = frozenset({"XCLIENT", "XFORWARD"})

ServerContexts = Mapping[config.ServerTls, Context]
"""The TLS contexts towards servers, one for each different ``tls`` table."""


def server_context(contexts: ServerContexts, tls: config.ServerTls) -> Context:
    """Return the TLS context towards a server.

    The contexts of the configuration are loaded at the start. The table of a check that follows an inherited
    socket's port is known only later. It names no files, so its context can be made here.
    """
    return contexts.get(tls) or make_client_context(tls, None)


class ActiveSession(Protocol):
    """A session that holds a slot of a server."""

    def on_server_down(self, *, close_sessions: bool) -> None:
        """React to a server that went down or into maintenance.

        Args:
            close_sessions: Whether connected sessions end (``on_marked_down = "shutdown-sessions"``).
        """


@frozen
class CheckOutcome:
    """The outcome of a health check.

    Attributes:
        result: How it ended.
        ms: How long it took in milliseconds, -1 if it was not measured.
        login: What it has learnt about logins, None if it has not looked.
        listed: The capabilities that the server has listed, names with arguments; empty if it has not asked.
    """

    result: CheckResult
    ms: int
    login: Login | None = None
    listed: tuple[tuple[str, ...], ...] = ()


@frozen
class Login:
    """What a passed check learnt about logins, on a connection like those of sessions whose TLS ends here.

    Attributes:
        capabilities: What the server offers on such a connection.
        obstacle: Why no client can log in, with the remedy. Empty if clients can.
    """

    capabilities: Capabilities
    obstacle: str


@define(eq=False, kw_only=True)
class BackendServer(Server):
    """The pool's server, and what a connection to it needs.

    Attributes:
        config: Its table in the configuration.
        tls_context: TLS towards it, None for clear text.
        proxy_header: Makes the PROXY headers that it gets, None if it gets none.
        options: Socket options of connections to it.
        source: The local address of connections to it. None for the one of the route, and with
            ``source = "client"``.
        resolve_error: Why its host name has no address.
        active_sessions: The sessions of this process that hold a slot.
        last_check: The outcome of the last check, None before the first.
        passive_health: Counts failed connections of sessions, None if they are not observed.
        login: What the last check that looked has learnt about logins.
        failures_unlogged: Failed connections of sessions since the last line about them.
        failure_logged_at: When that line was written.
        is_gone: Whether a reload has removed it, or given its name another address. Sessions may still have it.
        next_check_scope: Its deadline is the time of the next check.
        checks_paused: Whether the operator has switched its health checks off.
        listed: The capabilities that it lists, as the last check that asked has learnt them. Each is a name with
            arguments.
        opens: Whether the proxy talks to it before a session is joined, also if the client was not greeted here.
        lacking: What is announced before TLS and it does not list, as the last check that looked has learnt it.
        is_identity_refusal_logged: Whether there was a warning that it does not take the client's identity.
        check_port: The port that the operator wants it to be checked at, None for that of the configuration.
    """

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
    failures_unlogged: int = field(default=0)
    failure_logged_at: float = field(default=-math.inf)
    is_gone: bool = field(default=False)
    next_check_scope: trio.CancelScope = field(factory=trio.CancelScope)
    checks_paused: bool = field(default=False)
    check_port: int | None = field(default=None)
    listed: tuple[tuple[str, ...], ...] = field(default=())
    opens: bool = field(default=False)
    lacking: tuple[str, ...] = field(default=())
    is_identity_refusal_logged: bool = field(default=False)
    _listed_before: tuple[tuple[str, ...], ...] = field(default=(), init=False)
    _lists_identity: bool = field(default=False, init=False)

    @property
    def starts_tls(self) -> bool:
        """Whether its connections are upgraded with STARTTLS."""
        return self.config.tls is not None and self.config.tls.mode == "starttls"

    def believes_clients(self, protocol: str) -> bool:
        """Whether it may take a client's word for the proxy's, because it sees the proxy's address only.

        A PROXY header names the client, so that a server trusts the client or does not. Without one, a server lists
        XCLIENT and XFORWARD to those that it trusts. IMAP lists nothing of that kind.

        Args:
            protocol: What it speaks.
        """
        if self.config.identity != "proxy":
            return True
        if self.proxy_header is not None:
            return False
        if protocol == "imap" or not self.listed:
            return True
        if self.listed is not self._listed_before:
            self._listed_before = self.listed
            self._lists_identity = any(words[0].upper() in _IDENTITY for words in self.listed)
        return self._lists_identity

    @property
    def server_name(self) -> str | None:
        """The name that TLS asks for and verifies, None for a Unix socket without one."""
        return tls_name(self.config.tls, self.config.address)

    def source_for(self, client: tuple[str, int] | None) -> Source | None:
        """Return the local address of a connection for this client.

        Args:
            client: The client's address, None if it has none (Unix socket).

        Returns:
            None for the address of the route.
        """
        if self.config.source != "client":
            return self.source
        return Source(unmap_ipv4(client[0]), is_foreign=True) if client is not None else None

    def check_soon(self, seconds: float = 0.0) -> None:
        """Let the next check begin within this many seconds."""
        self.next_check_scope.deadline = min(self.next_check_scope.deadline, trio.current_time() + seconds)

    def expect_up(self) -> None:
        """Check the server now, and let one passed check bring it up: it has got its first address.

        The checks before failed because it had none, which says nothing about the server.
        """
        if self.health is not None:
            self.health.require_one_pass()
        self.check_soon()

    def retire(self) -> None:
        """Take note that a reload has removed it. The sessions that it still has bring it down no longer."""
        self.is_gone, self.passive_health = True, None

    def reconfigure(self, new: BackendServer) -> None:
        """Take over the keys of this server in another configuration, which has the same address.

        What the operator has set at run time stays until the file's own value changes.

        Args:
            new: The server as it was made from that configuration.
        """
        self._take_wishes(new)
        if not self._has_health_of(new):
            new.take_over_health(self.health)
            self.health = new.health
        before = self.config
        if (before.error_limit, before.error_clients, before.observe, before.check is None) != (
            new.config.error_limit, new.config.error_clients, new.config.observe, new.config.check is None,
        ):  # fmt: skip
            self.passive_health = new.passive_health
        if new.config.check is not None and new.config.check != before.check:
            self.check_soon(new.config.check.interval)  # it may be shorter than before
        self.config, self.is_backup = new.config, new.is_backup
        self.tls_context, self.proxy_header = new.tls_context, new.proxy_header
        self.options, self.source, self.opens = new.options, new.source, new.opens
        if self.slow_start != new.slow_start:
            self.slow_start = new.slow_start
            if not new.slow_start:
                self.throttle = 1.0

    def _has_health_of(self, new: BackendServer) -> bool:
        """Whether health checks of another configuration may go on where those of this one are."""
        if self.health is None or new.health is None or not self.is_checked:
            return False
        return (self.health.rise, self.health.fall) == (new.health.rise, new.health.fall)

    def _take_wishes(self, new: BackendServer) -> None:
        """Use weight and limit of another configuration if the file's values have changed."""
        if new.config.weight != self.config.weight:
            self.weight = new.weight
        if new.config.max_sessions != self.config.max_sessions:
            self.max_sessions = new.max_sessions

    def take_over(self, before: Server) -> None:
        """Take over what is known of the server that had this name before, at another address."""
        super().take_over(before)
        if isinstance(before, BackendServer):
            if self.config.weight == before.config.weight:
                self.weight = before.weight
            if self.config.max_sessions == before.config.max_sessions:
                self.max_sessions = before.max_sessions
            self.checks_paused, self.check_port = before.checks_paused, before.check_port

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The addresses to connect to, in this order. Empty while a host name has none."""
        return self.addresses  # type: ignore[return-value]  # the pool knows them as opaque values


def tls_name(tls: config.ServerTls | None, address: ServerAddress) -> str | None:
    """Return the name that TLS asks a server at this address for and verifies."""
    if tls is not None and tls.server_name is not None:
        return tls.server_name
    if not isinstance(address, TcpAddress):
        return None
    return address.host.rstrip(".")  # certificates have names without the root's dot
