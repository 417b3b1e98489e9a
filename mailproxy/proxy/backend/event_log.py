"""The log lines about the servers of a backend: changes of state, checks, logins, failed connections."""

from __future__ import annotations

from collections.abc import Iterable

from mailproxy.log import Log
from mailproxy.log.events import (
    BACKEND_DOWN,
    CHECK_NOT_MADE,
    CONNECT_FAILED,
    IDENTITY_REFUSED,
    LOGIN_DISABLED,
    LOGIN_ENABLED,
    OFFERS_LESS,
    SERVER_CHECK,
    SERVER_STATE,
    Event,
)
from mailproxy.pool import AdminState, Pool, StateChange
from mailproxy.protocol.checks.result import excerpt
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome
from mailproxy.proxy.backend.state_messages import BackendLoad, check_message, state_change_messages

_CONNECT_FAILED_INTERVAL_S = 60.0  # between two lines about failed connections to one server


class ServerEventLog:
    """Writes the lines about one backend's servers."""

    def __init__(self, backend: str, pool: Pool[BackendServer], log: Log) -> None:
        self._backend = backend
        self._pool = pool
        self._log = log

    def log_initial_states(self) -> None:
        """Write a line for each server that does not start ready."""
        for server in self._pool.servers:
            if server.state is not AdminState.READY:
                word = "drain state" if server.state is AdminState.DRAIN else "maintenance"
                self._write(SERVER_STATE, f"{self._name(server)} starts in {word}.", server)

    def log_change(
        self, change: StateChange[BackendServer], event: Event, outcome: CheckOutcome | None, sessions: int
    ) -> None:
        """Write the lines of a change of state.

        Args:
            change: The change.
            event: The event of the lines.
            outcome: The check that made the change, None if the operator did.
            sessions: The sessions that the server had before anything followed from the change.
        """
        load = BackendLoad(self._backend, self._pool.waiting, sessions)
        for message in state_change_messages(change, load, outcome):
            self._write(event, message, change.server, change, sessions)
        if change.backend_went_down:
            self.log_backend_down()

    def log_backend_down(self) -> None:
        """Write that no server of the backend is usable."""
        self._log.event(
            BACKEND_DOWN, f"backend {self._backend} has no server available!", backend=self._backend
        )

    def log_address(self, server: BackendServer, message: str) -> None:
        """Write that the operator has changed the server's address."""
        self._write(SERVER_STATE, message, server)

    def log_check(self, server: BackendServer, outcome: CheckOutcome) -> None:
        """Write the line of a check that brought the server nearer to going down or coming up."""
        self._write(SERVER_CHECK, check_message(self._backend, server, outcome), server)

    def log_check_not_made(self, server: BackendServer, outcome: CheckOutcome) -> None:
        """Write that this machine had no resources for a check."""
        self._write(CHECK_NOT_MADE, f"{self._name(server)}: {outcome.result}", server)

    def log_login(self, server: BackendServer, obstacle: str) -> None:
        """Write why clients can no longer log in at the server, or that they can if ``obstacle`` is empty."""
        if obstacle:
            self._write(LOGIN_DISABLED, f"{self._name(server)} {obstacle}", server)
        else:
            message = f"Clients can log in to server {self._backend}/{server.name} again"
            self._write(LOGIN_ENABLED, message, server)

    def log_identity_refused(self, server: BackendServer) -> None:
        """Write that a server does not accept the identity of a client."""
        message = (
            f"{self._name(server)} does not take the client's identity ({server.config.identity}), and has the proxy's address "
            "in its log: let it trust the proxy's address (Dovecot: login_trusted_networks; Postfix: "
            "smtpd_authorized_xclient_hosts)"
        )
        self._write(IDENTITY_REFUSED, message, server)

    def log_offers_less(self, server: BackendServer, lacking: Iterable[str]) -> None:
        """Write which capabilities a server lacks that are announced to its clients before TLS."""
        names = excerpt(" ".join(lacking))
        self._write(
            OFFERS_LESS, f"{self._name(server)} does not offer what is announced before TLS: {names}", server
        )

    def log_connect_failed(self, server: BackendServer, reason: str, now: float) -> None:
        """Write why a session could not be connected, at most once in 60 s for each server.

        HAProxy's session line does not have the reason. A server that has gone down has a line of its own
        instead.
        """
        if not server.accepts_persistent or now < server.failure_logged_at + _CONNECT_FAILED_INTERVAL_S:
            return
        failures = server.failures_unlogged
        repeated = f" ({failures} times since the last such line)" if failures > 1 else ""
        self._log.event(
            CONNECT_FAILED,
            f"{self._name(server)}: a session could not be connected: {excerpt(reason)}{repeated}",
            backend=self._backend,
            server=server.name,
            reason=reason,
            failures=failures,
        )
        server.failure_logged_at, server.failures_unlogged = now, 0

    def _name(self, server: BackendServer) -> str:
        return f"Server {self._backend}/{server.name}"

    def _write(
        self,
        event: Event,
        message: str,
        server: BackendServer,
        change: StateChange[BackendServer] | None = None,
        sessions: int | None = None,
    ) -> None:
        outcome = server.last_check
        counts = {} if change is None else {
            "active": change.active, "backup": change.backup, "requeued": change.requeued, "waiting": self._pool.waiting,
        }  # fmt: skip
        self._log.event(
            event, message, backend=self._backend, server=server.name, status=server.status, state=server.state.value,
            check=outcome.result.code.name if outcome else None, info=outcome.result.info if outcome else None,
            check_ms=outcome.ms if outcome else None,
            sessions=server.sessions if sessions is None else sessions, **counts,
        )  # fmt: skip
