"""What must fit together in a configuration: references, addresses, ports, keys that exclude each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from mailproxy.address import UNIX_PATH_MAX, BindAddress, ServerAddress, TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.inherit import Layer, Table
from mailproxy.config.tables import Findings, join, nearest
from mailproxy.config.values import show

_TCP_ONLY = ("tcp_user_timeout", "keepalive", "free_bind", "interface", "fast_open", "v6only")
_UNIX_ONLY = ("unix_mode", "unix_user", "unix_group")


def references(tables: Table, found: Findings) -> None:
    """Every backend and every profile that is named exists."""
    for layer in _layers(tables):
        routes = [
            Layer(f"{join(layer.path, 'routes')}[{index}]", route)
            for index, route in enumerate(layer.table.get("routes", []))
        ]
        for naming in (layer, *routes):
            for what in ("backend", "profile"):
                _look_for(what, naming, tables, found)


def _layers(tables: Table) -> Iterable[Layer]:
    for kind in ("frontend", "backend"):
        yield Layer(join("defaults", kind), tables["defaults"].get(kind, {}))
    for name, layers in tables["profiles"].items():
        yield Layer(join(join("profiles", name), "frontend"), layers.get("frontend", {}))
    for owners in ("frontends", "backends"):
        for name, table in tables[owners].items():
            yield Layer(join(owners, name), table)


def _look_for(what: str, naming: Layer, tables: Table, found: Findings) -> None:
    name, place = naming.table.get(what), f"{what}s"
    if name is None or name in tables[place] or found.bad & {place, join(place, name)}:
        return
    found.add(
        join(naming.path, what),
        f"there is no {what} {show(name)}{nearest(name, tables[place]) or _known_are(tables[place])}",
    )


def _known_are(names: Iterable[str]) -> str:
    return f"; known are {', '.join(names)}" if names else ""


def own_bind(bind: Layer, found: Findings) -> None:
    """Keys that a bind gives itself although they cannot mean anything there."""
    address = bind.table.get("address", "")
    no_tcp = address.startswith(("unix:", "fd:"))
    for key in _TCP_ONLY if no_tcp else ():
        if bind.table.get(key):
            found.add(join(bind.path, key), f"has no meaning for {show(address)}")
    for key in _UNIX_ONLY if address and not address.startswith("unix:") else ():
        if key in bind.table:
            found.add(join(bind.path, key), f"has no meaning for {show(address)}: unix: addresses only")
    if bind.table.get("v6only") and address and not no_tcp and ":" not in address.rpartition(":")[0]:
        found.add(join(bind.path, "v6only"), f"has no meaning for {show(address)}: IPv6 addresses only")
    if address.startswith("fd:") and "backlog" in bind.table:
        found.add(join(bind.path, "backlog"), f"has no meaning for {show(address)}: it listens already")


def bind(value: model.Bind | None, own: Layer, found: Findings) -> None:
    """A bind's own tls goes with its mode; its path is one that a socket can have."""
    if value is None:
        return
    if own.table.get("tls") and value.mode != "tls" and join(own.path, "mode") not in found.bad:
        found.add(join(own.path, "tls"), f'has no meaning with mode "{value.mode}": TLS is not ended here')
    _check_path(value.address, own.path, found)


def _check_path(address: BindAddress | ServerAddress, path: str, found: Findings) -> None:
    # checked again: a relative path has grown by the folder that it is relative to
    if isinstance(address, UnixAddress) and len(address.path.encode()) > UNIX_PATH_MAX:
        found.add(
            join(path, "address"),
            f'"{address.path}" is longer than the {UNIX_PATH_MAX} bytes that a socket can have',
        )


def listeners(frontends: Mapping[str, model.Frontend], found: Findings) -> None:
    """Addresses do not overlap, names within a frontend differ, TLS has certificates."""
    places = []
    for name, frontend in frontends.items():
        path = join("frontends", name)
        # those called after their address are seen when addresses overlap, and port 0 is another one each time
        names = [str(bind.name) for bind in frontend.bind if bind.name != str(bind.address)]
        same_names(names, f"{path}.bind", found)
        for index, bind in enumerate(frontend.bind):
            here = f"{path}.bind[{index}]"
            places.append((here, bind))
            _certificates(bind, here, path if bind.tls == frontend.tls else here, found)
    for (first, one), (second, other) in combinations(places, 2):
        if _overlap(one, other):
            found.add(
                f"{second}.address",
                f"{show(str(other.address))} overlaps with {show(str(one.address))} at {first}.address",
            )


def _certificates(bind: model.Bind, path: str, tls_path: str, found: Findings) -> None:
    if any(".tls" in bad for bad in found.bad):
        return  # what is wrong with it has been said
    if bind.mode == "tls" and (bind.tls is None or not bind.tls.certificates):
        found.add(path, "mode tls needs certificates: give tls.certificates to the bind or its frontend")
    elif bind.tls is not None and bind.tls.key is not None and len(bind.tls.certificates) != 1:
        found.add(
            f"{tls_path}.tls.key",
            "goes with exactly one certificate file; put other keys into the certificates' files",
        )


def _overlap(one: model.Bind, other: model.Bind) -> bool:
    a, b = one.address, other.address
    if not isinstance(a, TcpAddress) or not isinstance(b, TcpAddress):
        return a == b
    if (
        a.port != b.port
        or a.port == 0
        or ((one.interface or other.interface) and one.interface != other.interface)
    ):
        return False
    return a.host == b.host or _covers(a, b, one.v6only) or _covers(b, a, other.v6only)


def _covers(wide: TcpAddress, narrow: TcpAddress, v6only: bool) -> bool:
    if wide.host in ("*", "0.0.0.0"):
        return ":" not in narrow.host
    return wide.host == "::" and (":" in narrow.host or not v6only)


def server(value: model.Server | None, path: str, found: Findings) -> None:
    """A server's keys fit its address."""
    if value is None:
        return
    _check_path(value.address, path, found)
    if value.tls is None:
        return
    if (
        value.tls.verify == "required"
        and value.tls.server_name is None
        and isinstance(value.address, UnixAddress)
    ):
        found.add(path, "tls.server_name is missing: a Unix socket has no name to verify")


def same_names(names: Sequence[str], path: str, found: Findings) -> None:
    """No name stands twice."""
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.add(path, f"the name {show(name)} stands more than once")


def reachability(
    frontends: Mapping[str, model.Frontend | None],
    backends: Mapping[str, model.Backend | None],
    found: Findings,
) -> None:
    """A server without a port is reached only from binds that have one."""
    for frontend in frontends.values():
        backend = backends.get(frontend.backend) if frontend and frontend.backend else None
        if frontend is None or backend is None:
            continue
        portless = [
            s.name for s in backend.servers if isinstance(s.address, TcpAddress) and s.address.port is None
        ]
        for index, bind in enumerate(frontend.bind):
            if portless and _has_no_port(bind.address):
                path = f"{join('frontends', frontend.name)}.bind[{index}]"
                found.add(
                    f"{path}.address",
                    f"has no port for server {portless[0]} of backend {backend.name}, which has none either: give the "
                    "backend a port",
                )


def _has_no_port(address: BindAddress) -> bool:
    return isinstance(address, UnixAddress)  # an inherited descriptor's is known only when it is taken over
