"""Server blocks of the stream module: frontends with binds and routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, new_table
from mailproxy.importers.names import name_of_port, unused_name
from mailproxy.importers.nginx.backends import Backends, port_of
from mailproxy.importers.nginx.listen import Listen, join_families, read_listen
from mailproxy.importers.nginx.maps import read_map
from mailproxy.importers.nginx.reader import Directive
from mailproxy.importers.nginx.scope import Scope
from mailproxy.importers.nginx.tls import client_tls
from mailproxy.importers.place import Origin
from mailproxy.importers.ports import guess_protocol, speaks_clear
from mailproxy.importers.times import number

_PROXY_TIMEOUT = "10m"  # nginx's default
EVERYBODY = ["0.0.0.0/0", "::/0"]


@define
class Streams:
    """The server blocks of the stream module in translation.

    Attributes:
        maps: Map and geo blocks by their variable.
        zones: The keys of limit_conn zones by name.
        frontends: The frontends so far, by the addresses of their binds.
        certificates: The names of the certificate files of frontends with several server blocks, by the identity of
            the frontend's table.
    """

    context: Context
    backends: Backends
    maps: Mapping[str, Directive]
    zones: Mapping[str, str]
    frontends: dict[str, Table] = field(factory=dict)
    certificates: dict[int, set[object]] = field(factory=dict)

    def translate(self, block: Directive, around: Sequence[Directive]) -> None:
        """Translate a server block."""
        scope = Scope(self.context, [block, *around])
        listens = read_listens(scope)
        target = next((each for each in scope.all("proxy_pass") if each.arguments), None)
        if target is None:
            self._without_target(scope, listens)
            return
        other = self._same_listen(listens, scope)
        if other is not None:
            self._routes(other, scope, target, name_of_port(listens[0].port), is_new=False)
            return
        if not listens:
            self.context.report.loss(
                block.place, "server", "has no address to listen on that mailproxy can have: left out"
            )
            self._settle(block)
            return
        frontends = self.context.draft.table("frontends")
        ports = [listen.port for listen in listens]
        name = unused_name(name_of_port(ports[0]), frontends.keys)
        frontends.keys[name] = frontend = new_table(block)
        self.frontends.update((listen.address, frontend) for listen in listens)
        write_binds(frontend, listens, scope)
        self._settings(frontend, scope, target, ports, name)
        self._routes(frontend, scope, target, name, is_new=True)

    def _without_target(self, scope: Scope, listens: Sequence[Listen]) -> None:
        block = scope.block
        answer = scope.last("return")
        why = "answers by itself" if answer is not None else "has no proxy_pass"
        self.context.report.loss(block.place, "server", f"{why}, which mailproxy does not: left out")
        del listens
        self._settle(block)

    def _settle(self, block: Directive) -> None:
        for each in block.block or ():
            self.context.settle(each.place)

    def _same_listen(self, listens: list[Listen], scope: Scope) -> Table | None:
        """Return the frontend of a server block with the same addresses, which server_name tells apart from this one.

        Without server_name, addresses that are taken are left out.
        """
        taken = [listen for listen in listens if listen.address in self.frontends]
        if taken and scope.last("server_name") is not None:
            return self.frontends[taken[0].address]
        for listen in taken:
            self.context.report.loss(
                listen.directive.place,
                "listen",
                "another server block has this address, which nginx refuses as a duplicate: left out",
            )
            listens.remove(listen)
        return None

    def _settings(
        self, frontend: Table, scope: Scope, target: Directive, ports: Sequence[int | None], name: str
    ) -> None:
        timeouts = frontend.table("timeouts")
        given = scope.duration("proxy_timeout")
        timeouts.set(
            "client", _PROXY_TIMEOUT if given is None else given[0], None if given is None else given[1]
        )
        for directive, key in (
            ("preread_timeout", "handshake"),
            ("ssl_handshake_timeout", "handshake"),
            ("proxy_protocol_timeout", "proxy_header"),
        ):
            if (value := scope.duration(directive)) is not None:
                timeouts.set(key, value[0], value[1])
        behind = port_of(target.arguments[0])
        frontend.set(
            "protocol",
            guess_protocol(ports, self._ports_of(target.arguments[0]) if behind is None else [behind], name),
        )
        limits_of(frontend, scope, self.zones)

    def _ports_of(self, target: str) -> list[int | None]:
        upstream = self.backends.upstreams.get(target)
        servers = upstream.children("server") if upstream is not None else []
        return [port_of(server.arguments[0]) for server in servers if server.arguments]

    def _routes(self, frontend: Table, scope: Scope, target: Directive, name: str, *, is_new: bool) -> None:
        """Write where sessions go: one backend, or routes by a map, server names and access rules."""
        names = scope.last("server_name")
        text = target.arguments[0]
        chosen: list[tuple[dict[str, list[str | int]], str | None, Directive]] = []
        if text.startswith("$") and text in self.maps:
            for choice in read_map(self.maps[text], self.context):
                backend = self.backends.get(choice.target, scope, name, choice.directive)
                if backend is not None:
                    chosen.append(
                        ({choice.key: list(choice.values)} if choice.key else {}, backend, choice.directive)
                    )
        else:
            backend = self.backends.get(text, scope, name, target)
            if backend is not None:
                chosen.append(({}, backend, target))
        wanted = [] if names is None else [each for each in names.arguments if each not in ("", "_")]
        if not is_new and wanted:
            chosen = [
                (
                    {**conditions, "sni": [f"*{each}" if each.startswith(".") else each for each in wanted]},
                    backend,
                    by,
                )
                for conditions, backend, by in chosen
            ]
            self._join_certificates(frontend, scope)
        access = _access(scope)
        _add_routes(frontend, chosen, access, self.context)
        if any("sni" in row or "alpn" in row for row in frontend.rows("routes")):
            self._wait_for_hello(frontend, target)

    def _join_certificates(self, frontend: Table, scope: Scope) -> None:
        own = client_tls(scope).keys.get("certificates")
        if not isinstance(own, list):
            return
        rows = frontend.table("tls").rows("certificates")
        known = self.certificates.get(id(frontend))
        if known is None:
            self.certificates[id(frontend)] = known = {_files(row) for row in rows}
        for row in own:
            if _files(row) not in known:
                known.add(_files(row))
                rows.append(row)

    def _wait_for_hello(self, frontend: Table, target: Directive) -> None:
        for row in frontend.rows("bind"):
            if "mode" not in row:
                row.set("mode", "passthrough", Origin(target.place))
            port = port_of(str(row.get("address")))
            if speaks_clear(port) and row.get("mode") == "passthrough":
                self.context.report.advise(
                    target.place,
                    "proxy_pass",
                    f"port {port} speaks clear text first, so no ClientHello ever comes and no client gets through: give it no routes by name",
                )


def _files(certificate: Table) -> tuple[object, object]:
    return certificate.get("certificate"), certificate.get("key")


def read_listens(scope: Scope) -> list[Listen]:
    """Return the addresses of a server block. ``ssl on`` of old versions counts for all of them."""
    listens = [
        listen for directive in scope.all("listen") for listen in read_listen(directive, scope.context)
    ]
    if scope.is_on("ssl"):
        for listen in listens:
            listen.is_tls = True
    return join_families(listens)


def write_binds(frontend: Table, listens: Sequence[Listen], scope: Scope) -> None:
    """Write the binds of a frontend, with their TLS and PROXY headers."""
    scope.all("ssl_preread")
    if any(listen.is_tls for listen in listens):
        frontend.keys["tls"] = client_tls(scope)
    else:
        for each in scope.block.block or ():
            if each.name.startswith("ssl_") and each.place not in scope.context.done:
                scope.context.report.note(each.place, each.name, "no address of this block has TLS: left out")
    trusted = [each for each in scope.all("set_real_ip_from") if each.arguments]
    for listen in listens:
        if listen.is_tls:
            listen.row.set("mode", "tls", Origin(listen.directive.place))
        if listen.takes_header:
            _accept_header(listen, trusted, scope.context)
        frontend.rows("bind").append(listen.row)


def _accept_header(listen: Listen, trusted: Sequence[Directive], context: Context) -> None:
    networks = ["unix" if each.arguments[0] == "unix:" else each.arguments[0] for each in trusted]
    is_unix = listen.address.startswith("unix:")
    if networks:
        listen.row.set("accept_proxy", networks, Origin(trusted[0].place))
        context.report.note(
            trusted[0].place,
            "set_real_ip_from",
            "connections from other networks are rejected here, where nginx believes only these",
        )
        return
    listen.row.set("accept_proxy", ["unix"] if is_unix else list(EVERYBODY), Origin(listen.directive.place))
    context.report.advise(
        listen.directive.place,
        "listen proxy_protocol",
        "takes a header from every address, so any client can claim any address: name the networks of your proxies in accept_proxy",
    )


def limits_of(frontend: Table, scope: Scope, zones: Mapping[str, str]) -> None:
    """Write the limit on sessions of one client."""
    for limit in scope.all("limit_conn"):
        words = limit.arguments
        key = zones.get(words[0], "") if words else ""
        count = number(words[1]) if len(words) == 2 else None
        if count is not None and key in ("$binary_remote_addr", "$remote_addr"):
            frontend.set("max_sessions_per_client", count, limit)
        elif count is not None and key.startswith("$server_"):
            frontend.set("max_sessions", count, limit)
        else:
            scope.context.report.loss(
                limit.place, "limit_conn", f"a limit by {key or 'this zone'} is not here: left out"
            )


def _access(scope: Scope) -> list[tuple[str, list[str], Directive]]:
    """Return the allow and deny rules in order."""
    rules: list[tuple[str, list[str], Directive]] = []
    for each in scope.all("allow", "deny"):
        what = each.arguments[0] if each.arguments else ""
        if what == "all":
            rules.append((each.name, [], each))
            continue
        try:
            rules.append((each.name, [str(ip_network(what, strict=False))], each))
        except ValueError:
            scope.context.report.loss(each.place, each.name, f"{what} is no network: left out")
    return rules


_Chosen = Sequence[tuple[Mapping[str, list[str | int]], "str | None", Directive]]


def _add_routes(
    frontend: Table, chosen: _Chosen, access: Sequence[tuple[str, list[str], Directive]], context: Context
) -> None:
    allowed: list[str] = []
    is_closed = False
    routes = frontend.rows("routes")
    for kind, networks, directive in access:
        if not networks:
            is_closed = kind == "deny"
            break
        if kind == "allow":
            allowed += networks
        elif allowed:
            context.report.loss(
                directive.place, directive.name, "a deny behind an allow is not here: left out"
            )
        else:
            _deny(routes, networks, directive)
    if not is_closed and allowed:
        allowed = []  # all other clients are allowed, too
    if is_closed and not allowed:
        context.report.loss(access[-1][2].place, "deny", "every client is denied: no session has a backend")
        return
    for conditions, backend, directive in chosen:
        if not conditions and not is_closed and "backend" not in frontend:
            if backend is not None:
                frontend.set("backend", backend, directive)
            continue
        row = Table(place=directive.place, comments=directive.take_comments())
        for key, values in conditions.items():
            row.set(key, values, Origin(directive.place))
        if is_closed:
            row.set("client", list(allowed), Origin(directive.place))
        row.set("backend", str(backend), Origin(directive.place))
        last = routes[-1] if routes else None
        if (
            last is not None
            and last.get("backend") == backend
            and set(last.keys) == set(row.keys) == {"backend", *list(conditions)[:1]}
            and conditions
        ):
            _extend(last, next(iter(conditions)), row)
        else:
            routes.append(row)
    if is_closed:
        row = Table(place=access[-1][2].place)
        row.set("reject", value=True, source=Origin(access[-1][2].place))
        routes.append(row)


def _deny(routes: list[Table], networks: list[str], directive: Directive) -> None:
    last = routes[-1] if routes else None
    if last is not None and last.get("reject"):
        known = last.get("client")
        last.set("client", [*(known if isinstance(known, list) else []), *networks], Origin(directive.place))
        return
    row = Table(place=directive.place, comments=directive.take_comments())
    row.set("client", networks, Origin(directive.place))
    row.set("reject", value=True, source=Origin(directive.place))
    routes.append(row)


def _extend(route: Table, key: str, other: Table) -> None:
    """Add the values of a condition to a route with the same backend."""
    own, more = route.get(key), other.get(key)
    if isinstance(own, list) and isinstance(more, list):
        route.set(key, [*own, *more], None if route.place is None else Origin(route.place))
