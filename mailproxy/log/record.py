"""The session record: the facts of one session, collected while it runs and written when it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence

from attrs import define, frozen

from mailproxy.log.end_reasons import EndReason, Phase


@define(kw_only=True, eq=False, weakref_slot=False)
class SessionRecord:
    """The facts of one session.

    Attributes:
        id: Unique over all workers and restarts.
        accepted: When the session was accepted, in seconds since the epoch.
        frontend: Its name.
        bind: Its name.
        tls: Whether the bind terminates TLS.
        client: Address and port of the client, from the PROXY header if there was one.
        peer: Address and port of the connection itself, if a PROXY header named the client.
        backend: Its name, empty if the session had none.
        server: Its name, empty if none was chosen.
        server_address: Address and port of the server.
        queue_ms: Time in the queue, -1 if it was not reached (HAProxy's %Tw).
        connect_ms: Time for connecting to a server, -1 if it was not reached (%Tc).
        handshake_ms: Time from the end of the PROXY header to the end of the TLS handshake, -1 without one.
        total_ms: Time from accept to the end (%Tt).
        bytes_in: Bytes from the client, without TLS.
        bytes_out: Bytes from the server, without TLS (%B).
        server_queue: Position in the server's queue, 0 if the session did not wait there (%sq).
        backend_queue: Position in the backend's queue, 0 if the session did not wait there (%bq).
        retries: Attempts after the first one (%rc).
        redispatched: Whether the session was sent to another server than the one chosen first.
        tls_version: The version of the client's TLS, None if the proxy does not terminate it.
        tls_cipher: The cipher of the client's TLS, in OpenSSL's words.
        sni: The server name that the client asked for.
        alpn: The application protocol that was agreed upon.
        client_cn: The common name of the client's certificate.
        close_notify: Whether the client's TLS ended with close_notify. None without TLS or before its end.
        server_close_notify: The same for the server.
        end: The end reason, None until the session ends.
        detail: The cause, if there is more to say than the end reason.
        process_sessions: Sessions of all workers when the line is written, this one included (%ac).
        frontend_sessions: Sessions of the frontend, this one included (%fc).
        backend_sessions: Sessions of the backend, without this one (%bc).
        server_sessions: Sessions of the server, without this one (%sc).
    """

    id: int
    accepted: float
    frontend: str
    bind: str
    tls: bool
    client: str = ""
    peer: str = ""
    backend: str = ""
    server: str = ""
    server_address: str = ""
    queue_ms: int = -1
    connect_ms: int = -1
    handshake_ms: int = -1
    total_ms: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    server_queue: int = 0
    backend_queue: int = 0
    retries: int = 0
    redispatched: bool = False
    tls_version: str | None = None
    tls_cipher: str | None = None
    sni: str | None = None
    alpn: str | None = None
    client_cn: str | None = None
    close_notify: bool | None = None
    server_close_notify: bool | None = None
    phase: Phase = Phase.ROUTE  # how far the session has come; for the line, that of ``end`` counts
    end: EndReason | None = None
    detail: str = ""
    process_sessions: int = 0
    frontend_sessions: int = 0
    backend_sessions: int = 0
    server_sessions: int = 0


@frozen
class Step:
    """A phase that a session was in, in seconds since it was accepted."""

    phase: Phase
    begin: float
    end: float


_PHASE, _TOTAL_MS = SessionRecord.__dict__["phase"], SessionRecord.__dict__["total_ms"]


class TimedRecord(SessionRecord):
    """A session record that also has the time of each phase.

    The session sets its attributes as those of any record, and pays for the clock only if it has this one.
    """

    __slots__ = ("_changes", "_ended_at")
    _changes: list[tuple[Phase, float]]
    _ended_at: float

    def __init__(self, **facts: object) -> None:
        self._changes = []
        self._ended_at = 0.0
        super().__init__(**facts)  # type: ignore[arg-type]  # the facts of a record

    @property
    def phase(self) -> Phase:
        """How far the session has come. Setting it begins a step."""
        value: Phase = _PHASE.__get__(self)
        return value

    @phase.setter
    def phase(self, value: Phase) -> None:
        _PHASE.__set__(self, value)
        self._changes.append((value, time.monotonic()))

    @property
    def total_ms(self) -> int:
        """Time from accept to the end. Setting it ends the last step."""
        value: int = _TOTAL_MS.__get__(self)
        return value

    @total_ms.setter
    def total_ms(self, value: int) -> None:
        _TOTAL_MS.__set__(self, value)
        self._ended_at = time.monotonic()

    @property
    def steps(self) -> Sequence[Step]:
        """The phases of a session that has ended, in their order. One may come several times."""
        changes = self._changes
        start = changes[0][1]
        moments = [moment - start for _, moment in changes[1:]] + [self._ended_at - start]
        begins = [0.0, *moments]
        return [
            Step(phase, begin, end) for (phase, _), begin, end in zip(changes, begins, moments, strict=False)
        ]

    @property
    def milliseconds(self) -> dict[str, float]:
        """How long the session was in each phase, by the phase's name, for phases of at least a microsecond."""
        sums: dict[str, float] = {}
        for step in self.steps:
            sums[step.phase.value] = sums.get(step.phase.value, 0.0) + (step.end - step.begin) * 1000
        return {name: rounded for name, value in sums.items() if (rounded := round(value, 3))}


def ms(seconds: float) -> int:
    """Return a duration in milliseconds, rounded down."""
    return int(seconds * 1000)
