"""What frontends, backends and checks share: the protocol, the PROXY header to send, TCP keep-alive."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from mailproxy.config.model.setting import setting
from mailproxy.config.values import KeepAliveCount, KeepAliveTime

Protocol = Literal["imap", "pop3", "submission", "smtp", "lmtp", "sieve", "tcp"]
SendProxy = Literal["none", "v1", "v2", "v2-ssl", "v2-ssl-cn"]
Tlv = Literal["authority", "alpn", "crc32c", "unique-id", "ssl-cipher", "cert-sig", "cert-key", "client-cert"]


@frozen(kw_only=True)
class KeepAlive:
    """TCP keep-alive. A key that is not given has the kernel's value."""

    idle: KeepAliveTime | None = setting(
        "idle time before the first probe", None, default_text="net.ipv4.tcp_keepalive_time"
    )
    interval: KeepAliveTime | None = setting(
        "interval between two probes", None, default_text="net.ipv4.tcp_keepalive_intvl"
    )
    count: KeepAliveCount | None = setting(
        "unanswered probes that end the connection", None, default_text="net.ipv4.tcp_keepalive_probes"
    )
