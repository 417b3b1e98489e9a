"""What the sessions of a frontend, a backend or a server come to, counted when each session ends.

A session that ends costs a few additions here, and one that begins costs nothing. What changes while
sessions live is computed by the reader: the sessions so far are those that have ended and those that are
open, and the most at once have always just been reached when a session ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from attrs import Factory, define, evolve, fields

from mailproxy.log import end_reasons
from mailproxy.log.end_reasons import END_REASONS, EndedBy, EndReason, Phase
from mailproxy.log.record import SessionRecord

# HAProxy's TIME_STATS_SAMPLES: times are averages over this many sessions.
_AVERAGED_SESSIONS = 512


@define
class Times:
    """A duration in milliseconds: its moving average over 512 sessions, and the longest one."""

    average: float = 0.0
    longest: int = 0

    def add(self, ms: int, sessions: int) -> None:
        """Add the duration of a session; ``sessions`` counts it."""
        self.average += (ms - self.average) / min(sessions, _AVERAGED_SESSIONS)
        if ms > self.longest:  # noqa: PLR1730 - each session comes here, and a call of max costs more
            self.longest = ms


@define
class Traffic:
    """What sessions have come to.

    Attributes:
        sessions: Sessions that have ended.
        most_sessions: The most sessions at once (HAProxy's ``smax``).
        bytes_in: Bytes from clients (``bin``).
        bytes_out: Bytes from servers (``bout``).
        tls_sessions: Sessions whose TLS with the client ended here (``ssl_sess``).
        failed_handshakes: TLS handshakes with clients that failed (``ssl_failed_handshake``).
        denied_connections: Connections from addresses that may not send a PROXY header (``dcon``).
        denied_sessions: Sessions of clients over their limits (``dses``).
        denied_requests: Sessions that a route rejected (``dreq``).
        failed_requests: Sessions that ended before they had a route, by the client's fault (``ereq``).
        failed_connects: Sessions that got no connection to a server (``econ``).
        client_aborts: Sessions that the client has aborted (``cli_abrt``).
        server_aborts: Sessions that the server has aborted (``srv_abrt``).
        queue: Time in the queue.
        connect: Time for connecting to a server.
        total: Time from accepting to the end.
    """

    sessions: int = 0
    most_sessions: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    tls_sessions: int = 0
    failed_handshakes: int = 0
    denied_connections: int = 0
    denied_sessions: int = 0
    denied_requests: int = 0
    failed_requests: int = 0
    failed_connects: int = 0
    client_aborts: int = 0
    server_aborts: int = 0
    queue: Times = Factory(Times)
    connect: Times = Factory(Times)
    total: Times = Factory(Times)

    def add(self, other: Traffic) -> None:
        """Add the traffic of another process. ``most_sessions`` is the maximum: each counts those of all."""
        both = self.sessions + other.sessions
        for name in _TIMES:
            mine, theirs = getattr(self, name), getattr(other, name)
            if both:
                mine.average = (mine.average * self.sessions + theirs.average * other.sessions) / both
            mine.longest = max(mine.longest, theirs.longest)
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_sessions = max(self.most_sessions, other.most_sessions)

    def copy(self) -> Traffic:
        """Return a copy that does not go on counting."""
        return evolve(self, queue=evolve(self.queue), connect=evolve(self.connect), total=evolve(self.total))


_TIMES = ("queue", "connect", "total")
_SUMS = tuple(
    name
    for field in fields(Traffic)
    if (name := field.name) not in _TIMES and name != "most_sessions"
)  # fmt: skip


TrafficKey = tuple[str, str, str]
"""What traffic belongs to: ``frontend``, ``backend`` or ``server``, the backend of a server, and its name."""


class CountedSession(Protocol):
    """A live session, as far as its bytes are counted."""

    record: SessionRecord

    @property
    def bytes_in(self) -> int: ...

    @property
    def bytes_out(self) -> int: ...


@define
class LiveBytes:
    """The bytes of sessions that have not ended, which no counter has yet."""

    _bytes: dict[TrafficKey, list[int]] = Factory(dict)

    @classmethod
    def of(cls, sessions: Iterable[CountedSession]) -> LiveBytes:
        """Add up the bytes of these sessions."""
        live = cls()
        for session in sessions:
            bytes_in, bytes_out, record = session.bytes_in, session.bytes_out, session.record
            if bytes_in or bytes_out:
                live._add(("frontend", "", record.frontend), bytes_in, bytes_out)
                live._add(("backend", "", record.backend), bytes_in, bytes_out)
                live._add(("server", record.backend, record.server), bytes_in, bytes_out)
        return live

    def _add(self, key: TrafficKey, bytes_in: int, bytes_out: int) -> None:
        total = self._bytes.setdefault(key, [0, 0])
        total[0] += bytes_in
        total[1] += bytes_out

    def add_to(self, traffic: Traffic, key: TrafficKey) -> Traffic:
        """Return the traffic with the bytes of live sessions; the same object if there are none."""
        live = self._bytes.get(key)
        if live is None:
            return traffic
        return evolve(traffic, bytes_in=traffic.bytes_in + live[0], bytes_out=traffic.bytes_out + live[1])


def _counted_as(end: EndReason) -> str | None:
    """Return the attribute of ``Traffic`` that counts sessions with this end."""
    if end is end_reasons.UNTRUSTED:
        return "denied_connections"
    if end is end_reasons.CLIENT_LIMIT:
        return "denied_sessions"
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


_COUNTED_AS = {end: _counted_as(end) for end in END_REASONS}


def count_session(
    record: SessionRecord, frontend: Traffic, backend: Traffic | None, server: Traffic | None
) -> None:
    """Count a session that has ended.

    Args:
        record: Its facts, complete.
        frontend: That of its frontend.
        backend: That of its backend, None if it had no route.
        server: That of its server, None if it never had one.
    """
    bytes_in, bytes_out = record.bytes_in, record.bytes_out
    frontend.sessions += 1
    frontend.bytes_in += bytes_in
    frontend.bytes_out += bytes_out
    frontend.most_sessions = max(frontend.most_sessions, record.frontend_sessions)
    if record.tls_version is not None:
        frontend.tls_sessions += 1
    counted_as = _COUNTED_AS.get(record.end) if record.end is not None else None
    if counted_as is not None:
        _increment(counted_as, frontend, backend, server)
    if backend is not None:
        _count_behind(record, backend, record.backend_sessions + 1)
    if server is not None:
        _count_behind(record, server, record.server_sessions + 1)


def _count_behind(record: SessionRecord, traffic: Traffic, sessions: int) -> None:
    traffic.sessions = number = traffic.sessions + 1
    traffic.bytes_in += record.bytes_in
    traffic.bytes_out += record.bytes_out
    traffic.most_sessions = max(traffic.most_sessions, sessions)
    traffic.total.add(record.total_ms, number)
    # Most sessions neither wait nor take a whole millisecond to connect: then the averages only fall.
    traffic.queue.add(max(0, record.queue_ms), number)
    traffic.connect.add(max(0, record.connect_ms), number)


def _increment(name: str, *objects: Traffic | None) -> None:
    for each in objects:
        if each is not None:
            setattr(each, name, getattr(each, name) + 1)
