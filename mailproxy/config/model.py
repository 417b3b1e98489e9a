"""The configuration as frozen values: every key with its type, default and meaning.

This page is the one place that knows the keys: reading, inheritance, the JSON Schema and the table in the
documentation are all made from it. A key's default is what holds when nothing says otherwise; ``None`` means that
the default is worked out where the meaning says so. ``only`` names the values that this version can do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import Factory, field, frozen

from mailproxy.address import BindAddress, ServerAddress
from mailproxy.config.source.origin import Origin
from mailproxy.config.values import (
    Account,
    AlpnName,
    Count,
    ExpectedHex,
    ExpectedText,
    HelloName,
    HostName,
    KeepAliveCount,
    KeepAliveTime,
    LogTarget,
    Mode,
    Name,
    Network,
    Pattern,
    Port,
    Positive,
    PrefixV4,
    PrefixV6,
    ProxySource,
    RateCount,
    RatePeriod,
    Redispatch,
    Seconds,
    SentHex,
    SentText,
    ServerTlsMode,
    Size,
    SniPatterns,
    SourceAddress,
    SyslogTag,
    Text,
    TimeLimit,
    Weight,
    Workers,
)
from mailproxy.errors import ConfigError, Fault

Protocol = Literal["imap", "pop3", "submission", "smtp", "lmtp", "sieve", "tcp"]
BindMode = Literal["forward", "passthrough", "tls", "starttls"]
Balance = Literal["leastconn", "roundrobin", "source", "first", "random"]
SendProxy = Literal["none", "v1", "v2", "v2-ssl", "v2-ssl-cn"]
Tlv = Literal["authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key", "client-cert"]
OnMarkedDown = Literal["none", "shutdown-sessions"]
Observe = Literal["none", "connect"]
ServerState = Literal["ready", "drain", "maint"]
Facility = Literal[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
]  # fmt: skip
CheckType = Literal["none", "tcp", "tls", "imap", "pop3", "smtp", "lmtp", "sieve", "script"]

REQUIRED: Any = object()


def setting(
    meaning: str, default: Any = REQUIRED, *, only: tuple[object, ...] | None = None, shown: str = ""
) -> Any:
    """One key. ``only``: the values that this version can do; ``shown``: the default in words where it is worked out."""
    metadata = {"meaning": meaning, "only": only, "shown": shown}
    if default is REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, type):
        return field(default=Factory(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@frozen(kw_only=True)
class Process:
    """The process as a whole."""

    workers: Workers = setting("number of processes that serve, or auto for one per core", 1)
    relay: Literal["auto", "engine", "portable"] = setting(
        "how bytes are relayed: engine: one task for all sessions; portable: two for each, to compare with; auto: engine where "
        "the platform has epoll and splice",
        "auto",
    )  # fmt: skip
    max_sessions: Positive | None = setting(
        "sessions at once, of all workers; over it, accepting waits",
        None,
        shown="(descriptor limit - 200) / 2, times workers",
    )
    raise_descriptor_limit: bool = setting(
        "raise the soft limit on open files to the hard one at the start, to 1048576 at most", True
    )
    drain_timeout: Seconds = setting("how long sessions may go on after SIGTERM", Seconds(30.0))
    certificate_interval: TimeLimit = setting(
        "how often to look for renewed files of certificates, keys, CAs and CRLs", TimeLimit(10.0)
    )
    user: Account | None = setting("the user to become after binding and reading keys", None)
    group: Account | None = setting("the group to become", None, shown="the user's")


_LOG_TO = "stderr, stdout, a path, syslog:/dev/log or syslog:HOST:514"


@frozen(kw_only=True)
class _LogKeys:
    """What `[log]` and `[[log.targets]]` have in common."""

    level: Literal["debug", "info", "warning", "error"] = setting(
        "the least important events that are written", "info"
    )
    format: Literal["text", "json", "tcplog"] = setting(
        "text for eyes, json, or HAProxy's tcplog line", "text"
    )
    to: LogTarget = setting(_LOG_TO, LogTarget("stderr"))
    facility: Facility = setting("syslog's facility; for syslog only", "local0")
    tag: SyslogTag = setting("the name of the program that syslog gets; for syslog only", "mailproxy")


@frozen(kw_only=True)
class LogOutput(_LogKeys):
    """One of several targets of the log; each has its own format and level."""

    to: LogTarget = setting(_LOG_TO)


@frozen(kw_only=True)
class Log(_LogKeys):
    """Where lines go and what they look like; for several targets `[[log.targets]]`, and none of the other keys."""

    targets: tuple[LogOutput, ...] = setting("several targets at once", ())

    @property
    def outputs(self) -> Mapping[str, LogOutput]:
        """Each target by the path of its table in the configuration: several, or the one that `[log]` itself names."""
        if self.targets:
            return {f"log.targets[{index}]": each for index, each in enumerate(self.targets)}
        own = LogOutput(
            to=self.to, format=self.format, level=self.level, facility=self.facility, tag=self.tag
        )
        return {"log": own}


@frozen(kw_only=True)
class Admin:
    """The admin socket and HTTP."""

    socket: Path | None = setting("path of the admin socket", None, only=(None,))
    mode: Mode = setting("its permission bits", Mode(0o660), only=(0o660,))
    http: BindAddress | None = setting("address of metrics and status page", None, only=(None,))


@frozen(kw_only=True)
class FrontendTimeouts:
    """Timeouts of the client's side: each ends the session."""

    client: TimeLimit = setting(
        "limit for silence of the client", None, shown="31m for imap and tcp, else 10m"
    )
    proxy_header: TimeLimit = setting("limit for the whole PROXY header", TimeLimit(3.0))
    handshake: TimeLimit = setting(
        "limit for the ClientHello and the TLS handshake together", TimeLimit(10.0)
    )
    negotiation: TimeLimit = setting("limit from the greeting to STARTTLS", TimeLimit(180.0), only=(180.0,))
    half_closed: TimeLimit = setting(
        "limit for silence of one side after the other has closed", TimeLimit(60.0)
    )


@frozen(kw_only=True)
class CertificateFiles:
    """A certificate of the proxy, or a folder of them."""

    certificate: Path = setting("PEM file with the certificate and its chain, or a folder of such files")
    key: Path | None = setting(
        "PEM file with the private key; not for a folder",
        None,
        shown="in the certificate's file, else beside it",
    )


@frozen(kw_only=True)
class FrontendTls:
    """TLS towards clients."""

    certificates: tuple[CertificateFiles, ...] = setting(
        "PEM files or folders of them, chosen by server name; the first is the default", ()
    )
    key: Path | None = setting(
        "the private key of a single certificate file; for several, give each its own", None
    )
    client_ca: Path | None = setting("CA of client certificates, PEM", None)
    client_crl: Path | None = setting("their revocation list, PEM; each CA in the chain needs one", None)
    client_verify: Literal["none", "optional", "required"] = setting(
        "ask for client certificates; optional: none is fine, a bad one ends the handshake", "none"
    )
    min_version: Literal["1.2", "1.3"] = setting("lowest TLS version", "1.2")
    max_version: Literal["1.2", "1.3"] | None = setting("highest TLS version", None, shown="OpenSSL's")
    ciphers: Text | None = setting("TLS 1.2 ciphers, in OpenSSL's words", None, shown="OpenSSL's DEFAULT")
    ciphersuites: Text | None = setting(
        "TLS 1.3 ciphers, in OpenSSL's words; needs Python 3.15", None, shown="OpenSSL's"
    )
    curves: Text | None = setting(
        'groups of the key exchange, such as "X25519:P-256"; more than one needs Python 3.15',
        None,
        shown="OpenSSL's",
    )
    tickets: bool = setting("give clients session tickets, to come back with a shorter handshake", True)
    alpn: tuple[AlpnName, ...] = setting("application protocols to offer", ())
    strict_sni: bool = setting(
        "refuse clients that ask for no name, or for one that no certificate has", False
    )


@frozen(kw_only=True)
class KeepAlive:
    """TCP keep-alive; each key that is left out has the kernel's value."""

    idle: KeepAliveTime | None = setting(
        "silence before the first probe", None, shown="net.ipv4.tcp_keepalive_time"
    )
    interval: KeepAliveTime | None = setting("between two probes", None, shown="net.ipv4.tcp_keepalive_intvl")
    count: KeepAliveCount | None = setting(
        "probes without an answer that end the connection", None, shown="net.ipv4.tcp_keepalive_probes"
    )


@frozen(kw_only=True)
class Bind:
    """One address that a frontend listens on."""

    address: BindAddress = setting(
        '"*:143" (IPv4), "[::]:993" (both families), "unix:/run/x.sock", "fd:3" or "fd:NAME" (inherited); port 0 is any'
    )
    name: Name | None = setting(
        "its name in logs and statistics; several binds may have the same", None, shown="the address"
    )
    mode: BindMode = setting(
        "forward: bytes pass; passthrough: TLS passes; tls: TLS ends here; starttls: upgraded here",
        "forward",
        only=("forward", "passthrough", "tls"),
    )
    accept_proxy: tuple[ProxySource, ...] = setting(
        'networks that must send a PROXY header, v1 or v2; nobody else may connect; "unix": clients of a Unix socket',
        (),
    )
    proxy_optional: bool = setting("others may connect, without one", False)
    backlog: Positive = setting("connections that the kernel keeps waiting", 1024)
    tcp_user_timeout: TimeLimit | None = setting("unacknowledged data ends the connection after that", None)
    keepalive: KeepAlive | bool = setting("TCP keep-alive: true with the kernel's values, or a table", False)
    free_bind: bool = setting("bind an address that is not here yet", False)
    interface: Name | None = setting("take connections from this network interface only", None)
    fast_open: bool = setting("TCP Fast Open", False)
    v6only: bool = setting("[::] without IPv4", False)
    unix_mode: Mode | None = setting("permission bits of a Unix socket", None, shown="the umask's")
    unix_user: Account | None = setting("owner of a Unix socket", None)
    unix_group: Account | None = setting("group of a Unix socket", None)
    tls: FrontendTls | None = setting("TLS of this bind alone", None, shown="the frontend's")


@frozen(kw_only=True)
class Route:
    """Which sessions go to another backend than the frontend's; all that is given must match."""

    sni: SniPatterns | None = setting(
        'server names; "*." covers exactly one label; false: clients without one', None
    )
    alpn: tuple[AlpnName, ...] = setting("application protocols, of which the client offers one", ())
    client: tuple[Network, ...] = setting("client networks", ())
    port: tuple[Port, ...] = setting("ports that the client connected to", ())
    backend: Name | None = setting("where they go", None)
    reject: bool = setting("refuse them instead", False)
    mode: Literal["tls", "passthrough"] | None = setting("end TLS here or pass it", None, shown="the bind's")

    @property
    def needs_client_hello(self) -> bool:
        """Does it ask for what only a ClientHello says?"""
        return self.sni is not None or bool(self.alpn)


@frozen(kw_only=True)
class SessionRate:
    """How many sessions a client may open in a period."""

    count: RateCount = setting("sessions that one client may open in a period")
    per: RatePeriod = setting("length of the period", RatePeriod(60.0))


@frozen(kw_only=True)
class Frontend:
    """Where clients connect."""

    name: Name = setting("the table's name")
    profile: Name | None = setting("take the keys of this profile", None)
    protocol: Protocol = setting("decides default time limits", "tcp")
    backend: Name | None = setting(
        "backend for sessions that match no route; without it they are rejected", None
    )
    max_sessions: Count = setting("sessions at once; over it, accepting waits; 0 is no bound", Count(0))
    max_sessions_per_client: Count = setting(
        "sessions at once from one IPv4 address or IPv6 /64, of all workers; one more is ended; 0 is no bound",
        Count(0),
    )
    max_session_rate_per_client: SessionRate | None = setting(
        "sessions that one IPv4 address or IPv6 /64 may open in a period, of all workers; false for no bound",
        None,
    )
    max_sessions_per_client_exempt: tuple[Network, ...] = setting(
        "networks whose clients are under neither of these two limits", ()
    )
    timeouts: FrontendTimeouts = setting("timeouts of the client's side", FrontendTimeouts)
    log_null: bool = setting("log sessions that the client ends without having sent a byte", False)
    log_start: bool = setting("log a line when a session is connected, too", False)
    tls: FrontendTls | None = setting("TLS towards clients", None)
    bind: tuple[Bind, ...] = setting("addresses to listen on", ())
    routes: tuple[Route, ...] = setting("other ways for some; the first match wins", ())

    @property
    def limits_clients(self) -> bool:
        """Whether a client has a limit here."""
        return self.max_sessions_per_client > 0 or self.max_session_rate_per_client is not None

    @property
    def backend_names(self) -> tuple[str, ...]:
        """The backends that its sessions may go to."""
        names = (self.backend, *(route.backend for route in self.routes))
        return tuple(dict.fromkeys(name for name in names if name is not None))

    def terminates_tls(self, bind: Bind) -> bool:
        """May TLS end at this bind of it?"""
        return bind.mode == "tls" or (
            bind.mode == "passthrough" and any(route.mode == "tls" for route in self.routes)
        )


@frozen(kw_only=True)
class BackendTimeouts:
    """Timeouts of the servers' side."""

    connect: TimeLimit = setting("limit for connection and TLS handshake together", TimeLimit(5.0))
    queue: TimeLimit = setting("limit for waiting in the queue of a server or backend", TimeLimit(60.0))
    server: TimeLimit = setting(
        "limit for silence of the server", None, shown="31m for imap and tcp, else 10m"
    )
    check: TimeLimit = setting("limit for a whole health check", TimeLimit(5.0))


@frozen(kw_only=True)
class ServerTls:
    """TLS towards servers."""

    mode: ServerTlsMode = setting(
        "implicit, or starttls on a clear port; so far starttls is for checks of mail protocols only",
        "implicit",
    )
    verify: Literal["required", "chain", "none"] = setting(
        "chain and name, the chain alone, or nothing", "required"
    )
    ca: Path | None = setting("PEM file of the CA", None, shown="the system's")
    server_name: HostName | None = setting(
        "the name to ask for and to verify", None, shown="the address's host"
    )
    certificate: Path | None = setting("client certificate with its chain, PEM", None)
    key: Path | None = setting("its private key, where the file has none", None)
    min_version: Literal["1.2", "1.3"] = setting("lowest TLS version", "1.2")
    max_version: Literal["1.2", "1.3"] | None = setting("highest TLS version", None, shown="OpenSSL's")
    ciphers: Text | None = setting("TLS 1.2 ciphers, in OpenSSL's words", None, shown="OpenSSL's DEFAULT")
    ciphersuites: Text | None = setting(
        "TLS 1.3 ciphers, in OpenSSL's words; needs Python 3.15", None, shown="OpenSSL's"
    )
    curves: Text | None = setting(
        'groups of the key exchange, such as "X25519:P-256"; more than one needs Python 3.15',
        None,
        shown="OpenSSL's",
    )
    tickets: bool = setting("ask servers for session tickets; TLS 1.2, in 1.3 servers decide", True)


@frozen(kw_only=True)
class Stick:
    """Clients come back to the server that they had."""

    on: Literal["source"] = setting("what identifies a client", "source")
    size: Size = setting("entries", Size(200 * 1024))
    expire: TimeLimit = setting("an entry lives so long without use", TimeLimit(1800.0))
    prefix_v4: PrefixV4 = setting("bits of an IPv4 address that tell clients apart", PrefixV4(32))
    prefix_v6: PrefixV6 = setting("bits of an IPv6 address that tell clients apart", PrefixV6(64))


@frozen(kw_only=True)
class Connect:
    """A step of a check script: connect."""

    port: Port | None = setting("port", None, shown="the address's, else the check's, else the server's")
    address: ServerAddress | None = setting("address", None, shown="the check's, else the server's")
    tls: ServerTls | bool | None = setting(
        "right after connecting; a table of its own, true for that of sessions, or false",
        None,
        shown="the check's, else as sessions",
    )
    send_proxy: SendProxy | None = setting("PROXY header", None, shown="the check's, else as sessions")


@frozen(kw_only=True)
class Step:
    """One step of a check script: exactly one of connect, the two that send and the three that expect."""

    connect: Connect | None = setting("open a connection", None)
    send: SentText | None = setting("send this", None)
    send_hex: SentHex | None = setting("send these bytes", None)
    expect: ExpectedText | None = setting("a substring of what came so far", None)
    expect_regex: Pattern | None = setting("a regular expression; ^ and $ are those of any line", None)
    expect_hex: ExpectedHex | None = setting("bytes, in hex", None)
    not_: bool = setting("the expectation must not be met", False)
    timeout: TimeLimit | None = setting(
        "time limit of an expectation, which fails when it is over; with not = true, it has held",
        None,
        shown="the check's alone",
    )


@frozen(kw_only=True)
class Check:
    """Health checks of a server."""

    type: CheckType | None = setting(
        "what is tried", None, shown="the protocol's own where it can be known, else tcp"
    )
    interval: TimeLimit = setting("between two checks", TimeLimit(10.0))
    fast_interval: TimeLimit | None = setting("while the state changes", None, shown="interval")
    down_interval: TimeLimit | None = setting("while down", None, shown="interval")
    rise: Positive = setting("successes in a row to come up", 2)
    fall: Positive = setting("failures in a row to go down", 3)
    jitter: float = setting("shortens each interval by a random part, at most this share", 0.2)
    port: Port | None = setting(
        "port", None, shown="the address's, else the server's, else each of the binds that lead there"
    )
    address: ServerAddress | None = setting("address", None, shown="the server's")
    tls: ServerTls | bool | None = setting(
        "a table of its own, true for that of sessions (the system's CAs where they have none), or false",
        None,
        shown="as sessions; type tcp: none",
    )
    send_proxy: SendProxy | None = setting("PROXY header", None, shown="as sessions; type tcp: none")
    hello: HelloName | None = setting(
        "the name that EHLO or LHLO says; smtp, submission and lmtp only", None, shown="localhost"
    )
    timeout: TimeLimit | None = setting("time limit", None, shown="timeouts.check")
    steps: tuple[Step, ...] = setting("the script", ())


@frozen(kw_only=True)
class Server:
    """One server of a backend."""

    name: Name = setting("its name in logs and statistics", shown="its address")
    address: ServerAddress = setting('"10.0.0.1:993", "10.0.0.2", "imap.internal:993", "unix:/run/x.sock"')
    weight: Weight = setting("share of the sessions, 0 to 256; 0: only returning (sticky) clients", Weight(1))
    max_sessions: Count = setting(
        "sessions at once; over it, they wait in the backend's queue; 0 is no bound", Count(0)
    )
    slow_start: Seconds = setting(
        "after a server comes up, its weight and max_sessions grow during this time", Seconds(0.0)
    )
    backup: bool = setting("used only when all others are down", False)
    state: ServerState = setting("what it is at the start: ready, drain or maint", "ready")
    tls: ServerTls | None = setting("TLS towards this server", None, shown="the backend's")
    send_proxy: SendProxy | None = setting("PROXY header", None, shown="the backend's")
    send_proxy_tlvs: tuple[Tlv, ...] = setting("more than the safe default", (), shown="the backend's")
    forward_tlvs: bool = setting("pass a received header's TLVs on", False, shown="the backend's")
    keepalive: KeepAlive | bool = setting("TCP keep-alive", False, shown="the backend's")
    source: SourceAddress | None = setting("local address of connections", None, shown="the backend's")
    check: Check | None = setting("health checks, false for none", None, shown="the backend's")
    stick: Stick | None = setting("false: clients do not stick to this server", None, shown="the backend's")
    on_marked_down: OnMarkedDown = setting(
        "what becomes of its sessions when it goes down", "none", shown="the backend's"
    )
    observe: Observe = setting(
        "connect: sessions that cannot be connected count towards a failed check",
        "none",
        shown="the backend's",
    )
    error_limit: Positive = setting(
        "observe: failures in a row that make a failed check", 10, shown="the backend's"
    )
    error_clients: Positive = setting(
        "observe: different clients that must have met them", 1, shown="the backend's"
    )


# What a server takes from its backend when it does not say otherwise.
INHERITED_BY_SERVERS = (
    "tls", "send_proxy", "send_proxy_tlvs", "forward_tlvs", "keepalive", "source", "check", "stick", "on_marked_down", "observe",
    "error_limit", "error_clients",
)  # fmt: skip


@frozen(kw_only=True)
class Backend:
    """A group of servers that are interchangeable."""

    name: Name = setting("the table's name")
    profile: Name | None = setting("take the keys of this profile", None)
    protocol: Protocol = setting(
        "what the servers speak; decides the default time limit and checks",
        "tcp",
        shown="that of the frontends that lead here",
    )
    balance: Balance = setting(
        "how a server is chosen; source: by a hash of the client's address", "leastconn"
    )
    retries: Count = setting("connection attempts after the first", Count(3))
    redispatch: Redispatch = setting(
        "which retries try another server: true: the last one; a number n: every n-th; false: none", True
    )
    timeouts: BackendTimeouts = setting("timeouts of the servers' side", BackendTimeouts)
    max_queue: Count = setting(
        "sessions that may wait in the queue; more are rejected; 0 is no bound", Count(0)
    )
    send_proxy: SendProxy | None = setting(
        "PROXY header, sent before all else: v1, v2, with TLS facts, with the client certificate's name", None,
        shown="none",
    )  # fmt: skip
    send_proxy_tlvs: tuple[Tlv, ...] = setting("TLVs of v2 beside the safe default", ())
    forward_tlvs: bool = setting("pass a received header's TLVs on", False)
    tls: ServerTls | None = setting("TLS towards the servers; absent is clear text", None)
    stick: Stick | None = setting("clients come back to the server that they had", None)
    on_marked_down: OnMarkedDown = setting(
        "what becomes of a server's sessions when it goes down: they go on, or end", "none"
    )
    observe: Observe = setting(
        "connect: sessions that cannot be connected count towards a failed check", "none"
    )
    error_limit: Positive = setting("observe: failures in a row that make a failed check", 10)
    error_clients: Positive = setting("observe: different clients that must have met them", 1)
    keepalive: KeepAlive | bool = setting(
        "TCP keep-alive towards the servers: true with the kernel's values, or a table", False
    )
    source: SourceAddress | None = setting(
        'local address of connections: an IP address, or "client": the client\'s own, which needs CAP_NET_ADMIN and routes',
        None,
        shown="the route's",
    )
    resolve_interval: TimeLimit = setting(
        "host names are resolved again after that; those without an address every 4 seconds", TimeLimit(30.0)
    )
    resolve_prefer: Literal["ipv4", "ipv6"] | None = setting(
        "addresses of a host name that are tried first", None, shown="the resolver's order"
    )
    port: Port | None = setting(
        "for servers without one", None, shown="the port that the client connected to"
    )
    check: Check | None = setting(
        "health checks, false for none; servers count as up until their first check fails",
        None,
        shown="on, with the defaults of a check",
    )
    servers: tuple[Server, ...] = setting("the servers", ())


@frozen(kw_only=True)
class Config:
    """A whole configuration, without faults as far as its text can tell. ``source`` names the file."""

    process: Process = setting("the process as a whole", Process)
    log: Log = setting("where lines go", Log)
    admin: Admin = setting("admin socket and HTTP", Admin)
    frontends: dict[str, Frontend] = setting("where clients connect", dict)
    backends: dict[str, Backend] = setting("where sessions go", dict)
    source: str = setting("the file's name", "")
    origin: Origin = field(factory=lambda: Origin("", {}), eq=False, repr=False)
    # The hash of the content of the file, empty where there is none. It does not count when configurations are compared.
    digest: str = field(default="", eq=False, repr=False)

    def error(self, faults: Iterable[Fault]) -> ConfigError:
        """The error that reports these faults of the configuration, each with its line."""
        return self.origin.error(faults)

    @property
    def has_tls(self) -> bool:
        """Whether sessions may have TLS that begins or ends in this process."""
        return any(
            frontend.terminates_tls(bind) for frontend in self.frontends.values() for bind in frontend.bind
        ) or any(
            backend.tls or any(server.tls for server in backend.servers) for backend in self.backends.values()
        )
