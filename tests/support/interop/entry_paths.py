"""Ways through a proxy, each a frontend with a bind and a backend with a server, for HAProxy and for mailproxy alike."""

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
DOORS = ((HOST, "door"), (f"[{HOST6}]", "door6"))

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class EntryPath:
    """What the two say of a bind, a frontend and a server beyond their addresses; without a server there is no backend."""

    server: tuple[str, int] | None = None
    # in HAProxy's words
    accept: str = ""  # behind `bind` and its address
    rules: Sequence[str] = ()
    send: str = ""  # behind `server` and its address
    # and in mailproxy's
    bind: Sequence[str] = ()
    frontend: Sequence[str] = ()
    backend: Sequence[str] = ()

    def for_haproxy(self, name: str, port: int) -> list[str]:
        lines = [
            f"frontend {name}",
            *(f" bind {host}:{port} name {door} {self.accept}" for host, door in DOORS),
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
            'protocol = "imap"',
            "log_null = true",
            f'backend = "{name}"' if self.server else "",
            *self.frontend,
        ]
        for host, door in DOORS:
            lines += [
                f"[[frontends.{name}.bind]]",
                f'address = "{host}:{port}"',
                f'name = "{door}"',
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
    ways: Mapping[str, EntryPath],
    ports: Mapping[str, int],
    *,
    log_format: str = "",
    json: bool = False,
) -> Iterator[HAProxy | Mailproxy]:
    """Start it with these ways on these ports. Lines are tcplog's, or HAProxy's ``log_format`` and mailproxy's ``json``."""
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
            *(f" timeout {what} 8s" for what in ("client", "server", "connect")),
        ]
        lines += [line for name, way in ways.items() for line in way.for_haproxy(name, ports[name])]
    else:
        lines = ["[log]", f'format = "{"json" if json else "tcplog"}"', 'to = "stdout"']
        lines += [line for name, way in ways.items() for line in way.for_mailproxy(name, ports[name])]
    listens = [(HOST, ports[name]) for name in ways]
    with (
        tempfile.TemporaryDirectory() as folder,
        program("\n".join(lines) + "\n", Path(folder), listens) as process,
    ):
        yield process


def free_ports(names: Iterable[T]) -> dict[T, int]:
    """A port for each name, no two the same: what is asked for later may be one of these until somebody listens there."""
    names = list(names)
    ports: dict[int, None] = {}  # the order counts, and the same comes twice within a millisecond
    while len(ports) < len(names):
        ports[free_port()] = None
    return dict(zip(names, ports, strict=True))
