"""Backends: balance, timeouts, servers, stick tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, Value, new_table
from mailproxy.importers.haproxy.checks import read_backend_check, server_check, timeout_of, tracked_check
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.proxies import Proxy
from mailproxy.importers.haproxy.servers import ServerLine, read_server, set_source
from mailproxy.importers.haproxy.settings import Settings
from mailproxy.importers.haproxy.values import duration, number, size
from mailproxy.importers.place import Origin, Word

_BALANCE = ("leastconn", "roundrobin", "source", "first", "random")
_HTTP_BALANCE = ("uri", "url_param", "hdr", "rdp-cookie")
_OF_EVERY_CHECK = ("interval", "rise", "fall")
_NEVER = "365d"  # for entries that HAProxy keeps as long as the table has room


def translate_backend(
    proxy: Proxy, proxies: Mapping[str, Proxy], context: Context, settings: Settings
) -> tuple[Table, list[ServerLine]]:
    """Return a backend as a table, and its servers. ``proxies`` have the servers that it may track."""
    backend = new_table(proxy.head)
    _balance(backend, proxy, context)
    _retries(backend, proxy, context)
    translate_server_timeouts(backend, proxy, context)
    servers = _servers(proxy, context, settings)
    _share_keys(backend, servers, context)
    _checks(backend, servers, proxy, proxies, context)
    if (line := proxy.option("allbackups")) is not None:
        backend.set("all_backups", True, line)
    _stick(backend, proxy, context)
    _keepalive(backend, proxy)
    if (line := proxy.single.get("source")) is not None:
        _source(backend, line, context)
    backend.rows("servers").extend(server.row for server in servers)
    _resolvers(backend, servers, settings)
    return backend, servers


def _servers(proxy: Proxy, context: Context, settings: Settings) -> list[ServerLine]:
    servers = []
    names: set[object] = set()
    for line in proxy.all("server"):
        if line.words[0].text == "server-template":
            expanded = _from_template(line, context)
            if expanded is None:
                continue
            line = expanded  # noqa: PLW2901 - the line that it means
        server = read_server(line, proxy.all("default-server"), context, settings)
        if server is None:
            continue
        if server.row.get("name") in names:
            context.report.loss(
                line.place, "server", "has the name of another server, which HAProxy refuses: left out"
            )
            continue
        names.add(server.row.get("name"))
        servers.append(server)
    return servers


def _from_template(line: Line, context: Context) -> Line | None:
    """Return the server line that a template means."""
    if len(line.words) < 4:
        context.report.loss(
            line.place, "server-template", "has no name, count or address, which HAProxy refuses: left out"
        )
        return None
    first = re.match(r"[0-9]+", line.words[2].text)
    number_ = first[0] if first and "-" in line.words[2].text else "1"
    if line.words[2].text not in ("1", "1-1"):
        context.report.loss(
            line.place,
            "server-template",
            "one server is written, and the addresses of its name are tried in order: write a server for each machine",
        )
    name = Word(f"{line.words[1].text}{number_}", line.words[1].place)
    context.settle(line.place)
    return Line([Word("server", line.place), name, *line.words[3:]], line.take_comments())


def _balance(backend: Table, proxy: Proxy, context: Context) -> None:
    line = proxy.single.get("balance")
    if line is None or not line.arguments:
        backend.set("balance", "roundrobin")
        return
    word, source = line.arguments[0], Origin(line.place, line.take_comments())
    kind = re.sub(r"\(.*\)", "", word)
    if kind in _BALANCE:
        backend.set("balance", kind, source)
        if kind == "random" and word not in ("random", "random(2)"):
            context.report.note(line.place, "balance", "random draws two servers here")
    elif kind == "static-rr":
        backend.set("balance", "roundrobin", source)
        context.settle(line.place)
    elif kind == "hash" and line.arguments[1:2] == ["src"]:
        backend.set("balance", "source", source)
    else:
        why = "is for HTTP" if kind in _HTTP_BALANCE else "is not here"
        context.report.loss(line.place, f"balance {kind}", f"{why}: roundrobin is written")
        backend.set("balance", "roundrobin", source)


def _retries(backend: Table, proxy: Proxy, context: Context) -> None:
    line = proxy.single.get("retries")
    if line is None:
        backend.set("retries", 3)
    elif line.arguments and (count := number(line.arguments[0])) is not None:
        backend.set("retries", count, line)
    else:
        context.report.loss(line.place, "retries", "has no number, which HAProxy refuses: left out")
    option = proxy.option("redispatch")
    if option is None:
        backend.set("redispatch", False)
        return
    words = option.arguments[1:]
    if not words or words[0] == "-1":
        backend.set("redispatch", True, option)
    elif (interval := number(words[0])) is not None:
        backend.set("redispatch", interval or False, option)
    else:
        context.report.loss(
            option.place, "option redispatch", f"{words[0]} is not here: every retry may go to another server"
        )
        backend.set("redispatch", True)


def translate_server_timeouts(backend: Table, proxy: Proxy, context: Context) -> None:
    """Translate the timeouts of the servers' side."""
    timeouts = backend.table("timeouts")
    connect = _timeout(timeouts, "connect", proxy, ("connect",), context)
    if connect is None:
        context.report.note(
            proxy.head.place,
            proxy.head.words[0].text,
            "has no timeout connect, so HAProxy waits without end: mailproxy's default, 5s",
        )
    if _timeout(timeouts, "queue", proxy, ("queue",), context) is None and connect is not None:
        timeouts.set("queue", connect)
    if _timeout(timeouts, "server", proxy, ("tunnel", "server"), context) is None:
        context.report.note(
            proxy.head.place,
            proxy.head.words[0].text,
            "has no timeout server, so HAProxy never ends idle sessions: mailproxy's default, 31m or 10m",
        )
    _timeout(timeouts, "check", proxy, ("check",), context)


def _timeout(timeouts: Table, key: str, proxy: Proxy, names: Sequence[str], context: Context) -> str | None:
    """Set a timeout from the first of some directives that is given; return it."""
    return set_timeout(timeouts, key, [proxy.single.get(f"timeout {name}") for name in names], context)


def set_timeout(timeouts: Table, key: str, lines: Sequence[Line | None], context: Context) -> str | None:
    """Set a timeout from the first line that has one; return it. The other lines are settled."""
    for line in lines:
        if line is None:
            continue
        words = line.arguments[1:]
        if words[:1] == ["0"] and len(lines) > 1 and line is lines[0]:
            continue  # timeout tunnel 0 falls back to client and server
        if not words or (value := duration(words[0])) is None:
            if words and re.fullmatch(r"0(us|ms|s|m|h|d)?", words[0]):
                context.report.loss(
                    line.place,
                    f"timeout {line.arguments[0]}",
                    "0 is no limit in HAProxy, which mailproxy cannot have: its default",
                )
            else:
                context.report.loss(
                    line.place,
                    f"timeout {' '.join(line.arguments[:2])}",
                    "is no time, which HAProxy refuses: left out",
                )
            continue
        for other in lines:
            if other is not None:
                context.settle(other.place)
        timeouts.set(key, value, line)
        return value
    return None


def _share_keys(backend: Table, servers: Sequence[ServerLine], context: Context) -> None:
    """Write keys that all servers have alike in the backend, and others in each server."""
    names = dict.fromkeys(name for server in servers for name in server.keys.keys)
    for name in names:
        values = [server.keys.keys.get(name) for server in servers]
        if all(value is not None and value == values[0] for value in values):
            backend.keys[name] = values[0]  # type: ignore[assignment]  # it is not None
        elif name == "resolve_prefer":
            given = next(value for value in values if value is not None)
            backend.keys[name] = given
            if isinstance(given, Value) and given.place is not None:
                context.report.loss(
                    given.place, "server resolve-prefer", "holds for all servers of a backend here"
                )
        else:
            for server, value in zip(servers, values, strict=True):
                if value is not None:
                    server.row.keys[name] = value
    if servers and "send_proxy" not in names:
        backend.set("send_proxy", "none")
    with_tls = [server for server in servers if server.has_tls is not None]
    for server in with_tls:
        server.tls.place = server.has_tls.place if server.has_tls is not None else None
    if with_tls and len(with_tls) == len(servers) and all(server.tls == servers[0].tls for server in servers):
        backend.keys["tls"] = servers[0].tls
    else:
        for server in with_tls:
            server.row.keys["tls"] = server.tls


def _checks(
    backend: Table,
    servers: Sequence[ServerLine],
    proxy: Proxy,
    proxies: Mapping[str, Proxy],
    context: Context,
) -> None:
    """Write what all checks have in common in the backend, and the rest in each server."""
    if not servers:
        return
    kind = read_backend_check(proxy, context)
    checks = [
        server_check(server, kind, context)
        if server.track is None
        else tracked_check(server, proxy, proxies, context)
        for server in servers
    ]
    given = [check for check in checks if check is not None]
    if not given:
        backend.set("check", False)
        if kind.rules or kind.type != "tcp":
            context.report.note(
                kind.line.place if kind.line else proxy.head.place,
                "option",
                "has no effect: no server has check",
            )
            for rule in kind.rules:
                context.settle(rule.place)
        return
    common = _common(given)
    backend.keys["check"] = common
    timeouts = backend.table("timeouts")
    has_timeout = "check" in timeouts
    if not has_timeout:
        timeouts.set("check", _most_frequent([timeout_of(check) for check in given]))
    for server, check in zip(servers, checks, strict=True):
        if check is None:
            server.row.set("check", False)
            continue
        own = Table(
            {name: item for name, item in check.keys.items() if common.keys.get(name) != item}, check.place
        )
        if not has_timeout and timeout_of(check) != timeouts.get("check"):
            own.set("timeout", timeout_of(check))
        if own.keys:
            server.row.keys["check"] = own


def _common(checks: Sequence[Table]) -> Table:
    """Return the keys that all checks have, with the most frequent values of those that every check has."""
    common = Table(place=checks[0].place)
    for name, item in checks[0].keys.items():
        items = [check.keys.get(name) for check in checks]
        if all(each == item for each in items):
            common.keys[name] = item
        elif name in _OF_EVERY_CHECK:
            value = _most_frequent([str(each.value) for each in items if isinstance(each, Value)])
            common.keys[name] = next(
                each for each in items if isinstance(each, Value) and str(each.value) == value
            )
    return common


def _most_frequent(values: Sequence[str]) -> str:
    return Counter(values).most_common(1)[0][0]


def _stick(backend: Table, proxy: Proxy, context: Context) -> None:
    rules = proxy.all("stick")
    line = proxy.single.get("stick-table")
    if line is None:
        for rule in rules:
            context.report.loss(rule.place, "stick", "has no stick-table in its backend: left out")
        return
    if not rules:
        return  # a table of counters, for limits per client
    stick = Table(place=line.place)
    is_used = False
    for rule in rules:
        is_used = _stick_rule(rule, rules, context) or is_used
    if not is_used:
        context.settle(line.place)
        return
    stick.set("on", "source")
    read_table(stick, line, context)
    backend.keys["stick"] = stick


def _stick_rule(rule: Line, rules: Sequence[Line], context: Context) -> bool:
    """Return whether a rule makes clients stick by their address."""
    words = rule.arguments
    action, what = (words[0], words[1]) if len(words) > 1 else ("", "")
    context.settle(rule.place)
    if what not in ("src", "src,ipmask(32)") or action not in ("on", "match", "store-request"):
        context.report.loss(
            rule.place,
            f"stick {action}",
            f"{what or 'this'} is not here: clients stick by their address only, so this rule is left out",
        )
        return False
    if len(words) > 2:
        context.report.loss(
            rule.place,
            f"stick {action}",
            f"{' '.join(words[2:])}: conditions and other tables are not here: it holds for all sessions of this backend",
        )
    others = {other.arguments[0] for other in rules if other.arguments}
    if action == "store-request" and not others & {"on", "match"}:
        context.report.note(
            rule.place,
            "stick store-request",
            "stores and never matches, so clients do not stick in HAProxy: stick on src is written, as was meant",
        )
    return True


def read_table(stick: Table, line: Line, context: Context) -> None:
    """Fill a stick table from its line."""
    words = line.arguments
    given = {words[index]: words[index + 1] for index in range(len(words) - 1)}
    source = Origin(line.place, line.take_comments())
    context.settle(line.place)
    kind = given.get("type", "")
    if kind not in ("ip", "ipv4", "ipv6"):
        context.report.loss(line.place, "stick-table", f"type {kind} is not here: entries are addresses")
    if (entries := size(given.get("size", ""))) is not None:
        stick.set("size", entries, source)
    expire = duration(given["expire"]) if "expire" in given else None
    if expire is None:
        context.report.note(
            line.place,
            "stick-table",
            f"has no expire, so HAProxy keeps entries while there is room: {_NEVER}",
        )
    stick.set("expire", expire or _NEVER, source)
    if kind == "ipv6":
        stick.set("prefix_v6", 128, source)
    if "peers" in given:
        context.report.loss(
            line.place,
            "stick-table peers",
            "tables of several proxies are not joined here: balance = source gives the same server at each",
        )
    for word in ("nopurge", "srvkey", "write-to"):
        if word in words:
            context.report.loss(line.place, f"stick-table {word}", "is not here: left out")


def _keepalive(backend: Table, proxy: Proxy) -> None:
    line = proxy.option("srvtcpka") or proxy.option("tcpka")
    if line is not None:
        set_keepalive(backend, proxy, line, "srvtcpka")


def set_keepalive(table: Table, proxy: Proxy, line: Line, prefix: str) -> None:
    """Set TCP keep-alive, with the times of the directives that begin with a prefix."""
    details = Table(place=line.place)
    for name, key, convert in (
        ("idle", "idle", _seconds),
        ("intvl", "interval", _seconds),
        ("cnt", "count", number),
    ):
        own = proxy.single.get(f"{prefix}-{name}")
        if own is not None and own.arguments and (value := convert(own.arguments[0])) is not None:
            details.set(key, value, Origin(own.place))
    if details.keys:
        table.keys["keepalive"] = details
    else:
        table.set("keepalive", True, Origin(line.place))


def _seconds(text: str) -> str | None:
    return duration(text, "s")


def _source(backend: Table, line: Line, context: Context) -> None:
    words = line.words[1:]
    context.settle(line.place)
    if not words:
        return
    set_source(backend, context, words[0], words[0].text)
    rest = [word.text for word in words[1:]]
    if rest[:1] == ["usesrc"] and rest[1:2] in (["clientip"], ["client"]):
        backend.set("source", "client", Origin(line.place))
    elif rest:
        context.report.loss(line.place, "source", f"{' '.join(rest)} is not here: left out")


def _resolvers(backend: Table, servers: Sequence[ServerLine], settings: Settings) -> None:
    names = [server.resolvers for server in servers if server.resolvers]
    if names and names[0] in settings.resolve_intervals:
        value, line = settings.resolve_intervals[names[0]]
        backend.set("resolve_interval", value, Origin(line.place))
