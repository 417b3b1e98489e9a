"""The last words to a client whose session ends without a tunnel: in its protocol, where that is safe.

It is safe inside TLS that ends here, in clear text on a bind that greets, and on a bind that forwards the bytes of a
protocol in which the server speaks first. On the ports of implicit TLS, a client would take the words for a broken
handshake.
"""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason
from mailproxy.log.record import SessionRecord
from mailproxy.net.listener import Listener
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


def refusal(record: SessionRecord, listener: Listener, protocol: str, text: str | None) -> bytes:
    """Return the last words to a client, empty if there are none or they would not be safe.

    Args:
        record: The session's record, with its end.
        listener: The listener that accepted it.
        protocol: The frontend's.
        text: The text of the configuration, None for the usual one.
    """
    meaning = MEANINGS.get(record.end) if record.end is not None else None
    if meaning is None or not _is_readable(record, listener):
        return b""
    return last_words(protocol, meaning, text)


def _is_readable(record: SessionRecord, listener: Listener) -> bool:
    """Whether the client would read clear text where the session has ended, or has TLS with the proxy."""
    if record.tls:
        return record.tls_version is not None
    mode = listener.bind.mode
    return mode == "starttls" or (mode == "forward" and listener.port not in _TLS_PORTS)
