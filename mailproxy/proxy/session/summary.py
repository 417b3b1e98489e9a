"""A live session as a value, for lists that an operator sees."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

from mailproxy.proxy.session.registry import LiveSession


@frozen(kw_only=True)
class SessionSummary:
    """A session at one moment.

    Attributes:
        id: Its id.
        accepted: When it was accepted, in seconds since the epoch.
        age: Seconds since then.
        idle: Seconds since the last byte in either direction.
        client: Address and port of the client, from the PROXY header if there was one.
        local: Address and port that the client connected to, empty for a Unix socket.
        frontend: Its name.
        bind: Its name.
        backend: Its name, empty if it has none yet.
        server: Its name, empty if it has none yet.
        server_address: Address and port of the server, empty before it is connected.
        phase: How far it has come.
        bytes_in: Bytes from the client so far.
        bytes_out: Bytes from the server so far.
        retries: Attempts to connect after the first one.
        tls: The version of the client's TLS, empty in clear or if it is passed through.
    """

    id: int
    accepted: float
    age: float
    idle: float
    client: str
    local: str
    frontend: str
    bind: str
    backend: str
    server: str
    server_address: str
    phase: str
    bytes_in: int
    bytes_out: int
    retries: int
    tls: str

    @classmethod
    def of(cls, session: LiveSession) -> SessionSummary:
        """Return the summary of a session now."""
        record = session.record
        return cls(
            id=record.id, accepted=record.accepted, age=session.age, idle=session.idle, client=record.client,
            local=session.local_address, frontend=record.frontend, bind=record.bind, backend=record.backend,
            server=record.server, server_address=record.server_address, phase=record.phase.value,
            bytes_in=session.bytes_in, bytes_out=session.bytes_out, retries=record.retries, tls=record.tls_version or "",
        )  # fmt: skip


@frozen(kw_only=True)
class SessionFilter:
    """Which sessions are listed. An empty value, or 0, matches any.

    Attributes:
        id: The id.
        frontend: The frontend's name.
        backend: The backend's name.
        server: The server's name.
        older_than: The age in seconds at least.
    """

    id: int = 0
    frontend: str = ""
    backend: str = ""
    server: str = ""
    older_than: float = 0.0

    def select(self, sessions: Iterable[LiveSession]) -> list[SessionSummary]:
        """Return the summaries of the sessions that match."""
        return [SessionSummary.of(session) for session in sessions if self._matches(session)]

    def _matches(self, session: LiveSession) -> bool:
        record = session.record
        return (
            self.id in (0, record.id)
            and self.frontend in ("", record.frontend)
            and self.backend in ("", record.backend)
            and self.server in ("", record.server)
            and (not self.older_than or session.age >= self.older_than)
        )
