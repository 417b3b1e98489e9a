"""The tables of ``[frontends.NAME]``."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from mailproxy.address import BindAddress
from mailproxy.config.model.connection import KeepAlive, Protocol
from mailproxy.config.model.setting import setting
from mailproxy.config.model.tls import FrontendTls
from mailproxy.config.values import (
    Account,
    AlpnName,
    Count,
    Line,
    Mode,
    Name,
    Network,
    Port,
    Positive,
    PositiveSeconds,
    ProxySource,
    RateCount,
    RatePeriod,
    Seconds,
    SniPatterns,
)

BindMode = Literal["forward", "passthrough", "tls", "starttls"]


@frozen(kw_only=True)
class FrontendTimeouts:
    """Timeouts on the client's side. Each of them ends the session."""

    client: PositiveSeconds = setting(
        "idle timeout: no byte from or to the client", None, default_text="31m for imap and tcp, else 10m"
    )
    proxy_header: PositiveSeconds = setting("for receiving the whole PROXY header", PositiveSeconds(3.0))
    handshake: PositiveSeconds = setting(
        "for the ClientHello and the TLS handshake together", PositiveSeconds(10.0)
    )
    negotiation: PositiveSeconds = setting(
        "from the greeting to STARTTLS, on binds that upgrade their sessions", PositiveSeconds(180.0)
    )
    half_closed: PositiveSeconds = setting(
        "idle timeout of one side after the other has closed", PositiveSeconds(60.0)
    )


@frozen(kw_only=True)
class Bind:
    """One address that a frontend listens on."""

    address: BindAddress = setting(
        '"*:143" (IPv4), "[::]:993" (both families), "unix:/run/x.sock", "fd:3" or "fd:NAME" (inherited); port 0 is any'
    )
    name: Name | None = setting(
        "name in logs and statistics; several binds may share one", None, default_text="the address"
    )
    mode: BindMode = setting(
        "what happens to the bytes of sessions",
        "forward",
        details="`forward` relays them as they are. `passthrough` relays TLS without decrypting it, and waits for the "
        "ClientHello first. `tls` terminates TLS here. `starttls` greets clients in clear text and upgrades them here.",
    )
    starttls_required: bool | None = setting(
        "with mode `starttls`: serve no client that does not upgrade",
        None,
        default_text="true, for protocol smtp false",
        details="With `false`, a client that does not upgrade is joined to a server in clear text. On port 25 that is what RFC "
        "3207, section 4, wants.",
    )
    accept_proxy: tuple[ProxySource, ...] = setting(
        "networks whose connections must begin with a PROXY header",
        (),
        details="The header has version 1 or 2. Connections from other networks are rejected, unless "
        '`proxy_optional` is true. `"unix"` stands for clients of a Unix socket.',
    )
    proxy_optional: bool = setting(
        "accept connections from networks outside `accept_proxy`, without a header", False
    )
    backlog: Positive = setting("connections that wait in the kernel to be accepted", 1024)
    tcp_user_timeout: PositiveSeconds | None = setting(
        "how long sent data may stay unacknowledged before the connection ends", None
    )
    keepalive: KeepAlive | bool = setting("TCP keep-alive: true with the kernel's values, or a table", False)
    free_bind: bool = setting("bind an address that this machine does not have yet", False)
    interface: Name | None = setting("accept connections from this network interface only", None)
    fast_open: bool = setting("TCP Fast Open", False)
    v6only: bool = setting("`[::]` takes IPv6 only", False)
    unix_mode: Mode | None = setting("permission bits of a Unix socket", None, default_text="the umask's")
    unix_user: Account | None = setting("owner of a Unix socket", None)
    unix_group: Account | None = setting("group of a Unix socket", None)
    tls: FrontendTls | None = setting("TLS of this bind alone", None, default_text="the frontend's")


@frozen(kw_only=True)
class Route:
    """A rule that sends sessions to another backend than the frontend's.

    A session matches a route if it matches every condition that the route has.
    """

    sni: SniPatterns | None = setting(
        "condition: the server name is in the list",
        None,
        details='`"*."` stands for exactly one label. `false` matches clients that send no server name.',
    )
    alpn: tuple[AlpnName, ...] = setting(
        "condition: the client offers one of these application protocols", ()
    )
    client: tuple[Network, ...] = setting(
        "condition: the client's address is in one of these networks",
        (),
        details='`"file:PATH"` means the networks of a file, one in each line. It is read at the start and at each '
        "reload.",
    )
    port: tuple[Port, ...] = setting("condition: the client connected to one of these ports", ())
    backend: Name | None = setting("backend for sessions that match", None)
    reject: bool = setting("reject sessions that match", False)
    mode: Literal["tls", "passthrough"] | None = setting(
        "terminate TLS or pass it through", None, default_text="the bind's"
    )

    @property
    def needs_client_hello(self) -> bool:
        """Whether a condition is about the ClientHello."""
        return self.sni is not None or bool(self.alpn)


@frozen(kw_only=True)
class SessionRate:
    """A limit on the sessions that a client may open in a period."""

    count: RateCount = setting("sessions that one client may open in a period")
    per: RatePeriod = setting("length of the period", RatePeriod(60.0))


@frozen(kw_only=True)
class Frontend:
    """Where clients connect.

    For the two limits per client, a client is an IPv4 address or an IPv6 /64 network. Both limits count the
    sessions of all workers.
    """

    name: Name = setting("the table's name")
    profile: Name | None = setting("the profile to inherit from", None)
    protocol: Protocol = setting("the protocol of clients; decides default timeouts", "tcp")
    backend: Name | None = setting(
        "backend for sessions that match no route; without it they are rejected", None
    )
    max_sessions: Count = setting(
        "sessions at the same time; at the limit, accepting waits; 0: no limit", Count(0)
    )
    max_sessions_per_client: Count = setting(
        "sessions of one client at the same time; more are ended; 0: no limit", Count(0)
    )
    max_session_rate_per_client: SessionRate | None = setting(
        "sessions that one client may open in a period; false: no limit", None
    )
    max_sessions_per_client_exempt: tuple[Network, ...] = setting(
        "networks whose clients neither limit per client applies to", ()
    )
    greeting: Line | None = setting(
        "text of greetings that the proxy gives itself", None, default_text="ready."
    )
    refusal: Line | None = setting(
        "text of the line with which a session is refused", None, default_text="depends on the reason"
    )
    goodbye: Literal["always", "when-known", "never"] = setting(
        "when a session that the proxy ends gets a last line in its protocol",
        "when-known",
        details="The line is sent where the server's last response is complete. `when-known` does it where the client's TLS "
        "ends here, or the client was greeted here. `always` also does it where clear text is forwarded.",
    )
    capabilities: tuple[Line, ...] = setting(
        "what is announced before TLS",
        (),
        default_text="what the health check has learnt from a server",
        details="One capability with its arguments is one string, such as `SIZE 52428800`. What logs in is left out, and "
        "STARTTLS is added.",
    )
    greeting_delay: Seconds = setting("wait before the greeting of SMTP, submission and LMTP", Seconds(0.0))
    early_talkers: Literal["refuse", "count"] = setting(
        "clients that send something during `greeting_delay`",
        "refuse",
        details="`refuse` ends the session with 554. `count` counts it as one of `max_errors`.",
    )
    max_errors: Positive = setting("bad commands before TLS; the last one ends the session", 10)
    timeouts: FrontendTimeouts = setting("timeouts on the client's side", FrontendTimeouts)
    log_null: bool = setting("log sessions that the client ends before it sends a byte", False)
    log_start: bool = setting("also log a line when a session is connected", False)
    log_steps: bool = setting("also log a line with the time of each phase of a session", False)
    tls: FrontendTls | None = setting("TLS towards clients", None)
    bind: tuple[Bind, ...] = setting("addresses to listen on", ())
    routes: tuple[Route, ...] = setting("rules for other backends; the first match wins", ())

    @property
    def limits_clients(self) -> bool:
        """Whether there is a limit per client."""
        return self.max_sessions_per_client > 0 or self.max_session_rate_per_client is not None

    @property
    def backend_names(self) -> tuple[str, ...]:
        """The backends that its sessions may go to."""
        names = (self.backend, *(route.backend for route in self.routes))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def requires_starttls(self, bind: Bind) -> bool:
        """Whether a client of this bind must upgrade."""
        return self.protocol != "smtp" if bind.starttls_required is None else bind.starttls_required

    def terminates_tls(self, bind: Bind) -> bool:
        """Whether TLS of sessions may be terminated at this bind, by its mode or by that of a route."""
        return bind.mode in ("tls", "starttls") or (
            bind.mode == "passthrough" and any(route.mode == "tls" for route in self.routes)
        )
