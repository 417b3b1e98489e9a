"""What must fit together in a configuration: references, addresses, ports, keys that exclude each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from mailproxy.address import UNIX_PATH_MAX, BindAddress, ServerAddress, TcpAddress, UnixAddress
from mailproxy.config import model
from mailproxy.config.key_paths import join
from mailproxy.config.layers import Layer, is_overridden_by, iter_tables, origin_path
from mailproxy.config.lint.loops import find_loops
from mailproxy.config.validate import Diagnostics, Table, nearest
from mailproxy.config.values import printable, to_display

_TCP_ONLY = ("tcp_user_timeout", "keepalive", "free_bind", "interface", "fast_open", "v6only")
_UNIX_ONLY = ("unix_mode", "unix_user", "unix_group")

KEY_ALONE = "has no meaning without tls.certificate"
NAME_MISSING = "server_name is missing: a Unix socket has no name to verify"


def check_references(tables: Table, found: Diagnostics) -> None:
    """Every backend and every profile that is named exists."""
    for layer in (*iter_tables(tables, "frontend"), *iter_tables(tables, "backend")):
        routes = [
            Layer(f"{join(layer.path, 'routes')}[{index}]", route)
            for index, route in enumerate(layer.table.get("routes", []))
        ]
        for naming in (layer, *routes):
            for what in ("backend", "profile"):
                _look_for(what, naming, tables, found)


def _look_for(what: str, naming: Layer, tables: Table, found: Diagnostics) -> None:
    name, place = naming.table.get(what), f"{what}s"
    if name is None or name in tables[place] or found.invalid_paths & {place, join(place, name)}:
        return
    found.add(
        join(naming.path, what),
        f"there is no {what} {to_display(name)}{nearest(name, tables[place]) or _known_are(tables[place])}",
    )


def _known_are(names: Iterable[str]) -> str:
    return f"; known are {', '.join(map(printable, names))}" if names else ""


def check_own_bind(bind: Layer, found: Diagnostics) -> None:
    """Keys that a bind gives itself although they cannot mean anything there."""
    address = bind.table.get("address", "")
    no_tcp = address.startswith(("unix:", "fd:"))
    for key in _TCP_ONLY if no_tcp else ():
        if bind.table.get(key):
            found.add(join(bind.path, key), f"has no meaning for {to_display(address)}")
    for key in _UNIX_ONLY if address and not address.startswith("unix:") else ():
        if key in bind.table:
            found.add(join(bind.path, key), f"has no meaning for {to_display(address)}: unix: addresses only")
    if bind.table.get("v6only") and address and not no_tcp and ":" not in address.rpartition(":")[0]:
        found.add(join(bind.path, "v6only"), f"has no meaning for {to_display(address)}: IPv6 addresses only")
    if address.startswith("fd:") and "backlog" in bind.table:
        found.add(join(bind.path, "backlog"), f"has no meaning for {to_display(address)}: it listens already")


def check_bind(value: model.Bind | None, own: Layer, found: Diagnostics) -> None:
    """Its path is one that a socket can have; who must send PROXY headers can come."""
    if value is None:
        return
    check_path(value.address, own.path, found)
    _accept_proxy(value, own, found)


def check_terminated_tls(
    frontend: model.Frontend, own: Layer, binds: Sequence[Layer], found: Diagnostics
) -> None:
    """TLS is given only where it ends. ``own`` and ``binds``: the frontend's own table and its binds'."""
    for bind, layer in zip(frontend.bind, binds, strict=True):
        if layer.table.get("tls") and not frontend.terminates_tls(bind):
            found.add(
                join(layer.path, "tls"), f'has no meaning with mode "{bind.mode}": TLS is not ended here'
            )
    if own.table.get("tls") and frontend.bind and not any(map(frontend.terminates_tls, frontend.bind)):
        found.add(join(own.path, "tls"), 'has no meaning: no bind of this frontend has mode = "tls"')


def check_frontend_tls(tls: model.FrontendTls | None, layers: Sequence[Layer], found: Diagnostics) -> None:
    """The keys of TLS that ends at a bind fit each other. ``layers``: where they came from, the bind's own table last."""
    if tls is None or not tls.certificates or any(".tls" in bad for bad in found.invalid_paths):
        return  # what is wrong with it is said elsewhere

    def place(key: str, given: str = "") -> str:
        return join(join(origin_path(layers, "tls", given or key), "tls"), key)

    if tls.key is not None and len(tls.certificates) != 1:
        found.add(
            place("key"),
            "goes with exactly one certificate file; for several, give each its own: "
            "certificates = [{ certificate = …, key = … }, …]",
        )
    elif tls.key is not None and tls.certificates[0].key is not None:
        found.add(place("key"), "is given twice: the certificate has a key of its own")
    if tls.client_verify != "none" and tls.client_ca is None:
        found.add(
            place("client_ca", "client_verify"),
            f'is missing: client_verify = "{tls.client_verify}" needs the CA to verify by',
        )
    if tls.client_crl is not None and tls.client_verify == "none":
        found.add(place("client_crl"), "has no meaning without client_verify")
    elif tls.client_ca is not None and tls.client_verify == "none":
        found.add(place("client_ca"), 'has no meaning without client_verify = "optional" or "required"')


def _accept_proxy(value: model.Bind, own: Layer, found: Diagnostics) -> None:
    path = join(own.path, "accept_proxy")
    if own.table.get("proxy_optional") and not value.accept_proxy and path not in found.invalid_paths:
        found.add(join(own.path, "proxy_optional"), "has no meaning without accept_proxy")
    from_unix = "unix" in value.accept_proxy
    if isinstance(value.address, TcpAddress) and from_unix:
        found.add(path, f'"unix" has no meaning for {to_display(str(value.address))}: give networks')
    if (
        isinstance(value.address, UnixAddress)
        and value.accept_proxy
        and not from_unix
        and not value.proxy_optional
    ):
        found.add(
            path, 'nobody could connect: clients of a Unix socket are in no network; give "unix", or []'
        )


def check_path(address: BindAddress | ServerAddress | None, path: str, found: Diagnostics) -> None:
    """A Unix socket's path is one that it can have."""
    # checked again: a relative path has grown by the folder that it is relative to
    if isinstance(address, UnixAddress) and len(address.path.encode()) > UNIX_PATH_MAX:
        found.add(
            join(path, "address"),
            f'"{address.path}" is longer than the {UNIX_PATH_MAX} bytes that a socket can have',
        )


def session_rate(merged: Table, layers: Sequence[Layer], found: Diagnostics) -> None:
    """A rate limit per client has a count; one without is dropped from ``merged``."""
    key = "max_session_rate_per_client"
    table = merged.get(key)
    if not isinstance(table, dict) or "count" in table:
        return
    del merged[key]
    path = join(origin_path(layers, key), key)
    if not any(join(join(layer.path, key), "count") in found.invalid_paths for layer in layers):
        found.add(
            path, 'count is missing: give { count = 30, per = "60s" } or similar, or false for no bound'
        )


def check_listeners(frontends: Mapping[str, model.Frontend], found: Diagnostics) -> None:
    """Addresses do not overlap, TLS has certificates."""
    places = []
    for name, frontend in frontends.items():
        path = join("frontends", name)
        for index, bind in enumerate(frontend.bind):
            here = f"{path}.bind[{index}]"
            places.append((here, bind))
            _certificates(frontend, bind, here, found)
    for (first, one), (second, other) in combinations(places, 2):
        if _overlap(one, other):
            found.add(
                f"{second}.address",
                f"{to_display(str(other.address))} overlaps with {to_display(str(one.address))} at {first}.address",
            )


def _certificates(frontend: model.Frontend, bind: model.Bind, path: str, found: Diagnostics) -> None:
    if any(".tls" in bad for bad in found.invalid_paths):
        return  # what is wrong with it has been said
    if frontend.terminates_tls(bind) and (bind.tls is None or not bind.tls.certificates):
        needs = "mode tls needs" if bind.mode == "tls" else 'a route with mode = "tls" needs'
        found.add(path, f"{needs} certificates: give tls.certificates to the bind or its frontend")


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


def check_server(value: model.Server, layers: Sequence[Layer], found: Diagnostics) -> None:
    """A server's keys fit its address and each other. ``layers``: where they came from, its own table last."""
    path = layers[-1].path
    check_path(value.address, path, found)
    _send_proxy(value, layers, found)
    _local_address(value, layers, found)
    if value.tls is None:
        return
    if value.tls.key is not None and value.tls.certificate is None:
        found.add(join(join(origin_path(layers, "tls", "key"), "tls"), "key"), KEY_ALONE)
    if (
        value.tls.verify == "required"
        and value.tls.server_name is None
        and isinstance(value.address, UnixAddress)
    ):
        found.add(path, f"tls.{NAME_MISSING}")


def _local_address(value: model.Server, layers: Sequence[Layer], found: Diagnostics) -> None:
    """Its connections may come from this address; a Unix socket's have none."""
    own = layers[-1]
    if isinstance(value.address, UnixAddress):
        for key in ("source", "keepalive"):
            if own.table.get(key):
                found.add(join(own.path, key), f"has no meaning for {to_display(str(value.address))}")
        return
    if value.source in (None, "client") or not value.address.is_literal:
        return
    if (":" in value.address.host) != (":" in str(value.source)):
        found.add(
            join(origin_path(layers, "source"), "source"),
            f"{value.source} cannot reach {value.address}: one is IPv4, the other IPv6; give the server a source of its own",
        )


def check_server_tls(tables: Table, found: Diagnostics) -> None:
    """Sessions make TLS with servers from the first byte: only checks know STARTTLS so far."""
    for kind in ("backend", "server"):
        for layer in iter_tables(tables, kind):
            tls = layer.table.get("tls")
            if tls and tls.get("mode") == "starttls":
                found.add(
                    join(join(layer.path, "tls"), "mode"), '"starttls" is not supported yet: only "implicit"'
                )


def _send_proxy(value: model.Server, layers: Sequence[Layer], found: Diagnostics) -> None:
    if str(value.send_proxy).startswith("v2"):
        return
    for key, given in (("send_proxy_tlvs", value.send_proxy_tlvs), ("forward_tlvs", value.forward_tlvs)):
        if (
            given
            and not any(bad.endswith("send_proxy") for bad in found.invalid_paths)
            and not is_overridden_by(layers, ("send_proxy",), (key,))
        ):
            path = join(origin_path(layers, key), key)
            found.add(path, f'needs send_proxy = "v2" or more, it is "{value.send_proxy or "none"}"')


def check_routes(frontend: model.Frontend, path: str, found: Diagnostics) -> None:
    """Each route leads somewhere, and what it asks for can be known at a bind of its frontend."""
    for index, route in enumerate(frontend.routes):
        here = f"{path}.routes[{index}]"
        if {here, join(here, "backend"), join(here, "reject")} & found.invalid_paths:
            continue
        if (route.backend is None) != route.reject:
            found.add(here, "needs one of backend and reject = true" + (", not both" if route.reject else ""))
        looking = [bind for bind in frontend.bind if bind.mode in ("tls", "passthrough")]
        keys = [key for key, given in (("sni", route.needs_client_hello), ("mode", route.mode)) if given]
        # a mode that was dropped has been said
        is_known = not any(".bind" in bad and bad.endswith(".mode") for bad in found.invalid_paths)
        if keys and is_known and not any(_may_reach(bind, route) for bind in looking):
            key = "alpn" if keys[0] == "sni" and route.sni is None else keys[0]
            where = "no bind" if not looking else f"no bind at port {' or '.join(map(str, route.port))}"
            found.add(
                join(here, key),
                f'can never hold: {where} of this frontend has mode = "tls" or "passthrough", and only those wait for a '
                "ClientHello",
            )


def _may_reach(bind: model.Bind, route: model.Route) -> bool:
    port = bind.address.port if isinstance(bind.address, TcpAddress) else None
    # a PROXY header may name any port, and that of other binds is known only when they listen
    return not route.port or port in route.port or not port or bool(bind.accept_proxy)


def check_same_names(names: Iterable[str], path: str, found: Diagnostics) -> None:
    """No name stands twice."""
    for name in sorted(name for name, count in Counter(names).items() if count > 1):
        found.add(path, f"the name {to_display(name)} stands more than once")


def check_reachability(
    frontends: Mapping[str, model.Frontend | None],
    backends: Mapping[str, model.Backend | None],
    found: Diagnostics,
) -> None:
    """A server without a port is reached only from binds that have one."""
    for frontend in filter(None, frontends.values()):
        for backend in filter(None, map(backends.get, frontend.backend_names)):
            portless = [
                s.name
                for s in backend.servers
                if isinstance(s.address, TcpAddress) and s.address.port is None
            ]
            for index, bind in enumerate(frontend.bind):
                if portless and _has_no_port(bind.address):
                    path = f"{join('frontends', frontend.name)}.bind[{index}]"
                    found.add(
                        f"{path}.address",
                        f"has no port for server {portless[0]} of backend {backend.name}, which has none either: give "
                        "the backend a port",
                    )


def _has_no_port(address: BindAddress) -> bool:
    return isinstance(address, UnixAddress)  # an inherited descriptor's is known only when it is taken over


def loops(
    frontends: Mapping[str, model.Frontend | None],
    backends: Mapping[str, model.Backend | None],
    found: Diagnostics,
) -> None:
    """No server is a bind of this process whose sessions come back to it, as far as the text can tell."""
    whole_frontends = {name: frontend for name, frontend in frontends.items() if frontend}
    whole_backends = {name: backend for name, backend in backends.items() if backend}
    for loop in find_loops(whole_frontends, whole_backends):
        if loop.is_certain:
            found.add(loop.path, loop.fact)
