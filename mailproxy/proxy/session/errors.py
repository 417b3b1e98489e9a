"""The exception with which a phase ends its session, and the end reasons of cancelled phases."""

from __future__ import annotations

from collections.abc import Mapping

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import EndReason, Phase

# Being cancelled is the operator's stop. What it means for a session depends on how far that has come. It is
# the same before the tunnel if the operator ends only this session.
END_IF_CANCELLED: Mapping[Phase, EndReason] = {
    Phase.HEADER: end_reasons.HEADER_STOPPED,
    Phase.HANDSHAKE: end_reasons.HANDSHAKE_STOPPED,
    Phase.ROUTE: end_reasons.STOPPED_CONNECTING,
    Phase.NEGOTIATION: end_reasons.NEGOTIATION_STOPPED,
    Phase.QUEUE: end_reasons.STOPPED_QUEUED,
    Phase.CONNECT: end_reasons.STOPPED_CONNECTING,
    Phase.DATA: end_reasons.STOPPED,
}


class SessionEndedError(Exception):
    """A session cannot go on, and ``end`` is why. ``Session.run`` and the retry loop catch it.

    Attributes:
        end: The end reason.
        detail: What the log adds to it.
        sent_nothing: The client has ended the session before it sent a byte.
        retries_at_once: The next attempt needs no pause, because this one cost the server nothing.
        is_client_specific: The attempt failed because of the client's address, which says nothing about the
            server.
        is_alerted: The client has got a TLS alert already.
    """

    def __init__(
        self,
        end: EndReason,
        detail: object = "",
        *,
        sent_nothing: bool = False,
        retries_at_once: bool = False,
        is_client_specific: bool = False,
        is_alerted: bool = False,
    ) -> None:
        self.end = end
        self.detail = str(detail)
        self.sent_nothing = sent_nothing
        self.retries_at_once = retries_at_once
        self.is_client_specific = is_client_specific
        self.is_alerted = is_alerted
