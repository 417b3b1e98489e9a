"""Health checks: options and rules of a backend, and what a server line says, as one check."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import define, field

from mailproxy.importers.context import Context
from mailproxy.importers.draft import Table, Value
from mailproxy.importers.haproxy.addresses import AddressError, server_address
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.proxies import Proxy
from mailproxy.importers.haproxy.servers import ServerLine, read_server
from mailproxy.importers.haproxy.values import number
from mailproxy.importers.place import Origin, Place, Word
from mailproxy.importers.ports import speaks_clear, speaks_tls

INTERVAL = "2s"  # HAProxy's default
CHECK_OPTIONS = (
    "tcp-check", "smtpchk", "ssl-hello-chk", "httpchk", "pgsql-check", "mysql-check", "ldap-check", "redis-check", "spop-check", "external-check",
)  # fmt: skip
_WITHOUT = ("pgsql-check", "mysql-check", "ldap-check", "redis-check", "spop-check", "external-check")
_EXPECTATIONS = {"string": "expect", "rstring": "expect_regex", "binary": "expect_hex"}
_OPTIONS_WITH_VALUE = (
    "min-recv",
    "comment",
    "ok-status",
    "error-status",
    "tout-status",
    "on-success",
    "on-error",
    "status-code",
    "timeout",
)


@define
class BackendCheck:
    """What the options and rules of a backend say about checks.

    Attributes:
        type: The type of mailproxy's check.
        line: The line that says so; None for the default.
        hello: The name for EHLO, with its line; None for none.
        rules: The rules of a script.
    """

    type: str = "tcp"
    line: Line | None = None
    hello: tuple[str, Line] | None = None
    rules: list[Line] = field(factory=list)


def read_backend_check(proxy: Proxy, context: Context) -> BackendCheck:
    """Return the check of a backend's options and rules."""
    rules = proxy.all("tcp-check")
    name, line = next(
        ((name, line) for name, line in proxy.options.items() if name in CHECK_OPTIONS and line is not None),
        ("", None),
    )
    if name != "tcp-check" and rules:
        for rule in rules:
            context.report.note(
                rule.place, "tcp-check", "HAProxy ignores these rules without option tcp-check: left out"
            )
    if line is None:
        return BackendCheck()
    context.settle(line.place)
    if name == "tcp-check":
        return BackendCheck("script" if rules else "tcp", line, rules=rules)
    if name == "smtpchk":
        words = line.arguments[1:]
        hello = (words[1], line) if len(words) > 1 and words[1] != "localhost" else None
        return BackendCheck("smtp", line, hello)
    if name == "ssl-hello-chk":
        return BackendCheck("tls", line)
    if name == "httpchk":
        return BackendCheck("script", line, rules=_http_rules(proxy, line, context))
    if name in _WITHOUT:
        context.report.loss(line.place, f"option {name}", "is not here: the check only connects")
    return BackendCheck("tcp", line)


def _http_rules(proxy: Proxy, line: Line, context: Context) -> list[Line]:
    """Return the rules of a script that asks for a page over HTTP."""
    words = line.arguments[1:]
    method, uri = {0: ("OPTIONS", "/"), 1: ("OPTIONS", words[0] if words else "/")}.get(
        len(words), tuple(words[:2]) if len(words) > 1 else ("", "")
    )
    host, status = "", "[23][0-9][0-9]"
    for rule in proxy.all("http-check"):
        arguments = rule.arguments
        context.settle(rule.place)
        if arguments[:1] == ["send"]:
            given = dict(zip(arguments[1::2], arguments[2::2], strict=False))
            method, uri = given.get("meth", method), given.get("uri", uri)
            host = arguments[arguments.index("Host") + 1] if "Host" in arguments[:-1] else host
        elif arguments[:2] == ["expect", "status"] and re.fullmatch(
            "[0-9]{3}", arguments[2] if len(arguments) > 2 else ""
        ):
            status = arguments[2]
        elif arguments[:1] != ["connect"]:
            context.report.loss(
                rule.place, "http-check", "only the request and one status are translated: left out"
            )
    head = f"\r\nHost: {host}" if host else ""
    place = line.place
    texts = (
        ["tcp-check", "send", f"{method} {uri} HTTP/1.0{head}\r\n\r\n"],
        ["tcp-check", "expect", "rstring", rf"^HTTP/1\.[01] {status}"],
    )
    return [Line([Word(text, place) for text in words]) for words in texts]


def server_check(server: ServerLine, backend: BackendCheck, context: Context) -> Table | None:
    """Return the check of a server as a table; None if it has none."""
    if server.is_checked is None:
        return None
    check = server.check.copy()
    check.place = server.is_checked.place
    place = backend.line.place if backend.line is not None else server.is_checked.place
    kind, tls = backend.type, _tls(server, backend, context, place)
    if kind == "tcp" and tls is not False:
        kind = "tls"
    check.set("type", kind, Origin(place))
    if not (backend.rules and backend.rules[0].arguments[:1] == ["connect"]):  # else each connection says it
        _set_tls(check, tls, kind, server)
        _set_send_proxy(check, kind, server)
    if backend.hello is not None:
        check.set("hello", backend.hello[0], Origin(backend.hello[1].place))
    check.set_default("interval", INTERVAL)
    check.set_default("rise", 2)
    check.set_default("fall", 3)
    check.keys.update(server.check_target.keys)
    if (
        (spread := server.settings.spread_checks) is not None
        and spread.arguments
        and isinstance(share := number(spread.arguments[0]), int)
    ):
        check.set("jitter", min(share, 50) / 100, Origin(spread.place))
    if kind == "script":
        steps = check.rows("steps")
        for rule in backend.rules:
            _add_step(steps, rule, server, context)
    return check


def tracked_check(
    server: ServerLine, proxy: Proxy, proxies: Mapping[str, Proxy], context: Context
) -> Table | None:
    """Return the check of a server that tracks another one: the same check, at the same address.

    Args:
        server: The server with ``track``.
        proxy: Its backend.
        proxies: The backends by name.
        context: Gets what is to report.
    """
    word = server.track
    if word is None:
        return server_check(server, read_backend_check(proxy, context), context)
    tracked = _tracked(word.text, proxy, proxies, server)
    if tracked is None:
        server.loss(word, f"there is no checked server {word.text}, and HAProxy refuses it: it has no check")
        return None
    other, owner = tracked
    check = server_check(other, read_backend_check(owner, context), context)
    if check is None:
        return None
    fact = (
        "the server has a check of its own here, which is that of the tracked one; maintenance is not shared"
    )
    context.report.note(word.place, "server track", fact)
    check.place = word.place
    check.set_default("address", str(other.row.get("address")), Origin(word.place))
    if check.get("type") != "tcp":
        check.set_default("send_proxy", _session_header(other) or "none")
        for table in (check, *(row.table("connect") for row in check.rows("steps") if "connect" in row)):
            _name_tls(table, other)
    return check


def _tracked(
    name: str, proxy: Proxy, proxies: Mapping[str, Proxy], server: ServerLine
) -> tuple[ServerLine, Proxy] | None:
    """Return the server with a check that a name leads to, and its backend. Tracked servers may track others."""
    seen: set[tuple[str, str]] = set()
    while (proxy.name, name) not in seen:
        seen.add((proxy.name, name))
        section, slash, own = name.rpartition("/")
        owner = proxies.get(section) if slash else proxy
        lines = [] if owner is None else owner.all("server")
        line = next((line for line in lines if line.arguments[:1] == [own]), None)
        if owner is None or line is None:
            return None
        copy = Line(line.words)  # without the comments, which belong to the server itself
        found = read_server(copy, owner.all("default-server"), server.context, server.settings)
        if found is None or found.track is None:
            return None if found is None or found.is_checked is None else (found, owner)
        name, proxy = found.track.text, owner
    return None


def _name_tls(table: Table, server: ServerLine) -> None:
    """Write the TLS of another server's sessions where the table means that by ``true`` or by leaving it out."""
    if table.get("tls") is True or ("tls" not in table and server.has_tls is not None):
        table.keys["tls"] = server.tls.copy()
    else:
        table.set_default("tls", False)


def _tls(server: ServerLine, backend: BackendCheck, context: Context, place: Place) -> bool | Table:
    """Return the TLS of a check: none, that of sessions, or a table of its own."""
    by_default = server.has_tls is not None and not server.check_target.keys
    has_tls = by_default if server.check_tls is None else server.check_tls
    port = server.check_target.get("port") or server.port
    if backend.line is not None and "ssl-hello-chk" in backend.line.arguments:
        if has_tls:
            context.report.note(
                place,
                "option ssl-hello-chk",
                "with check ssl HAProxy's hello goes inside TLS, and the server stays down: a TLS handshake instead",
            )
            return True
        if speaks_clear(port if isinstance(port, int) else None):
            context.report.advise(
                place,
                "option ssl-hello-chk",
                f"port {port} speaks clear text, so the check always fails, as in HAProxy: remove it",
            )
        table = Table()
        table.set("verify", "none", Origin(place))
        return table
    if not has_tls:
        return False
    if speaks_clear(port if isinstance(port, int) else None):
        context.report.advise(
            place,
            "check",
            f"port {port} speaks clear text, so a check over TLS always fails, as in HAProxy: remove TLS",
        )
    if server.has_tls is not None and not server.check_name:
        return True
    table = server.tls.copy()
    if server.check_name:
        table.set("server_name", server.check_name)
    return table


def _set_tls(check: Table, tls: bool | Table, kind: str, server: ServerLine) -> None:
    port = check.get("port") or server.check_target.get("port") or server.port
    if isinstance(tls, Table):
        check.keys["tls"] = tls
    elif tls and server.has_tls is None:
        check.set("tls", True)
    elif (
        not tls
        and kind != "tcp"
        and (
            server.has_tls is not None or port is None or speaks_tls(port if isinstance(port, int) else None)
        )
    ):
        check.set("tls", False)


def _session_header(server: ServerLine) -> str:
    """Return the PROXY header of sessions; empty for none."""
    return str(server.keys.get("send_proxy") or "")


def _set_send_proxy(check: Table, kind: str, server: ServerLine) -> None:
    header = _session_header(server)
    sends = server.check_sends_proxy or (bool(header) and not server.check_target.keys)
    wanted = (header or "v1") if sends else "none"
    if kind == "tcp":
        if sends:
            check.set("send_proxy", "v2" if wanted.startswith("v2") else wanted)
    elif wanted != (header or "none"):
        check.set("send_proxy", wanted)


def _add_step(steps: list[Table], rule: Line, server: ServerLine, context: Context) -> None:
    words = rule.words[1:]
    if not words:
        context.report.loss(rule.place, "tcp-check", "has no action, which HAProxy refuses: left out")
        return
    action, arguments = words[0].text, words[1:]
    row = Table(place=rule.place, comments=rule.take_comments())
    if action == "connect":
        row.keys["connect"] = _connect(arguments, rule, server, context)
    elif action in ("send", "send-binary") and arguments:
        row.set("send" if action == "send" else "send_hex", arguments[0].text, Origin(rule.place))
    elif action == "send-lf" and arguments and "%" not in arguments[0].text:
        row.set("send", arguments[0].text, Origin(rule.place))
    elif action == "expect":
        if not _expect(row, arguments, rule, context):
            return
    elif action == "comment":
        context.settle(rule.place)
        return
    else:
        context.report.loss(rule.place, f"tcp-check {action}", "is not here: left out")
        return
    context.settle(rule.place)
    steps.append(row)


def _expect(row: Table, words: Sequence[Word], rule: Line, context: Context) -> bool:
    """Fill a step that expects something; return False if mailproxy has none like it."""
    position, negated = 0, False
    while position < len(words) and words[position].text not in (
        "string",
        "rstring",
        "binary",
        "rbinary",
        "string-lf",
        "binary-lf",
    ):
        word = words[position].text
        if word == "!":
            negated = not negated
        elif word.startswith("!") and word[1:] in _EXPECTATIONS:
            negated, words = not negated, [Word(word[1:], words[position].place), *words[position + 1 :]]
            position = 0
            continue
        elif word in _OPTIONS_WITH_VALUE:
            if word not in ("comment", "timeout"):
                context.report.loss(
                    words[position].place, f"tcp-check expect {word}", "is not here: left out"
                )
            position += 1
        position += 1
    kind = words[position].text if position < len(words) else ""
    rest = [word.text for word in words[position + 1 :]]
    key = _EXPECTATIONS.get(kind) or ("expect" if kind == "string-lf" and "%" not in "".join(rest) else None)
    if key is None or not rest:
        context.report.loss(
            rule.place, "tcp-check expect", f"{kind or 'nothing'} is not here: the step is left out"
        )
        return False
    pattern = _pattern(rest, kind, rule, context)
    row.set(key, anchored(pattern) if key == "expect_regex" else pattern, Origin(rule.place))
    if negated:
        row.set("not", True, Origin(rule.place))
    return True


def _pattern(rest: list[str], kind: str, rule: Line, context: Context) -> str:
    """Return the pattern of an expectation, which HAProxy takes for one word."""
    if len(rest) > 1 and rest[1] != "comment":
        context.report.note(
            rule.place,
            "tcp-check expect",
            f"HAProxy refuses the blank in {kind} {' '.join(rest)}, which needs a backslash: read as one text",
        )
        return " ".join(rest)
    return rest[0]


def anchored(pattern: str) -> str:
    """Return a pattern with ``^`` and ``$`` at the ends of all that was received, where mailproxy has lines."""
    return re.sub(
        r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[\^$]",
        lambda match: {"^": r"\A", "$": r"\Z"}.get(match[0], match[0]),
        pattern,
        flags=re.DOTALL,
    )


def _connect(words: Sequence[Word], rule: Line, server: ServerLine, context: Context) -> Table:
    """Return the connect step of a script."""
    connect, position = Table(), 0
    flags: set[str] = set()
    name = ""
    while position < len(words):
        word = words[position].text
        value = words[position + 1].text if position + 1 < len(words) else ""
        position += 1
        if word in ("port", "addr", "sni", "alpn", "proto", "comment", "via-socks4"):
            position += word != "via-socks4"
        if word == "port" and (port := number(value)) is not None:
            connect.set("port", port, Origin(rule.place))
        elif word == "addr":
            try:
                connect.set("address", server_address(value).text, Origin(rule.place))
            except AddressError as error:
                context.report.loss(
                    rule.place, "tcp-check connect", f"{value} {error}: the server's own address is used"
                )
        elif word == "sni":
            name = value
        elif word in ("default", "ssl", "send-proxy"):
            flags.add(word)
        elif word not in ("linger", "comment"):
            context.report.loss(rule.place, f"tcp-check connect {word}", "is not here: left out")
    _connect_tls(connect, flags, name, rule, server=server, context=context)
    header = _session_header(server)
    if "send-proxy" in flags:
        if not header:
            connect.set("send_proxy", "v1", Origin(rule.place))
    elif header and "default" not in flags:
        connect.set("send_proxy", "none", Origin(rule.place))
    return connect


def _connect_tls(
    connect: Table, flags: set[str], name: str, rule: Line, *, server: ServerLine, context: Context
) -> None:
    port = connect.get("port") or server.check_target.get("port") or server.port
    has_tls = "ssl" in flags or (
        "default" in flags and (server.check_tls or (server.check_tls is None and server.has_tls is not None))
    )
    if not has_tls:
        if server.has_tls is not None or port is None or speaks_tls(port if isinstance(port, int) else None):
            connect.set("tls", False, Origin(rule.place))
        return
    if server.has_tls is not None and not name:
        connect.set("tls", True, Origin(rule.place))
        return
    tls = server.tls.copy()
    if server.has_tls is None:
        if server.verify == "none" or (not server.verify and not server.settings.verifies_servers):
            tls.set("verify", "none", Origin(rule.place))
        elif "ca" in tls:
            tls.set("verify", "required" if server.names_server else "chain", Origin(rule.place))
        else:
            context.report.note(
                rule.place,
                "tcp-check connect ssl",
                'HAProxy refuses TLS without a CA file or verify none: verify = "none" is written',
            )
            tls.set("verify", "none", Origin(rule.place))
    if name:
        tls.set("server_name", name, Origin(rule.place))
    connect.keys["tls"] = tls


def timeout_of(check: Table) -> str:
    """Return the time limit of a check without ``timeout check``: its interval."""
    value = check.keys.get("interval")
    return str(value.value) if isinstance(value, Value) else INTERVAL
