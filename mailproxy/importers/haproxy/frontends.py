"""Frontends: binds, timeouts, routes, TLS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, Value, new_table
from mailproxy.importers.haproxy.backends import set_keepalive, set_timeout
from mailproxy.importers.haproxy.binds import BindLine, add_default_tls, read_bind
from mailproxy.importers.haproxy.certificates import use_words
from mailproxy.importers.haproxy.proxies import Proxy
from mailproxy.importers.haproxy.rules import Rules, translate_rules
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.haproxy.values import number
from mailproxy.importers.place import Origin
from mailproxy.importers.ports import speaks_clear


def translate_frontend(
    proxy: Proxy, proxies: Mapping[str, Proxy], context: Context, settings: Settings
) -> tuple[Table, list[int | None]]:
    """Return a frontend as a table, and the ports that it binds."""
    frontend = new_table(proxy.head)
    binds = [
        bind for line in proxy.all("bind") for bind in [read_bind(line, context, settings)] if bind.addresses
    ]
    rules = translate_rules(proxy, frontend, proxies, context)
    _timeouts(frontend, proxy, context)
    _limits(frontend, proxy, context)
    _log(frontend, proxy)
    rows = _binds(frontend, binds, proxy, context, settings)
    _accept_proxy(rows, rules)
    if rules.routes:
        frontend.rows("routes").extend(rules.routes)
    _wait_for_hello(rows, binds, rules, proxy)
    return frontend, [address.port for bind in binds for address in bind.addresses]


def _timeouts(frontend: Table, proxy: Proxy, context: Context) -> None:
    timeouts = frontend.table("timeouts")
    names = ("timeout tunnel", "timeout client")
    if set_timeout(timeouts, "client", [proxy.single.get(name) for name in names], context) is None:
        context.report.note(
            proxy.head.place,
            proxy.head.words[0].text,
            "has no timeout client, so HAProxy never ends idle sessions: mailproxy's default, 31m or 10m",
        )
    if "timeout client-hs" in proxy.single:
        set_timeout(timeouts, "handshake", [proxy.single["timeout client-hs"]], context)
    closing = [proxy.single.get("timeout client-fin"), proxy.single.get("timeout server-fin")]
    if any(closing):
        set_timeout(timeouts, "half_closed", [line for line in closing if line is not None], context)


def _limits(frontend: Table, proxy: Proxy, context: Context) -> None:
    line = proxy.single.get("maxconn")
    if line is None:
        return
    if not line.arguments or (count := number(line.arguments[0])) is None:
        context.report.loss(line.place, "maxconn", "has no number, which HAProxy refuses: left out")
    else:
        frontend.set("max_sessions", count, line)


def _log(frontend: Table, proxy: Proxy) -> None:
    line = proxy.option("dontlognull")
    frontend.set("log_null", line is None, line)
    if (as_soon := proxy.option("logasap")) is not None:
        frontend.set("log_start", True, as_soon)


def _binds(
    frontend: Table, binds: Sequence[BindLine], proxy: Proxy, context: Context, settings: Settings
) -> list[Table]:
    for bind in binds:
        add_default_tls(bind)
        if (backlog := proxy.single.get("backlog")) is not None and backlog.arguments:
            value = number(backlog.arguments[0])
            if value is not None:
                bind.row.set_default("backlog", value, Origin(backlog.place))
        line = proxy.option("clitcpka") or proxy.option("tcpka")
        if line is not None:
            set_keepalive(bind.row, proxy, line, "clitcpka")
    with_tls = [bind for bind in binds if bind.terminates_tls]
    for bind in with_tls:
        for line in proxy.all("ssl-f-use"):
            use_words(bind.tls, line.words[1:], settings, context, line.words[0])
    for bind in binds:
        if bind.tls.keys and not bind.terminates_tls and bind.row.place is not None:
            context.report.note(
                bind.row.place, "bind", "has parameters of TLS without ssl, which HAProxy ignores: left out"
            )
    if with_tls and all(bind.tls == with_tls[0].tls for bind in with_tls):
        frontend.keys["tls"] = with_tls[0].tls
    else:
        for bind in with_tls:
            bind.row.keys["tls"] = bind.tls
    rows = [row for bind in binds for row in bind.rows()]
    frontend.rows("bind").extend(rows)
    return rows


def _accept_proxy(rows: Sequence[Table], rules: Rules) -> None:
    if rules.accept_proxy is None:
        return
    networks, line = rules.accept_proxy
    for row in rows:
        row.set("accept_proxy", list(networks), Origin(line.place))
        row.set("proxy_optional", True, Origin(line.place))


def _wait_for_hello(rows: Sequence[Table], binds: Sequence[BindLine], rules: Rules, proxy: Proxy) -> None:
    """Let binds wait for the ClientHello where rules ask for it."""
    if not rules.needs_hello:
        return
    line = rules.needs_hello[0]
    for row in rows:
        if "mode" not in row:
            row.keys["mode"] = Value("passthrough", line.place)
    waits = any(
        each.arguments[1:2] == ["inspect-delay"] or each.arguments[:1] == ["inspect-delay"]
        for each in proxy.all("inspect-delay")
    )
    plain = [address.port for bind in binds if not bind.terminates_tls for address in bind.addresses]
    clear = next((port for port in plain if speaks_clear(port)), None)
    name = rules.context.name_of(line.place)
    if clear is not None:
        rules.context.report.advise(
            line.place,
            name,
            f"port {clear} speaks clear text first, so no ClientHello ever comes and no client gets through: give it no routes by name",
        )
    elif plain and not waits:
        rules.context.report.note(
            line.place,
            name,
            "HAProxy asks before the ClientHello came, without tcp-request inspect-delay: here the bind waits for it",
        )
