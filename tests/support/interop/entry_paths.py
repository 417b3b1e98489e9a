"""Paths through a proxy: a frontend with a bind and a backend with a server, for both HAProxy and mailproxy."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs

from tests.support.interop.scripted_session import HOST
from tests.support.ports import free_port
from tests.support.programs.program import HAProxy, Mailproxy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HOST6 = "::1"
BINDS = ((HOST, "ipv4"), (f"[{HOST6}]", "ipv6"))

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class EntryPath:
    """Options of a bind, a frontend and a server in both configurations. Without a server there is no backend."""

    server: tuple[str, int] | None = None
    # HAProxy
    accept: str = ""  # after `bind` and its address
    rules: Sequence[str] = ()
    send: str = ""  # after `server` and its address
    # mailproxy
    bind: Sequence[str] = ()
    frontend: Sequence[str] = ()
    backend: Sequence[str] = ()
    protocol: str = "imap"

    def for_haproxy(self, name: str, port: int) -> list[str]:
        lines = [
            f"frontend {name}",
            *(f" bind {host}:{port} name {bind_name} {self.accept}" for host, bind_name in BINDS),
            *(f" {rule}" for rule in self.rules),
        ]
        if self.server:
            host, server_port = self.server
            lines += [
                f" default_backend {name}",
                f"backend {name}",
                f" server s1 {host}:{server_port} {self.send}",
            ]
        return lines

    def for_mailproxy(self, name: str, port: int) -> list[str]:
        lines = [
            f"[frontends.{name}]",
            f'protocol = "{self.protocol}"',
            "log_null = true",
            f'backend = "{name}"' if self.server else "",
            *self.frontend,
        ]
        for host, bind_name in BINDS:
            lines += [
                f"[[frontends.{name}.bind]]",
                f'address = "{host}:{port}"',
                f'name = "{bind_name}"',
                *self.bind,
            ]
        if self.server:
            host, server_port = self.server
            lines += [
                f"[backends.{name}]",
                *self.backend,
                'check = "none"',
                f'servers = [{{ name = "s1", address = "{host}:{server_port}" }}]',
            ]
        return lines


@contextmanager
def running(
    program: type[HAProxy | Mailproxy],
    paths: Mapping[str, EntryPath],
    ports: Mapping[str, int],
    *,
    log_format: str = "",
    json: bool = False,
) -> Iterator[HAProxy | Mailproxy]:
    """Run a program with these paths on these ports.

    The log lines are tcplog's, or by `log_format` in HAProxy and by `json` in mailproxy.
    """
    if program is HAProxy:
        lines = [
            "global",
            " log stdout format raw local0",
            " nbthread 1",
            "defaults",
            " mode tcp",
            " log global",
            f" log-format {log_format}" if log_format else " option tcplog",
            " unique-id-format %[uuid()]",
            *(f" timeout {timeout} 8s" for timeout in ("client", "server", "connect")),
        ]
        lines += [line for name, path in paths.items() for line in path.for_haproxy(name, ports[name])]
    else:
        lines = ["[log]", f'format = "{"json" if json else "tcplog"}"', 'to = "stdout"']
        lines += [line for name, path in paths.items() for line in path.for_mailproxy(name, ports[name])]
    listens = [(HOST, ports[name]) for name in paths]
    with (
        tempfile.TemporaryDirectory() as folder,
        program("\n".join(lines) + "\n", Path(folder), listens) as process,
    ):
        yield process


def free_ports(names: Iterable[T]) -> dict[T, int]:
    """Return a different port for each name. A later call may return them again until a program listens on them."""
    names = list(names)
    ports: dict[int, None] = {}  # ordered, and without the duplicates that are possible within a millisecond
    while len(ports) < len(names):
        ports[free_port()] = None
    return dict(zip(names, ports, strict=True))
