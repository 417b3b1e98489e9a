"""What the sessions of a frontend, a bind, a backend or a server have come to, as values for readers."""

from __future__ import annotations

from attrs import Factory, define


@define
class Times:
    """A duration in milliseconds: its moving average over 512 sessions, and the longest one."""

    average: float = 0.0
    longest: int = 0


@define
class Traffic:
    """What sessions have come to. Those that are open count with the bytes that they have moved so far.

    Attributes:
        sessions: Sessions so far (HAProxy's ``stot``); of a server, those that have ended.
        ended: Sessions that have ended.
        most_sessions: The most sessions at once (``smax``).
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
        internal_errors: Sessions that ended by a fault of the proxy (``eint``).
        queue: Time in the queue.
        connect: Time for connecting to a server.
        total: Time from accepting to the end.
    """

    sessions: int = 0
    ended: int = 0
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
    internal_errors: int = 0
    queue: Times = Factory(Times)
    connect: Times = Factory(Times)
    total: Times = Factory(Times)

    @property
    def failures(self) -> int:
        """Sessions that ended before they were joined with a server, or were aborted by it."""
        return (
            self.failed_handshakes + self.denied_connections + self.denied_sessions + self.denied_requests
            + self.failed_requests + self.failed_connects + self.server_aborts + self.internal_errors
        )  # fmt: skip
