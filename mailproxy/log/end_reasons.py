"""End reasons: what ended a session, in which phase, and HAProxy's words for it.

Every session ends with exactly one of them. A *state* is HAProxy's termination state, two letters
(configuration manual, section 8.5 "Session state at disconnection"). HAProxy has no such letters for a
session that ends in the PROXY header or the TLS handshake, but a message. For those the state is a message:
HAProxy's, or one like it for what HAProxy does not have.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen


class EndedBy(Enum):
    """What ended a session."""

    CLIENT = "client"
    SERVER = "server"
    PROXY = "proxy"
    TIMEOUT = "timeout"
    ADMIN = "admin"


class Phase(Enum):
    """How far a session had come."""

    HEADER = "proxy-header"
    HANDSHAKE = "handshake"
    ROUTE = "route"
    NEGOTIATION = "negotiation"
    QUEUE = "queue"
    CONNECT = "connect"
    DATA = "data"


@frozen
class EndReason:
    """One end reason.

    Attributes:
        name: The value of ``end`` in JSON. The constant of this module has the same name.
        by: What ended the session.
        phase: How far the session had come.
        state: HAProxy's two letters, or a message in the phases ``HEADER`` and ``HANDSHAKE``.
        meaning: The description in the documentation.
        has_message: Whether ``state`` is a message. Computed once, because each log line asks for it.
    """

    name: str
    by: EndedBy
    phase: Phase
    state: str
    meaning: str
    has_message: bool = field(init=False)

    @has_message.default
    def _has_message(self) -> bool:
        return self.phase in (Phase.HEADER, Phase.HANDSHAKE)


# The table: name, what ended the session, phase, state, meaning.
# fmt: off

CLIENT_CLOSED = EndReason("client-closed", EndedBy.CLIENT, Phase.DATA, "--",
    "the client closed first, then the server; all bytes arrived")
SERVER_CLOSED = EndReason("server-closed", EndedBy.SERVER, Phase.DATA, "--",
    "the server closed first, then the client; all bytes arrived")
CLIENT_ABORTED = EndReason("client-aborted", EndedBy.CLIENT, Phase.DATA, "CD",
    "the client's connection was reset, or broke TLS")
SERVER_ABORTED = EndReason("server-aborted", EndedBy.SERVER, Phase.DATA, "SD",
    "the server's connection was reset, or broke TLS or the protocol")
CLIENT_TIMEOUT = EndReason("client-timeout", EndedBy.TIMEOUT, Phase.DATA, "cD",
    "no byte from or to the client for `timeouts.client`, "
    "or for `timeouts.half_closed` after the server had closed")
SERVER_TIMEOUT = EndReason("server-timeout", EndedBy.TIMEOUT, Phase.DATA, "sD",
    "no byte from or to the server for `timeouts.server`, "
    "or for `timeouts.half_closed` after the client had closed")
STOPPED = EndReason("stopped", EndedBy.ADMIN, Phase.DATA, "K-",
    "the proxy was stopped: the session was idle, or still open after `drain_timeout`")
DRAINED = EndReason("drained", EndedBy.ADMIN, Phase.DATA, "K-",
    "the operator drained the server or the frontend, and the session was idle, or still open at the deadline")
KILLED = EndReason("killed", EndedBy.ADMIN, Phase.DATA, "K-",
    "the operator ended the session")
SERVER_DOWN = EndReason("server-down", EndedBy.PROXY, Phase.DATA, "D-",
    "the server went down or into maintenance, and `on_marked_down` closes its sessions")

CLIENT_LEFT = EndReason("client-left", EndedBy.CLIENT, Phase.CONNECT, "CC",
    "the client left before the server was connected")
SERVER_REFUSED = EndReason("server-refused", EndedBy.SERVER, Phase.CONNECT, "SC",
    "the server refused the connection or is unreachable; also if there is no route, no local address of its "
    "family or no free local port towards it")
SERVER_HANDSHAKE_FAILED = EndReason("server-handshake-failed", EndedBy.SERVER, Phase.CONNECT, "SC",
    "TLS with the server failed, or its certificate is not accepted")
NO_SERVER = EndReason("no-server", EndedBy.PROXY, Phase.CONNECT, "SC",
    "no backend, or no server of it can be used")
CONNECT_TIMEOUT = EndReason("connect-timeout", EndedBy.TIMEOUT, Phase.CONNECT, "sC",
    "the server was not connected within `timeouts.connect`")
OUT_OF_RESOURCES = EndReason("out-of-resources", EndedBy.PROXY, Phase.CONNECT, "RC",
    "this process or machine has no descriptor or memory for the server's connection")
STOPPED_CONNECTING = EndReason("stopped-connecting", EndedBy.ADMIN, Phase.CONNECT, "KC",
    "the proxy was stopped, or the operator ended the session, while it was being connected")

QUEUE_TIMEOUT = EndReason("queue-timeout", EndedBy.TIMEOUT, Phase.QUEUE, "sQ",
    "no server had a free slot within `timeouts.queue`")
QUEUE_FULL = EndReason("queue-full", EndedBy.PROXY, Phase.QUEUE, "SQ",
    "`max_queue` sessions are in the queue already")
QUEUE_LEFT = EndReason("queue-left", EndedBy.CLIENT, Phase.QUEUE, "CQ",
    "the client left while its session was in the queue")
STOPPED_QUEUED = EndReason("stopped-queued", EndedBy.ADMIN, Phase.QUEUE, "KQ",
    "the proxy was stopped, or the operator ended the session, while it was in the queue")

REJECTED = EndReason("rejected", EndedBy.PROXY, Phase.ROUTE, "PR",
    "a route says `reject`")
CLIENT_LIMIT = EndReason("client-limit", EndedBy.PROXY, Phase.ROUTE, "PR",
    "the client is over `max_sessions_per_client` or `max_session_rate_per_client`; `detail` says which")

LEFT_BEFORE_TLS = EndReason("left-before-tls", EndedBy.CLIENT, Phase.NEGOTIATION, "CR",
    "the client left, or logged out, before it upgraded to TLS")
NEGOTIATION_TIMEOUT = EndReason("negotiation-timeout", EndedBy.TIMEOUT, Phase.NEGOTIATION, "cR",
    "the client did not send STARTTLS within `timeouts.negotiation`")
TOO_MANY_ERRORS = EndReason("too-many-errors", EndedBy.PROXY, Phase.NEGOTIATION, "PR",
    "the client sent `max_errors` bad commands before TLS, or too many bytes")
EARLY_TALKER = EndReason("early-talker", EndedBy.PROXY, Phase.NEGOTIATION, "PR",
    "the client sent something before the greeting, within `greeting_delay`")
INJECTION = EndReason("injection", EndedBy.PROXY, Phase.NEGOTIATION, "PR",
    "the client sent bytes in clear text with or behind STARTTLS, which none of the two sides may take for its TLS")
NEGOTIATION_STOPPED = EndReason("negotiation-stopped", EndedBy.ADMIN, Phase.NEGOTIATION, "KR",
    "the proxy was stopped, or the operator ended the session, before the client upgraded to TLS")

HEADER_EMPTY = EndReason("header-empty", EndedBy.CLIENT, Phase.HEADER,
    "Connection closed while waiting for PROXY protocol header",
    "the client left before it sent a byte of its PROXY header")
HEADER_TRUNCATED = EndReason("header-truncated", EndedBy.CLIENT, Phase.HEADER,
    "Truncated PROXY protocol header received",
    "the client left in the middle of its PROXY header")
HEADER_ABORTED = EndReason("header-aborted", EndedBy.CLIENT, Phase.HEADER,
    "Connection error while waiting for PROXY protocol header",
    "the client's connection was reset before its PROXY header was complete")
HEADER_TIMEOUT = EndReason("header-timeout", EndedBy.TIMEOUT, Phase.HEADER,
    "Timeout while waiting for PROXY protocol header",
    "the PROXY header was not complete within `timeouts.proxy_header`")
HEADER_MISSING = EndReason("header-missing", EndedBy.CLIENT, Phase.HEADER,
    "Received something which does not look like a PROXY protocol header",
    "the first bytes are not a PROXY header")
HEADER_INVALID = EndReason("header-invalid", EndedBy.CLIENT, Phase.HEADER,
    "Received an invalid PROXY protocol header",
    "the PROXY header breaks a rule of its format")
HEADER_UNHANDLED = EndReason("header-unhandled", EndedBy.CLIENT, Phase.HEADER,
    "Received an unhandled protocol in the PROXY protocol header",
    "the PROXY header names another protocol than TCP over IPv4 or IPv6")
UNTRUSTED = EndReason("untrusted", EndedBy.PROXY, Phase.HEADER,
    "Connection from an address that may not send a PROXY protocol header",
    "the address is in none of the bind's `accept_proxy` networks")
HEADER_STOPPED = EndReason("header-stopped", EndedBy.ADMIN, Phase.HEADER,
    "Stopped while waiting for PROXY protocol header",
    "the proxy was stopped, or the operator ended the session, before the PROXY header was complete")

HANDSHAKE_FAILED = EndReason("handshake-failed", EndedBy.CLIENT, Phase.HANDSHAKE,
    "SSL handshake failure",
    "TLS with the client failed, or it sent no valid ClientHello; `detail` says why")
CERTIFICATE_REFUSED = EndReason("certificate-refused", EndedBy.CLIENT, Phase.HANDSHAKE,
    "SSL client certificate not trusted",
    "the client's certificate is not accepted: unknown issuer, out of date or revoked; `detail` says which")
CERTIFICATE_CHAIN_REFUSED = EndReason("certificate-chain-refused", EndedBy.CLIENT, Phase.HANDSHAKE,
    "SSL client CA chain cannot be verified",
    "a certificate above the client's is not accepted")
HANDSHAKE_LEFT = EndReason("handshake-left", EndedBy.CLIENT, Phase.HANDSHAKE,
    "Connection closed during SSL handshake",
    "the client left before the handshake was done")
HANDSHAKE_EMPTY = EndReason("handshake-empty", EndedBy.CLIENT, Phase.HANDSHAKE,
    "Connection closed during SSL handshake",
    "the client left before it sent a byte")
HANDSHAKE_TIMEOUT = EndReason("handshake-timeout", EndedBy.TIMEOUT, Phase.HANDSHAKE,
    "Timeout during SSL handshake",
    "the handshake was not done within `timeouts.handshake`")
ACME_CHALLENGE = EndReason("acme-challenge", EndedBy.PROXY, Phase.HANDSHAKE,
    "ACME challenge answered in SSL handshake",
    "the client was an authority that validates a name by tls-alpn-01, and got its answer")
HANDSHAKE_STOPPED = EndReason("handshake-stopped", EndedBy.ADMIN, Phase.HANDSHAKE,
    "Stopped during SSL handshake",
    "the proxy was stopped, or the operator ended the session, before the handshake was done")

INTERNAL_ERROR = EndReason("internal-error", EndedBy.PROXY, Phase.DATA, "I-",
    "a fault of the proxy itself; please report it")
# fmt: on

END_REASONS: tuple[EndReason, ...] = tuple(each for each in vars().values() if isinstance(each, EndReason))
"""All of them, in the order of this module."""
