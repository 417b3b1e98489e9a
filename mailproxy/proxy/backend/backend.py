"""A backend as sessions and health checks use it: slots, checks, states, timers."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence

import trio

from mailproxy.config import Backend as BackendConfig
from mailproxy.log import Log
from mailproxy.log.events import SERVER_DOWN, SERVER_STATE, SERVER_UP, Event
from mailproxy.metrics.board import Board, LocalBoard
from mailproxy.metrics.process import FAILED_LOOK_UPS
from mailproxy.metrics.servers import count_check
from mailproxy.net.dial import Endpoint
from mailproxy.pool import AdminState, Balance, Pool, SharedCounts, StateChange, StickTable, client_key
from mailproxy.pool.eligibility import usable_counts
from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt
from mailproxy.proxy.backend.event_log import ServerEventLog
from mailproxy.proxy.backend.resolver import Resolver
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome, Login, ServerContexts
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.backend.state_messages import no_server_message
from mailproxy.proxy.backend.timers import BackendTimers
from mailproxy.proxy.client_info import ClientInfo

_KEY_BYTES = 17  # of a number that client_key returns
_NOT_MEASURED_MS = -1


class Backend:
    """One backend.

    Attributes:
        config: Its table in the configuration.
        name: Its name there.
        pool: Its servers as pure decisions.
        resolver: Looks up the host names of its servers.
        board: Where the durations of its health checks are counted.
    """

    def __init__(self, config: BackendConfig, pool: Pool[BackendServer], log: Log) -> None:
        """Make a backend of a pool; `factory.make_backend` makes both.

        Args:
            config: The backend's table.
            pool: Its servers.
            log: Where lines about its servers go.
        """
        self.name = config.name
        self.board: Board = LocalBoard()
        self.pool = pool
        self._sessions = 0
        self._use(config)
        self._event_log = ServerEventLog(self.name, self.pool, log)
        self._timers = BackendTimers(self.name, self.pool, log)
        self.resolver = Resolver(
            self.name,
            self.servers,
            interval=config.resolve_interval,
            prefer=config.resolve_prefer,
            on_change=self._addresses_changed,
            on_failed=self._count_failed_look_up,
            log=log,
        )

    def _use(self, config: BackendConfig) -> None:
        stick = config.stick
        self.config = config
        self._prefixes = (stick.prefix_v4, stick.prefix_v6) if stick is not None else (32, 64)
        self._uses_source_hash = config.balance == "source"
        self._needs_client_key = stick is not None or self._uses_source_hash

    @property
    def sessions(self) -> int:
        """The sessions that have a server or wait for one."""
        return self._sessions

    @property
    def servers(self) -> Sequence[BackendServer]:
        """All servers, in the order of the configuration."""
        return self.pool.servers

    async def run_timers(self) -> None:
        """Run slow start and the expiry of stick entries until cancelled."""
        await self._timers.run()

    def retire(self) -> None:
        """End ``run_timers`` and the look-ups of host names: a reload has removed the backend."""
        self._timers.stop()
        self.resolver.stop()
        for server in self.servers:
            server.retire()

    def reload_certificates(self, contexts: ServerContexts) -> None:
        """Use these TLS contexts for new connections. Connections that are open keep theirs."""
        for server in self.servers:
            # A server with TLS is in the mapping, or this raises: it must never be spoken to in clear text.
            if server.config.tls is not None:
                server.tls_context = contexts[server.config.tls]

    def count_on(self, board: Board) -> None:
        """Count what happens at its servers on a board. A server that a reload removes leaves its counts there."""
        self.board = board
        for server in self.servers:
            if not isinstance(server.counts, SharedCounts):
                server.counts = SharedCounts(board, self.name, server.name)

    def log_initial_states(self) -> None:
        """Write a line for each server that does not start ready."""
        self._event_log.log_initial_states()

    def _addresses_changed(self) -> None:
        self.pool.addresses_changed()

    def _count_failed_look_up(self) -> None:
        self.board.block((FAILED_LOOK_UPS, self.name), 1)[0] += 1

    # Reload

    def reconfigure(
        self, config: BackendConfig, servers: Sequence[BackendServer], balance: Balance | None
    ) -> None:
        """Use another configuration of this backend. Sessions, queue, states and stick entries stay.

        A server with the name and the address of one that is here keeps its object, so its limits stay
        exact. One with another address is new, and takes over what is known of its name. Servers that are
        gone keep their sessions.

        Args:
            config: The backend's table.
            servers: The servers as they were made from it, with the addresses of their host names.
            balance: Its balance method; None for the one in use.
        """
        before = {server.name: server for server in self.servers}
        had_usable_server, old = self.pool.has_usable_server, self.config
        states: list[tuple[BackendServer, AdminState]] = []
        merged: list[BackendServer] = []
        for new in servers:
            known, server = before.get(new.name), new
            if known is not None:
                is_state_new = known.config.state != new.config.state
                if known.config.address == new.config.address:
                    known.reconfigure(new)
                    server = known
                else:
                    new.take_over(known)
                    new.expect_up()
                if is_state_new:
                    states.append((server, AdminState(new.config.state)))
            merged.append(server)
        self._use(config)
        self.pool.reconfigure(
            merged,
            balance,
            max_queue=config.max_queue,
            stick=self._stick_table(old),
            all_backups=config.all_backups,
        )
        self._timers.reconfigure()
        self.resolver.reconfigure(merged, interval=config.resolve_interval, prefer=config.resolve_prefer)
        present = set(merged)
        for server in before.values():
            if server not in present:
                server.retire()
        if had_usable_server and not self.pool.has_usable_server:
            self._event_log.log_backend_down()
        for server, state in states:
            self.set_state(server, state)

    def _stick_table(self, old: BackendConfig) -> StickTable | None:
        """Return the stick table in use with the new bounds, or a new one if it has other keys."""
        table, stick = self.pool.stick, self.config.stick
        if stick is None:
            return None
        if table is None or old.stick is None or self._prefixes != (old.stick.prefix_v4, old.stick.prefix_v6):
            return StickTable(stick.size, stick.expire)
        table.resize(stick.size, stick.expire)
        return table

    # Sessions

    def add_sessions(self, number: int) -> None:
        """Add to the number of sessions; a negative number subtracts."""
        self._sessions += number

    def client_key(self, client_info: ClientInfo) -> int | None:
        """Return the key of the client's network.

        Returns:
            None if nothing here goes by the client, or if it has no address.
        """
        if not self._needs_client_key or client_info.source is None:
            return None
        return client_key(client_info.source[0], *self._prefixes)

    def sticky_server(self, key: int | None) -> BackendServer | None:
        """Return the server that the client had, if it still accepts its sessions."""
        if key is None or self.pool.stick is None:
            return None
        return self.pool.sticky_server(key, trio.current_time())

    def acquire(
        self,
        key: int | None,
        *,
        required: BackendServer | None = None,
        excluded: Collection[BackendServer] = (),
    ) -> BackendServer | None:
        """Take a slot for a session, which gives it back with ``pool.release``.

        Return None if none is free now.

        Args:
            key: What ``client_key`` has returned.
            required: The only server that will do.
            excluded: Servers that are chosen only if no other one has a free slot.
        """
        return self.pool.acquire(self._hashed(key), required=required, excluded=excluded)

    def candidates(
        self, key: int | None, *, required: BackendServer | None = None
    ) -> Sequence[BackendServer]:
        """Return the servers of which ``acquire`` would return one now. It takes no slot and no turn."""
        return self.pool.candidates(self._hashed(key), required=required)

    def _hashed(self, key: int | None) -> bytes | None:
        return key.to_bytes(_KEY_BYTES, "big") if key is not None and self._uses_source_hash else None

    def has_others(self, server: BackendServer) -> bool:
        """Whether sessions may go to another server than this one, as HAProxy counts them.

        The first backup alone has no other one.
        """
        active, backups = usable_counts(self.servers)
        return (active or self.pool.all_backups * backups) > server.is_usable

    def on_connected(self, server: BackendServer, key: int | None) -> None:
        """Note that a session is connected to the server. Its client sticks to the server from now on."""
        if server.passive_health is not None:
            server.passive_health.record_success()
        if key is not None and server.config.stick is not None:
            self.pool.store(key, server, trio.current_time())

    def on_connect_failed(self, server: BackendServer, client_info: ClientInfo, reason: str) -> None:
        """Count and log that a session could not be connected to the server."""
        server.counts.connect_errors += 1
        server.failures_unlogged += 1
        self._event_log.log_connect_failed(server, reason, trio.current_time())
        self.observe(server, client_info.host, reason)

    def observe(self, server: BackendServer, host: str, reason: str) -> None:
        """Count a failed connection for passive health. Enough of them are a failed check.

        Args:
            server: The server that could not be reached.
            host: The address of the session's client.
            reason: Why it failed.
        """
        passive_health = server.passive_health
        if passive_health is None or not server.accepts_persistent:  # a server that is down cannot fail again
            return
        if errors := passive_health.record_failure(host):
            info = (
                f"Detected {errors} consecutive errors, last one was: L4 unsuccessful connection ({reason})"
            )
            result = CheckResult(CheckCode.HANA, excerpt(info))
            self.record_check(server, CheckOutcome(result, _NOT_MEASURED_MS))
            if (check := server.config.check) is not None:
                server.check_soon(check.fast_interval or check.interval)

    def listed(self) -> tuple[tuple[str, ...], ...]:
        """Return what its servers list as capabilities: the list of the first one that is up and has one."""
        lists = [server.listed for server in self.servers if server.listed and server.accepts_persistent]
        return lists[0] if lists else next((server.listed for server in self.servers if server.listed), ())

    def on_identity_refused(self, server: BackendServer) -> None:
        """Take note that a server does not take the client's identity. Its sessions go on without."""
        if not server.is_identity_refusal_logged:
            server.is_identity_refusal_logged = True
            self._event_log.log_identity_refused(server)

    def no_server_reason(self) -> str:
        """Return why a session gets no server, for its log line."""
        return no_server_message(self.name, self.servers)

    # States

    def record_check(self, server: BackendServer, outcome: CheckOutcome) -> None:
        """Take the outcome of a health check into account."""
        before, server.last_check = server.last_check, outcome
        result = outcome.result
        if outcome.ms >= 0:
            count_check(self.board, self.name, server.name, outcome.ms)
        if result.code is CheckCode.SOCKERR:
            # This machine had no descriptors or memory for the check. The server is not at fault.
            if before is None or before.result != result:
                self._event_log.log_check_not_made(server, outcome)
            return
        if outcome.login is not None:
            self._record_login(server, outcome.login)
        if outcome.listed:
            server.listed = outcome.listed
            self._note_lacking(server)
        if result.code.is_passed and server.passive_health is not None:
            server.passive_health.record_success()  # as in HAProxy: failures count between checks that pass
        progress = server.health.progress if server.health is not None else ""
        change = self.pool.record_check(server, trio.current_time(), passed=result.code.is_passed)
        if change is not None:
            self._on_change(change, SERVER_UP if change.after.is_up else SERVER_DOWN, outcome)
        elif (
            server.health is not None
            and server.health.progress != progress
            and _is_worth_logging(before, outcome)
        ):
            self._event_log.log_check(server, outcome)

    def _record_login(self, server: BackendServer, login: Login) -> None:
        """Store what a check has learnt about logins. Log it if it changes whether clients can log in."""
        before, server.login = server.login, login
        if login.obstacle != (before.obstacle if before is not None else ""):
            self._event_log.log_login(server, login.obstacle)

    def _note_lacking(self, server: BackendServer) -> None:
        """Log if a server offers less than what is announced before TLS, once for each such list."""
        names = {words[0].upper() for words in server.listed}
        lacking = tuple({words[0].upper() for words in self.listed()} - names)
        if set(lacking) != set(server.lacking):
            server.lacking = lacking
            if lacking:
                self._event_log.log_offers_less(server, sorted(lacking))

    def set_state(self, server: BackendServer, state: AdminState) -> None:
        """Set the administrative state.

        Sessions that are connected continue, except in maintenance with
        ``on_marked_down = "shutdown-sessions"``.
        """
        change = self.pool.set_state(server, state, trio.current_time())
        if change is not None:
            self._on_change(change, SERVER_STATE, None)
            if change.before.state is AdminState.MAINT:
                server.check_soon()  # it was not checked in maintenance

    def vacate(self, server: BackendServer) -> None:
        """Set the state to drain, and let no client stick to the server until the state is set again."""
        self.set_state(server, AdminState.DRAIN)
        self.pool.set_vacated(server, True)

    def set_weight(self, server: BackendServer, weight: int) -> None:
        """Set the weight. Sessions that are connected continue."""
        had_usable_server = self.pool.has_usable_server
        self.pool.set_weight(server, weight)
        if had_usable_server and not self.pool.has_usable_server:
            self._event_log.log_backend_down()

    def set_max_sessions(self, server: BackendServer, sessions: int) -> None:
        """Set the limit on a server's sessions, 0 for none. Sessions that are connected continue."""
        self.pool.set_max_sessions(server, sessions)

    def set_health(self, server: BackendServer, *, is_up: bool) -> None:
        """Let a server count as up or down until its checks, or the operator, say otherwise."""
        change = self.pool.set_health(server, trio.current_time(), is_up=is_up)
        if change is not None:
            self._on_change(change, SERVER_UP if is_up else SERVER_DOWN, None)

    def set_stopping(self, server: BackendServer) -> None:
        """Let only clients that stick to a server go there, until a check passes."""
        change = self.pool.set_health(server, trio.current_time(), is_up=True, is_stopping=True)
        if change is not None:
            self._on_change(change, SERVER_STATE, None)

    def pause_checks(self, server: BackendServer, *, is_paused: bool) -> None:
        """Switch the health checks of a server off or on. It keeps its state."""
        server.checks_paused = is_paused
        if not is_paused:
            server.check_soon()

    def restart_maxima(self) -> None:
        """Let the most sessions of each server begin again, at those of now."""
        for server in self.servers:
            server.counts.most_sessions = server.sessions

    def set_check_port(self, server: BackendServer, port: int) -> None:
        """Check a server at another port from now on."""
        server.check_port = port
        server.check_soon()

    def set_address(self, server: BackendServer, host: str, port: int | None, message: str) -> None:
        """Connect sessions and checks to another address from now on, and log ``message``.

        Sessions that are connected continue. A host name's next change replaces the address.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server.addresses = (Endpoint(family, host, port),)
        self._event_log.log_address(server, message)
        self._addresses_changed()
        server.check_soon()

    def after_restore(self) -> None:
        """Take note of servers that were given the state of an earlier process. There are no sessions yet."""
        self.pool.resume(trio.current_time())
        self._timers.notify_slow_start()

    def apply_snapshot(self, server: BackendServer, snapshot: ServerSnapshot) -> int:
        """Take over what another process knows of a server.

        Returns:
            The number of waiters that this moved: to another queue, or to a slot of the server.
        """
        server.last_check, server.resolve_error = snapshot.checked, snapshot.unresolved
        server.checks_paused, server.check_port = snapshot.checks_paused, snapshot.check_port
        server.listed = snapshot.listed
        if server.weight != snapshot.weight:
            self.pool.set_weight(server, snapshot.weight)
        if server.max_sessions != snapshot.max_sessions:
            self.pool.set_max_sessions(server, snapshot.max_sessions)
        if set(snapshot.addresses) != set(server.addresses):
            server.addresses = snapshot.addresses
            self.pool.addresses_changed()
        server.addresses = snapshot.addresses  # the same ones can come in another order
        change = self.pool.apply_snapshot(
            server,
            snapshot.state,
            snapshot.health,
            trio.current_time(),
            up_for=snapshot.up_for,
            is_stopping=snapshot.is_stopping,
        )
        self.pool.set_vacated(server, snapshot.is_vacated)
        if server.throttle < 1.0:
            self._timers.notify_slow_start()  # also without a change: a new worker takes each server to be up
        if change is None:
            return 0
        self._apply_change(change)
        return change.requeued

    def _on_change(
        self, change: StateChange[BackendServer], event: Event, outcome: CheckOutcome | None
    ) -> None:
        self._event_log.log_change(change, event, outcome, change.server.sessions)
        self._apply_change(change)

    def _apply_change(self, change: StateChange[BackendServer]) -> None:
        """Do what follows from a server's change outside the pool. No other method does."""
        server = change.server
        if server.throttle < 1.0:
            self._timers.notify_slow_start()
        if change.went_down:
            close_sessions = server.config.on_marked_down == "shutdown-sessions"
            for session in tuple(server.active_sessions):
                session.on_server_down(close_sessions=close_sessions)


def _is_worth_logging(before: CheckOutcome | None, outcome: CheckOutcome) -> bool:
    """Whether a check failed, or passed after one that failed. The first check of all is expected to pass."""
    return not outcome.result.code.is_passed or (before is not None and not before.result.code.is_passed)
