"""What the documentation says about Traefik's keys."""

from __future__ import annotations

from collections.abc import Callable

from mailproxy.importers.directive import Directive, Group

Handler = Callable[[], None]


def _row(shown: str, meaning: str) -> Directive[Handler]:
    return Directive((), meaning, shown=shown)


ENTRY_POINTS = Group[Handler]("Entry points", (
    _row("`entryPoints.NAME.address`", '`[frontends.NAME]` with `address` of a bind: `":993"` is `"[::]:993"`, `"0.0.0.0:993"` is `"*:993"`'),
    _row("an entry point that the files do not have", "the port of its name, such as 993 for imaps or mail-993, and a line of the report"),
    _row("`/udp`", "not here: mail is TCP"),
    _row("`proxyProtocol.trustedIPs`", "`accept_proxy` of a bind, with `proxy_optional = true`"),
    _row("`proxyProtocol.insecure`", "`accept_proxy` with all networks, and advice"),
    _row("`transport.lifeCycle.graceTimeOut`", "`drain_timeout` of the process"),
    _row("`transport.respondingTimeouts.readTimeout`", "`timeouts.handshake` of a frontend; the others are for HTTP"),
    _row("`api`, `metrics`, `ping`", "`[admin] http`: a [status page](status-page.md), [metrics](metrics.md) and `/healthz`"),
    _row("`log`, `accessLog`", "`[log]`: each session has a line"),
    _row("`providers`", "one file, which a [reload](reload.md) reads again. Labels of containers are not read"),
    _row("`http`, `udp`", "named and left out"),
))  # fmt: skip
ROUTERS = Group[Handler]("Routers over TCP", (
    _row("``rule: HostSNI(`*`)``", "`backend` of the frontend"),
    _row("``HostSNI(`imap.example.com`)``", "`routes` with `sni`"),
    _row("`HostSNIRegexp`", "names, where they can be written out; `*.` for one label"),
    _row("`ClientIP`", "`routes` with `client`"),
    _row("`ALPN`", "`routes` with `alpn`"),
    _row("`&&`, `||`, parentheses", "several routes; `!` is not here"),
    _row("`priority`", "the order of routes; without it the longest rule is first"),
    _row("no `tls`", '`mode = "forward"`, the default. Not beside routers with `tls` at one entry point'),
    _row("`tls.passthrough: true`", '`mode = "passthrough"` of a bind'),
    _row("`tls: {}`", '`mode = "tls"` of a bind; beside `passthrough`, `mode` of a route'),
    _row("`tls.options`", "those of the first router: `min_version`, `max_version`, `curves`, `alpn`, `strict_sni`, `client_verify`, `client_ca`"),
    _row("`cipherSuites`", "not here: the names are not OpenSSL's"),
    _row("`tls.certificates`, `tls.stores.default`", "`certificates`"),
    _row("`tls.certResolver`", "`acme` and `names` of a frontend's `tls`, and `[acme.NAME]`: [ACME](acme.md)"),
    _row("`ipAllowList`, `ipWhiteList`", "`routes` with `client`, and one with `reject = true` for other clients"),
    _row("`inFlightConn.amount`", "`max_sessions_per_client` of the frontend"),
))  # fmt: skip
SERVICES = Group[Handler]("Services over TCP", (
    _row("`loadBalancer.servers`", "`servers` of a backend"),
    _row("`tls: true` of a server", "`tls` of a backend or server; chain and name are verified in both"),
    _row("round robin", '`balance = "roundrobin"` is written; the default here is `leastconn`'),
    _row("`weighted.services`", "one backend with all servers, and `weight`"),
    _row("`proxyProtocol.version`", '`send_proxy = "v1"`, `"v2"`; version 2 by default in both'),
    _row("`healthCheck`", "`check`, with `interval`, `port`, `timeouts.check`, and the words of `send` and `expect`; without it `check = false` is written"),
    _row("`terminationDelay`", "`timeouts.half_closed` of a frontend; without it 100 milliseconds are written"),
    _row("`serversTransports.NAME.dialTimeout`", "`timeouts.connect` of a backend; without it 30 seconds are written"),
    _row("`dialKeepAlive`", "`idle` of `keepalive`"),
    _row("`tls.insecureSkipVerify`", '`verify = "none"`'),
    _row("`tls.serverName`, `tls.rootCAs`, `tls.certificates`", "`server_name`, `ca`, `certificate` and `key`"),
    _row("retries", "Traefik makes one attempt, so `retries = 0` is written"),
))  # fmt: skip
PAGE_GROUPS = (ENTRY_POINTS, ROUTERS, SERVICES)
