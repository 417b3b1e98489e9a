"""HAProxy's directives in proxy sections and defaults: what keeps each line, and what it becomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mailproxy.importers.context import Context
from mailproxy.importers.directive import Directive, Group, index, loss, note
from mailproxy.importers.haproxy.binds import BINDS
from mailproxy.importers.haproxy.checks import CHECK_OPTIONS
from mailproxy.importers.haproxy.globals import GLOBAL
from mailproxy.importers.haproxy.lexer import Line
from mailproxy.importers.haproxy.proxies import FRONTEND, Proxy
from mailproxy.importers.haproxy.servers import SERVERS

Handler = Callable[[Proxy, Line, str, Context], None]
Rows = tuple[Directive[Handler], ...]


def read_directive(proxy: Proxy, line: Line, context: Context) -> None:
    """Keep a line of a proxy section for translation, or report it."""
    words = [word.text for word in line.words]
    if words[0] == "no" and words[1:2] == ["option"]:
        _switch_off(proxy, line, words, context)
        return
    if words[0] == "no" and words[1:2] == ["log"]:
        context.settle(line.place)
        return
    name = " ".join(words[:2])
    if name not in PROXY_DIRECTIVES:
        name = words[0]
    directive = PROXY_DIRECTIVES.get(name)
    shown = context.name_of(line.place)
    if directive is None:
        context.report.loss(line.place, shown, "is no word of HAProxy 2.6, which refuses it: left out")
    elif directive.handle is None:
        report = context.report.note if directive.kind == "note" else context.report.loss
        report(line.place, shown, directive.fact)
    elif not _is_of_side(proxy, name):
        where = "frontend" if FRONTEND in proxy.sides else "backend"
        context.report.note(line.place, shown, f"HAProxy ignores it in a {where}: left out")
    else:
        directive.handle(proxy, line, name, context)


def _is_of_side(proxy: Proxy, name: str) -> bool:
    if proxy.is_defaults or len(proxy.sides) > 1:
        return True
    return name not in (_BACKEND_ONLY if proxy.sides == FRONTEND else _FRONTEND_ONLY)


def _switch_off(proxy: Proxy, line: Line, words: Sequence[str], context: Context) -> None:
    context.settle(line.place)
    name = words[2] if len(words) > 2 else ""
    if f"option {name}" not in PROXY_DIRECTIVES:
        context.report.loss(
            line.place, "no option", f"{name} is no option of HAProxy 2.6, which refuses it: left out"
        )
        return
    if (old := proxy.options.get(name)) is not None:
        context.settle(old.place)
    proxy.options[name] = None


# Each function takes the proxy, the line, the name of the directive and the import.


def _once(proxy: Proxy, line: Line, name: str, context: Context) -> None:
    if (old := proxy.single.get(name)) is not None:
        context.settle(old.place)  # the later line counts
    proxy.single[name] = line


def _settled(proxy: Proxy, line: Line, name: str, context: Context) -> None:
    proxy.single[name] = line
    context.settle(line.place)


def _many(proxy: Proxy, line: Line, name: str, context: Context) -> None:
    context.settle(line.place)
    proxy.add(name, line)


def _server(proxy: Proxy, line: Line, _name: str, context: Context) -> None:
    context.settle(line.place)
    proxy.add("server", line)


def _option(proxy: Proxy, line: Line, name: str, context: Context) -> None:
    option = name.removeprefix("option ")
    if option in CHECK_OPTIONS:  # the last one counts
        for other in CHECK_OPTIONS:
            if (old := proxy.options.pop(other, None)) is not None:
                context.settle(old.place)
    if (old := proxy.options.get(option)) is not None:
        context.settle(old.place)
    proxy.options[option] = line


def _settled_option(proxy: Proxy, line: Line, name: str, context: Context) -> None:
    proxy.options[name.removeprefix("option ")] = line
    context.settle(line.place)


def _rule(proxy: Proxy, line: Line, _name: str, context: Context) -> None:
    if line.arguments[:1] == ["inspect-delay"]:
        proxy.add("inspect-delay", line)
        context.settle(line.place)
    elif line.arguments[:1] in (["connection"], ["content"], ["session"]):
        proxy.rules.append(line)
    else:
        context.report.loss(
            line.place, "tcp-request", "is no rule of HAProxy 2.6, which refuses it: left out"
        )


def _timeout(name: str, meaning: str) -> Directive[Handler]:
    return Directive((f"timeout {name}",), meaning, _once)


_FRONTEND_ONLY = {
    "bind", "default_backend", "use_backend", "maxconn", "timeout client", "timeout client-fin", "timeout client-hs", "backlog", "option clitcpka",
    "option dontlognull", "option logasap", "monitor-net", "ssl-f-use",
}  # fmt: skip
_BACKEND_ONLY = {
    "server", "server-template", "balance", "retries", "option redispatch", "timeout server", "timeout connect", "timeout queue", "timeout check",
    "timeout tunnel", "timeout server-fin", "stick", "option srvtcpka", "source", "tcp-check", "http-check", "fullconn", "option allbackups",
    "hash-type", *(f"option {name}" for name in CHECK_OPTIONS),
}  # fmt: skip

SECTIONS = Group[Handler]("Sections", (
    Directive((), "`[process]` and `[log]`", shown="`global`"),
    Directive((), "`[defaults.frontend]`, `[defaults.backend]`: what all frontends or backends have alike", shown="`defaults`"),
    Directive((), '`[profiles.X.frontend]` and so on, and `profile = "X"`', shown="named `defaults X`, `from X`"),
    Directive((), "`[frontends.NAME]`, `[[frontends.NAME.bind]]`", shown="`frontend`, `bind`"),
    Directive((), "`[backends.NAME]`, `servers` of a backend", shown="`backend`, `server`"),
    Directive((), "a frontend and a backend", shown="`listen`"),
    Directive(("mode",), "TCP always. Sections with `mode http …` are named and left out", _settled),
    Directive(("bind",), '`address` of a bind: `"*:143"`, `"[::]:993"`, `"unix:/path"`, `"fd:3"` or `"fd:NAME"`; a list of addresses or a range of ports is several binds', _many,
              shown="`bind *:143`, `bind :::993 v4v6`, `bind /path`, `bind fd@3`"),
    Directive(("ssl-f-use",), "`certificates`, or `acme` and `names`, of `tls`; not its other parameters", _many, shown="`ssl-f-use crt FILE` (3.2)"),
    Directive(("server",), "`servers` of a backend; an address without a port: the client's port, or `port` of a backend. `host:+N` is written out if there is one port", _server),
    Directive(("server-template",), "one server for each machine; the addresses of a name are tried in order", _server),
    Directive(("default-server",), "the same keys in the backend: `tls`, `send_proxy`, `check` and others", _many),
    Directive(("default_backend",), "`backend` of a frontend", _once),
    Directive(("use_backend",), "`routes` with `sni`, `alpn`, `client`, `port`; also `unless …` and `! …`, where routes can say it",
              _many, shown="`use_backend … if { req.ssl_sni -i … }`, `{ req.ssl_alpn … }`, `{ src … }`, `{ dst_port … }`"),
    Directive(("acl",), 'conditions are in `routes`; there are no named ones. `src -f FILE`: `client = ["file:FILE"]`; other files and maps are written out', _many),
    Directive(("tcp-request",), "`routes` with `client` and `reject = true`. The other two are not needed: binds wait for the ClientHello, within `timeouts.handshake`",
              _rule, shown="`tcp-request connection reject if { src … }`, `tcp-request content accept`, `tcp-request inspect-delay`"),
    Directive((), "`accept_proxy`, `proxy_optional`", shown="`tcp-request connection expect-proxy layer4 if { src … }`"),
    Directive((), "`max_sessions_per_client` of a frontend", shown="`stick-table … store conn_cur`, `track-sc0 src`, `reject if { sc0_conn_cur gt 20 }`"),
    Directive((), "`max_session_rate_per_client`; exceptions: `max_sessions_per_client_exempt`", shown="`conn_rate(60s)`, `sc0_conn_rate`"),
    Directive((), "`${VARIABLE}` in strings", shown='`${VARIABLE}`, `"$VARIABLE"`'),
    Directive((), "decided by the import, as for a recent HAProxy", shown="`.if`, `.elif`, `.else`, `.endif`"),
    note("description", "id", "guid", meaning="not here: a comment of TOML"),
    note("enabled", meaning="not needed"),
    loss("disabled", meaning="not here: the section is left out"),
))  # fmt: skip
FRONTENDS = Group[Handler]("Frontends", (
    Directive(("maxconn",), "`max_sessions` of a frontend", _once, shown="`maxconn` of a frontend"),
    Directive(("backlog",), "`backlog` of a bind", _once),
    Directive(("option clitcpka",), "`keepalive` of a bind: `true`, or a table with `idle`, `interval` and `count`", _option),
    Directive(("clitcpka-idle", "clitcpka-intvl", "clitcpka-cnt"), "`idle`, `interval`, `count` of `keepalive`", _settled),
    Directive(("option tcpka",), "`keepalive` of binds and of the backend", _option),
    loss("rate-limit", meaning="not here: limits are for each client", shown="`rate-limit sessions`"),
    note("option socket-stats", meaning="not here; each line of the log has the bind's name in `json`"),
    note("option contstats", meaning="not needed: `show stat` has the bytes of open sessions"),
    loss("monitor-net", "monitor fail", "monitor-uri", meaning="not here"),
    note("stats enable", "stats uri", "stats auth", "stats realm", "stats refresh", "stats admin", "stats hide-version", "stats show-legends", "stats show-node",
         "stats show-desc", "stats show-modules", "stats scope", "stats http-request", "stats",
         meaning="only in HTTP sections, where it becomes `[admin] http`: a [status page](status-page.md) and [metrics](metrics.md)", shown="`stats enable`, `stats uri`, `stats auth` and others"),
    Directive((), "`[admin] http`, and `[metrics] haproxy_names = true` for HAProxy's names", shown="`http-request use-service prometheus-exporter`"),
    Directive((), "[HTTP](http.md) is on a loopback address, or has `tls` and `token_file`", shown="address and `auth` of a statistics page"),
    loss("tcp-response", "filter", "declare", "http-after-response", "use-server", "use-fcgi-app", "monitor", "email-alert", "quic-initial",
         meaning="not here", shown="`tcp-response`, `filter`, `declare`, `use-server`, `email-alert`"),
))  # fmt: skip
BACKENDS = Group[Handler]("Backends", (
    Directive(("balance",), '`balance`, the same words for these; without it `balance = "roundrobin"` is written, and for others, such as `static-rr`, `rdp-cookie` and `hash …`', _once, shown="`balance leastconn`, `roundrobin`, `random`, `first`, `source`"),
    note("hash-type", meaning='`balance = "source"` is consistent always'),
    loss("hash-balance-factor", "fullconn", meaning="not here"),
    Directive(("retries",), "`retries`", _once),
    Directive(("option redispatch",), "`redispatch`: `true` or a number; without it `redispatch = false` is written", _option, shown="`option redispatch`, `redispatch 2`"),
    Directive(("option allbackups",), "`all_backups = true`", _option),
    Directive(("option srvtcpka",), "`keepalive` of a backend", _option),
    Directive(("srvtcpka-idle", "srvtcpka-intvl", "srvtcpka-cnt"), "`idle`, `interval`, `count` of `keepalive`", _settled),
    Directive(("source",), '`source`; `usesrc clientip`: `source = "client"`', _once, shown="`source` of a backend or server"),
    Directive(("stick-table",), '`stick = { on = "source", size = "200k", expire = "30m" }`', _once, shown="`stick-table type ip size 200k expire 30m` with `stick on src`"),
    Directive(("stick",), "`stick` matches and stores; keys other than the address, `store-response` and tables of another backend are not here", _many,
              shown="`stick on`, `stick match`, `stick store-request`; `nopurge`, `srvkey`, `write-to`"),
    note("option abortonclose", meaning="always: a client that leaves while it waits ends its session"),
    note("option nolinger", "option splice-auto", "option splice-request", "option splice-response", "option tcp-smart-accept", "option tcp-smart-connect",
         "option prefer-last-server", "option persist", "option idle-close-on-response", "option use-small-buffers",
         meaning="not needed", shown="`option nolinger`, `splice-auto`, `tcp-smart-connect`, `prefer-last-server`, `persist`"),
    note("option independent-streams", meaning="not here: bytes in either direction keep a session alive"),
    note("load-server-state-from-file", "server-state-file-name", meaning="`state_file` of the process"),
    loss("option transparent", "dispatch", "option external-check-command", "external-check", "force-persist", "ignore-persist", "persist",
         meaning="not here", shown="`option transparent`, `dispatch`, `force-persist`, `external-check`"),
    note("cookie", "appsession", "dynamic-cookie-key", "capture", "compression", "errorfile", "errorloc", "errorloc302", "errorloc303", "errorfiles", "http-request", "http-response",
         "http-error", "http-reuse", "http-send-name-header", "redirect", "reqadd", "rspadd", "reqrep", "rsprep", "reqdel", "rspdel", "reqirep", "rspirep", "reqidel", "rspidel", "reqallow", "reqdeny",
         "reqtarpit", "url_param", "max-keep-alive-queue", "unique-id-header", "option httpclose", "option http-server-close", "option http-keep-alive", "option forceclose",
         "option forwardfor", "option forwarded", "option http-pretend-keepalive", "option http-tunnel", "option http-use-htx", "option http-buffer-request", "option http-ignore-probes",
         "option http-no-delay", "option http-use-proxy-header", "option http-restrict-req-hdr-names", "option accept-invalid-http-request", "option accept-invalid-http-response",
         "option accept-unsafe-violations-in-http-request", "option accept-unsafe-violations-in-http-response", "option disable-h2-upgrade",
         "option h1-case-adjust-bogus-client", "option h1-case-adjust-bogus-server", "option originalto", "option checkcache", "option http-drop-request-trailers", "option http-drop-response-trailers",
         meaning="not needed: HTTP only", shown="`cookie`, `http-*`, `errorfile`, `option forwardfor` and others"),
))  # fmt: skip
TIMEOUTS = Group[Handler]("Timeouts", (
    _timeout("client", "`timeouts.client` of a frontend; without it 31 minutes in IMAP, else 10"),
    _timeout("server", "`timeouts.server` of a backend"),
    _timeout("tunnel", "takes the place of `timeouts.client` and `timeouts.server`"),
    _timeout("client-fin", "`timeouts.half_closed` of a frontend"),
    _timeout("server-fin", "`timeouts.half_closed` of a frontend, if there is no `client-fin`"),
    _timeout("client-hs", "`timeouts.handshake` of a frontend"),
    _timeout("connect", "`timeouts.connect` of a backend, with TLS and PROXY header"),
    _timeout("queue", "`timeouts.queue` of a backend; without it that of `timeouts.connect`"),
    _timeout("check", "`timeouts.check` of a backend, for the whole check; without it the interval"),
    note("timeout tarpit", "timeout http-request", "timeout http-keep-alive", "timeout resolve", "timeout mail", "timeout if-none-match",
         meaning="not needed", shown="`timeout tarpit`, `timeout http-request`, `timeout http-keep-alive`"),
    note("clitimeout", "srvtimeout", "contimeout", meaning="removed from HAProxy, which refuses it: left out"),
))  # fmt: skip
CHECKS = Group[Handler]("Checks", (
    Directive(("option smtpchk",), '`check = { type = "smtp", hello = "name" }`; `smtp` is the default in front of SMTP', _option, shown="`option smtpchk EHLO name`"),
    Directive(("option ssl-hello-chk",), '`check = "tls"`: a real handshake', _option),
    Directive(("option tcp-check",), '`check = { type = "script", steps = [ … ] }`; without rules `check = "tcp"`', _option, shown="`option tcp-check` and rules"),
    Directive(("tcp-check",), '`{ connect = { port = 993, tls = true } }`, `{ send = "…\\r\\n" }`, `{ send_hex = "…" }`, `expect`, `expect_regex`, `expect_hex`, with `not = true`', _many,
              shown="`tcp-check connect port 993 ssl`, `send`, `send-binary`, `expect string`, `rstring`, `binary`, `!`"),
    Directive((), "not here", shown="`send-lf` with variables, `rbinary`, `min-recv`, `ok-status`, `error-status`, `on-success`, `set-var`"),
    Directive((), "always: a check closes in order, and logs out", shown="`linger`"),
    Directive((), "a comment of TOML", shown="`comment`"),
    Directive(("option httpchk",), "a script that sends the request and expects the status", _option),
    Directive(("http-check",), "a script; only the request and one status are translated", _many),
    Directive(("option ldap-check", "option mysql-check", "option pgsql-check", "option redis-check", "option spop-check", "option external-check"), "not here: the check only connects", _option,
              shown="`option ldap-check`, `mysql-check`, `external-check` and others"),
    note("option log-health-checks", meaning="always"),
))  # fmt: skip
LOG = Group[Handler]("Log", (
    Directive(("log",), "there is one log for all sections", _many, shown="`log global`"),
    Directive(("option tcplog",), '`format = "tcplog"`; `json` and `text` have more', _settled_option),
    Directive(("option httplog", "option httpslog"), '`format = "tcplog"`, as in a TCP section of HAProxy', _settled_option),
    Directive(("option dontlognull",), "`log_null = false`, the default; failed sessions are logged all the same. Without it `log_null = true` is written", _settled_option),
    Directive(("option logasap",), "`log_start = true`: a line at the start, and one more at the end", _option),
    loss("log-format", "log-format-sd", "error-log-format", "unique-id-format", "log-steps", meaning="not here: `json` has all fields, the session's `id` among them"),
    loss("option dontlog-normal", "option log-separate-errors", meaning="not here: `level`"),
    Directive(("log-tag",), "`tag`", _settled),
    Directive((), "[the same letters](logging.md#how-sessions-end)", shown="termination state (`--`, `CD`, `sD`, `SC`, …)"),
))  # fmt: skip
OTHERS = Group[Handler]("Other sections", (
    Directive((), "`resolve_interval` for `hold valid`; the system's resolver is used", shown="`resolvers`, `nameserver`, `hold`, `resolve_retries`"),
    Directive((), 'not here; `balance = "source"` gives the same server at each proxy', shown="`peers`"),
    Directive((), "not here: let Prometheus alert on [metrics](metrics.md)", shown="`mailers`, `email-alert`"),
    Directive((), "not here: HAProxy's scripts and agents", shown="`lua-load`, `filter spoe`"),
    Directive((), "`[acme.NAME]`, and `acme` and `names` of `tls`: [ACME](acme.md). The authority is answered on port 80", shown="`acme` section, `acme` and `domains` of a certificate"),
    Directive((), "the files are `certificates` where a bind names them", shown="`crt-store`, `load crt … key … alias …`"),
    Directive((), "not here", shown="`userlist`, `cache`, `program`, `ring`, `log-forward`, `http-errors`, `fcgi-app`"),
    Directive((), "the same: [Admin socket](admin-socket.md)", shown="runtime commands, `socat`, `hatop`"),
    Directive((), "SIGHUP, `mailproxy ctl reload`; see [Reload](reload.md). SIGUSR2 reopens the log here", shown="reload (`SIGUSR2` of the master)"),
    Directive((), "`mailproxy check FILE`; with `--live` it also checks the servers", shown="`haproxy -c -f FILE`"),
))  # fmt: skip
PROXY_GROUPS = (SECTIONS, FRONTENDS, BACKENDS, TIMEOUTS, CHECKS, LOG)
PROXY_DIRECTIVES = index(*PROXY_GROUPS)
PAGE_GROUPS: tuple[Group[Callable[..., None]], ...] = (
    SECTIONS, GLOBAL, FRONTENDS, BINDS, BACKENDS, SERVERS, TIMEOUTS, CHECKS, LOG, OTHERS,
)  # fmt: skip
