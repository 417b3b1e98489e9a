"""End reasons: who ended a session, in which phase, and HAProxy's words for it.

Every session ends with exactly one of these. The two letters are HAProxy's termination state (configuration manual,
section 8.5 "Session state at disconnection"); ends during the TLS handshake have no state there but a message.
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
    """How far a session had come."""

    HANDSHAKE = "handshake"
    CONNECT = "connect"
    DATA = "data"


@frozen
class End:
    """One end reason. ``state`` is two letters, or for the handshake phase HAProxy's message."""

    name: str
    by: By
    phase: Phase
    state: str
    meaning: str = field(kw_only=True)

    @property
    def by_itself(self) -> bool:
        """Did the client leave in an orderly way? Such sessions are not logged when it had sent nothing."""
        return self.name in ("client-closed", "handshake-empty")


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
INTERNAL_ERROR = End(
    "internal-error", By.PROXY, Phase.DATA, "I-", meaning="a fault of the proxy itself; please report it"
)

CLIENT_LEFT = End(
    "client-left",
    By.CLIENT,
    Phase.CONNECT,
    "CC",
    meaning="the server could not be connected, and the client had left meanwhile",
)
SERVER_REFUSED = End(
    "server-refused",
    By.SERVER,
    Phase.CONNECT,
    "SC",
    meaning="the server refused the connection or is unreachable",
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
    meaning="no descriptor, port or memory for the server's connection",
)
STOPPED_CONNECTING = End(
    "stopped-connecting",
    By.ADMIN,
    Phase.CONNECT,
    "KC",
    meaning="the proxy was stopped while the server was being connected",
)

HANDSHAKE_FAILED = End(
    "handshake-failed", By.CLIENT, Phase.HANDSHAKE, "SSL handshake failure",
    meaning="TLS with the client failed; the reason is OpenSSL's",
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
    CLIENT_CLOSED, SERVER_CLOSED, CLIENT_ABORTED, SERVER_ABORTED, CLIENT_SILENT, SERVER_SILENT, STOPPED,
    CLIENT_LEFT, SERVER_REFUSED, SERVER_HANDSHAKE_FAILED, NO_SERVER, CONNECT_TIMEOUT, OUT_OF_RESOURCES,
    STOPPED_CONNECTING, HANDSHAKE_FAILED, HANDSHAKE_LEFT, HANDSHAKE_EMPTY, HANDSHAKE_TIMEOUT, HANDSHAKE_STOPPED,
    INTERNAL_ERROR,
)  # fmt: skip
