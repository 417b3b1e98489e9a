"""Caddy's files as a draft: the layer4 app of a Caddyfile or of JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mailproxy.importers.caddy.caddyfile import parse as parse_caddyfile
from mailproxy.importers.caddy.certificates import write_certificates
from mailproxy.importers.caddy.from_caddyfile import read_caddyfile
from mailproxy.importers.caddy.from_json import read_json
from mailproxy.importers.caddy.json_text import parse as parse_json
from mailproxy.importers.caddy.model import Certificates, Handler, Option, Server
from mailproxy.importers.caddy.proxy import ProxyHandler
from mailproxy.importers.caddy.routing import Target, Walk
from mailproxy.importers.caddy.tls import terminated_tls
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, plain
from mailproxy.importers.names import name_of_port, unused_name
from mailproxy.importers.place import VARIABLE_START, Origin
from mailproxy.importers.ports import guess_protocol
from mailproxy.importers.times import duration

EVERYBODY = ["0.0.0.0/0", "::/0"]
_LOOPBACK = ["127.0.0.0/8", "::1/128"]
_PORTS_MAX = 256


def convert(texts: Iterable[tuple[str, str]], context: Context) -> None:
    """Fill the draft of an import from the texts of Caddy's files.

    Args:
        texts: Name and text of each file. A text that begins with a JSON object is JSON.
        context: The import.

    Raises:
        ConfigError: A file cannot be read.
    """
    certificates = Certificates()
    servers: list[Server] = []
    for name, text in texts:
        context.report.files.append(name)
        if _is_json(name, text):
            servers += read_json(parse_json(text, name), context, certificates)
        else:
            servers += read_caddyfile(parse_caddyfile(text, name, context), context, certificates)
    own_ports = {
        each[1] for server in servers for option in server.listen for each in _addresses(option, None)
    }
    translator = _Translator(context, certificates, _ports_with_header(servers) & own_ports)
    for server in servers:
        translator.server(server)
    for option in certificates.options.values():
        context.settle(option.place)
    write_certificates(certificates, context)


def _is_json(name: str, text: str) -> bool:
    return name.endswith(".json") or re.match(r'\s*\{\s*("|\})', text) is not None


def _ports_with_header(servers: Sequence[Server]) -> set[int | None]:
    """Return the local ports to which a proxy of these files sends a PROXY header: chains through Caddy itself."""
    ports: set[int | None] = set()
    handlers = [handler for server in servers for route in server.routes for handler in route.handlers]
    for handler in handlers:
        if handler.name == "proxy" and "proxy_protocol" in handler.options:
            for upstream in handler.upstreams:
                for dial in upstream.dials:
                    match = re.fullmatch(r"(?:tcp[46]?/)?(?:localhost|127\.0\.0\.1|\[::1\])?:(\d{1,5})", dial)
                    if match is not None:
                        ports.add(int(match[1]))
    return ports


def _addresses(option: Option, context: Context | None) -> list[tuple[str, int | None]]:
    """Return the addresses of a bind with their ports; those that mailproxy cannot have are reported."""
    text = option.value
    network, slash, rest = text.partition("/")
    if slash and network in ("unix", "unix+h2c"):
        return [(f"unix:{rest.partition('|')[0]}", None)]
    if slash and network == "fd":
        return [(f"fd:{rest}", None)]
    address = rest if slash and network in ("tcp", "tcp4", "tcp6") else text
    host, _, ports = address.rpartition(":")
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", ports)
    host = {"localhost": "127.0.0.1", "0.0.0.0": "*", "": "*" if network == "tcp4" and slash else "[::]"}.get(
        host, host
    )
    is_known = host == "*" or VARIABLE_START in host or re.fullmatch(r"[0-9.]+|\[[0-9A-Fa-f:.%a-z]+\]", host)
    if VARIABLE_START in ports and is_known:
        return [(f"{host}:{ports}", None)]
    if (
        match is None
        or not is_known
        or (slash and network not in ("tcp", "tcp4", "tcp6"))
        or not 0 <= int(match[2] or match[1]) - int(match[1]) < _PORTS_MAX
    ):
        if context is not None:
            context.report.loss(
                option.place, text, "is no address over TCP that mailproxy can bind: left out"
            )
        return []
    return [(f"{host}:{port}", port) for port in range(int(match[1]), int(match[2] or match[1]) + 1)]


class _Translator:
    """Translates layer4 servers into frontends and backends."""

    def __init__(self, context: Context, certificates: Certificates, chained: set[int | None]) -> None:
        self._context = context
        self._certificates = certificates
        self._chained = chained
        self._known: dict[str, str] = {}  # names of backends by their content

    def server(self, server: Server) -> None:
        """Translate a layer4 server."""
        binds = [each for option in server.listen for each in _addresses(option, self._context)]
        walk = Walk(self._context)
        walk.routes(server.routes, Target(server.place))
        if not binds:
            self._context.report.loss(
                server.place, "server", "has no address to listen on that mailproxy can have: left out"
            )
            for target in walk.targets:
                self._settle(target)
            return
        frontends = self._context.draft.table("frontends")
        ports = [port for _, port in binds]
        name = unused_name(name_of_port(ports[0]), frontends.keys)
        frontend = Table(place=server.place, comments=server.take_comments())
        frontends.keys[name] = frontend
        targets = [(target, self._backend(target, name)) for target in walk.targets]
        behind = [
            port for target, _ in targets if target.proxy is not None for port in _dialled_ports(target.proxy)
        ]
        frontend.set("protocol", guess_protocol(ports, behind, name))
        self._binds(frontend, binds, targets, server)
        self._routes(frontend, targets)
        if (
            server.matching_timeout is not None
            and (value := duration(server.matching_timeout.value)) is not None
        ):
            frontend.table("timeouts").set("handshake", value, server.matching_timeout)
        if not targets:
            self._context.report.loss(
                server.place, "server", "has no proxy handler, so no session has a backend"
            )

    def _settle(self, target: Target) -> None:
        if target.proxy is not None:
            for option in target.proxy.options.values():
                self._context.settle(option.place)

    def _backend(self, target: Target, wanted: str) -> str | None:
        """Return the name of the backend of a target; None to reject."""
        if target.proxy is None:
            return None
        table = ProxyHandler(target.proxy, self._context).backend()
        table.comments = target.proxy.take_comments()
        if not table.rows("servers"):
            self._context.report.loss(
                target.place, "proxy", "has no upstream that mailproxy can have: the route is left out"
            )
            return None
        backends = self._context.draft.table("backends")
        content = repr(plain(table))
        if content in self._known:
            self._context.settle_table(table)
            return self._known[content]
        name = unused_name(wanted, backends.keys)
        backends.keys[name] = table
        self._known[content] = name
        return name

    def _binds(
        self,
        frontend: Table,
        binds: Sequence[tuple[str, int | None]],
        targets: Sequence[tuple[Target, str | None]],
        server: Server,
    ) -> None:
        terminating = next((target.tls for target, _ in targets if target.tls is not None), None)
        ends_all = all(target.tls is not None for target, _ in targets if target.proxy is not None)
        peeks = any(target.needs_tls for target, _ in targets)
        header = next((target.header for target, _ in targets if target.header is not None), None)
        for address, port in binds:
            row = Table(place=server.place)
            row.set("address", address, Origin(server.place))
            if terminating is not None and ends_all:
                row.set("mode", "tls", Origin(terminating.place))
            elif peeks or terminating is not None:
                row.set("mode", "passthrough", Origin(server.place))
            if header is not None:
                self._header(row, header, port, frontend)
            frontend.rows("bind").append(row)
        if terminating is not None:
            frontend.keys["tls"] = tls = terminated_tls(
                terminating, self._names(targets), self._certificates, self._context
            )
            tls.comments = terminating.take_comments()

    def _names(self, targets: Sequence[tuple[Target, str | None]]) -> list[str]:
        return list(
            dict.fromkeys(
                name
                for target, _ in targets
                if target.tls is not None
                for name in target.conditions.get("sni", ())
            )
        )

    def _header(self, row: Table, header: Handler, port: int | None, frontend: Table) -> None:
        options = dict(header.options)
        allow = options.pop("allow", None)
        policy = options.pop("fallback_policy", None)
        timeout = options.pop("timeout", None)
        for option in (allow, policy, timeout):
            if option is not None:
                self._context.settle(option.place)
        if timeout is not None and (value := duration(timeout.value)) is not None:
            frontend.table("timeouts").set("proxy_header", value, timeout)
        if allow is not None:
            row.set("accept_proxy", list(allow.values), allow)
            if policy is None or policy.value.upper() not in ("REQUIRE", "REJECT"):
                row.set("proxy_optional", value=True, source=Origin(allow.place))
        elif port in self._chained:
            row.set("accept_proxy", list(_LOOPBACK), header)
            row.set("proxy_optional", value=True, source=Origin(header.place))
            self._context.report.note(
                header.place,
                "proxy_protocol",
                "a proxy of this file sends a header here: it is used, where Caddy drops its address; others need none",
            )
        else:
            row.set("accept_proxy", list(EVERYBODY), header)
            self._context.report.advise(
                header.place,
                "proxy_protocol",
                "without allow, Caddy reads a header from every address and drops its address; here every client must send one, and it counts: "
                "name the networks of your proxies in accept_proxy, and give proxy_optional = true for other clients",
            )
        for name, option in options.items():
            self._context.report.loss(option.place, name, "is not here: left out")

    def _routes(self, frontend: Table, targets: Sequence[tuple[Target, str | None]]) -> None:
        mode = frontend.rows("bind")[0].get("mode")
        for target, backend in targets:
            mixed = mode == "passthrough" and target.tls is not None and backend is not None
            if not target.conditions and not mixed:
                if backend is not None:
                    frontend.set("backend", backend, Origin(target.place, target.comments))
                    return  # no session is left for later routes
                if target.proxy is not None:
                    continue
            if not target.conditions and backend is None:
                return  # all other sessions are rejected, since the frontend has no backend
            row = Table(place=target.place, comments=target.comments)
            for key, values in target.conditions.items():
                row.set(key, list(values), Origin(target.place))
            if backend is None:
                row.set("reject", value=True, source=Origin(target.place))
            else:
                row.set("backend", backend, Origin(target.place))
            if mixed:
                row.set("mode", "tls", Origin(target.place))
            frontend.rows("routes").append(row)


def _dialled_ports(proxy: Handler) -> list[int | None]:
    return [
        int(match[1])
        for upstream in proxy.upstreams
        for dial in upstream.dials
        if (match := re.search(r":(\d{1,5})$", dial))
    ]
