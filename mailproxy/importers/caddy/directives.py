"""Caddy's layer4 directives: which ones are translated, and what the documentation says about each."""

from __future__ import annotations

from collections.abc import Callable

from mailproxy.importers.directive import Directive, Group, index, loss, note

Handler = Callable[[], None]


def _translated() -> None:
    """Mark a directive as translated by the code that translates a directive."""


def _key(*names: str, meaning: str, shown: str = "") -> Directive[Handler]:
    return Directive(names, meaning, _translated, shown=shown)


def _row(shown: str, meaning: str) -> Directive[Handler]:
    return Directive((), meaning, shown=shown)


STRUCTURE = Group[Handler]("Structure", (
    _key("layer4", meaning="the whole file", shown="`{ layer4 { … } }`"),
    _row("`:993 { … }`, `tcp/:993`, `0.0.0.0:993`", '`bind` of a frontend: `address = "[::]:993"`, `"*:993"`'),
    _row("`unix//path`, `fd/3`", '`address = "unix:/path"`, `"fd:3"`'),
    _row("several addresses before `{`", "several binds of one frontend"),
    _row("`udp/…`", "not here: mail is TCP"),
    _row("`route { proxy … }`", "`backend` of the frontend"),
    _row("`@name …`, `route @name { … }`", "`routes` of the frontend; the first that matches decides"),
    _key("subroute", meaning="its routes are written into the one list of `routes`"),
    _key("matching_timeout", meaning="`timeouts.handshake`, for the ClientHello and the handshake"),
    _row("`listener_wrappers { layer4 { … } }`", "a frontend at that port; what no route matches is rejected, and not HTTP"),
    _row("`{$NAME}`, `{$NAME:default}`, `{env.NAME}`", "`${NAME}`, `${NAME:-default}`"),
    _row("snippets, `import`", "put in where they are imported"),
    _row("HTTP sites", "left out; their names and `tls CERTIFICATE KEY` are taken for certificates"),
    _key("email", "acme_ca", "acme_ca_root", meaning="`contact`, `directory`, `ca` of `[acme.NAME]`"),
    _key("http_port", meaning="`http` of `[acme.NAME]`, where the authority's `http-01` is answered"),
    _row("`acme_eab { key_id …; mac_key … }`", "`eab` of `[acme.NAME]`; you put the key into its `hmac_file`"),
    _row("`acme_dns`, `key_type`, `preferred_chains`, `renewal_window_ratio`", "`dns`, `keys`, `preferred_chain`, `renew_before` of `[acme.NAME]`; the import leaves them to you"),
    _row("`caddy validate`", "`mailproxy check FILE`; with `--live` it also checks the servers"),
    _row("`caddy run`, `caddy stop`", "`mailproxy run FILE`, SIGTERM"),
    _row("`caddy reload`", "`mailproxy ctl reload`, SIGHUP; see [Reload](reload.md)"),
    _row("admin API", "[HTTP](http.md) and the [admin socket](admin-socket.md), which take no configuration"),
    _row("`grace_period`", "for HTTP only; sessions have `drain_timeout` of the process"),
))  # fmt: skip
MATCHERS = Group[Handler]("Matchers", (
    _row("`tls sni NAME…`", "`routes` with `sni`"),
    _row("`tls` without a condition", "not needed: `tls` and `passthrough` binds expect TLS"),
    _row("`tls alpn NAME…`", "`routes` with `alpn`"),
    _row("`sni_regexp`", "names, where they can be written out; `*.` for one label"),
    _row("`remote_ip`", "`routes` with `client`"),
    _row("`local_ip`", "not here; `port` of a route is the port that the client connected to"),
    _row("`not`", "routes for the excluded sessions come first, with `reject = true` at their end"),
    _row("`proxy_protocol` (matcher)", "`accept_proxy`: the connection's address decides"),
    _row("`http`, `ssh`, `dns`, `rdp` and others", "not here"),
    _row("`clock`, `vars`, `regexp`", "not here"),
))  # fmt: skip
HANDLERS = Group[Handler]("Handlers", (
    _key("tls", meaning='`mode = "tls"` of a bind, with `certificates` or [`acme`](acme.md)'),
    _row("no `tls`, matcher `tls`", '`mode = "passthrough"`'),
    _row("no `tls`, no matcher", '`mode = "forward"`'),
    _row("`connection_policy { alpn … }`", "`alpn`"),
    _row("`client_auth { mode … trust_pool … }`", "`client_verify`, `client_ca`"),
    _row("`protocols`, `curves`", "`min_version`, `max_version`, `curves`"),
    _row("`ciphers`", "not here: the names are not OpenSSL's"),
    _row("certificates that Caddy obtains, `tls_connection_policies`, `automatic_https`", "`acme` and `names` of a frontend's `tls`"),
    _row("`proxy_protocol { allow … }`", "`accept_proxy` with these networks"),
    _row("`fallback_policy`", "`proxy_optional = true`, unless it is `REQUIRE` or `REJECT`"),
    _row("`proxy_protocol { timeout … }`", "`timeouts.proxy_header` of a frontend"),
    _row("`close`", "a route with `reject = true`"),
    _row("`throttle`, `tee`, `echo`, `socks5`, `postgres_tls`", "not here"),
))  # fmt: skip
PROXY = Group[Handler]("Proxy", (
    _key("upstream", meaning="`servers` of a backend", shown="`upstream HOST:PORT`"),
    _key("dial", meaning="a server for each address", shown="`upstream { dial A B }`"),
    _row("`upstream { tls … }`", "`tls` of a backend or server; chain and name are verified in both"),
    _key("tls_insecure_skip_verify", meaning='`verify = "none"`'),
    _key("tls_trust_pool", "tls_server_name", "tls_client_auth", meaning="`ca`, `server_name`, `certificate`"),
    _key("tls_curves", meaning="`curves`, if it is one"),
    note("tls_timeout", "tls_renegotiation", "tls_except_ports", meaning="not needed: `timeouts.connect`"),
    _key("max_connections", meaning="`max_sessions` of a server; more sessions wait in a queue"),
    _key("proxy_protocol", meaning='`send_proxy = "v1"`, `"v2"`, also `"v2-ssl"` and `"v2-ssl-cn"`', shown="`proxy_protocol v1`, `v2`"),
    _key("lb_policy", meaning='`balance = "random"` is written, which draws two and takes the better one', shown="`lb_policy random` (the default)"),
    _row("`lb_policy random_choose 2`", '`balance = "random"`'),
    _row("`lb_policy least_conn`", '`balance = "leastconn"`, the default here'),
    _row("`lb_policy round_robin`, `weighted_round_robin`", '`balance = "roundrobin"`, with `weight`'),
    _row("`lb_policy first`", '`balance = "first"`, with `backup` for all servers but the first'),
    _row("`lb_policy ip_hash`", '`balance = "source"`'),
    _key("lb_try_duration", "lb_try_interval", meaning="`retries`: as many as fit; without a duration 0 is written"),
    _key("health_interval", "health_timeout", meaning="`interval` of a check, `timeouts.check`"),
    _key("health_port", meaning="`port` of a check"),
    loss("health_uri", "health_method", "health_headers", "health_body", "health_status", "health_host", "health_follow_redirects",
         meaning='not here; `check` with `type = "script"` sends your own words', shown="`health_uri` and other HTTP options"),
    _key("health_fall", "health_rise", meaning="`fall`, `rise`"),
    _key("close_if_unhealthy", "health_close_if_unhealthy", meaning='`on_marked_down = "shutdown-sessions"`', shown="`close_if_unhealthy`"),
    _key("max_fails", "fail_duration", meaning='`observe = "connect"`, `error_limit`; a check brings the server up again'),
    _key("unhealthy_connection_count", meaning="`max_sessions` of a server"),
    _key("local_addr", meaning="`source` of a backend"),
    _key("resolver_preference", meaning="`resolve_prefer`"),
    _row("`metrics`", "`[admin] http`: [metrics](metrics.md) and a [status page](status-page.md)"),
))  # fmt: skip
PAGE_GROUPS = (STRUCTURE, MATCHERS, HANDLERS, PROXY)
OPTIONS = index(PROXY)
