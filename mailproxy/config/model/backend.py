"""The tables of ``[backends.NAME]``."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from mailproxy.address import ServerAddress
from mailproxy.config.model.check import Check
from mailproxy.config.model.connection import KeepAlive, Protocol, SendProxy, Tlv
from mailproxy.config.model.setting import setting
from mailproxy.config.model.tls import ServerTls
from mailproxy.config.values import (
    Count,
    Name,
    Port,
    Positive,
    PositiveSeconds,
    PrefixV4,
    PrefixV6,
    Redispatch,
    Seconds,
    Size,
    SourceAddress,
    Weight,
)

Balance = Literal["leastconn", "roundrobin", "source", "first", "random"]
OnMarkedDown = Literal["none", "shutdown-sessions"]
Observe = Literal["none", "connect"]
Identity = Literal["proxy", "xclient", "id", "none"]
ServerState = Literal["ready", "drain", "maint"]

_OF_THE_BACKEND = "the backend's"
_SEND_PROXY = "PROXY header to send before all other bytes"
_SEND_PROXY_TLVS = "TLVs of a PROXY header of version 2, beside the safe default"
_IDENTITY = "how a server learns the client's address"
_FORWARD_TLVS = "pass on the TLVs of a PROXY header that the client's side received"
_ON_MARKED_DOWN = "what happens to the sessions of a server that goes down"
_OBSERVE = "which failed sessions count towards a failed check"
_ERROR_LIMIT = "for `observe`: failed sessions in a row that count as a failed check"
_ERROR_CLIENTS = "for `observe`: different clients that must have failed"


@frozen(kw_only=True)
class BackendTimeouts:
    """Timeouts on the servers' side."""

    connect: PositiveSeconds = setting("for connecting and the TLS handshake together", PositiveSeconds(5.0))
    greeting: PositiveSeconds = setting(
        "for the dialogue before a session is joined: greeting, STARTTLS, identity", PositiveSeconds(60.0)
    )
    queue: PositiveSeconds = setting("for waiting in the queue of a server or backend", PositiveSeconds(60.0))
    server: PositiveSeconds = setting(
        "idle timeout: no byte from or to the server", None, default_text="31m for imap and tcp, else 10m"
    )
    check: PositiveSeconds = setting("for a whole health check", PositiveSeconds(5.0))


@frozen(kw_only=True)
class Stick:
    """Stick table: clients return to the server that they had."""

    on: Literal["source"] = setting("what identifies a client", "source")
    size: Size = setting("entries; if there are more, the longest unused one is dropped", Size(200 * 1024))
    expire: PositiveSeconds = setting("how long an unused entry is kept", PositiveSeconds(1800.0))
    prefix_v4: PrefixV4 = setting("bits of an IPv4 address that identify a client", PrefixV4(32))
    prefix_v6: PrefixV6 = setting("bits of an IPv6 address that identify a client", PrefixV6(64))


@frozen(kw_only=True)
class Server:
    """One server of a backend."""

    name: Name = setting("name in logs and statistics", default_text="its address")
    address: ServerAddress = setting('"10.0.0.1:993", "10.0.0.2", "imap.internal:993", "unix:/run/x.sock"')
    weight: Weight = setting("share of the sessions; 0: returning (sticky) clients only", Weight(1))
    max_sessions: Count = setting(
        "sessions at the same time; others wait in the queue; 0: no limit", Count(0)
    )
    slow_start: Seconds = setting(
        "time in which `weight` and `max_sessions` grow, after the server comes up", Seconds(0.0)
    )
    backup: bool = setting("use this server only while all others are down", False)
    state: ServerState = setting("administrative state at the start", "ready")
    tls: ServerTls | None = setting("TLS towards this server", None, default_text=_OF_THE_BACKEND)
    send_proxy: SendProxy | None = setting(_SEND_PROXY, None, default_text=_OF_THE_BACKEND)
    send_proxy_tlvs: tuple[Tlv, ...] = setting(_SEND_PROXY_TLVS, (), default_text=_OF_THE_BACKEND)
    forward_tlvs: bool = setting(_FORWARD_TLVS, False, default_text=_OF_THE_BACKEND)
    identity: Identity = setting(_IDENTITY, "proxy", default_text=_OF_THE_BACKEND)
    keepalive: KeepAlive | bool = setting("TCP keep-alive", False, default_text=_OF_THE_BACKEND)
    source: SourceAddress | None = setting("local address of connections", None, default_text=_OF_THE_BACKEND)
    check: Check | None = setting("health checks; false: none", None, default_text=_OF_THE_BACKEND)
    stick: Stick | None = setting(
        "false: clients do not return to this server", None, default_text=_OF_THE_BACKEND
    )
    on_marked_down: OnMarkedDown = setting(_ON_MARKED_DOWN, "none", default_text=_OF_THE_BACKEND)
    observe: Observe = setting(_OBSERVE, "none", default_text=_OF_THE_BACKEND)
    error_limit: Positive = setting(_ERROR_LIMIT, 10, default_text=_OF_THE_BACKEND)
    error_clients: Positive = setting(_ERROR_CLIENTS, 1, default_text=_OF_THE_BACKEND)

    @property
    def sends_tls_facts(self) -> bool:
        """Whether its PROXY headers can have facts of the client's TLS."""
        return (
            str(self.send_proxy).startswith("v2-ssl")
            or self.forward_tlvs
            or any(tlv.startswith(("ssl-", "cert-", "client-")) for tlv in self.send_proxy_tlvs)
        )


# The keys that a server inherits from its backend.
INHERITED_BY_SERVERS = (
    "tls", "send_proxy", "send_proxy_tlvs", "forward_tlvs", "identity", "keepalive", "source", "check", "stick", "on_marked_down", "observe",
    "error_limit", "error_clients",
)  # fmt: skip


@frozen(kw_only=True)
class Backend:
    """A group of servers that do the same job."""

    name: Name = setting("the table's name")
    profile: Name | None = setting("the profile to inherit from", None)
    protocol: Protocol = setting(
        "the protocol of the servers; decides default timeouts and checks",
        "tcp",
        default_text="that of its frontends",
    )
    balance: Balance = setting(
        "how a server is chosen",
        "leastconn",
        details="`leastconn` takes the server with the fewest sessions for its weight, `roundrobin` each server in turn, `first` "
        "the first server that is not full. `random` draws two servers and takes the one with fewer sessions. `source` takes "
        "the server by a hash of the client's address.",
    )
    retries: Count = setting("attempts to connect after the first", Count(3))
    redispatch: Redispatch = setting(
        "which retries go to another server",
        True,
        details="Sessions that are not sticky go to another server with each retry. Of a sticky session, `true` is the last "
        "retry, and a number n is every n-th. With `false`, all retries go to the same server.",
    )
    all_backups: bool = setting(
        "use all backups while all other servers are down, and not only the first backup that is up", False
    )
    timeouts: BackendTimeouts = setting("timeouts on the servers' side", BackendTimeouts)
    max_queue: Count = setting("sessions in the queue; more are rejected; 0: no limit", Count(0))
    send_proxy: SendProxy | None = setting(
        _SEND_PROXY,
        None,
        default_text="none",
        details="`v2-ssl` adds the facts of the client's TLS, `v2-ssl-cn` also the common name of its certificate.",
    )
    send_proxy_tlvs: tuple[Tlv, ...] = setting(_SEND_PROXY_TLVS, ())
    forward_tlvs: bool = setting(_FORWARD_TLVS, False)
    identity: Identity = setting(
        _IDENTITY,
        "proxy",
        details="With `proxy`, `send_proxy` decides. `xclient` sends XCLIENT, and `id` the ID command of IMAP, to a server that "
        "trusts the proxy. `none` sends nothing. With all but `proxy`, what clients send under these names is refused until a "
        "login has succeeded.",
    )
    tls: ServerTls | None = setting("TLS towards the servers; without it, connections are in clear", None)
    stick: Stick | None = setting("stick table: clients return to the server that they had", None)
    on_marked_down: OnMarkedDown = setting(
        _ON_MARKED_DOWN,
        "none",
        details="With `none` they continue. With `shutdown-sessions` they end.",
    )
    observe: Observe = setting(
        _OBSERVE,
        "none",
        details="`connect` counts the sessions that cannot be connected.",
    )
    error_limit: Positive = setting(_ERROR_LIMIT, 10)
    error_clients: Positive = setting(_ERROR_CLIENTS, 1)
    keepalive: KeepAlive | bool = setting(
        "TCP keep-alive to the servers: true with the kernel's values, or a table", False
    )
    source: SourceAddress | None = setting(
        "local address of connections: an IP address, or `client`",
        None,
        default_text="the route's",
        details="`client` is the client's own address. That needs CAP_NET_ADMIN, and routes that lead the servers' answers "
        "back through the proxy.",
    )
    resolve_interval: PositiveSeconds = setting(
        "how often host names are resolved again",
        PositiveSeconds(30.0),
        details="A name that has no address yet is resolved again after 1, 2, and then every 4 seconds.",
    )
    resolve_prefer: Literal["ipv4", "ipv6"] | None = setting(
        "the addresses of a host name that are tried first", None, default_text="the resolver's order"
    )
    port: Port | None = setting(
        "port of servers that have none", None, default_text="the port that the client connected to"
    )
    check: Check | None = setting(
        "health checks; false: none",
        None,
        default_text="on, with the defaults of a check",
        details="A server counts as up until its first check fails.",
    )
    servers: tuple[Server, ...] = setting("the servers", ())
