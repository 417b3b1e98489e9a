"""The last words to a client whose session ends here: in its protocol, where that is safe.

There are two kinds. A refusal ends a session without a tunnel. A goodbye ends a tunnel, where the server's last
response is complete.

It is safe inside TLS that ends here, in clear text on a bind that greets, and on a bind that forwards the bytes of a
protocol in which the server speaks first. On the ports of implicit TLS, a client would take the words for a broken
handshake.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy import config
from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.log.record import SessionRecord
from mailproxy.net.listener import Listener
from mailproxy.net.relay import Tunnel
from mailproxy.protocol.boundary import BOUNDARIES, Boundary
from mailproxy.protocol.last_words import Meaning, last_words

_TLS_PORTS = frozenset({993, 995, 465})  # TLS from the first byte (RFC 8314)

MEANINGS: Mapping[EndReason, Meaning] = {
    end_reasons.NO_SERVER: Meaning.UNAVAILABLE,
    end_reasons.SERVER_REFUSED: Meaning.UNAVAILABLE,
    end_reasons.SERVER_HANDSHAKE_FAILED: Meaning.UNAVAILABLE,
    end_reasons.CONNECT_TIMEOUT: Meaning.UNAVAILABLE,
    end_reasons.OUT_OF_RESOURCES: Meaning.UNAVAILABLE,
    end_reasons.QUEUE_FULL: Meaning.UNAVAILABLE,
    end_reasons.QUEUE_TIMEOUT: Meaning.UNAVAILABLE,
    end_reasons.STOPPED_CONNECTING: Meaning.UNAVAILABLE,
    end_reasons.STOPPED_QUEUED: Meaning.UNAVAILABLE,
    end_reasons.NEGOTIATION_STOPPED: Meaning.UNAVAILABLE,
    end_reasons.NEGOTIATION_TIMEOUT: Meaning.IDLE,
    end_reasons.CLIENT_LIMIT: Meaning.LIMIT,
    end_reasons.REJECTED: Meaning.DENIED,
    end_reasons.UNTRUSTED: Meaning.DENIED,
}
"""What each end of a session without a tunnel means to its client. The others end without a word."""


GOODBYES: Mapping[EndReason, Meaning] = {
    end_reasons.STOPPED: Meaning.UNAVAILABLE,
    end_reasons.DRAINED: Meaning.UNAVAILABLE,
    end_reasons.KILLED: Meaning.UNAVAILABLE,
    end_reasons.SERVER_DOWN: Meaning.UNAVAILABLE,
    end_reasons.CLIENT_TIMEOUT: Meaning.IDLE,
    end_reasons.SERVER_TIMEOUT: Meaning.IDLE,
}
"""What each end of a tunnel by the proxy means to its client."""


def make_follower(
    frontend: config.Frontend, record: SessionRecord, listener: Listener, *, greeted: bool
) -> Boundary | None:
    """Return what knows where a goodbye may be sent, None if the session gets none.

    Args:
        frontend: The frontend's configuration.
        record: The session's record.
        listener: The listener that accepted it.
        greeted: Whether the server's greeting was not left to the tunnel.
    """
    is_unknown = listener.bind.mode == "forward" and frontend.goodbye == "when-known"
    if is_unknown or frontend.goodbye == "never" or not is_readable(record, listener):
        return None
    kind = BOUNDARIES.get(frontend.protocol)
    return None if kind is None else kind(greeted=greeted)


def goodbye(tunnel: Tunnel, end: EndReason, protocol: str, text: str | None) -> bytes:
    """Return the last words to the client of a tunnel that the proxy ends, empty if there is no place for any.

    Args:
        tunnel: The tunnel.
        end: Its end reason.
        protocol: The frontend's.
        text: The text of the configuration, None for the usual one.
    """
    meaning, follower, direction = GOODBYES.get(end), tunnel.follower, tunnel.to_client
    if meaning is None or not isinstance(follower, Boundary):
        return b""
    if direction.is_blocked or direction.eof or not follower.is_reached():
        return b""
    return last_words(protocol, meaning, text)


def refusal(record: SessionRecord, listener: Listener, protocol: str, text: str | None) -> bytes:
    """Return the last words to a client, empty if there are none or they would not be safe.

    Args:
        record: The session's record, with its end.
        listener: The listener that accepted it.
        protocol: The frontend's.
        text: The text of the configuration, None for the usual one.
    """
    meaning = MEANINGS.get(record.end) if record.end is not None else None
    if meaning is None or not is_readable(record, listener):
        return b""
    return last_words(protocol, meaning, text)


def is_readable(record: SessionRecord, listener: Listener) -> bool:
    """Whether the client would read clear text where the session has ended, or has TLS with the proxy."""
    if record.tls:
        return record.tls_version is not None
    mode = listener.bind.mode
    return mode == "starttls" or (mode == "forward" and listener.port not in _TLS_PORTS)
