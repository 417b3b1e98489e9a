"""One backend, for both configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs

from tests.support.interop.scripted_session import HOST

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.support.interop.controlled_server import Behaviour

Address = tuple[str, int]

SYNC = "sync"  # an additional backend, see `PoolHarness.sync`


@attrs.frozen(kw_only=True)
class PoolServer:
    """A server of the backend: its behaviour with sessions, and its configuration."""

    name: str
    behaviours: tuple[Behaviour, ...] = ("greet",)
    refuses: bool = False  # sessions
    is_down: bool = False  # it refuses checks
    tls: ssl.SSLContext | None = None
    address: Address | None = None  # in place of a server of the scenario
    backup: bool = False
    max_sessions: int = 0


@attrs.frozen
class MemberAddresses:
    """The addresses of a member, for its sessions and for its checks."""

    sessions: Address
    checks: Address


@attrs.frozen(kw_only=True)
class PoolConfig:
    members: Sequence[PoolServer]
    check: Literal["", "connect", "script"] = ""
    interval_ms: int = 100
    rise: int = 2
    fall: int = 3
    balance: Literal["roundrobin", "leastconn"] = "roundrobin"
    retries: int = 3
    redispatch: bool = True
    connect_ms: int = 1_000
    queue_ms: int = 8_000
    check_ms: int = 500
    shutdown_sessions: bool = False
    error_limit: int = 0
    stick: bool = False
    ca: Path | None = None  # of the servers, which then speak TLS with the name localhost

    def for_haproxy(
        self, ports: tuple[int, int], addresses: Mapping[str, MemberAddresses], *, log_checks: bool = False
    ) -> str:
        """Return HAProxy's configuration. The ports are the frontend's and the one of `SYNC`."""
        lines = [
            "global",
            " log stdout format raw local0",
            " nbthread 1",
            " spread-checks 0",
            "defaults",
            " mode tcp",
            " log global",
            " option tcplog",
            " timeout client 8s",
            " timeout server 8s",
            f" timeout connect {self.connect_ms}ms",
            f" timeout queue {self.queue_ms}ms",
            f" timeout check {self.check_ms}ms",
            f" retries {self.retries}",
            " option redispatch" if self.redispatch else "",
            " option log-health-checks" if log_checks else "",
            "frontend imap",
            f" bind {HOST}:{ports[0]} name main",
            " default_backend mail",
            f"frontend {SYNC}",
            f" bind {HOST}:{ports[1]} name main",
            f" default_backend {SYNC}",
            f"backend {SYNC}",
            f" server s1 {_host_port(addresses[SYNC].sessions)}",
            "backend mail",
            f" balance {self.balance}",
        ]
        if self.check == "script":
            lines += [" option tcp-check", ' tcp-check expect string "* OK"']
        if self.stick:
            lines += [" stick-table type ip size 1k expire 30m", " stick on src"]
        for member in self.members:
            lines.append(" ".join(self._haproxy_server(member, addresses[member.name])))
        return "\n".join(lines) + "\n"

    def _haproxy_server(self, member: PoolServer, addresses: MemberAddresses) -> Iterator[str]:
        yield f" server {member.name} {_host_port(addresses.sessions)}"
        if self.check:
            yield f"check port {addresses.checks[1]} inter {self.interval_ms} rise {self.rise} fall {self.fall}"
        if self.ca and self.check:
            yield "no-check-ssl"
        if self.ca:
            yield f"ssl verify required ca-file {self.ca} verifyhost localhost"
        if self.error_limit:
            yield f"observe layer4 error-limit {self.error_limit}"
        if self.shutdown_sessions:
            yield "on-marked-down shutdown-sessions"
        if member.max_sessions:
            yield f"maxconn {member.max_sessions}"
        if member.backup:
            yield "backup"

    def for_mailproxy(self, ports: tuple[int, int], addresses: Mapping[str, MemberAddresses]) -> str:
        lines = ["[log]", 'format = "tcplog"', 'to = "stdout"']
        for name, port, backend in (("imap", ports[0], "mail"), (SYNC, ports[1], SYNC)):
            lines += [
                f"[frontends.{name}]",
                'protocol = "imap"',
                f'backend = "{backend}"',
                "log_null = true",
                'timeouts = { client = "8s" }',
                f'bind = [{{ address = "{HOST}:{port}", name = "main" }}]',
            ]
        lines += [
            f"[backends.{SYNC}]",
            'check = "none"',
            f'servers = [{{ name = "s1", address = "{_host_port(addresses[SYNC].sessions)}" }}]',
            "[backends.mail]",
            f'balance = "{self.balance}"',
            f"retries = {self.retries}",
            f"redispatch = {_flag(self.redispatch)}",
            f'timeouts = {{ server = "8s", connect = "{self.connect_ms}ms", queue = "{self.queue_ms}ms" }}',
            f"check = {self._mailproxy_check()}",
            f'on_marked_down = "{"shutdown-sessions" if self.shutdown_sessions else "none"}"',
            "stick = {}" if self.stick else "",
            f'tls = {{ ca = "{self.ca}", server_name = "localhost" }}' if self.ca else "",
            f'observe = "connect"\nerror_limit = {self.error_limit}' if self.error_limit else "",
        ]
        for member in self.members:
            own = addresses[member.name]
            lines += [
                "[[backends.mail.servers]]",
                f'name = "{member.name}"',
                f'address = "{_host_port(own.sessions)}"',
                f"max_sessions = {member.max_sessions}",
                f"backup = {_flag(member.backup)}",
                f"check = {{ port = {own.checks[1]} }}" if self.check else "",
            ]
        return "\n".join(lines) + "\n"

    def _mailproxy_check(self) -> str:
        if not self.check:
            return '"none"'
        kind = 'type = "tcp"' if self.check == "connect" else 'type = "script", steps = [{ expect = "* OK" }]'
        timing = f'interval = "{self.interval_ms}ms", jitter = 0.0, timeout = "{self.check_ms}ms"'
        return f"{{ {kind}, tls = false, rise = {self.rise}, fall = {self.fall}, {timing} }}"


def _host_port(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _flag(value: bool) -> str:
    return "true" if value else "false"
