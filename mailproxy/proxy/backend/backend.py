"""A backend at work: its servers as a pool, what their checks and the operator say of them, and where clients stick."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from random import SystemRandom

import trio

from mailproxy import config
from mailproxy.log import Log
from mailproxy.log.events import (
    BACKEND_DOWN,
    CHECK_NOT_MADE,
    CONNECT_FAILED,
    LOGIN_DISABLED,
    LOGIN_ENABLED,
    SERVER_CHECK,
    SERVER_DOWN,
    SERVER_STATE,
    SERVER_UP,
    Event,
)
from mailproxy.net.dial import Source as LocalSource
from mailproxy.net.keepalive import keepalive_options
from mailproxy.net.resolve import literal_endpoint
from mailproxy.net.tls.context import Context, make_client_context
from mailproxy.pool import (
    AdminState,
    Balance,
    First,
    Health,
    LeastConn,
    PassiveHealth,
    Pool,
    Random,
    RandomSource,
    RoundRobin,
    Source,
    StateChange,
    StickTable,
    client_key,
)
from mailproxy.protocol.checks.result import CheckCode, CheckResult, excerpt
from mailproxy.proxy.backend.header_builder import ProxyHeaderBuilder
from mailproxy.proxy.backend.resolver import Resolver
from mailproxy.proxy.backend.server import BackendServer, CheckOutcome, Login
from mailproxy.proxy.backend.snapshot import ServerSnapshot
from mailproxy.proxy.backend.state_messages import BackendLoad, check_message, state_change_messages
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.supervise import supervise

_KEY_BYTES = 17  # of what key_of gives
_WARMING_STEPS = 20  # HAProxy's: a twentieth of slow_start each, but not more often than every second
_SHORTEST_STEP_S = 1.0
_EXPIRY_S = 1.0  # between two looks for entries that nobody used
_UNMEASURED_MS = -1
_FAILURE_LOG_S = 60.0  # between two lines about failed connections to one server
_NAMED_SERVERS = 3  # in the line of every session that gets none

ServerContexts = Mapping[config.ServerTls, Context]
"""TLS towards servers, by what the configuration says of it."""


def server_context(connectors: ServerContexts, tls: config.ServerTls) -> Context:
    """TLS towards a server. That of a port which an inherited socket turned out to have was not loaded: it names no files."""
    return connectors.get(tls) or make_client_context(tls, None)


class Backend:
    """One backend. ``sessions`` counts those that have a server or wait for one."""

    def __init__(
        self,
        settings: config.Backend,
        connectors: ServerContexts,
        log: Log,
        chance: RandomSource | None = None,
    ) -> None:
        self.config = settings
        self.name = settings.name
        self.sessions = 0
        self._log = log
        self._chance = chance or SystemRandom()
        stick = settings.stick
        self._prefixes = (stick.prefix_v4, stick.prefix_v6) if stick is not None else (32, 64)
        self._uses_source_hash = settings.balance == "source"
        self._needs_client_key = stick is not None or self._uses_source_hash
        servers = [self._server(each, connectors) for each in settings.servers]
        self.pool = self._pool(servers, StickTable(stick.size, stick.expire) if stick is not None else None)
        self._warming = trio.Event()
        self.resolver = Resolver(
            self.name,
            servers,
            interval=settings.resolve_interval,
            prefer=settings.resolve_prefer,
            came=self._addresses_changed,
            log=log,
        )

    def _pool(self, servers: Sequence[BackendServer], stick: StickTable | None) -> Pool[BackendServer]:
        return Pool(servers, self._balance(), max_queue=self.config.max_queue, stick=stick)

    def _addresses_changed(self) -> None:
        self.pool.addresses_changed()

    def _server(self, settings: config.Server, connectors: ServerContexts) -> BackendServer:
        return self._make_server(BackendServer, settings, connectors)

    def _make_server(
        self, kind: type[BackendServer], settings: config.Server, connectors: ServerContexts
    ) -> BackendServer:
        endpoint = literal_endpoint(settings.address)
        check = settings.check
        watches = settings.observe == "connect" and check is not None
        return kind(
            name=settings.name,
            weight=settings.weight,
            max_sessions=settings.max_sessions,
            is_backup=settings.backup,
            state=AdminState(settings.state),
            slow_start=settings.slow_start,
            health=Health(rise=check.rise, fall=check.fall) if check is not None else None,
            passive_health=PassiveHealth(settings.error_limit, settings.error_clients) if watches else None,
            addresses=(endpoint,) if endpoint is not None else (),
            config=settings,
            options=keepalive_options(settings.keepalive),
            source=LocalSource(settings.source) if settings.source not in (None, "client") else None,
            tls_context=connectors[settings.tls] if settings.tls is not None else None,
            proxy_header=ProxyHeaderBuilder(settings, self.config.protocol)
            if settings.send_proxy not in (None, "none")
            else None,
        )

    def _balance(self) -> Balance:
        servers = self.config.servers
        match self.config.balance:
            case "leastconn":
                return LeastConn()
            case "roundrobin":
                return RoundRobin()
            case "first":
                return First()
            case "random":
                return Random(self._chance)
            case "source":
                return Source(mean_weight=sum(server.weight for server in servers) / len(servers) or 1.0)

    @property
    def servers(self) -> Sequence[BackendServer]:
        """All of them, in the order of the configuration."""
        return self.pool.servers

    def reload_certificates(self, connectors: ServerContexts) -> None:
        """TLS towards the servers as their files are now; sessions keep theirs."""
        for server in self.servers:
            if server.config.tls is not None:  # never in clear text for want of one
                server.tls_context = connectors[server.config.tls]

    def say_states(self) -> None:
        """Say which servers begin otherwise than ready."""
        for server in self.servers:
            if server.state is not AdminState.READY:
                word = "drain state" if server.state is AdminState.DRAIN else "maintenance"
                self._log_server_event(
                    SERVER_STATE, f"Server {self.name}/{server.name} starts in {word}.", server
                )

    # Sessions

    def add_sessions(self, number: int) -> None:
        """So many sessions more, or fewer."""
        self.sessions += number

    def client_key(self, caller: ClientInfo) -> int | None:
        """What identifies the client, where anything goes by that; its network, None if it has no address."""
        if not self._needs_client_key or caller.source is None:
            return None
        return client_key(caller.source[0], *self._prefixes)

    def sticky_server(self, key: int | None) -> BackendServer | None:
        """The server that the client had, if it may have it again."""
        if key is None or self.pool.stick is None:
            return None
        return self.pool.sticky_server(key, trio.current_time())

    def acquire(
        self,
        key: int | None,
        *,
        wanted: BackendServer | None = None,
        avoiding: Collection[BackendServer] = (),
    ) -> BackendServer | None:
        """A place for a session; None if there is none now."""
        hashed = key.to_bytes(_KEY_BYTES, "big") if key is not None and self._uses_source_hash else None
        return self.pool.acquire(hashed, required=wanted, excluded=avoiding)

    def has_others(self, server: BackendServer) -> bool:
        """Are there other servers that sessions may go to than this one?"""
        return self.pool.usable[0] > server.is_usable

    def on_connected(self, server: BackendServer, key: int | None) -> None:
        """A session has reached the server: its client has it from now on."""
        if server.passive_health is not None:
            server.passive_health.record_success()
        if key is not None and server.config.stick is not None:
            self.pool.store(key, server, trio.current_time())

    def on_connect_failed(self, server: BackendServer, caller: ClientInfo, why: str) -> None:
        """A session could not be connected to the server."""
        server.counts.connect_errors += 1
        server.failures += 1
        now = trio.current_time()
        # Why, which HAProxy's line does not say. A server that has gone down meanwhile has its own line.
        if server.accepts_persistent and now >= server.failure_logged + _FAILURE_LOG_S:
            self._log.event(
                CONNECT_FAILED,
                f"Server {self.name}/{server.name}: a session could not be connected: {excerpt(why)}"
                + (f" ({server.failures} times since the last such line)" if server.failures > 1 else ""),
                backend=self.name,
                server=server.name,
                reason=why,
                failures=server.failures,
            )
            server.failure_logged, server.failures = now, 0
        self.observe(server, caller.host, why)

    def observe(self, server: BackendServer, host: str, why: str) -> None:
        """A session of this client could not be connected, which may be as much as a failed check."""
        seen = server.passive_health
        if seen is None or not server.accepts_persistent:  # it is known already
            return
        if errors := seen.record_failure(host):
            info = f"Detected {errors} consecutive errors, last one was: L4 unsuccessful connection ({why})"
            self.record_check(
                server, CheckOutcome(CheckResult(CheckCode.HANA, excerpt(info)), _UNMEASURED_MS)
            )
            if (check := server.config.check) is not None:
                server.check_soon(check.fast_interval or check.interval)

    def no_server_reason(self) -> str:
        """Why there is no server, in words."""
        reasons = [
            f"{server.name}: {self._unusable_reason(server)}" for server in self.servers[:_NAMED_SERVERS]
        ]
        if (more := len(self.servers) - _NAMED_SERVERS) > 0:
            reasons.append(f"and {more} more")
        return f"no server of {self.name} can be used ({'; '.join(reasons)})"

    def _unusable_reason(self, server: BackendServer) -> str:
        if not server.addresses:
            return server.resolve_error
        if server.is_up and server.state is AdminState.READY:
            return "weight 0" if server.weight == 0 else "backup"
        said = f", {server.last_check.result}" if server.last_check and not server.is_up else ""
        return f"{server.status}{said}"

    # States

    def record_check(self, server: BackendServer, checked: CheckOutcome) -> None:
        """Take the result of a check."""
        before, server.last_check = server.last_check, checked
        result = checked.result
        if result.code is CheckCode.SOCKERR:
            # Out of descriptors or memory: that is this machine's fault, and says nothing of the server.
            if before is None or before.result != result:
                self._log_server_event(CHECK_NOT_MADE, f"Server {self.name}/{server.name}: {result}", server)
            return
        if checked.login is not None:
            self._learn_login(server, checked.login)
        if result.code.is_passed and server.passive_health is not None:
            server.passive_health.record_success()  # as in HAProxy: failures are counted between checks that pass
        progress = server.health.progress if server.health is not None else ""
        change = self.pool.record_check(server, trio.current_time(), passed=result.code.is_passed)
        if change is not None:
            self._on_change(change, SERVER_UP if change.after.is_up else SERVER_DOWN, checked)
        elif (
            server.health is not None
            and server.health.progress != progress
            and _is_worth_logging(before, checked)
        ):
            self._log_server_event(SERVER_CHECK, check_message(self.name, server, checked), server)

    def _learn_login(self, server: BackendServer, login: Login) -> None:
        """Keep what a check has learnt, and say it when it changes whether clients can log in."""
        before, server.login = server.login, login
        if login.obstacle == (before.obstacle if before is not None else ""):
            return
        if login.obstacle:
            self._log_server_event(
                LOGIN_DISABLED, f"Server {self.name}/{server.name} {login.obstacle}", server
            )
        else:
            self._log_server_event(
                LOGIN_ENABLED, f"Clients can log in to server {self.name}/{server.name} again", server
            )

    def set_state(self, server: BackendServer, state: AdminState) -> None:
        """What the operator wants of a server; sessions that it has go on, unless it leaves for maintenance and
        ``on_marked_down`` says otherwise.
        """
        change = self.pool.set_state(server, state, trio.current_time())
        if change is not None:
            self._on_change(change, SERVER_STATE, None)
            if change.before.state is AdminState.MAINT:
                server.check_soon()  # nothing is known of it

    def set_weight(self, server: BackendServer, weight: int) -> None:
        """Give a server another weight; sessions that it has go on."""
        could_serve = self.pool.has_usable_server
        self.pool.set_weight(server, weight)
        if could_serve and not self.pool.has_usable_server:
            self._say_no_server()

    def _say_no_server(self) -> None:
        self._log.event(BACKEND_DOWN, f"backend {self.name} has no server available!", backend=self.name)

    def apply_snapshot(self, server: BackendServer, known: ServerSnapshot) -> int:
        """Know of a server what another process has found; how many sessions came into another line or to a place by that."""
        server.last_check, server.resolve_error = known.checked, known.unresolved
        if set(known.addresses) != set(server.addresses):
            server.addresses = known.addresses
            self.pool.addresses_changed()
        server.addresses = known.addresses  # their order may be another one
        change = self.pool.apply_snapshot(
            server, known.state, known.health, trio.current_time(), up_for=known.up_for
        )
        if server.throttle < 1.0:
            self._warming.set()  # also where it is no news that it is up
        if change is None:
            return 0
        self._apply_change(change)
        return change.requeued

    def _on_change(
        self, change: StateChange[BackendServer], event: Event, checked: CheckOutcome | None
    ) -> None:
        self._log_change(change, event, checked, change.server.sessions)
        self._apply_change(change)

    def _log_change(
        self, change: StateChange[BackendServer], event: Event, checked: CheckOutcome | None, sessions: int
    ) -> None:
        """``sessions``: those that the server had before anything followed from the change."""
        for sentence in state_change_messages(
            change, BackendLoad(self.name, self.pool.waiting, sessions), checked
        ):
            self._log_server_event(event, sentence, change.server, change, sessions)
        if change.backend_went_down:
            self._say_no_server()

    def _apply_change(self, change: StateChange[BackendServer]) -> None:
        """The one place where what follows from a change of a server is done."""
        server = change.server
        if server.throttle < 1.0:
            self._warming.set()
        if change.went_down:
            shut_down = server.config.on_marked_down == "shutdown-sessions"
            for visitor in tuple(server.active_sessions):
                visitor.on_server_down(close_sessions=shut_down)

    def _log_server_event(
        self,
        event: Event,
        sentence: str,
        server: BackendServer,
        change: StateChange[BackendServer] | None = None,
        sessions: int | None = None,
    ) -> None:
        checked = server.last_check
        left = {} if change is None else {
            "active": change.active, "backup": change.backup, "requeued": change.requeued, "waiting": self.pool.waiting,
        }  # fmt: skip
        self._log.event(
            event, sentence, backend=self.name, server=server.name, status=server.status, state=server.state.value,
            check=checked.result.code.name if checked else None, info=checked.result.info if checked else None,
            check_ms=checked.ms if checked else None,
            sessions=server.sessions if sessions is None else sessions, **left,
        )  # fmt: skip

    # What time brings

    async def run_timers(self) -> None:
        """Let servers warm up, and clients be forgotten that have not come back, until cancelled."""
        async with trio.open_nursery() as nursery:
            if any(server.slow_start for server in self.servers):
                nursery.start_soon(supervise, self._log, f"slow start of {self.name}", self._warm_up)
            if self.pool.stick is not None:
                nursery.start_soon(
                    supervise,
                    self._log,
                    f"expiry of {self.name}'s stick table",
                    self._expire,
                    self.pool.stick,
                )

    async def _warm_up(self) -> None:
        shortest = min(server.slow_start for server in self.servers if server.slow_start)
        step = max(shortest / _WARMING_STEPS, min(_SHORTEST_STEP_S, shortest))
        while True:
            await self._warming.wait()
            await trio.sleep(step)
            if not self.pool.warm_up(trio.current_time()):
                self._warming = trio.Event()

    async def _expire(self, stick: StickTable) -> None:
        while True:
            is_more = stick.expire(trio.current_time())
            await trio.sleep(0 if is_more else _EXPIRY_S)


def _is_worth_logging(before: CheckOutcome | None, checked: CheckOutcome) -> bool:
    """That a server is as well as it was taken to be is none."""
    return not checked.result.code.is_passed or (before is not None and not before.result.code.is_passed)
