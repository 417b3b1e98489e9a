"""The proxy handler: a backend with its servers, balance and checks."""

from __future__ import annotations

import re

from mailproxy.config.units import parse_duration
from mailproxy.importers.caddy.directives import OPTIONS
from mailproxy.importers.caddy.model import Handler, Option, Upstream
from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table
from mailproxy.importers.names import settled_name, unused_name
from mailproxy.importers.place import VARIABLE_END, VARIABLE_START, Origin
from mailproxy.importers.times import duration, number

_BALANCE = {
    "random": "random", "random_choose": "random", "first": "first", "ip_hash": "source", "least_conn": "leastconn", "round_robin": "roundrobin",
    "weighted_round_robin": "roundrobin",
}  # fmt: skip
_HEALTH_INTERVAL, _HEALTH_TIMEOUT = "30s", "5s"  # Caddy's defaults
_TRY_INTERVAL_S = 0.25
_TLS_FLAGS = ("tls", "tls_timeout", "tls_renegotiation", "tls_except_ports")


class ProxyHandler:
    """One proxy handler in translation."""

    def __init__(self, handler: Handler, context: Context) -> None:
        self._handler = handler
        self._options = dict(handler.options)
        self._context = context

    def backend(self) -> Table:
        """Return the backend; without servers if mailproxy can have none of them."""
        table = Table(place=self._handler.place)
        self._servers(table)
        self._balance(table)
        self._checks(table)
        if (header := self._take("proxy_protocol")) is not None:
            table.set("send_proxy", header.value if header.value in ("v1", "v2") else "none", header)
        else:
            table.set("send_proxy", "none")
        if (local := self._take("local_addr")) is not None:
            table.set("source", local.value, local)
        if (family := self._take("resolver_preference")) is not None and family.value[:4] in ("ipv4", "ipv6"):
            table.set("resolve_prefer", family.value[:4], family)
        self._retries(table)
        for name, option in self._options.items():
            self._context.report.loss(option.place, name, _fact(name))
        return table

    def _take(self, name: str) -> Option | None:
        option = self._options.pop(name, None)
        if option is not None:
            self._context.settle(option.place)
        return option

    def _servers(self, table: Table) -> None:
        names: set[str] = set()
        tls: list[Table | None] = []
        rows = table.rows("servers")
        for upstream in self._handler.upstreams:
            if len(upstream.dials) > 1:
                self._context.report.loss(
                    upstream.place, "upstream", "Caddy sends to all its addresses at once: a server for each"
                )
            for dial in upstream.dials:
                address = _address(dial)
                if address is None:
                    self._context.report.loss(
                        upstream.place, "upstream", f"{dial} is no address over TCP: left out"
                    )
                    continue
                row = Table(place=upstream.place, comments=upstream.take_comments())
                host = re.sub(r":[^:]*$", "", address.rpartition("/")[2]) or "server"
                name = unused_name(settled_name(host if VARIABLE_START not in host else "server"), names)
                names.add(name)
                row.set("name", name, Origin(upstream.place))
                row.set("address", address, Origin(upstream.place))
                tls.append(self._upstream_options(row, upstream))
                rows.append(row)
        if tls[:1] != [None] and rows and all(each == tls[0] for each in tls):
            for each in tls:
                if each is not None:
                    table.keys.setdefault("tls", each)
                    self._context.settle_table(each)
        else:
            for row, each in zip(rows, tls, strict=True):
                if each is not None:
                    row.keys["tls"] = each

    def _upstream_options(self, row: Table, upstream: Upstream) -> Table | None:
        options = dict(upstream.options)
        limit = options.pop("max_connections", None)
        if limit is not None and isinstance(count := number(limit.value), int):
            row.set("max_sessions", count, limit)
        if not any(name == "tls" or name.startswith("tls_") for name in options):
            self._leave_out(options)
            return None
        tls = Table(place=upstream.place)
        for name in _TLS_FLAGS:
            if (flag := options.pop(name, None)) is not None:
                self._context.settle(flag.place)
        if (skip := options.pop("tls_insecure_skip_verify", None)) is not None:
            tls.set("verify", "none", skip)
        for name, key in (("tls_server_name", "server_name"), ("tls_client_key", "key")):
            if (option := options.pop(name, None)) is not None:
                tls.set(key, option.value, option)
        if (client := options.pop("tls_client_auth", None)) is not None:
            tls.set("certificate", client.value, client)
            if len(client.values) > 1:
                tls.set("key", client.values[1], Origin(client.place))
        if (curves := options.pop("tls_curves", None)) is not None and len(curves.values) == 1:
            tls.set("curves", curves.value, curves)
        files = [
            options.pop(name)
            for name in list(options)
            if name
            in ("tls_trust_pool", "tls_trust_pool_files", "tls_trust_pool.pem_file", "tls_trusted_ca_certs")
        ]
        paths = [
            (value, option)
            for option in files
            for value in option.values
            if value not in ("file", "inline", "pki_root", "pki_intermediate", "storage")
        ]
        for option in files:
            self._context.settle(option.place)
        if paths:
            tls.set("ca", paths[0][0], Origin(paths[0][1].place))
        self._leave_out(options)
        return tls

    def _leave_out(self, options: dict[str, Option]) -> None:
        for name, option in options.items():
            self._context.report.loss(option.place, name, _fact(name))

    def _balance(self, table: Table) -> None:
        policy = self._take("lb_policy")
        if policy is None:
            table.set("balance", "random")
            return
        name = policy.value
        if name not in _BALANCE:
            self._context.report.loss(policy.place, f"lb_policy {name}", "is not here: roundrobin is written")
        table.set("balance", _BALANCE.get(name, "roundrobin"), policy)
        rows = table.rows("servers")
        if name == "first":
            for row in rows[1:]:
                row.set("backup", value=True, source=Origin(policy.place))
        elif name == "weighted_round_robin":
            weights = [
                each for value in policy.values[1:] for each in re.split(r"[, ]+", value) if each.isdecimal()
            ]
            for row, weight in zip(rows, weights, strict=False):
                row.set("weight", min(int(weight), 256), Origin(policy.place))

    def _checks(self, table: Table) -> None:
        active = [
            name
            for name in self._options
            if name.startswith("health_")
            and OPTIONS.get(name) is not None
            and OPTIONS[name].handle is not None
        ]
        passive = {
            name: self._take(name) for name in ("fail_duration", "max_fails", "unhealthy_connection_count")
        }
        limit = passive["unhealthy_connection_count"]
        if limit is not None and isinstance(count := number(limit.value), int):
            for row in table.rows("servers"):
                row.set_default("max_sessions", count, Origin(limit.place))
        pause = passive["fail_duration"]
        counts = pause is not None and duration(pause.value) is not None and len(table.rows("servers")) > 1
        if not active and not counts:
            table.set("check", value=False)
            return
        check = table.table("check")
        check.place = next(
            (self._options[name].place for name in active), None if pause is None else pause.place
        )
        check.set("type", "tcp")
        interval = self._take("health_interval")
        given = duration(interval.value) if interval is not None else None
        check.set(
            "interval",
            given
            or (_HEALTH_INTERVAL if active or pause is None else duration(pause.value) or _HEALTH_INTERVAL),
            interval,
        )
        timeout = self._take("health_timeout")
        table.table("timeouts").set(
            "check", (duration(timeout.value) if timeout is not None else None) or _HEALTH_TIMEOUT, timeout
        )
        for name, key in (("health_fall", "fall"), ("health_rise", "rise")):
            option = self._take(name)
            value = number(option.value) if option is not None else None
            check.set(key, value if isinstance(value, int) else 1, option)
        port = self._take("health_port")
        if port is not None and isinstance(value := number(port.value), int):
            check.set("port", value, port)
        if counts:
            fails = passive["max_fails"]
            table.set("observe", "connect", pause)
            value = number(fails.value) if fails is not None else 1
            table.set("error_limit", value if isinstance(value, int) else 1, fails)
        if (close := self._take("health_close_if_unhealthy") or self._take("close_if_unhealthy")) is not None:
            table.set("on_marked_down", "shutdown-sessions", close)

    def _retries(self, table: Table) -> None:
        """Write how many attempts fit in the time to try; without such a time there is one."""
        limit, pause = self._take("lb_try_duration"), self._take("lb_try_interval")
        seconds = _seconds(limit)
        step = _seconds(pause) or _TRY_INTERVAL_S
        table.set("retries", min(max(round(seconds / step), 1), 100) if seconds else 0, limit)


def _fact(name: str) -> str:
    """Return what is reported about an option that is not translated."""
    known = OPTIONS.get(name)
    return "is no option of layer4 that is known here: left out" if known is None else known.fact


def _seconds(option: Option | None) -> float:
    value = None if option is None else duration(option.value)
    return 0.0 if value is None else parse_duration(value)


def _address(dial: str) -> str | None:
    """Return the address of an upstream as mailproxy writes it; None if it has none."""
    if dial.startswith("unix/"):
        return f"unix:{dial.removeprefix('unix/')}"
    text = re.sub(r"^tcp[46]?/", "", dial)
    if "/" in text.replace(VARIABLE_END, "") and VARIABLE_START not in text:
        return None
    text = re.sub(r"\{l4\.[^}]*\}", "", text)
    return f"127.0.0.1{text}" if text.startswith(":") else text or None
