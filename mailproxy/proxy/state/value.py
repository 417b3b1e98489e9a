"""The state of a proxy as a value: captured from the backends of one process, and applied to those of another.

Everything goes by name, so it fits another configuration: what the configuration lacks is ignored. A wish of
the operator is stored with the configuration's value that it replaced. It is applied only if the
configuration still has that value: a change in the file is the newer wish.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import cast

from attrs import frozen

from mailproxy.config.values import WEIGHT_MAX
from mailproxy.pool import AdminState, Health
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.state.frontends import FrontendsRecord

Wish = str | int
"""What the operator can set of a server."""

StickEntries = Iterable[tuple[int, int, float]]
"""Client key, index in ``StickRecord.servers``, and seconds until the entry expires."""

_PORT_MAX = 65535

STICK_ENTRIES_MAX = 500_000
"""The entries of a table that are stored at most."""


@frozen
class _Setting:
    """Something of a server that the operator can set.

    Attributes:
        get: Returns it.
        configured: Returns the configuration's value.
        apply: Sets it in a server without sessions.
        is_valid: Whether a value is allowed.
    """

    get: Callable[[BackendServer], Wish]
    configured: Callable[[BackendServer], Wish]
    apply: Callable[[BackendServer, Wish], None]
    is_valid: Callable[[Wish], bool]


def _set_state(server: BackendServer, value: Wish) -> None:
    server.state = AdminState(value)


def _set_weight(server: BackendServer, value: Wish) -> None:
    server.weight = cast("int", value)


def _set_max_sessions(server: BackendServer, value: Wish) -> None:
    server.max_sessions = cast("int", value)


def _set_checks_paused(server: BackendServer, value: Wish) -> None:
    server.checks_paused = bool(value)


def _get_check_port(server: BackendServer) -> Wish:
    return server.check_port or _configured_check_port(server)


def _configured_check_port(server: BackendServer) -> Wish:
    check = server.config.check
    return (check.port if check is not None else None) or 0


def _set_check_port(server: BackendServer, value: Wish) -> None:
    if server.config.check is not None:
        server.check_port = cast("int", value)


_STATES = {each.value for each in AdminState}

SETTINGS: Mapping[str, _Setting] = {
    "state": _Setting(
        lambda server: server.state.value,
        lambda server: server.config.state,
        _set_state,
        lambda value: value in _STATES,
    ),
    "weight": _Setting(
        lambda server: server.weight,
        lambda server: server.config.weight,
        _set_weight,
        lambda value: type(value) is int and 0 <= value <= WEIGHT_MAX,
    ),
    "max_sessions": _Setting(
        lambda server: server.max_sessions,
        lambda server: server.config.max_sessions,
        _set_max_sessions,
        lambda value: type(value) is int and value >= 0,
    ),
    "checks_paused": _Setting(
        lambda server: int(server.checks_paused),
        lambda _server: 0,
        _set_checks_paused,
        lambda value: type(value) is int and value in {0, 1},
    ),
    "check_port": _Setting(
        _get_check_port,
        _configured_check_port,
        _set_check_port,
        lambda value: type(value) is int and 0 < value <= _PORT_MAX,
    ),
}
"""All that an operator can set of a server. Another one needs a line here."""


@frozen(kw_only=True)
class ServerRecord:
    """What is known of a server.

    Attributes:
        address: Its address in the configuration. With another one, its health is not known.
        wishes: What the operator set, by name in ``SETTINGS``, with the configuration's value at that time.
        is_vacated: Whether clients that stick to it get another server.
        health: The counter of its health, with rise and fall; None if it is not checked.
        up_for: Seconds since its slow start began; None if it is not in slow start.
    """

    address: str
    wishes: Mapping[str, tuple[Wish, Wish]]
    is_vacated: bool
    health: tuple[int, int, int] | None
    up_for: float | None


@frozen(kw_only=True)
class StickRecord:
    """A stick table.

    Attributes:
        prefixes: The lengths of the prefixes that identify a client, for IPv4 and IPv6.
        servers: The names of the servers.
        entries: The entries. They can be iterated over once, in any thread.
    """

    prefixes: tuple[int, int]
    servers: Sequence[str]
    entries: StickEntries


@frozen(kw_only=True)
class BackendRecord:
    """A backend: its servers by name, and its stick table, if it has one."""

    servers: Mapping[str, ServerRecord]
    stick: StickRecord | None


@frozen
class ProxyState:
    """The state of a proxy.

    Attributes:
        written_at: When it was captured, in seconds since the epoch.
        backends: The backends, by name.
        frontends: What the operator has set of frontends.
    """

    written_at: float
    backends: Mapping[str, BackendRecord]
    frontends: FrontendsRecord = FrontendsRecord()

    @classmethod
    def capture(
        cls,
        backends: Iterable[Backend],
        *,
        now: float,
        wall_clock: float,
        frontends: FrontendsRecord = FrontendsRecord(),  # noqa: B008 - it is frozen
    ) -> ProxyState:
        """Return the state of backends. Stick tables are copied, which takes 5 ms for 200,000 entries.

        Args:
            backends: The backends.
            now: The moment on trio's clock.
            wall_clock: The moment in seconds since the epoch.
            frontends: What the operator has set of frontends.
        """
        records: dict[str, BackendRecord] = {
            backend.name: _capture_backend(backend, now) for backend in backends
        }
        return cls(wall_clock, records, frontends)

    def apply(self, backends: Iterable[Backend], *, now: float, wall_clock: float) -> None:
        """Give backends that have no sessions yet this state. Nothing is logged. Frontends are the caller's.

        Args:
            backends: The backends.
            now: The moment on trio's clock.
            wall_clock: The moment in seconds since the epoch.
        """
        age = max(0.0, wall_clock - self.written_at)
        for backend in backends:
            record = self.backends.get(backend.name)
            if record is not None:
                _apply_backend(backend, record, now, age)


def _capture_backend(backend: Backend, now: float) -> BackendRecord:
    table, stick = backend.pool.stick, backend.config.stick
    record = None
    if table is not None and stick is not None:
        record = StickRecord(
            prefixes=(stick.prefix_v4, stick.prefix_v6),
            servers=[server.name for server in backend.servers],
            entries=(
                (key, index, expires - now) for key, index, expires in table.snapshot(STICK_ENTRIES_MAX)
            ),
        )
    return BackendRecord(
        servers={server.name: _capture_server(server, now) for server in backend.servers}, stick=record
    )


def _capture_server(server: BackendServer, now: float) -> ServerRecord:
    wishes = {
        name: (setting.get(server), setting.configured(server))
        for name, setting in SETTINGS.items()
        if setting.get(server) != setting.configured(server)
    }
    health = server.health
    is_warming = server.up_since is not None and server.throttle < 1.0
    return ServerRecord(
        address=str(server.config.address),
        wishes=wishes,
        is_vacated=server.is_vacated,
        health=None if health is None else (health.counter, health.rise, health.fall),
        up_for=now - server.up_since if is_warming and server.up_since is not None else None,
    )


def _apply_backend(backend: Backend, record: BackendRecord, now: float, age: float) -> None:
    servers = {server.name: server for server in backend.servers}
    for name, each in record.servers.items():
        if (server := servers.get(name)) is not None:
            _apply_server(server, each, now, age)
    backend.after_restore()
    stick, config, table = record.stick, backend.config.stick, backend.pool.stick
    if stick is None or config is None or table is None:
        return
    if stick.prefixes != (config.prefix_v4, config.prefix_v6):  # its keys mean other clients
        return
    indexes = {server.name: index for index, server in enumerate(backend.servers)}
    in_order_of_use = sorted(stick.entries, key=itemgetter(2))
    table.restore(
        (key, indexes[stick.servers[index]], now + min(left - age, config.expire))
        for key, index, left in in_order_of_use
        if left > age and stick.servers[index] in indexes
    )


def _apply_server(server: BackendServer, record: ServerRecord, now: float, age: float) -> None:
    for name, (value, configured) in record.wishes.items():
        if SETTINGS[name].configured(server) == configured:
            SETTINGS[name].apply(server, value)
    server.is_vacated = record.is_vacated and server.state is AdminState.DRAIN
    if str(server.config.address) != record.address or server.health is None or record.health is None:
        return
    counter, rise, fall = record.health
    before = Health(rise, fall)
    before.restore(counter)
    server.health.take_over(before)
    if record.up_for is not None and server.slow_start > record.up_for + age:
        server.up_since = now - record.up_for - age
