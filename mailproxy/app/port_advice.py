"""Advice about ports: what is usually spoken there, compared with the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from mailproxy.address import TcpAddress
from mailproxy.config import Backend, Bind, Config, Frontend, Server
from mailproxy.config.check_plan import EntryPath, entry_paths, plan_probes
from mailproxy.config.lint.ports import CLEAR_PORTS, TLS_PORTS, clear_port, is_fitting, protocol_of, tls_port
from mailproxy.config.path import backend_path, bind_path, frontend_path, server_path
from mailproxy.errors import Fault

_CHECKS = {"submission": "smtp"}  # the check of a protocol, where it has another name


def advise_on_ports(config: Config) -> Iterator[Fault]:
    """Yield advice for ports where clients or servers speak something else than the configuration says."""
    for frontend in config.frontends.values():
        yield from _check_protocol(config, frontend)
        for index, bind in enumerate(frontend.bind):
            yield from _check_mode(frontend, index, bind)
    for backend in config.backends.values():
        paths = entry_paths(config.frontends.values(), backend.name)
        for index, server in enumerate(backend.servers):
            yield from _check_server(backend, index, server)
            for path in paths:
                yield from _check_entry_path(backend, server, path)
        yield from _check_health_checks(backend, paths)


def _check_protocol(config: Config, frontend: Frontend) -> Iterator[Fault]:
    path = frontend_path(frontend.name)
    binds = [_port_of(bind) for bind in frontend.bind]
    if frontend.protocol != "tcp":
        for index, port in enumerate(binds):
            if not is_fitting(frontend.protocol, port):
                yield Fault(
                    path / "bind" / index / "address",
                    f'port {port} is that of {protocol_of(port)}, and the frontend has protocol = "{frontend.protocol}": '
                    "use another port, or a frontend of its own",
                )
        return
    servers = [
        _port_of(server) for name in frontend.backend_names for server in config.backends[name].servers
    ]
    known = next((port for port in (*binds, *servers) if protocol_of(port)), None)
    if known is not None and not config.source_map.is_written(path / "protocol"):
        yield Fault(
            path / "protocol",
            f"is missing: port {known} is that of {protocol_of(known)}, and timeouts and checks depend on the protocol; "
            f'give protocol = "{protocol_of(known)}", or "tcp" if neither shall',
        )


def _check_mode(frontend: Frontend, index: int, bind: Bind) -> Iterator[Fault]:
    port = _port_of(bind)
    if port is None or port not in CLEAR_PORTS or bind.mode not in ("tls", "passthrough"):
        return
    other = tls_port(CLEAR_PORTS[port])
    yield Fault(
        bind_path(frontend.name, index) / "mode",
        f'"{bind.mode}" expects TLS from the first byte, and clients of port {port} begin in clear text: '
        f'{f"use port {other}, or" if other else "use"} mode = "starttls"',
    )


def _check_server(backend: Backend, index: int, server: Server) -> Iterator[Fault]:
    path = server_path(backend.name, index) / "address"
    port = _port_of(server)
    if backend.protocol != "tcp" and not is_fitting(backend.protocol, port):
        yield Fault(
            path,
            f'port {port} is that of {protocol_of(port)}, and the backend has protocol = "{backend.protocol}": use '
            "another port, or a backend of its own",
        )
    if isinstance(server.address, TcpAddress) and port is None and ":" in server.address.host:
        host, _, last = server.address.host.rpartition(":")
        if last.isdecimal() and protocol_of(int(last)) and _is_ip(host):
            yield Fault(
                path,
                f"{server.address.host} is an address without a port: write [{host}]:{last} if {last} is the port",
            )


def _check_entry_path(backend: Backend, server: Server, path: EntryPath) -> Iterator[Fault]:
    """Yield advice if clients of a bind speak something else to a server than its port expects."""
    bind = bind_path(path.frontend, path.bind)
    port = _port_of(server)
    target = f"port {port} of {server.name}"
    if port is None or server.tls is not None:
        return
    if path.mode == "forward" and path.port in TLS_PORTS and port in CLEAR_PORTS:
        yield Fault(
            bind / "mode",
            f'"forward" passes the TLS of clients of port {path.port} on to {target}, which speaks clear text: use mode = "tls", '
            f"or {_describe_tls_port(port)} of the server",
        )
    elif path.mode == "forward" and path.port in CLEAR_PORTS and port in TLS_PORTS:
        yield Fault(
            backend_path(backend.name) / "servers",
            f"{target} expects TLS, and clients of {bind} begin in clear text: give its port {clear_port(TLS_PORTS[port])}",
        )
    elif path.mode == "passthrough" and port in CLEAR_PORTS:
        yield Fault(
            backend_path(backend.name) / "servers",
            f"{target} speaks clear text, and clients of {bind} speak TLS through to it: give {_describe_tls_port(port)}, or "
            'use mode = "tls"',
        )
    elif path.mode == "tls" and port == 587 and not str(server.send_proxy).startswith("v2-ssl"):
        yield Fault(
            backend_path(backend.name) / "tls",
            f"{target} usually demands STARTTLS (Postfix: 530), and sessions of {bind} come in clear text: give tls and its port "
            '465 (Postfix: smtps with smtpd_tls_wrappermode = yes), or use mode = "passthrough" to that port',
        )


def _describe_tls_port(port: int) -> str:
    other = tls_port(CLEAR_PORTS[port])
    return f"port {other}" if other else "a port for TLS"


def _check_health_checks(backend: Backend, paths: tuple[EntryPath, ...]) -> Iterator[Fault]:
    """Yield advice, once for each backend, for a check that only connects although the protocol is known."""
    if backend.protocol == "tcp":
        return
    kind = _CHECKS.get(backend.protocol, backend.protocol)
    for server in backend.servers:
        if server.check is None or server.check.type is not None:
            continue
        for probe in plan_probes(server, backend.protocol, paths):
            is_known = probe.port is not None or not isinstance(probe.address or server.address, TcpAddress)
            if probe.kind == "tcp" and is_known and is_fitting(backend.protocol, probe.port):
                target = server.address if probe.port is None else f"port {probe.port}"
                yield Fault(
                    backend_path(backend.name) / "check",
                    f"{server.name} is only connected to, since it is not known whether {target} speaks {kind} in clear text "
                    f'or over TLS: give check = "{kind}" for clear text, check = {{ type = "{kind}", tls = true }} for TLS, '
                    'or check = "tcp"',
                )
                return


def _port_of(owner: Bind | Server) -> int | None:
    return owner.address.port or None if isinstance(owner.address, TcpAddress) else None


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
