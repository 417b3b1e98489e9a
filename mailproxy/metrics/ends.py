"""What each end reason counts as."""

from __future__ import annotations

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import END_REASONS, EndedBy, EndReason, Phase


def _counted_as(end: EndReason) -> str | None:
    """Return the attribute of ``Traffic`` that counts sessions with this end."""
    if end is end_reasons.UNTRUSTED:
        return "denied_connections"
    if end is end_reasons.CLIENT_LIMIT:
        return "denied_sessions"
    if end is end_reasons.INTERNAL_ERROR:
        return "internal_errors"
    if end is end_reasons.REJECTED:
        return "denied_requests"
    if end.by is EndedBy.ADMIN:
        return None
    if end.phase is Phase.HANDSHAKE:
        return "failed_handshakes"
    if end.phase is Phase.HEADER:
        return "failed_requests"
    if end.state[0] in "Cc" and end.phase in (Phase.QUEUE, Phase.CONNECT, Phase.DATA):
        return "client_aborts"
    if end.phase is Phase.DATA:
        return "server_aborts" if end.state[0] in "SsD" else None
    return "failed_connects"


COUNTED_AS = tuple(_counted_as(end) for end in END_REASONS)
"""For each end reason, in the order of their module, the attribute of ``Traffic``; None if no other than ``ended``."""

FAILURES = frozenset(
    end.name for end, name in zip(END_REASONS, COUNTED_AS, strict=True) if name not in (None, "client_aborts")
)
"""The ends of sessions that failed: not by the client's leaving, nor by the operator."""
