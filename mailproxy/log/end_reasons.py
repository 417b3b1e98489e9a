"""End reasons: who ended a session, in which phase, and HAProxy's words for it.

Every session ends with exactly one of these. The two letters are HAProxy's termination state (configuration manual,
section 8.5 "Session state at disconnection"); ends in the PROXY header and the TLS handshake have no state there but
a message.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen


class EndedBy(Enum):
    """Who ended a session."""

    CLIENT = "client"
    SERVER = "server"
    PROXY = "proxy"
    TIMEOUT = "timeout"
    ADMIN = "admin"


class Phase(Enum):
    """How far a session had come. Those that end in the first two have a message in place of HAProxy's state."""

    HEADER = "proxy-header"
    HANDSHAKE = "handshake"
    ROUTE = "route"
    QUEUE = "queue"
    CONNECT = "connect"
    DATA = "data"


@frozen
class EndReason:
    """One end reason. ``state`` is two letters, or HAProxy's message where the session never came to have one."""

    name: str
    by: EndedBy
    phase: Phase
    state: str
    meaning: str = field(kw_only=True)
    # Each session asks for this: is ``state`` a message?
    has_message: bool = field(init=False)

    @has_message.default
    def _has_message(self) -> bool:
        return self.phase in (Phase.HEADER, Phase.HANDSHAKE)


CLIENT_CLOSED = EndReason(
    "client-closed",
    EndedBy.CLIENT,
    Phase.DATA,
    "--",
    meaning="the client closed first, then the server; all bytes arrived",
)
SERVER_CLOSED = EndReason(
    "server-closed",
    EndedBy.SERVER,
    Phase.DATA,
    "--",
    meaning="the server closed first, then the client; all bytes arrived",
)
CLIENT_ABORTED = EndReason(
    "client-aborted",
    EndedBy.CLIENT,
    Phase.DATA,
    "CD",
    meaning="the client's connection was reset, or broke TLS",
)
SERVER_ABORTED = EndReason(
    "server-aborted",
    EndedBy.SERVER,
    Phase.DATA,
    "SD",
    meaning="the server's connection was reset, or broke TLS",
)
CLIENT_TIMEOUT = EndReason(
    "client-timeout", EndedBy.TIMEOUT, Phase.DATA, "cD", meaning="no byte from or to the client for `timeouts.client`, "
    "or for `timeouts.half_closed` after the server had closed",
)  # fmt: skip
SERVER_TIMEOUT = EndReason(
    "server-timeout", EndedBy.TIMEOUT, Phase.DATA, "sD", meaning="no byte from or to the server for `timeouts.server`, "
    "or for `timeouts.half_closed` after the client had closed",
)  # fmt: skip
STOPPED = EndReason(
    "stopped", EndedBy.ADMIN, Phase.DATA, "K-", meaning="the proxy was stopped and `drain_timeout` was over"
)
SERVER_DOWN = EndReason(
    "server-down", EndedBy.PROXY, Phase.DATA, "D-", meaning="the server went down or for maintenance, and `on_marked_down` says "
    "that its sessions end",
)  # fmt: skip
INTERNAL_ERROR = EndReason(
    "internal-error", EndedBy.PROXY, Phase.DATA, "I-", meaning="a fault of the proxy itself; please report it"
)

CLIENT_LEFT = EndReason(
    "client-left",
    EndedBy.CLIENT,
    Phase.CONNECT,
    "CC",
    meaning="the client left before the server was connected",
)
SERVER_REFUSED = EndReason(
    "server-refused",
    EndedBy.SERVER,
    Phase.CONNECT,
    "SC",
    meaning="the server refused the connection or is unreachable; also for want of a route, of a local address of its family "
    "or of a free local port towards it",
)
SERVER_HANDSHAKE_FAILED = EndReason(
    "server-handshake-failed",
    EndedBy.SERVER,
    Phase.CONNECT,
    "SC",
    meaning="TLS with the server failed, or its certificate did",
)
NO_SERVER = EndReason(
    "no-server", EndedBy.PROXY, Phase.CONNECT, "SC", meaning="no backend, or no server of it can be used"
)
CONNECT_TIMEOUT = EndReason(
    "connect-timeout",
    EndedBy.TIMEOUT,
    Phase.CONNECT,
    "sC",
    meaning="the server was not connected within `timeouts.connect`",
)
OUT_OF_RESOURCES = EndReason(
    "out-of-resources",
    EndedBy.PROXY,
    Phase.CONNECT,
    "RC",
    meaning="this process or machine has no descriptor or memory for the server's connection",
)
STOPPED_CONNECTING = EndReason(
    "stopped-connecting",
    EndedBy.ADMIN,
    Phase.CONNECT,
    "KC",
    meaning="the proxy was stopped while the server was being connected",
)

QUEUE_TIMEOUT = EndReason(
    "queue-timeout",
    EndedBy.TIMEOUT,
    Phase.QUEUE,
    "sQ",
    meaning="no server had a place within `timeouts.queue`",
)
QUEUE_FULL = EndReason(
    "queue-full", EndedBy.PROXY, Phase.QUEUE, "SQ", meaning="`max_queue` sessions wait already"
)
QUEUE_LEFT = EndReason(
    "queue-left", EndedBy.CLIENT, Phase.QUEUE, "CQ", meaning="the client left while it waited for a place"
)
STOPPED_QUEUED = EndReason(
    "stopped-queued",
    EndedBy.ADMIN,
    Phase.QUEUE,
    "KQ",
    meaning="the proxy was stopped while the session waited for a place",
)

REJECTED = EndReason("rejected", EndedBy.PROXY, Phase.ROUTE, "PR", meaning="a route says `reject`")
CLIENT_LIMIT = EndReason(
    "client-limit", EndedBy.PROXY, Phase.ROUTE, "PR", meaning="the client is over `max_sessions_per_client` or "
    "`max_session_rate_per_client`; `detail` says which",
)  # fmt: skip

HEADER_EMPTY = EndReason(
    "header-empty", EndedBy.CLIENT, Phase.HEADER, "Connection closed while waiting for PROXY protocol header",
    meaning="the client left without having begun its PROXY header",
)  # fmt: skip
HEADER_TRUNCATED = EndReason(
    "header-truncated", EndedBy.CLIENT, Phase.HEADER, "Truncated PROXY protocol header received",
    meaning="the client left in the middle of its PROXY header",
)  # fmt: skip
HEADER_ABORTED = EndReason(
    "header-aborted", EndedBy.CLIENT, Phase.HEADER, "Connection error while waiting for PROXY protocol header",
    meaning="the client's connection was reset before its PROXY header was complete",
)  # fmt: skip
HEADER_TIMEOUT = EndReason(
    "header-timeout", EndedBy.TIMEOUT, Phase.HEADER, "Timeout while waiting for PROXY protocol header",
    meaning="the PROXY header was not complete within `timeouts.proxy_header`",
)  # fmt: skip
HEADER_MISSING = EndReason(
    "header-missing", EndedBy.CLIENT, Phase.HEADER,
    "Received something which does not look like a PROXY protocol header",
    meaning="what came first is no PROXY header",
)  # fmt: skip
HEADER_INVALID = EndReason(
    "header-invalid", EndedBy.CLIENT, Phase.HEADER, "Received an invalid PROXY protocol header",
    meaning="the PROXY header breaks a rule of its format",
)  # fmt: skip
HEADER_UNHANDLED = EndReason(
    "header-unhandled", EndedBy.CLIENT, Phase.HEADER,
    "Received an unhandled protocol in the PROXY protocol header",
    meaning="the PROXY header speaks of something else than TCP over IPv4 or IPv6",
)  # fmt: skip
UNTRUSTED = EndReason(
    "untrusted", EndedBy.PROXY, Phase.HEADER, "Connection from an address that may not send a PROXY protocol header",
    meaning="the address is in none of the bind's `accept_proxy` networks",
)  # fmt: skip
HEADER_STOPPED = EndReason(
    "header-stopped", EndedBy.ADMIN, Phase.HEADER, "Stopped while waiting for PROXY protocol header",
    meaning="the proxy was stopped before the PROXY header was complete",
)  # fmt: skip

HANDSHAKE_FAILED = EndReason(
    "handshake-failed", EndedBy.CLIENT, Phase.HANDSHAKE, "SSL handshake failure",
    meaning="TLS with the client failed, or its ClientHello was none; `detail` says why",
)  # fmt: skip
CERTIFICATE_REFUSED = EndReason(
    "certificate-refused", EndedBy.CLIENT, Phase.HANDSHAKE, "SSL client certificate not trusted",
    meaning="the client's certificate is not accepted: foreign, out of date, revoked; `detail` says which",
)  # fmt: skip
CERTIFICATE_CHAIN_REFUSED = EndReason(
    "certificate-chain-refused", EndedBy.CLIENT, Phase.HANDSHAKE, "SSL client CA chain cannot be verified",
    meaning="a certificate above the client's is not accepted",
)  # fmt: skip
HANDSHAKE_LEFT = EndReason(
    "handshake-left", EndedBy.CLIENT, Phase.HANDSHAKE, "Connection closed during SSL handshake",
    meaning="the client left before the handshake was done",
)  # fmt: skip
HANDSHAKE_EMPTY = EndReason(
    "handshake-empty", EndedBy.CLIENT, Phase.HANDSHAKE, "Connection closed during SSL handshake",
    meaning="the client left without having sent a byte",
)  # fmt: skip
HANDSHAKE_TIMEOUT = EndReason(
    "handshake-timeout", EndedBy.TIMEOUT, Phase.HANDSHAKE, "Timeout during SSL handshake",
    meaning="the handshake was not done within `timeouts.handshake`",
)  # fmt: skip
HANDSHAKE_STOPPED = EndReason(
    "handshake-stopped", EndedBy.ADMIN, Phase.HANDSHAKE, "Stopped during SSL handshake",
    meaning="the proxy was stopped before the handshake was done",
)  # fmt: skip

ENDS = (
    CLIENT_CLOSED, SERVER_CLOSED, CLIENT_ABORTED, SERVER_ABORTED, CLIENT_TIMEOUT, SERVER_TIMEOUT, STOPPED, SERVER_DOWN,
    CLIENT_LEFT, SERVER_REFUSED, SERVER_HANDSHAKE_FAILED, NO_SERVER, CONNECT_TIMEOUT, OUT_OF_RESOURCES,
    STOPPED_CONNECTING, QUEUE_TIMEOUT, QUEUE_FULL, QUEUE_LEFT, STOPPED_QUEUED, REJECTED, CLIENT_LIMIT, HEADER_EMPTY, HEADER_TRUNCATED, HEADER_ABORTED, HEADER_TIMEOUT, HEADER_MISSING,
    HEADER_INVALID, HEADER_UNHANDLED, UNTRUSTED, HEADER_STOPPED, HANDSHAKE_FAILED,
    CERTIFICATE_REFUSED, CERTIFICATE_CHAIN_REFUSED, HANDSHAKE_LEFT, HANDSHAKE_EMPTY, HANDSHAKE_TIMEOUT, HANDSHAKE_STOPPED,
    INTERNAL_ERROR,
)  # fmt: skip
