"""Traefik's files as a draft: each entry point with routers over TCP becomes a frontend."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.names import PatternError, port_of_name, settled_name, unused_name
from mailproxy.importers.node import Node
from mailproxy.importers.place import Place
from mailproxy.importers.ports import guess_protocol
from mailproxy.importers.traefik.certificates import terminated_tls
from mailproxy.importers.traefik.reader import entries, leaves, merge, pick, read
from mailproxy.importers.traefik.rules import Condition, conditions_of, network, shared_networks
from mailproxy.importers.traefik.services import Services, own_name, time_of

EVERYBODY = ["0.0.0.0/0", "::/0"]
_TEMPLATE = re.compile(r"\{\{")
# What is no TCP, with what becomes of it.
_OTHERS = {
    "http": "HTTP is left out, since mailproxy carries mail only",
    "udp": "mail is TCP: left out",
    "providers": "mailproxy reads one file, which a reload reads again",
    "api": "[admin] http has a status page here, if you give it an address",
    "metrics": "[admin] http has metrics here, if you give it an address",
    "ping": "[admin] http answers /healthz here, if you give it an address",
    "log": "mailproxy's own log is to stderr",
    "accesslog": "each session has a line in the log",
    "global": "not needed",
    "serverstransport": "is for HTTP",
    "tcpserverstransport": "give connect, tls and others to the backends",
    "experimental": "not needed",
    "tracing": "[tracing] exports sessions here",
    "hostresolver": "not here",
    "core": "not needed",
    "spiffe": "not here",
}


@frozen
class _Router:
    """A router that an entry point uses.

    Attributes:
        name: Its name.
        node: Its table.
        kind: What happens to its sessions: ``forward``, ``passthrough`` or ``tls``.
        conditions: The alternatives of its rule.
        networks: The networks that its middlewares allow; None for all.
        backend: The backend of its service; None if mailproxy has none like it.
    """

    name: str
    node: Node
    kind: str
    conditions: Sequence[Condition]
    networks: Sequence[str] | None
    backend: str | None


def convert(texts: Iterable[tuple[str, str]], context: Context) -> None:
    """Fill the draft of an import from the texts of Traefik's files.

    Args:
        texts: Name and text of each file: TOML or YAML, static or dynamic.
        context: The import.

    Raises:
        ConfigError: A file cannot be read.
    """
    nodes = []
    for name, text in texts:
        context.report.files.append(name)
        if (template := _TEMPLATE.search(text)) is not None:
            line = text.count("\n", 0, template.start()) + 1
            column = template.start() - text.rfind("\n", 0, template.start())
            fact = "this is a template: import what is made of it"
            context.report.loss(Place(name, line, column), "", fact)
        nodes.append(read(text, name))
    _Translator(merge(nodes), context).translate()


class _Translator:
    def __init__(self, root: Node, context: Context) -> None:
        self._root = root
        self._context = context
        self._services = Services(root, context)
        self._middlewares = entries(root, "tcp", "middlewares")

    def translate(self) -> None:
        self._register()
        self._context.draft.table("frontends")  # before the backends, as a person writes them
        routers = self._routers()
        points = entries(self._root, "entryPoints")
        for name, point in points.items():
            address = pick(point, "address")
            if address is None or address.text.endswith("/udp"):
                self._leave_out(point)
            elif own := routers.pop(name, []):
                self._frontend(name, point, address.text, own)
            else:
                self._leave_out(point)
        for name, own in routers.items():
            self._without_entry_point(name, own)

    def _register(self) -> None:
        """Take note of every key, and report those that have nothing to do with TCP."""
        for section, table in entries(self._root).items():
            for name, node in leaves(table, section):
                self._context.register(node.place, name)
            if (fact := _OTHERS.get(section.lower())) is not None:
                self._leave_out(table)
                self._context.report.note(table.place, section, fact)

    def _leave_out(self, table: Node) -> None:
        for _, node in leaves(table):
            self._context.settle(node.place)

    def _routers(self) -> dict[str, list[Node]]:
        """Return the tables of routers by the entry points that they are for, the first to be asked first."""
        found: dict[str, list[tuple[int, str, Node]]] = {}
        points = [name for name, point in entries(self._root, "entryPoints").items() if _is_tcp(point)]
        for name, router in entries(self._root, "tcp", "routers").items():
            used = pick(router, "entryPoints")
            rule, priority = pick(router, "rule"), pick(router, "priority")
            for node in (used, priority):
                if node is not None:
                    self._context.settle(node.place)
            rank = priority.value if priority is not None and isinstance(priority.value, int) else 0
            for point in points if used is None else used.texts:
                row = (-(rank or len(rule.text if rule is not None else "")), name, router)
                found.setdefault(point, []).append(row)
        return {
            point: [router for _, _, router in sorted(rows, key=lambda row: row[:2])]
            for point, rows in found.items()
        }

    def _without_entry_point(self, name: str, routers: Sequence[Node]) -> None:
        port = port_of_name(name)
        place = (pick(routers[0], "entryPoints") or routers[0]).place
        fact = f"there is no entry point {name} in these files"
        if port is None:
            self._context.report.loss(place, "entryPoints", f"{fact}: give the static file, too; left out")
            for router in routers:
                self._leave_out(router)
            return
        self._context.report.loss(place, "entryPoints", f"{fact}: port {port} is written, by its name")
        self._frontend(name, Node(place, {}), f":{port}", routers)

    def _frontend(self, name: str, point: Node, address: str, tables: Sequence[Node]) -> None:
        frontend = Table(place=point.place)
        bind = Table(place=point.place)
        bound, port = _bind_address(address)
        node = pick(point, "address")
        if bound is None:
            place = (node or point).place
            self._context.report.loss(place, "address", f"{address} is no address to listen on: left out")
            return
        routers = [each for table in tables if (each := self._router(table)) is not None]
        kinds = {router.kind for router in routers}
        if "forward" in kinds and len(kinds) > 1:
            for router in (each for each in routers if each.kind == "forward"):
                fact = "a router without tls beside others with it is not here: a bind expects TLS or not; left out"
                self._context.report.loss(router.node.place, "router", fact)
            routers, kinds = [each for each in routers if each.kind != "forward"], kinds - {"forward"}
        bind.set("address", bound, node)
        mode = next(iter(kinds)) if len(kinds) == 1 else "passthrough"
        if mode != "forward" and kinds:
            bind.set("mode", mode, routers[0].node)
        self._accept_proxy(bind, point)
        frontends = self._context.draft.table("frontends")
        frontends.keys[unused_name(settled_name(name), frontends.keys)] = frontend
        backends = [router.backend for router in routers if router.backend is not None]
        frontend.set("protocol", guess_protocol([port], self._ports(backends), name))
        self._timeouts(frontend, point, backends)
        frontend.rows("bind").append(bind)
        self._limits(frontend, tables)
        terminating = [router for router in routers if router.kind == "tls"]
        if terminating and (tls := pick(terminating[0].node, "tls")) is not None:
            names = [name for each in terminating for row in each.conditions for name in row.get("sni", ())]
            frontend.keys["tls"] = terminated_tls(tls, names, self._root, self._context)
            for other in terminating[1:]:
                self._other_tls(pick(other.node, "tls"), tls)
        self._routes(frontend, routers, is_mixed=len(kinds) > 1)
        self._leave_out_timeouts(point)

    def _router(self, table: Node) -> _Router | None:
        """Return a router; None if it is left out."""
        self._context.settle(table.place)
        tls, service, rule = (pick(table, key) for key in ("tls", "service", "rule"))
        passthrough = pick(tls, "passthrough")
        kind = "forward" if tls is None or tls.value is False else "tls"
        if tls is not None:
            self._context.settle(tls.place)
        if passthrough is not None:
            self._context.settle(passthrough.place)
            kind = "passthrough" if passthrough.value is True else kind
        if service is None or rule is None:
            self._context.report.loss(
                table.place, "router", "has no rule or no service, which Traefik refuses: left out"
            )
            return None
        self._context.settle(service.place)
        self._context.settle(rule.place)
        try:
            conditions = _conditions(rule, kind)
            networks = self._allowed(table)
        except PatternError as error:
            self._context.report.loss(rule.place, "rule", f"{error}: the router is left out")
            return None
        backend = self._services.backend(service.text, service)
        return _Router(service.text, table, kind, conditions, networks, backend)

    def _used_middlewares(self, table: Node) -> Iterator[tuple[str, Node, Node]]:
        """Yield kind, table and place of each middleware of a router."""
        named = pick(table, "middlewares")
        if named is None:
            return
        self._context.settle(named.place)
        for name in named.texts:
            middleware = self._middlewares.get(own_name(name))
            if middleware is None:
                fact = f"there is no middleware {name} in these files: left out"
                self._context.report.loss(named.place, "middlewares", fact)
                continue
            for kind, options in entries(middleware).items():
                yield kind.lower(), options, named

    def _allowed(self, table: Node) -> Sequence[str] | None:
        """Return the networks that the middlewares of a router allow; None for all.

        Raises:
            PatternError: One of them is no network.
        """
        allowed: Sequence[str] | None = None
        for kind, options, named in self._used_middlewares(table):
            ranges = pick(options, "sourceRange")
            if kind in ("ipallowlist", "ipwhitelist") and ranges is not None:
                self._context.settle(ranges.place)
                own = [network(text) for text in ranges.texts]
                allowed = own if allowed is None else shared_networks(allowed, own)
            elif kind != "inflightconn":
                self._context.report.loss(named.place, "middlewares", f"{kind} is not here: left out")
        return allowed

    def _limits(self, frontend: Table, tables: Sequence[Node]) -> None:
        amounts = [
            amount
            for table in tables
            for kind, options, _ in self._used_middlewares(table)
            if kind == "inflightconn" and (amount := pick(options, "amount")) is not None
        ]
        for amount in amounts:
            self._context.settle(amount.place)
        if not amounts or not isinstance(amounts[0].value, int):
            return
        frontend.set("max_sessions_per_client", amounts[0].value, amounts[0])
        if len(amounts) < len(tables) or len({amount.text for amount in amounts}) > 1:
            fact = "the limit is for all routers of the entry point here"
            self._context.report.loss(amounts[0].place, "inFlightConn", fact)

    def _ports(self, backends: Sequence[str]) -> list[int | None]:
        tables = [self._context.draft.table("backends").keys[name] for name in backends]
        rows = [row for table in tables if isinstance(table, Table) for row in table.rows("servers")]
        return [int(str(row.get("address")).rpartition(":")[2]) for row in rows]

    def _timeouts(self, frontend: Table, point: Node, backends: Sequence[str]) -> None:
        timeouts = frontend.table("timeouts")
        hello = pick(point, "transport", "respondingTimeouts", "readTimeout")
        if (value := time_of(hello)) is not None:
            timeouts.set("handshake", value, hello)
        closings = [self._services.closing[name] for name in backends]
        if closings:
            timeouts.set("half_closed", *closings[0])
        for value, node in closings:
            if node is not None and value != closings[0][0]:
                fact = "that of the first service of the entry point is used for all"
                self._context.report.loss(node.place, "terminationDelay", fact)
            elif node is not None:
                self._context.settle(node.place)
        drain = pick(point, "transport", "lifeCycle", "graceTimeOut")
        if (value := time_of(drain)) is not None:
            self._context.draft.table("process").set("drain_timeout", value, drain)
        fact = "Traefik never ends idle sessions: mailproxy's default, 31m or 10m"
        self._context.report.note(point.place, "entryPoints", fact)

    def _leave_out_timeouts(self, point: Node) -> None:
        for key in ("transport", "http", "http2", "http3", "forwardedHeaders", "asDefault", "reusePort"):
            if (node := pick(point, key)) is not None:
                self._leave_out(node)

    def _accept_proxy(self, bind: Table, point: Node) -> None:
        header = pick(point, "proxyProtocol")
        trusted, insecure = pick(header, "trustedIPs"), pick(header, "insecure")
        if header is not None:
            self._context.settle(header.place)
        if insecure is not None and insecure.value is True:
            bind.set("accept_proxy", list(EVERYBODY), insecure)
            fact = "every client must send a header here, and it counts: name the networks of your proxies"
            self._context.report.advise(insecure.place, "insecure", fact)
        elif trusted is not None:
            bind.set("accept_proxy", trusted.texts, trusted)
            bind.set("proxy_optional", value=True, source=trusted)
            fact = "connections from these networks must send a header here, which Traefik only allows"
            self._context.report.note(trusted.place, "trustedIPs", fact)

    def _other_tls(self, tls: Node | None, first: Node) -> None:
        if tls is None:
            return
        for _, node in leaves(tls):
            self._context.settle(node.place)
        if _texts(tls) != _texts(first):
            fact = "differs between routers of one entry point: that of the first one is used for all"
            self._context.report.loss(tls.place, "tls", fact)

    def _routes(self, frontend: Table, routers: Sequence[_Router], *, is_mixed: bool) -> None:
        rows = frontend.rows("routes")
        for router in routers:
            for condition in router.conditions:
                if not condition and router.networks is None and not is_mixed:
                    if router.backend is not None:
                        frontend.set("backend", router.backend, pick(router.node, "service"))
                    return  # no session is left for later routers
                self._add(rows, router, condition, is_mixed=is_mixed)

    def _add(self, rows: list[Table], router: _Router, condition: Condition, *, is_mixed: bool) -> None:
        values = dict(condition)
        if router.networks is not None:
            known = values.get("client")
            values["client"] = tuple(
                router.networks if known is None else shared_networks(known, router.networks)
            )
        if router.backend is not None and values.get("client") != ():
            row = _row(router, values)
            row.set("backend", router.backend, pick(router.node, "service"))
            if is_mixed and router.kind == "tls":
                row.set("mode", "tls", router.node)
            rows.append(row)
        if router.networks is not None:  # other clients are closed, and try no other router
            row = _row(router, condition)
            row.set("reject", value=True, source=router.node)
            rows.append(row)


def _conditions(rule: Node, kind: str) -> list[Condition]:
    conditions = conditions_of(rule.text)
    if kind == "forward" and any("sni" in each or "alpn" in each for each in conditions):
        raise PatternError("without tls there is no name to match")
    return conditions


def _row(router: _Router, condition: Mapping[str, Sequence[str]]) -> Table:
    row = Table(place=router.node.place)
    for key, values in condition.items():
        row.set(key, list(values), pick(router.node, "rule"))
    return row


def _texts(node: Node) -> dict[str, list[str]]:
    return {name: each.texts for name, each in leaves(node)}


def _is_tcp(point: Node) -> bool:
    address = pick(point, "address")
    return address is not None and not address.text.endswith("/udp")


def _bind_address(text: str) -> tuple[str | None, int | None]:
    """Return the address of an entry point as mailproxy writes it, and its port; None if it is none."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]*|localhost):([0-9]{1,5})(?:/tcp)?", text)
    if match is None or not 0 < int(match[2]) < 65536:
        return None, None
    host = {"": "[::]", "0.0.0.0": "*", "localhost": "127.0.0.1"}.get(match[1], match[1])
    return f"{host}:{match[2]}", int(match[2])
