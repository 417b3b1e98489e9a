"""Advice on binds that upgrade their sessions with STARTTLS, and on the identity of clients towards servers."""

from __future__ import annotations

from collections.abc import Iterator

from mailproxy.address import ServerAddress, TcpAddress
from mailproxy.config import Backend, Bind, Config, Frontend
from mailproxy.config.lint.ports import TLS_PORTS
from mailproxy.config.path import backend_path, bind_path, frontend_path
from mailproxy.config.units import write_duration
from mailproxy.errors import Fault

# Seconds that a server must wait for the next command at least.
_MINIMA = {
    "pop3": (600.0, "RFC 1939 section 3"),
    "smtp": (300.0, "RFC 5321 section 4.5.3.2.7"),
    "submission": (300.0, "RFC 5321 section 4.5.3.2.7"),
    "lmtp": (300.0, "RFC 5321 section 4.5.3.2.7"),
}
_NEGOTIATION_MIN_S = 60.0


def advise_on_dialogues(config: Config) -> Iterator[Fault]:
    """Yield what is allowed and probably wrong in the dialogues that the proxy has with clients and servers."""
    for frontend in config.frontends.values():
        for index, bind in enumerate(frontend.bind):
            if bind.mode == "starttls":
                yield from _check_starttls(frontend, index, bind)
        yield from _check_timeouts(frontend)
    for backend in config.backends.values():
        yield from _check_identity(backend)
        timeout = backend.timeouts.server
        if (fact := _too_short(backend.protocol, timeout)) is not None:
            yield Fault(backend_path(backend.name) / "timeouts" / "server", fact)
    yield from _check_trust(config)


def _check_starttls(frontend: Frontend, index: int, bind: Bind) -> Iterator[Fault]:
    path = bind_path(frontend.name, index)
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    if port in TLS_PORTS:
        yield Fault(path / "mode", f'clients of port {port} speak TLS from the first byte: use mode = "tls"')
    if frontend.protocol == "smtp" and frontend.requires_starttls(bind):
        yield Fault(
            path / "starttls_required",
            "mail servers that cannot do STARTTLS get nothing through, which RFC 3207 section 4 forbids on a public port 25: "
            'use false, or protocol = "submission" if only users connect',
        )


def _check_timeouts(frontend: Frontend) -> Iterator[Fault]:
    path, timeouts = frontend_path(frontend.name) / "timeouts", frontend.timeouts
    if (fact := _too_short(frontend.protocol, timeouts.client)) is not None:
        yield Fault(path / "client", fact)
    if not any(bind.mode == "starttls" for bind in frontend.bind):
        return
    if timeouts.negotiation < _NEGOTIATION_MIN_S:
        yield Fault(
            path / "negotiation",
            f"{write_duration(timeouts.negotiation)} ends clients on slow networks before they have sent STARTTLS, and the "
            "RFCs have servers wait for minutes: use 3m",
        )
    if frontend.greeting_delay >= timeouts.negotiation:
        yield Fault(
            frontend_path(frontend.name) / "greeting_delay",
            f"{write_duration(frontend.greeting_delay)} lasts until the session ends, since timeouts.negotiation is "
            f"{write_duration(timeouts.negotiation)}: give less",
        )


def _too_short(protocol: str, seconds: float) -> str | None:
    minimum, source = _MINIMA.get(protocol, (0.0, ""))
    if seconds >= minimum:
        return None
    least = write_duration(minimum)
    return f"{write_duration(seconds)} is less than the {least} that clients may be silent ({source}): use {least} or more"


def _check_trust(config: Config) -> Iterator[Fault]:
    """Check the servers of hosts that are configured to take the proxy's word elsewhere."""
    trusting = {
        host: backend.name
        for backend in config.backends.values()
        for server in backend.servers
        if server.identity in ("xclient", "id") and (host := _host(server.address))
    }
    for backend in config.backends.values():
        for server in backend.servers:
            other = trusting.get(_host(server.address))
            is_silent = server.identity == "proxy" and server.send_proxy in (None, "none")
            if other is None or not is_silent or backend.protocol == "tcp":
                continue
            identity = "id" if backend.protocol == "imap" else "xclient"
            yield Fault(
                backend_path(backend.name) / "identity",
                f"{server.name} is on a host that takes the proxy's word for a client's address ({backend_path(other)}), and "
                f'learns none here: give "{identity}", or send_proxy',
            )
            break


def _host(address: ServerAddress) -> str:
    return address.host if isinstance(address, TcpAddress) else ""


def _check_identity(backend: Backend) -> Iterator[Fault]:
    for server in backend.servers:
        if server.identity in ("xclient", "id") and backend.protocol == "smtp" and server.tls is None:
            yield Fault(
                backend_path(backend.name) / "identity",
                f"all mail to {server.name} is read here up to its end, since port 25 has no logins: send_proxy costs less",
            )
            return
