"""What is known about one session; filled in as it goes, written as one line when it ends."""

from __future__ import annotations

from attrs import define

from mailproxy.log.end_reasons import EndReason, Phase


@define(kw_only=True, eq=False, weakref_slot=False)
class SessionRecord:
    """Times are milliseconds, -1 where a phase was not reached; ``accepted`` is seconds since the epoch.

    ``peer`` is the address that the connection came from, where a PROXY header told the ``client``'s; ``client_cn`` is the
    common name of its certificate. ``bytes_in`` came from the client, ``bytes_out`` from the server (HAProxy's %B). The two
    ``close_notify`` say whether that side's TLS ended with one, None where it had no TLS or did not end. ``server_queue`` and ``backend_queue`` are HAProxy's positions in the two lines, 0 where it did not wait. The four counts are those of the
    moment when the line is written.
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


def ms(seconds: float) -> int:
    """As the record has times."""
    return int(seconds * 1000)
