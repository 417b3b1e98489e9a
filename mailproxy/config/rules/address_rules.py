"""Rules for addresses: the path of a Unix socket, and all frontends and backends together."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from mailproxy.address import UNIX_PATH_MAX, BindAddress, ServerAddress, TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.diagnostics import Diagnostics
from mailproxy.config.lint.loops import find_loops
from mailproxy.config.path import ConfigPath, bind_path
from mailproxy.config.values import to_display


def check_unix_path(
    address: BindAddress | ServerAddress | None, table: ConfigPath, diagnostics: Diagnostics
) -> None:
    """Check that the ``address`` of a table, if it is a Unix socket's, has a path that is not too long."""
    # This is the second check: the path was relative in the first, and is now longer by the folder before it.
    if isinstance(address, UnixAddress) and len(address.path.encode()) > UNIX_PATH_MAX:
        fact = f'"{address.path}" is longer than the {UNIX_PATH_MAX} bytes that a socket can have'
        diagnostics.add(table / "address", fact)


def check_listeners(frontends: Mapping[str, model.Frontend], diagnostics: Diagnostics) -> None:
    """Check that the addresses of binds do not overlap."""
    binds = [
        (bind_path(name, index) / "address", bind)
        for name, frontend in frontends.items()
        for index, bind in enumerate(frontend.bind)
    ]
    # only binds with one port can overlap, and there may be thousands with different ones
    groups: dict[object, list[int]] = {}
    for number, (_, bind) in enumerate(binds):
        key = bind.address.port if isinstance(bind.address, TcpAddress) else bind.address
        groups.setdefault(key, []).append(number)
    pairs = (pair for group in groups.values() for pair in combinations(group, 2))
    for (first, one), (second, other) in ((binds[a], binds[b]) for a, b in sorted(pairs)):
        if _overlap(one, other):
            address, taken = to_display(str(other.address)), to_display(str(one.address))
            diagnostics.add(second, f"{address} overlaps with {taken} at {first}")


def _overlap(one: model.Bind, other: model.Bind) -> bool:
    a, b = one.address, other.address
    if not isinstance(a, TcpAddress) or not isinstance(b, TcpAddress):
        return a == b
    have_other_interfaces = (one.interface or other.interface) and one.interface != other.interface
    if a.port != b.port or a.port == 0 or have_other_interfaces:
        return False
    return a.host == b.host or _covers(a, b, one.v6only) or _covers(b, a, other.v6only)


def _covers(wide: TcpAddress, narrow: TcpAddress, v6only: bool) -> bool:
    if wide.host in ("*", "0.0.0.0"):
        return ":" not in narrow.host
    return wide.host == "::" and (":" in narrow.host or not v6only)


def check_ports(
    frontends: Mapping[str, model.Frontend], backends: Mapping[str, model.Backend], diagnostics: Diagnostics
) -> None:
    """Check that each bind has a port for those servers that have none."""
    for frontend in frontends.values():
        for backend in filter(None, map(backends.get, frontend.backend_names)):
            server = next(filter(_has_no_port, backend.servers), None)
            for index, bind in enumerate(frontend.bind):
                # the port of an inherited socket is known when it is taken over
                if server is not None and isinstance(bind.address, UnixAddress):
                    diagnostics.add(
                        bind_path(frontend.name, index) / "address",
                        f"has no port for server {server.name} of backend {backend.name}, which has none either: give "
                        "the backend a port",
                    )


def _has_no_port(server: model.Server) -> bool:
    return isinstance(server.address, TcpAddress) and server.address.port is None


def check_loops(
    frontends: Mapping[str, model.Frontend], backends: Mapping[str, model.Backend], diagnostics: Diagnostics
) -> None:
    """Check that no server is a bind of this process through which its sessions come back to it.

    A loop that depends on a condition, such as the client's address, is no fault. It is reported as advice.
    """
    for loop in find_loops(frontends, backends):
        if loop.is_certain:
            diagnostics.add(loop.path, loop.fact)
