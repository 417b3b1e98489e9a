"""The session record: the facts of one session, collected while it runs and written when it ends."""

from __future__ import annotations

from attrs import define

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


def ms(seconds: float) -> int:
    """Return a duration in milliseconds, rounded down."""
    return int(seconds * 1000)
