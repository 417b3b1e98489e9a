"""Makes a backend, its servers and its pool from the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from random import SystemRandom

from mailproxy.config import Backend as BackendConfig
from mailproxy.config import Server as ServerConfig
from mailproxy.log import Log
from mailproxy.net.dial import Source as LocalSource
from mailproxy.net.keepalive import keepalive_options
from mailproxy.net.resolve import literal_endpoint
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
    StickTable,
    TurnOrder,
)
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.header_builder import ProxyHeaderBuilder
from mailproxy.proxy.backend.server import BackendServer, ServerContexts


def make_backend(
    config: BackendConfig, contexts: ServerContexts, log: Log, random: RandomSource | None = None
) -> Backend:
    """Return a backend whose sessions this process counts alone.

    Args:
        config: The backend's table.
        contexts: The TLS contexts towards servers. Each ``tls`` table of the servers must be in it.
        log: Where lines about its servers go.
        random: Where ``balance = "random"`` gets its numbers. None is the system's source.
    """
    servers = make_servers(config, contexts)
    return Backend(config, make_pool(config, servers, random or SystemRandom()), log)


def reconfigure_backend(
    backend: Backend, config: BackendConfig, servers: Sequence[BackendServer], random: RandomSource
) -> None:
    """Have a backend use another configuration; see `Backend.reconfigure`.

    Args:
        backend: The backend.
        config: Its table.
        servers: The servers as `make_servers` makes them, with the addresses of their host names.
        random: Where ``balance = "random"`` gets its numbers.
    """
    balance = make_balance(config, random)
    is_same = balance == make_balance(backend.config, random)
    backend.reconfigure(config, servers, None if is_same else balance)


def make_servers(
    config: BackendConfig, contexts: ServerContexts, kind: type[BackendServer] = BackendServer
) -> list[BackendServer]:
    """Return the servers of a backend, in the order of the configuration.

    Args:
        config: The backend's table.
        contexts: The TLS contexts towards servers. Each ``tls`` table of the servers must be in it.
        kind: The class of the servers.
    """
    return [_make_server(server, config.protocol, contexts, kind) for server in config.servers]


def _make_server(
    config: ServerConfig, protocol: str, contexts: ServerContexts, kind: type[BackendServer]
) -> BackendServer:
    endpoint = literal_endpoint(config.address)
    check = config.check
    is_observed = config.observe == "connect" and check is not None
    sends_header = config.send_proxy not in (None, "none")
    return kind(
        name=config.name,
        weight=config.weight,
        max_sessions=config.max_sessions,
        is_backup=config.backup,
        state=AdminState(config.state),
        slow_start=config.slow_start,
        health=Health(rise=check.rise, fall=check.fall) if check is not None else None,
        passive_health=PassiveHealth(config.error_limit, config.error_clients) if is_observed else None,
        addresses=(endpoint,) if endpoint is not None else (),
        config=config,
        options=keepalive_options(config.keepalive),
        source=LocalSource(config.source) if config.source not in (None, "client") else None,
        tls_context=contexts[config.tls] if config.tls is not None else None,
        proxy_header=ProxyHeaderBuilder(config, protocol) if sends_header else None,
        opens=config.identity in ("xclient", "id")
        or (config.tls is not None and config.tls.mode == "starttls"),
    )


def make_pool(
    config: BackendConfig,
    servers: Sequence[BackendServer],
    random: RandomSource,
    order: TurnOrder | None = None,
) -> Pool[BackendServer]:
    """Return the pool of these servers, with the balance and the stick table of the configuration.

    Args:
        config: The backend's table.
        servers: Its servers.
        random: Where ``balance = "random"`` gets its numbers.
        order: The order of waiters. None is that of a single process.
    """
    stick = config.stick
    return Pool(
        servers,
        make_balance(config, random),
        max_queue=config.max_queue,
        all_backups=config.all_backups,
        stick=StickTable(stick.size, stick.expire) if stick is not None else None,
        order=order,
    )


def make_balance(config: BackendConfig, random: RandomSource) -> Balance:
    """Return the method that chooses a server, without servers."""
    match config.balance:
        case "leastconn":
            return LeastConn()
        case "roundrobin":
            return RoundRobin()
        case "first":
            return First()
        case "random":
            return Random(random)
        case "source":
            weights = [server.weight for server in config.servers]
            return Source(mean_weight=sum(weights) / len(weights) or 1.0)
