"""Backends: upstream blocks, and the proxy directives of the server blocks that use them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, new_table, plain
from mailproxy.importers.names import settled_name, unused_name
from mailproxy.importers.nginx.reader import Directive
from mailproxy.importers.nginx.scope import Scope
from mailproxy.importers.nginx.tls import server_tls
from mailproxy.importers.place import VARIABLE_START, Origin
from mailproxy.importers.times import duration, number

_PORT = re.compile(r":([0-9]{1,5})$")
_FAIL_TIMEOUT = "10s"  # nginx's defaults
_CONNECT_TIMEOUT = "60s"
_PROXY_TIMEOUT = "10m"
_IGNORED = ("zone", "state", "ntlm", "sticky")


@define
class Backends:
    """The backends of all server blocks: one for each upstream and each way in which it is used.

    Attributes:
        upstreams: The upstream blocks by name.
        resolve_interval: The time after which names are looked up again, with its directive.
    """

    context: Context
    upstreams: Mapping[str, Directive]
    used: set[str] = field(factory=set)
    _known: dict[str, dict[str, str]] = field(factory=dict)  # names by the wanted name and the content

    def get(self, target: str, scope: Scope, wanted: str, directive: Directive) -> str | None:
        """Return the name of the backend of a proxy_pass target; None if mailproxy has none like it.

        Args:
            target: The upstream or the address.
            scope: The server block.
            wanted: The name for a backend that is no upstream.
            directive: What names the target.
        """
        upstream = self.upstreams.get(target)
        if upstream is None and (target in ("", "-") or "$" in target):
            self.context.report.loss(
                directive.place, directive.name, f"{target or 'nothing'} is no target here: left out"
            )
            return None
        table = Table(place=directive.place) if upstream is None else new_table(upstream)
        if upstream is not None:
            self.used.add(target)
            self._upstream(table, upstream)
        else:
            self._single(table, target, wanted, directive)
        if not table.rows("servers"):
            self.context.report.loss(
                directive.place, directive.name, f"{target} has no server that mailproxy can have: left out"
            )
            return None
        self._proxy(table, scope, target)
        known = self.context.draft.table("backends")
        base = settled_name(target if upstream is not None else wanted)
        same, content = self._known.setdefault(base, {}), repr(plain(table))
        if content in same:
            self.context.settle_table(table)
            return same[content]
        name = unused_name(base, known.keys)
        known.keys[name] = table
        same[content] = name
        return name

    def report_unused(self) -> None:
        """Report upstream blocks that no server block uses."""
        for name, upstream in self.upstreams.items():
            if name not in self.used:
                for each in upstream.block or ():
                    self.context.settle(each.place)
                self.context.report.note(upstream.place, "upstream", f"no server block uses {name}: left out")

    def _single(self, table: Table, target: str, wanted: str, directive: Directive) -> None:
        row = Table(place=directive.place)
        row.set(
            "name",
            settled_name(_host(target) or wanted),
            Origin(directive.place),
        )
        row.set(
            "address",
            target.removesuffix(":") if target.startswith("unix:") else target,
            Origin(directive.place),
        )
        table.rows("servers").append(row)
        table.set("balance", "roundrobin")
        table.set("check", value=False)
        table.set("retries", 0)

    def _upstream(self, table: Table, upstream: Directive) -> None:
        scope = Scope(self.context, [upstream])
        self.context.settle(upstream.place)
        self._balance(table, scope)
        limits: list[tuple[str, int]] = []
        names: set[str] = set()
        for server in scope.all("server"):
            row = self._server(server, names, limits)
            if row is not None:
                table.rows("servers").append(row)
        backups = [row for row in table.rows("servers") if row.get("backup")]
        if len(backups) > 1 and (place := backups[0].place) is not None:
            table.set("all_backups", value=True, source=Origin(place))
        if len(table.rows("servers")) > 1 and any(count for _, count in limits):
            _passive_health(table, limits)
            for server in scope.all("server"):
                self.context.report.note(
                    server.place, "max_fails",
                    "nginx only counts failed connections: they count here, too, and a check that connects brings the server back",
                )  # fmt: skip
        else:
            table.set("check", value=False)
        table.set("retries", max(len(table.rows("servers")) - 1, 0))
        resolver = scope.last("resolver")
        if resolver is not None:
            set_resolver(table, resolver)

    def _balance(self, table: Table, scope: Scope) -> None:
        method = next(
            (
                each
                for name in ("least_conn", "hash", "random", "ip_hash", "least_time")
                for each in scope.all(name)
            ),
            None,
        )
        name, words = (method.name, method.arguments) if method is not None else ("", [])
        source = None if method is None else method
        if name == "least_conn":
            table.set("balance", "leastconn", source)
        elif name == "ip_hash" or (
            name == "hash"
            and words[:1] in (["$remote_addr"], ["$binary_remote_addr"], ["$proxy_protocol_addr"])
        ):
            table.set("balance", "source", source)
        elif name == "random":
            table.set("balance", "random", source)
        else:
            if method is not None:
                self.context.report.loss(method.place, name, "is not here: roundrobin is written")
            table.set("balance", "roundrobin", None)

    def _server(self, server: Directive, names: set[str], limits: list[tuple[str, int]]) -> Table | None:
        words = server.arguments
        if not words:
            self.context.report.loss(server.place, "server", "has no address, which nginx refuses: left out")
            return None
        row = new_table(server)
        source = Origin(server.place)
        host = _host(words[0])
        name = unused_name(settled_name(host if VARIABLE_START not in host else "server"), names)
        names.add(name)
        row.set("name", name, source)
        row.set("address", words[0], source)
        fails, pause = 1, _FAIL_TIMEOUT
        for word in words[1:]:
            key, _, value = word.partition("=")
            if key in ("weight", "max_conns") and (count := number(value)) is not None:
                row.set("weight" if key == "weight" else "max_sessions", count, source)
            elif key == "max_fails" and isinstance(count := number(value), int):
                fails = count
            elif key == "fail_timeout" and (time := duration(value)) is not None:
                pause = time
            elif key == "slow_start" and (time := duration(value)) is not None:
                row.set("slow_start", time, source)
            elif word == "backup":
                row.set("backup", value=True, source=source)
            elif word == "down":
                row.set("state", "maint", source)
            elif word != "resolve" and key != "service":
                self.context.report.loss(server.place, f"server {word}", "is not here: left out")
        limits.append((pause, fails))
        return row

    def _proxy(self, table: Table, scope: Scope, target: str) -> None:
        """Add what the server block says about its connections to servers."""
        timeouts = table.table("timeouts")
        for name, key, default in (
            ("proxy_connect_timeout", "connect", _CONNECT_TIMEOUT),
            ("proxy_timeout", "server", _PROXY_TIMEOUT),
        ):
            given = scope.duration(name)
            # At the place of the block, as for the frontend: one cause is reported once.
            value, source = (default, Origin(scope.block.place)) if given is None else given
            timeouts.set(key, value, source)
        table.set("send_proxy", "none")
        if (header := scope.last("proxy_protocol")) is not None:
            table.set("send_proxy", {"on": "v1", "v2": "v2"}.get(header.arguments[0], "none"), header)
        tls = server_tls(scope, _PORT.sub("", target))
        if tls is not None:
            table.keys["tls"] = tls
        if (local := scope.last("proxy_bind")) is not None and local.arguments[0] != "off":
            _local_address(table, local, self.context)
        if (keepalive := scope.last("proxy_socket_keepalive")) is not None:
            table.set("keepalive", keepalive.arguments[0] == "on", keepalive)
        if (next_ := scope.last("proxy_next_upstream")) is not None and next_.arguments[0] == "off":
            table.set("retries", 0, next_)
        tries = scope.number("proxy_next_upstream_tries")
        if tries is not None and isinstance(tries[0], int) and tries[0] > 0:
            known = table.get("retries")
            table.set("retries", min(tries[0] - 1, known if isinstance(known, int) else tries[0]), tries[1])
        resolver = scope.last("resolver")
        if resolver is not None:
            set_resolver(table, resolver)


def port_of(address: str) -> int | None:
    """Return the port of a server's address; None if it has none."""
    match = _PORT.search(address)
    return None if match is None else int(match[1])


def _host(address: str) -> str:
    """Return the host of a server's address, or the name of its socket."""
    return _PORT.sub("", address.removeprefix("unix:").rpartition("/")[2])


def _passive_health(table: Table, limits: list[tuple[str, int]]) -> None:
    """Write the nearest that there is to max_fails and fail_timeout."""
    counting = [(pause, count) for pause, count in limits if count]
    check = table.table("check")
    check.set("type", "tcp")
    check.set("interval", counting[0][0])
    check.set("rise", 1)
    check.set("fall", 1)
    table.set("observe", "connect")
    table.set("error_limit", counting[0][1])


def _local_address(table: Table, local: Directive, context: Context) -> None:
    words = local.arguments
    if words[0] in ("$remote_addr", "$proxy_protocol_addr") and "transparent" in words:
        table.set("source", "client", local)
    elif "$" in words[0]:
        context.report.loss(local.place, local.name, f"{words[0]} is not here: left out")
    else:
        table.set("source", _PORT.sub("", words[0]).strip("[]"), local)


def set_resolver(table: Table, resolver: Directive) -> None:
    """Set how often names are looked up again."""
    for word in resolver.arguments:
        if word.startswith("valid=") and (value := duration(word.removeprefix("valid="))) is not None:
            table.set("resolve_interval", value, resolver)
