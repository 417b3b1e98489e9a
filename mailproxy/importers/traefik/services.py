"""Services as backends: servers, weights, PROXY headers, TLS and checks."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.names import settled_name, unused_name
from mailproxy.importers.node import Node
from mailproxy.importers.times import duration
from mailproxy.importers.traefik.reader import entries, items, leaves, pick

_DIAL_TIMEOUT, _HEALTH_INTERVAL, _HEALTH_TIMEOUT = "30s", "30s", "5s"  # Traefik's defaults
_CLOSING = "100ms"  # Traefik's terminationDelay
_WEIGHT_MAX = 256
_DEPTH_MAX = 8  # weighted services inside each other


def own_name(name: str) -> str:
    """Return a name without the provider that it may have, as in ``imap@file``."""
    return name.partition("@")[0]


def time_of(node: Node | None) -> str | None:
    """Return a time as mailproxy writes it. A number alone is in seconds."""
    return None if node is None or not node.text else duration(node.text)


class Services:
    """The services of a configuration."""

    def __init__(self, root: Node, context: Context) -> None:
        self._services = entries(root, "tcp", "services")
        self._transports = entries(root, "tcp", "serversTransports")
        self._context = context
        self._backends: dict[str, str | None] = {}
        self.closing: dict[str, tuple[str, Node | None]] = {}  # how long half-closed sessions may go on

    def backend(self, name: str, source: Node) -> str | None:
        """Return the backend of a service; None if there is none. It is written at the first call."""
        name = own_name(name)
        if name not in self._backends:
            self._backends[name] = self._write(name, source)
        return self._backends[name]

    def _write(self, name: str, source: Node) -> str | None:
        parts = self._parts(name, 1, 0, source)
        if not parts:
            return None
        backends = self._context.draft.table("backends")
        table = Table(place=self._services[name].place)
        table.set("balance", "roundrobin")
        table.set("retries", 0)
        rows, names = table.rows("servers"), set[str]()
        for weight, balancer in parts:
            for row in self._servers(balancer, names):
                if len(parts) > 1:
                    row.set("weight", weight, balancer)
                rows.append(row)
        self._shared(table, [balancer for _, balancer in parts])
        if not rows:
            self._context.report.loss(source.place, "service", f"{name} has no server: left out")
            return None
        backend = unused_name(settled_name(name), backends.keys)
        backends.keys[backend] = table
        self.closing[backend] = self._closing(parts[0][1])
        return backend

    def _parts(self, name: str, weight: int, depth: int, source: Node) -> list[tuple[int, Node]]:
        """Return the load balancers of a service, each with the weight of its servers."""
        service = self._services.get(own_name(name))
        if service is None or depth > _DEPTH_MAX:
            fact = f"there is no service {name} in these files: left out"
            self._context.report.loss(source.place, "service", fact)
            return []
        balancer = pick(service, "loadBalancer")
        if balancer is not None:
            return [(weight, balancer)]
        parts: list[tuple[int, Node]] = []
        for each in items(service, "weighted", "services"):
            share, inner = pick(each, "weight"), pick(each, "name")
            for node in (share, inner):
                if node is not None:
                    self._context.settle(node.place)
            own = share.value if share is not None and isinstance(share.value, int) else 1
            if inner is not None and 0 <= own < 2**31:
                parts += self._parts(inner.text, weight * own, depth + 1, inner)
        return _with_weights_of_servers(parts)

    def _servers(self, balancer: Node, names: set[str]) -> list[Table]:
        rows = []
        for server in items(balancer, "servers"):
            node = pick(server, "address")
            address = None if node is None else server_address(node.text)
            if node is None or address is None:
                place = (node or server).place
                self._context.report.loss(place, "server", "has no address with a port: left out")
                continue
            row = Table(place=node.place)
            name = unused_name(settled_name(address.rpartition(":")[0].strip("[]")), names)
            names.add(name)
            row.set("name", name, node)
            row.set("address", address, node)
            if (tls := pick(server, "tls")) is not None and tls.value is True:
                row.keys["tls"] = self._tls(balancer, tls)
            rows.append(row)
        return rows

    def _shared(self, table: Table, balancers: Sequence[Node]) -> None:
        """Write what holds for all servers. Of weighted services, the first one counts."""
        first = balancers[0]
        transport = self._transport(first)
        connect = pick(transport, "dialTimeout")
        timeouts = table.table("timeouts")
        timeouts.set("connect", time_of(connect) or _DIAL_TIMEOUT, connect)
        table.set("send_proxy", "none")
        if (header := self._header(first)) is not None:
            version = pick(header, "version")
            table.set(
                "send_proxy", "v1" if version is not None and version.text == "1" else "v2", version or header
            )
        if any(_text(self._header(each)) != _text(self._header(first)) for each in balancers):
            fact = "differs between weighted services: that of the first one is used for all"
            self._context.report.loss(first.place, "proxyProtocol", fact)
        rows = table.rows("servers")
        if rows and all("tls" in row and row.keys["tls"] == rows[0].keys["tls"] for row in rows):
            table.keys["tls"] = rows[0].keys["tls"]
            for row in rows:
                self._context.settle_table(row)
                del row.keys["tls"]
        elif not any("tls" in row for row in rows) and pick(transport, "tls") is not None:
            table.keys["tls"] = self._tls(first, transport or first)
        self._check(table, first)
        if (keepalive := pick(transport, "dialKeepAlive")) is not None and time_of(keepalive) is not None:
            details = table.table("keepalive")
            details.set("idle", str(time_of(keepalive)), keepalive)

    def _header(self, balancer: Node) -> Node | None:
        return pick(balancer, "proxyProtocol") or pick(self._transport(balancer), "proxyProtocol")

    def _transport(self, balancer: Node) -> Node | None:
        named = pick(balancer, "serversTransport")
        if named is None:
            return None
        self._context.settle(named.place)
        return self._transports.get(own_name(named.text))

    def _tls(self, balancer: Node, source: Node) -> Table:
        tls, options = Table(place=source.place), pick(self._transport(balancer), "tls")
        self._context.settle(source.place)
        if (skip := pick(options, "insecureSkipVerify")) is not None and skip.value is True:
            tls.set("verify", "none", skip)
        if (name := pick(options, "serverName")) is not None:
            tls.set("server_name", name.text, name)
        authorities = items(options, "rootCAs")
        if authorities:
            tls.set("ca", authorities[0].text, pick(options, "rootCAs"))
        for other in authorities[1:]:
            self._context.report.loss(
                other.place, "rootCAs", "one file with all CAs is needed: the first is used"
            )
        for certificate in items(options, "certificates")[:1]:
            for key, own in (("certFile", "certificate"), ("keyFile", "key")):
                if (file := pick(certificate, key)) is not None:
                    tls.set(own, file.text, file)
        return tls

    def _check(self, table: Table, balancer: Node) -> None:
        health = pick(balancer, "healthCheck")
        if health is None:
            table.set("check", value=False)
            return
        check = table.table("check")
        check.place = health.place
        send, expect = pick(health, "send"), pick(health, "expect")
        check.set("type", "script" if send or expect else "tcp", health)
        interval, limit = pick(health, "interval"), pick(health, "timeout")
        check.set("interval", time_of(interval) or _HEALTH_INTERVAL, interval)
        table.table("timeouts").set("check", time_of(limit) or _HEALTH_TIMEOUT, limit)
        check.set("rise", 1)
        check.set("fall", 1)
        if (port := pick(health, "port")) is not None and isinstance(port.value, int):
            check.set("port", port.value, port)
        for key, node in (("send", send), ("expect", expect)):
            if node is not None:
                row = Table(place=node.place)
                row.set(key, node.text, node)
                check.rows("steps").append(row)

    def _closing(self, balancer: Node) -> tuple[str, Node | None]:
        node = pick(balancer, "terminationDelay") or pick(self._transport(balancer), "terminationDelay")
        if node is not None and re.fullmatch(r"[0-9]+", node.text):
            return duration(f"{node.text}ms") or _CLOSING, node
        return time_of(node) or _CLOSING, node


def _text(node: Node | None) -> Mapping[str, str] | None:
    return None if node is None else {name: each.text for name, each in leaves(node)}


def _with_weights_of_servers(parts: list[tuple[int, Node]]) -> list[tuple[int, Node]]:
    """Return the weight of each server, so that its service has the share that it should have."""
    counts = [max(1, len(items(balancer, "servers"))) for _, balancer in parts]
    whole = math.lcm(*counts) if counts else 1
    weights = [weight * whole // count for (weight, _), count in zip(parts, counts, strict=True)]
    divisor = math.gcd(*weights) or 1
    largest = max(weights, default=0) // divisor
    return [
        (
            weight // divisor
            if largest <= _WEIGHT_MAX
            else math.ceil(weight * _WEIGHT_MAX / (largest * divisor)),
            balancer,
        )
        for weight, (_, balancer) in zip(weights, parts, strict=True)
    ]


def server_address(text: str) -> str | None:
    """Return the address of a server as mailproxy writes it; None if it has no port."""
    match = re.fullmatch(r"\[?([^\]\s/]+?)\]?:([0-9]{1,5})", text)
    if match is None or not 0 < int(match[2]) < 65536:
        return None
    try:
        is_v6 = ip_address(match[1].partition("%")[0]).version == 6
    except ValueError:
        is_v6 = False
    return f"[{match[1]}]:{match[2]}" if is_v6 else f"{match[1]}:{match[2]}"
