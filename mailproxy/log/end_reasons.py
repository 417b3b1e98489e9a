"""End reasons: who ended a session, in which phase, and HAProxy's words for it.

Every session ends with exactly one of these. The two letters are HAProxy's termination state (configuration manual,
section 8.5 "Session state at disconnection"); ends in the PROXY header and the TLS handshake have no state there but
a message.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen


class By(Enum):
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
class End:
    """One end reason. ``state`` is two letters, or HAProxy's message where the session never came to have one."""

    name: str
    by: By
    phase: Phase
    state: str
    meaning: str = field(kw_only=True)
    # Each session asks for this: is ``state`` a message?
    has_message: bool = field(init=False)

    @has_message.default
    def _has_message(self) -> bool:
        return self.phase in (Phase.HEADER, Phase.HANDSHAKE)


CLIENT_CLOSED = End(
    "client-closed",
    By.CLIENT,
    Phase.DATA,
    "--",
    meaning="the client closed first, then the server; all bytes arrived",
)
SERVER_CLOSED = End(
    "server-closed",
    By.SERVER,
    Phase.DATA,
    "--",
    meaning="the server closed first, then the client; all bytes arrived",
)
CLIENT_ABORTED = End(
    "client-aborted", By.CLIENT, Phase.DATA, "CD", meaning="the client's connection was reset, or broke TLS"
)
SERVER_ABORTED = End(
    "server-aborted", By.SERVER, Phase.DATA, "SD", meaning="the server's connection was reset, or broke TLS"
)
CLIENT_SILENT = End(
    "client-timeout", By.TIMEOUT, Phase.DATA, "cD", meaning="no byte from or to the client for `timeouts.client`, "
    "or for `timeouts.half_closed` after the server had closed",
)  # fmt: skip
SERVER_SILENT = End(
    "server-timeout", By.TIMEOUT, Phase.DATA, "sD", meaning="no byte from or to the server for `timeouts.server`, "
    "or for `timeouts.half_closed` after the client had closed",
)  # fmt: skip
STOPPED = End(
    "stopped", By.ADMIN, Phase.DATA, "K-", meaning="the proxy was stopped and `drain_timeout` was over"
)
SERVER_DOWN = End(
    "server-down", By.PROXY, Phase.DATA, "D-", meaning="the server went down or for maintenance, and `on_marked_down` says "
    "that its sessions end",
)  # fmt: skip
INTERNAL_ERROR = End(
    "internal-error", By.PROXY, Phase.DATA, "I-", meaning="a fault of the proxy itself; please report it"
)

CLIENT_LEFT = End(
    "client-left",
    By.CLIENT,
    Phase.CONNECT,
    "CC",
    meaning="the client left before the server was connected",
)
SERVER_REFUSED = End(
    "server-refused",
    By.SERVER,
    Phase.CONNECT,
    "SC",
    meaning="the server refused the connection or is unreachable; also for want of a route, of a local address of its family "
    "or of a free local port towards it",
)
SERVER_HANDSHAKE_FAILED = End(
    "server-handshake-failed",
    By.SERVER,
    Phase.CONNECT,
    "SC",
    meaning="TLS with the server failed, or its certificate did",
)
NO_SERVER = End(
    "no-server", By.PROXY, Phase.CONNECT, "SC", meaning="no backend, or no server of it can be used"
)
CONNECT_TIMEOUT = End(
    "connect-timeout",
    By.TIMEOUT,
    Phase.CONNECT,
    "sC",
    meaning="the server was not connected within `timeouts.connect`",
)
OUT_OF_RESOURCES = End(
    "out-of-resources",
    By.PROXY,
    Phase.CONNECT,
    "RC",
    meaning="this process or machine has no descriptor or memory for the server's connection",
)
STOPPED_CONNECTING = End(
    "stopped-connecting",
    By.ADMIN,
    Phase.CONNECT,
    "KC",
    meaning="the proxy was stopped while the server was being connected",
)

QUEUE_TIMEOUT = End(
    "queue-timeout", By.TIMEOUT, Phase.QUEUE, "sQ", meaning="no server had a place within `timeouts.queue`"
)
QUEUE_FULL = End("queue-full", By.PROXY, Phase.QUEUE, "SQ", meaning="`max_queue` sessions wait already")
QUEUE_LEFT = End(
    "queue-left", By.CLIENT, Phase.QUEUE, "CQ", meaning="the client left while it waited for a place"
)
STOPPED_QUEUED = End(
    "stopped-queued",
    By.ADMIN,
    Phase.QUEUE,
    "KQ",
    meaning="the proxy was stopped while the session waited for a place",
)

REJECTED = End("rejected", By.PROXY, Phase.ROUTE, "PR", meaning="a route says `reject`")
CLIENT_LIMIT = End(
    "client-limit", By.PROXY, Phase.ROUTE, "PR", meaning="the client is over `max_sessions_per_client` or "
    "`max_session_rate_per_client`; `detail` says which",
)  # fmt: skip

HEADER_EMPTY = End(
    "header-empty", By.CLIENT, Phase.HEADER, "Connection closed while waiting for PROXY protocol header",
    meaning="the client left without having begun its PROXY header",
)  # fmt: skip
HEADER_TRUNCATED = End(
    "header-truncated", By.CLIENT, Phase.HEADER, "Truncated PROXY protocol header received",
    meaning="the client left in the middle of its PROXY header",
)  # fmt: skip
HEADER_ABORTED = End(
    "header-aborted", By.CLIENT, Phase.HEADER, "Connection error while waiting for PROXY protocol header",
    meaning="the client's connection was reset before its PROXY header was complete",
)  # fmt: skip
HEADER_TIMEOUT = End(
    "header-timeout", By.TIMEOUT, Phase.HEADER, "Timeout while waiting for PROXY protocol header",
    meaning="the PROXY header was not complete within `timeouts.proxy_header`",
)  # fmt: skip
HEADER_MISSING = End(
    "header-missing", By.CLIENT, Phase.HEADER,
    "Received something which does not look like a PROXY protocol header",
    meaning="what came first is no PROXY header",
)  # fmt: skip
HEADER_INVALID = End(
    "header-invalid", By.CLIENT, Phase.HEADER, "Received an invalid PROXY protocol header",
    meaning="the PROXY header breaks a rule of its format",
)  # fmt: skip
HEADER_UNHANDLED = End(
    "header-unhandled", By.CLIENT, Phase.HEADER,
    "Received an unhandled protocol in the PROXY protocol header",
    meaning="the PROXY header speaks of something else than TCP over IPv4 or IPv6",
)  # fmt: skip
UNTRUSTED = End(
    "untrusted", By.PROXY, Phase.HEADER, "Connection from an address that may not send a PROXY protocol header",
    meaning="the address is in none of the bind's `accept_proxy` networks",
)  # fmt: skip
HEADER_STOPPED = End(
    "header-stopped", By.ADMIN, Phase.HEADER, "Stopped while waiting for PROXY protocol header",
    meaning="the proxy was stopped before the PROXY header was complete",
)  # fmt: skip

HANDSHAKE_FAILED = End(
    "handshake-failed", By.CLIENT, Phase.HANDSHAKE, "SSL handshake failure",
    meaning="TLS with the client failed, or its ClientHello was none; `detail` says why",
)  # fmt: skip
CERTIFICATE_REFUSED = End(
    "certificate-refused", By.CLIENT, Phase.HANDSHAKE, "SSL client certificate not trusted",
    meaning="the client's certificate is not accepted: foreign, out of date, revoked; `detail` says which",
)  # fmt: skip
CERTIFICATE_CHAIN_REFUSED = End(
    "certificate-chain-refused", By.CLIENT, Phase.HANDSHAKE, "SSL client CA chain cannot be verified",
    meaning="a certificate above the client's is not accepted",
)  # fmt: skip
HANDSHAKE_LEFT = End(
    "handshake-left", By.CLIENT, Phase.HANDSHAKE, "Connection closed during SSL handshake",
    meaning="the client left before the handshake was done",
)  # fmt: skip
HANDSHAKE_EMPTY = End(
    "handshake-empty", By.CLIENT, Phase.HANDSHAKE, "Connection closed during SSL handshake",
    meaning="the client left without having sent a byte",
)  # fmt: skip
HANDSHAKE_TIMEOUT = End(
    "handshake-timeout", By.TIMEOUT, Phase.HANDSHAKE, "Timeout during SSL handshake",
    meaning="the handshake was not done within `timeouts.handshake`",
)  # fmt: skip
HANDSHAKE_STOPPED = End(
    "handshake-stopped", By.ADMIN, Phase.HANDSHAKE, "Stopped during SSL handshake",
    meaning="the proxy was stopped before the handshake was done",
)  # fmt: skip

ENDS = (
    CLIENT_CLOSED, SERVER_CLOSED, CLIENT_ABORTED, SERVER_ABORTED, CLIENT_SILENT, SERVER_SILENT, STOPPED, SERVER_DOWN,
    CLIENT_LEFT, SERVER_REFUSED, SERVER_HANDSHAKE_FAILED, NO_SERVER, CONNECT_TIMEOUT, OUT_OF_RESOURCES,
    STOPPED_CONNECTING, QUEUE_TIMEOUT, QUEUE_FULL, QUEUE_LEFT, STOPPED_QUEUED, REJECTED, CLIENT_LIMIT, HEADER_EMPTY, HEADER_TRUNCATED, HEADER_ABORTED, HEADER_TIMEOUT, HEADER_MISSING,
    HEADER_INVALID, HEADER_UNHANDLED, UNTRUSTED, HEADER_STOPPED, HANDSHAKE_FAILED,
    CERTIFICATE_REFUSED, CERTIFICATE_CHAIN_REFUSED, HANDSHAKE_LEFT, HANDSHAKE_EMPTY, HANDSHAKE_TIMEOUT, HANDSHAKE_STOPPED,
    INTERNAL_ERROR,
)  # fmt: skip
