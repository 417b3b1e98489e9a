"""Advice on binds that upgrade their sessions with STARTTLS, and on the identity of clients towards servers."""

from __future__ import annotations

from collections.abc import Iterator

from mailproxy.address import TcpAddress
from mailproxy.config import Backend, Bind, Config, Frontend
from mailproxy.config.lint.ports import TLS_PORTS
from mailproxy.config.path import backend_path, bind_path
from mailproxy.errors import Fault


def advise_on_dialogues(config: Config) -> Iterator[Fault]:
    """Yield what is allowed and probably wrong in the dialogues that the proxy has with clients and servers."""
    for frontend in config.frontends.values():
        for index, bind in enumerate(frontend.bind):
            if bind.mode == "starttls":
                yield from _check_starttls(frontend, index, bind)
    for backend in config.backends.values():
        yield from _check_identity(backend)


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


def _check_identity(backend: Backend) -> Iterator[Fault]:
    for server in backend.servers:
        if server.identity in ("xclient", "id") and backend.protocol == "smtp" and server.tls is None:
            yield Fault(
                backend_path(backend.name) / "identity",
                f"all mail to {server.name} is read here up to its end, since port 25 has no logins: send_proxy costs less",
            )
            return
