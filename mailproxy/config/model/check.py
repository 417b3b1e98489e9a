"""The tables ``check`` of a backend or server, and the steps of a check script."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from mailproxy.address import ServerAddress
from mailproxy.config.model.connection import SendProxy
from mailproxy.config.model.setting import setting
from mailproxy.config.model.tls import ServerTls
from mailproxy.config.values import (
    ExpectedHex,
    ExpectedText,
    HelloName,
    Pattern,
    Port,
    Positive,
    PositiveSeconds,
    SentHex,
    SentText,
)

CheckType = Literal["none", "tcp", "tls", "imap", "pop3", "smtp", "lmtp", "sieve", "script"]

_TLS_DETAILS = (
    "`true` is the TLS of sessions. If sessions have no TLS, it is TLS that verifies with the system's CAs. "
    "`false` is no TLS."
)


@frozen(kw_only=True)
class Connect:
    """The step of a check script that opens a connection."""

    port: Port | None = setting(
        "port to connect to", None, default_text="the address's, else the check's, else the server's"
    )
    address: ServerAddress | None = setting(
        "address to connect to", None, default_text="the check's, else the server's"
    )
    tls: ServerTls | bool | None = setting(
        "TLS of the connection, from its first byte",
        None,
        default_text="the check's, else as sessions",
        details=_TLS_DETAILS,
    )
    send_proxy: SendProxy | None = setting(
        "PROXY header to send", None, default_text="the check's, else as sessions"
    )


@frozen(kw_only=True)
class Step:
    """One step of a check script.

    A step has exactly one action: `connect`, `send`, `send_hex`, or one of the three expectations.
    Expectations look at what the server has sent since the last `send`, at most 16 KiB.
    """

    connect: Connect | None = setting("action: open a connection", None)
    send: SentText | None = setting("action: send this text", None)
    send_hex: SentHex | None = setting("action: send these bytes", None)
    expect: ExpectedText | None = setting("expectation: the server has sent this text", None)
    expect_regex: Pattern | None = setting(
        "expectation: what the server has sent matches; `^` and `$` match at any line", None
    )
    expect_hex: ExpectedHex | None = setting("expectation: the server has sent these bytes", None)
    not_: bool = setting(
        "turn the expectation into its opposite",
        False,
        details="The expectation fails if it is met before the server closes, or before `timeout` is over.",
    )
    timeout: PositiveSeconds | None = setting(
        "timeout of an expectation", None, default_text="the check's alone"
    )


@frozen(kw_only=True)
class Check:
    """Health checks of a server."""

    type: CheckType | None = setting(
        "what a check does", None, default_text="the protocol's own where it can be known, else tcp"
    )
    interval: PositiveSeconds = setting(
        "from the start of a check to that of the next", PositiveSeconds(10.0)
    )
    fast_interval: PositiveSeconds | None = setting(
        "interval while the state changes", None, default_text="interval"
    )
    down_interval: PositiveSeconds | None = setting(
        "interval while the server is down", None, default_text="interval"
    )
    rise: Positive = setting("successful checks in a row that bring a server up", 2)
    fall: Positive = setting("failed checks in a row that take a server down", 3)
    jitter: float = setting("maximum share by which each interval is shortened, at random", 0.2)
    port: Port | None = setting(
        "port to connect to",
        None,
        default_text="the address's, else the server's, else each of the binds that lead there",
    )
    address: ServerAddress | None = setting("address to connect to", None, default_text="the server's")
    tls: ServerTls | bool | None = setting(
        "TLS of checks", None, default_text="as sessions; type tcp: none", details=_TLS_DETAILS
    )
    send_proxy: SendProxy | None = setting(
        "PROXY header to send", None, default_text="as sessions; type tcp: none"
    )
    hello: HelloName | None = setting(
        "the name to send with EHLO or LHLO; smtp, submission and lmtp only", None, default_text="localhost"
    )
    timeout: PositiveSeconds | None = setting(
        "timeout of the whole check", None, default_text="timeouts.check"
    )
    steps: tuple[Step, ...] = setting("steps of a check script", ())
