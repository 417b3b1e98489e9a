"""Advice: settings that are allowed and probably not what the operator wants."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from mailproxy.address import ServerAddress, TcpAddress, UnixAddress
from mailproxy.app.acme import advise_on_acme
from mailproxy.app.mail_advice import advise_on_dialogues
from mailproxy.app.port_advice import advise_on_ports
from mailproxy.app.privileges import configured_owner
from mailproxy.certificates.expiry import expiry_warnings
from mailproxy.certificates.store import CertificateStore
from mailproxy.config import Backend, Bind, Config, Frontend, Process, ProxySource
from mailproxy.config.lint.loops import find_loops
from mailproxy.config.lint.ports import CLEAR_PORTS, TLS_PORTS
from mailproxy.config.path import ROOT_PATH, ConfigPath, backend_path, bind_path, frontend_path, server_path
from mailproxy.display_path import display_path
from mailproxy.errors import Fault
from mailproxy.net.accounts import group_id
from mailproxy.net.dial import can_use_foreign_addresses, is_local
from mailproxy.net.tls.certificate import Certificate, must_staple
from mailproxy.net.tls.kernel import NO_KERNEL_TLS, has_kernel_tls
from mailproxy.net.tls.openssl import NOT_CLEARED, can_clear_auto_retry
from mailproxy.proxy.access import unreadable_part
from mailproxy.proxy.host_checks import MISSING_CAPABILITY, is_own_address
from mailproxy.proxy.process import descriptor_shortage, worker_count

# Protocols whose servers allow passwords only if they know that the client used TLS.
_DOVECOT_PROTOCOLS = ("imap", "pop3", "sieve")
_IDLE_RENEWAL_S = 29 * 60  # clients in IDLE send something every 29 minutes at least (RFC 2177 section 3)


_GROUP_MAY_WRITE = 0o020


def advise(config: Config, store: CertificateStore) -> list[Fault]:
    """Return advice, with the path of the key and what to write instead.

    Args:
        config: The configuration.
        store: The TLS files that it names.
    """
    advice: list[Fault] = []
    for frontend in config.frontends.values():
        advice += _check_frontend(frontend)
        advice += _check_client_limits(frontend, config.process.max_sessions)
        for name in frontend.backend_names:
            advice += _check_entry_path(frontend, config.backends[name])
    for backend in config.backends.values():
        advice += _check_backend(backend)
    advice += advise_on_ports(config)
    advice += advise_on_dialogues(config)
    advice += _check_loops(config)
    advice += _check_unused(config)
    advice += expiry_warnings(store)
    advice += _check_certificates(store.certificates.values(), config.process)
    advice += _check_process(config)
    advice += _check_admin_sockets(config)
    advice += _check_token(config)
    advice += advise_on_acme(config)
    advice += _check_stapling(store)
    return list(dict.fromkeys(advice))


def _check_stapling(store: CertificateStore) -> Iterator[Fault]:
    for path, certificate in store.certificates.values():
        if must_staple(certificate.chain_pem):
            yield Fault(
                path,
                f"{display_path(certificate.path)}: demands a stapled OCSP response (must-staple), which this proxy cannot send: "
                "strict clients refuse it; order one without",
            )


def _check_frontend(frontend: Frontend) -> Iterator[Fault]:
    path = frontend_path(frontend.name)
    if frontend.backend is None and not frontend.routes:
        yield Fault(path, "has no backend: every session is refused; give backend unless that is meant")
    if frontend.protocol == "imap" and frontend.timeouts.client < _IDLE_RENEWAL_S:
        yield Fault(path / "timeouts" / "client", _too_short(frontend.timeouts.client))
    for index, bind in enumerate(frontend.bind):
        if _covers_all_addresses(bind.accept_proxy):
            yield Fault(
                path / "bind" / index / "accept_proxy",
                "allows every address, so that any client can claim any address in a PROXY header: give the networks of your proxies",
            )
    for index, route in enumerate(frontend.routes[:-1]):
        if not (route.needs_client_hello or route.client or route.port):
            yield Fault(
                path / "routes" / index,
                "has no condition, so that the routes behind it are never used",
            )


def _check_client_limits(frontend: Frontend, process_limit: int | None) -> Iterator[Fault]:
    path, per_client = frontend_path(frontend.name), frontend.max_sessions_per_client
    if frontend.max_sessions_per_client_exempt and not frontend.limits_clients:
        yield Fault(
            path / "max_sessions_per_client_exempt",
            "has no effect: give max_sessions_per_client or max_session_rate_per_client",
        )
    bounds = {
        path / "max_sessions": frontend.max_sessions,
        ROOT_PATH / "process" / "max_sessions": process_limit or 0,
    }
    for key, bound in bounds.items():
        if 0 < bound <= per_client:
            yield Fault(
                path / "max_sessions_per_client",
                f"{per_client} lets one client take all sessions, {key} is {bound}: give less",
            )


def _covers_all_addresses(sources: Iterable[ProxySource]) -> bool:
    networks = list(sources)
    v4 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv4Network))
    v6 = ipaddress.collapse_addresses(n for n in networks if isinstance(n, ipaddress.IPv6Network))
    return any(n.prefixlen == 0 for n in v4) or any(n.prefixlen == 0 for n in v6)


def _check_entry_path(frontend: Frontend, backend: Backend) -> Iterator[Fault]:
    """Check each bind together with the servers that its sessions reach."""
    routes = [route for route in frontend.routes if route.backend == backend.name]
    for index, bind in enumerate(frontend.bind):
        path = bind_path(frontend.name, index)
        keeps_mode = frontend.backend == backend.name or bind.mode in ("forward", "starttls")
        modes: set[str] = {bind.mode} if keeps_mode else set()
        if bind.mode in ("tls", "passthrough"):
            modes |= {route.mode or bind.mode for route in routes}
        if any(server.tls is not None for server in backend.servers):
            yield from _check_server_tls(backend, bind, path, modes)
        if modes & {"tls", "starttls"}:
            yield from _check_terminated_tls(backend, frontend.protocol, path)


def _check_server_tls(backend: Backend, bind: Bind, path: ConfigPath, modes: set[str]) -> Iterator[Fault]:
    """Check a bind whose sessions reach servers with ``tls``."""
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    if bind.mode == "forward" and port in TLS_PORTS:
        yield Fault(
            path / "mode",
            f'clients of port {port} speak TLS, and the backend\'s tls would put it inside TLS: use mode = "tls", or '
            "remove the backend's tls",
        )
    elif bind.mode == "forward" and not _is_local(bind):
        yield Fault(
            path / "mode",
            f"clear text is exposed at {bind.address} without STARTTLS, since the servers speak TLS: "
            'use mode = "tls", or "passthrough" without the backend\'s tls',
        )
    if "passthrough" in modes:
        yield Fault(
            backend_path(backend.name) / "tls",
            f"clients of {path} speak TLS through to the servers, and this would be TLS inside TLS: remove tls, or "
            'use mode = "tls"',
        )


def _check_terminated_tls(backend: Backend, protocol: str, bind: ConfigPath) -> Iterator[Fault]:
    """Check the servers without ``tls`` of a bind that terminates TLS."""
    path = backend_path(backend.name)
    for server in backend.servers:
        if server.tls is not None or not isinstance(server.address, TcpAddress):
            continue
        port = server.address.port
        is_blind = server.send_proxy in ("v1", "v2") and not _is_loopback(server.address)
        if protocol in _DOVECOT_PROTOCOLS and is_blind:
            yield Fault(
                path / "send_proxy",
                f'"{server.send_proxy}" does not tell {server.name} that clients of {bind} used TLS, and a stock Dovecot then '
                'refuses their logins: give "v2-ssl"',
            )
        if port in TLS_PORTS:
            yield Fault(
                path / "tls",
                f"port {port} of {server.name} speaks TLS, and sessions of {bind} would come in clear text: give tls",
            )
        if port is None:
            yield Fault(
                path / "servers",
                f"{server.name} has no port and no tls: sessions of {bind} would speak clear text to the port that "
                "the client connected to; give port, or tls",
            )


def _is_local(bind: Bind) -> bool:
    if not isinstance(bind.address, TcpAddress):
        return True
    return bind.address.host != "*" and ipaddress.ip_address(bind.address.host).is_loopback


def _check_backend(backend: Backend) -> Iterator[Fault]:
    path = backend_path(backend.name)
    if backend.protocol == "imap" and backend.timeouts.server < _IDLE_RENEWAL_S:
        yield Fault(path / "timeouts" / "server", _too_short(backend.timeouts.server))
    if not any(server.weight for server in backend.servers):
        yield Fault(path, "every server has weight 0: none takes a session")
    yield from _check_proxy_header(backend)
    yield from _check_sources(backend)
    yield from _check_pool(backend)
    seen: dict[str, str] = {}
    for index, server in enumerate(backend.servers):
        own_path = path / "servers" / index
        address = str(server.address)
        if address in seen:
            yield Fault(own_path, f"has the address {address} of {seen[address]}: one of them is superfluous")
        seen.setdefault(address, server.name)
        port = server.address.port if isinstance(server.address, TcpAddress) else None
        if server.tls is not None and server.tls.mode == "implicit" and port in CLEAR_PORTS:
            yield Fault(
                own_path,
                f'port {port} speaks clear text first, and tls is given: use tls.mode = "starttls", or the port that speaks TLS',
            )
        if server.tls is not None and server.tls.verify != "required":
            verified = "nothing" if server.tls.verify == "none" else "the chain but not the name"
            yield Fault(
                own_path / "tls" / "verify" if server.tls != backend.tls else path / "tls" / "verify",
                f'"{server.tls.verify}" verifies {verified}: use "required", with ca and server_name if needed',
            )


def _check_pool(backend: Backend) -> Iterator[Fault]:
    path = backend_path(backend.name)
    if backend.stick is not None and not backend.stick.size:
        yield Fault(
            path / "stick" / "size", 'has room for no entry, so no client sticks: give a size such as "200k"'
        )
    if backend.max_queue and not any(server.max_sessions for server in backend.servers):
        yield Fault(path / "max_queue", "has no effect, since no session waits: give servers max_sessions")
    if backend.balance == "source" and backend.stick is not None:
        yield Fault(
            path / "balance",
            '"source" chooses only the first server of a client, which the stick table remembers: remove stick, or use '
            'balance = "leastconn"',
        )
    if backend.balance == "first" and not all(server.max_sessions for server in backend.servers[:-1]):
        yield Fault(
            path / "balance",
            '"first" fills a server up before it takes the next: give servers max_sessions, or the first takes all sessions',
        )
    for index, server in enumerate(backend.servers):
        if server.on_marked_down != "none" and server.check is None:
            own = server.on_marked_down != backend.on_marked_down
            yield Fault(
                path / "servers" / index / "on_marked_down" if own else path / "on_marked_down",
                f"{server.name} is not checked, so nothing but maintenance takes it down: give it a check",
            )


def _check_proxy_header(backend: Backend) -> Iterator[Fault]:
    if backend.protocol != "tcp" and any(server.send_proxy is None for server in backend.servers):
        yield Fault(
            backend_path(backend.name) / "send_proxy",
            "is missing: the servers will see and log the proxy's address instead of the client's; give \"v2-ssl\" (Dovecot: "
            'haproxy = yes and haproxy_trusted_networks) or "v2" (Postfix) where they take PROXY headers, or "none"',
        )
    for index, server in enumerate(backend.servers):
        if server.sends_tls_facts and server.tls is None and not _is_loopback(server.address):
            yield Fault(
                server_path(backend.name, index),
                f"{server.address} receives the client's TLS facts in clear text, and takes the connection for secure: give "
                "the backend tls",
            )


def _check_sources(backend: Backend) -> Iterator[Fault]:
    for index, server in enumerate(backend.servers):
        own = server.source != backend.source
        path = (server_path(backend.name, index) if own else backend_path(backend.name)) / "source"
        if server.source not in (None, "client") and not is_local(server.source):
            yield Fault(path, f"{server.source} is no address of this machine: no server could be connected")


def _is_loopback(address: ServerAddress) -> bool:
    """Whether connections to this address stay on the machine."""
    if isinstance(address, UnixAddress):
        return True
    if not address.is_literal:
        return address.host == "localhost"
    return ipaddress.ip_address(address.host).is_loopback


def _too_short(seconds: float) -> str:
    return f"{seconds:g}s cuts IMAP clients off that wait in IDLE: use 31m (they send something every 29 minutes, RFC 2177)"


def _check_loops(config: Config) -> Iterator[Fault]:
    """Yield advice for loops that depend on conditions. ``host_checks`` reports the certain ones as faults."""
    for loop in find_loops(config.frontends, config.backends, is_own_address):
        if not loop.is_certain:
            yield Fault(loop.path, loop.fact)


def _check_unused(config: Config) -> Iterator[Fault]:
    used = {name for frontend in config.frontends.values() for name in frontend.backend_names}
    for name in config.backends:
        if name not in used:
            yield Fault(backend_path(name), "no frontend uses it")


def _check_certificates(
    certificates: Iterable[tuple[ConfigPath, Certificate]], process: Process
) -> Iterator[Fault]:
    for path, certificate in certificates:
        file, key = certificate.path, certificate.key or certificate.path
        if _others_may_read(key):
            yield Fault(path, f"{display_path(key)}: every user can read this private key: chmod o-r")
        for needed in dict.fromkeys((file, key)):
            if (barrier := unreadable_part(process, needed)) is not None:
                yield Fault(path, _access_fact(display_path(needed), display_path(barrier), process.user))
        is_client_certificate = path.key == "certificate"  # the proxy's own towards servers
        if not certificate.names and not is_client_certificate:
            yield Fault(path, f"{display_path(file)}: has no DNS name, so clients cannot verify it")


def _access_fact(file: Path, barrier: Path, user: str | None) -> str:
    if barrier == file:
        remedy = f"chgrp it to a group of {user}, chmod g+r"
    else:
        remedy = f"{user} may not enter {barrier}; have a deploy hook copy it (docs/tls.md)"
    return f"{file}: {user} cannot read it, so a renewed one needs a restart: {remedy}"


def _check_admin_sockets(config: Config) -> Iterator[Fault]:
    """Sessions are exposed to hostile input, and their user must not be able to control the proxy."""
    owner = configured_owner(config)
    for path, table in config.admin.listening.items():
        if owner is None or table.path is None or not table.mode & _GROUP_MAY_WRITE or table.level == "user":
            continue
        gid = os.getgid() if table.group is None else group_id(table.group)
        if gid == owner[1]:
            yield Fault(
                path,
                'may be written by the group of the user that sessions run as: give another group, or mode "0600"',
            )


def _check_token(config: Config) -> Iterator[Fault]:
    file = config.admin.token_file
    if file is not None and _others_may_read(file):
        yield Fault(
            ROOT_PATH / "admin" / "token_file",
            f"{display_path(file)}: every user of this machine can read it, and give the proxy commands: chmod o-r",
        )


def _others_may_read(file: Path) -> bool:
    """Whether every user may read a file. One that this process cannot reach is not readable for all, either."""
    try:
        return bool(file.stat().st_mode & 0o004)
    except OSError:
        return False


def _path_of_ktls(config: Config) -> ConfigPath | None:
    """Return the path of the first ``tls`` table with ``ktls``."""
    for frontend in config.frontends.values():
        if frontend.tls is not None and frontend.tls.ktls:
            return frontend_path(frontend.name) / "tls"
        for number, bind in enumerate(frontend.bind):
            if bind.tls is not None and bind.tls.ktls:
                return bind_path(frontend.name, number) / "tls"
    return None


def _check_process(config: Config) -> Iterator[Fault]:
    workers = worker_count(config)
    if (shortage := descriptor_shortage(config)) is not None:
        yield Fault("process.max_sessions", shortage)
    if config.has_tls and not can_clear_auto_retry():
        yield Fault("process", NOT_CLEARED)
    if (path := _path_of_ktls(config)) is not None and not has_kernel_tls():
        yield Fault(path / "ktls", NO_KERNEL_TLS)
    cores = len(os.sched_getaffinity(0))
    if workers > cores:
        yield Fault(
            "process.workers",
            f"{workers} workers share {cores} cores: more workers than cores make nothing faster",
        )
    transparent = [
        backend.name
        for backend in config.backends.values()
        if any(server.source == "client" for server in backend.servers)
    ]
    if transparent and (config.process.user not in (None, "root") or not can_use_foreign_addresses()):
        yield Fault(backend_path(transparent[0]) / "source", MISSING_CAPABILITY)
    if os.geteuid() == 0 and config.process.user is None:
        yield Fault("process.user", 'sessions would be served as root: give a user, such as "mailproxy"')
    for path, output in config.log.outputs.items():
        syslog = output.to.syslog
        if isinstance(syslog, str) and not Path(syslog).exists():
            yield Fault(path / "to", f"{syslog}: there is no such socket, so every line would be lost")
