"""The proxy of a configuration that does not run, with states of servers as the question supposes them."""

from __future__ import annotations

import socket
from collections import defaultdict
from collections.abc import Iterable, Mapping
from random import SystemRandom

from attrs import frozen

from mailproxy.address import TcpAddress
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Config, ServerTls
from mailproxy.log import Log
from mailproxy.net.dial import Endpoint
from mailproxy.net.tls.context import Context
from mailproxy.pool import AdminState
from mailproxy.proxy.backend.backend import Backend
from mailproxy.proxy.backend.factory import make_backend
from mailproxy.proxy.backend.server import BackendServer
from mailproxy.proxy.explain.question import View


class ServerStateError(Exception):
    """A server cannot be in a state that the question supposes. The message says why."""


@frozen
class _Bind:
    """A bind that is not open. Its port is that of the configuration, None if that has none."""

    frontend: str
    number: int
    port: int | None
    name: str


def offline_view(config: Config, store: CertificateStore, states: Mapping[str, str]) -> View:
    """Return the proxy of a configuration, without sessions, with all names resolved and all servers up.

    Args:
        config: The configuration.
        store: Its TLS files, as far as they can be loaded.
        states: States of servers: ``up``, ``down``, ``ready``, ``drain`` or ``maint`` by ``SERVER`` or
            ``BACKEND/SERVER``.

    Raises:
        ServerStateError: There is no such server or state.
    """
    log, random = Log([]), SystemRandom()
    # Where the files of a table cannot be loaded, only the handshake with the server would fail.
    contexts: dict[ServerTls, Context | None] = defaultdict(lambda: None, store.server_contexts)
    backends = {
        name: make_backend(table, contexts, log, random)  # type: ignore[arg-type]  # None where a file is missing
        for name, table in config.backends.items()
    }
    for backend in backends.values():
        for server in backend.servers:
            if server.health is not None:
                server.health.force(is_up=True)
            if not server.addresses and isinstance(server.config.address, TcpAddress):
                server.addresses = (
                    Endpoint(socket.AF_INET, server.config.address.host, server.config.address.port),
                )
        backend.pool.addresses_changed()
    for name, state in states.items():
        _set_state(*_find_server(backends, name), state)
    return View(
        config=config, binds=list(_binds(config)), terminators=store.bind_terminators, backends=backends
    )


def _binds(config: Config) -> Iterable[_Bind]:
    for name, frontend in config.frontends.items():
        for index, bind in enumerate(frontend.bind):
            port = bind.address.port if isinstance(bind.address, TcpAddress) else None
            yield _Bind(name, index + 1, port or None, str(bind.name))


def _find_server(backends: Mapping[str, Backend], text: str) -> tuple[Backend, BackendServer]:
    backend_name, slash, server_name = text.rpartition("/")
    found = [
        (backend, server)
        for backend in backends.values()
        for server in backend.servers
        if server.name == text or (slash and (backend.name, server.name) == (backend_name, server_name))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ServerStateError(f"{text}: there is no such server")
    names = ", ".join(f"{backend.name}/{server.name}" for backend, server in found)
    raise ServerStateError(f"{text}: several servers have this name: {names}")


def _set_state(backend: Backend, server: BackendServer, state: str) -> None:
    if state in ("up", "down"):
        if server.health is None and state == "down":
            raise ServerStateError(f"{backend.name}/{server.name} has no checks, so it is never down")
        backend.pool.set_health(server, 0.0, is_up=state == "up")
        return
    try:
        backend.pool.set_state(server, AdminState(state), 0.0)
    except ValueError:
        raise ServerStateError(f"{state}: states are up, down, ready, drain and maint") from None
