"""nginx's directives: which ones are translated, and what the documentation says about each."""

from __future__ import annotations

from collections.abc import Callable

from mailproxy.importers.directive import Directive, Group, index, loss, note


def _translated() -> None:
    """Mark a directive as translated by the code that asks for a directive (``scope.Scope``); what nothing asks for is reported."""


Handler = Callable[[], None]


def _key(*names: str, meaning: str, shown: str = "") -> Directive[Handler]:
    return Directive(names, meaning, _translated, shown=shown)


def _row(shown: str, meaning: str) -> Directive[Handler]:
    return Directive((), meaning, shown=shown)


MAIN = Group[Handler]("Sections", (
    _key("stream", meaning="`[frontends.NAME]`, with a bind for each `listen`", shown="`stream { server { … } }`"),
    _row("`upstream NAME { … }`", "`[backends.NAME]`; used with different settings, it is several"),
    _key("mail", meaning="a frontend whose `backend` you give, since the servers are not in the file", shown="`mail { server { … } }`"),
    note("http", meaning="not here: mail only, so the block is named and left out", shown="`http { … }`"),
    _row("`include`", "read, with the files that it names"),
    _row("`map`, `geo`", "`routes`, where they select the server"),
    _key("worker_processes", meaning="`workers` of the process", shown="`worker_processes auto`"),
    note("events", meaning="not needed: `max_sessions` of the process is what descriptors allow", shown="`events { worker_connections … }`"),
    note("worker_rlimit_nofile", meaning="`LimitNOFILE=` in the unit; `raise_descriptor_limit` raises the soft limit"),
    _key("user", meaning="`user`, `group` of the process"),
    note("daemon", "master_process", "lock_file", meaning="not needed: mailproxy runs in the foreground, below a service manager"),
    _key("pid", meaning="`pid_file` of the process; not if the file also has `http`"),
    note("load_module", meaning="not needed"),
    _key("worker_shutdown_timeout", meaning="`drain_timeout` of the process", shown="`nginx -s quit`, `worker_shutdown_timeout`"),
    note("worker_cpu_affinity", "worker_priority", "working_directory", "pcre_jit", "timer_resolution", "thread_pool", "ssl_engine", "debug_points",
         "worker_rlimit_core", "env", "quic_bpf", meaning="not needed"),
    _row("`nginx -t`", "`mailproxy check FILE`; with `--live` it also checks the servers"),
    _row("`nginx -s reload`, SIGHUP", "SIGHUP, `mailproxy ctl reload`; see [Reload](reload.md)"),
    _row("`nginx -s reopen`, SIGUSR1", "SIGUSR2 reopens the log"),
))  # fmt: skip
LISTEN = Group[Handler]("Listen", (
    _key("listen", meaning='`address = "*:993"`; with `ssl` `mode = "tls"` of a bind, else `"forward"`, the default', shown="`listen 993 ssl`, `listen 143`"),
    _row("`listen [::]:993`", "`v6only = true`; with `ipv6only=off`, or `listen 993` beside it, both families"),
    _row("`listen unix:/path`", '`address = "unix:/path"`'),
    _key("set_real_ip_from", meaning="`accept_proxy` with the networks that must send a header", shown="`listen … proxy_protocol` with `set_real_ip_from`"),
    _row("`listen … backlog=`, `fastopen=`", "`backlog`, `fast_open` of a bind"),
    _row("`listen … so_keepalive=30m::10`", '`keepalive = { idle = "30m", count = 10 }` of a bind'),
    _row("`listen … reuseport`", "automatic, with several workers"),
    _row("`listen … udp`", "not here: mail is TCP"),
    _key("server_name", meaning="`routes` with `sni`, where several blocks listen at one address", shown="`server_name` (1.25.5)"),
    _key("allow", "deny", meaning="`routes` with `client`, and `reject = true`"),
    _key("limit_conn", meaning="`max_sessions_per_client` of a frontend", shown="`limit_conn` by `$binary_remote_addr`"),
    _key("limit_conn_zone", meaning="not needed: only its key is of interest"),
    note("limit_conn_log_level", "limit_conn_dry_run", meaning="not needed: each session has an end reason"),
    _key("preread_timeout", meaning="`timeouts.handshake` of a frontend"),
    _key("proxy_protocol_timeout", meaning="`timeouts.proxy_header` of a frontend"),
    note("preread_buffer_size", "variables_hash_max_size", "variables_hash_bucket_size", "map_hash_max_size", "map_hash_bucket_size", "server_names_hash_max_size",
         "server_names_hash_bucket_size", meaning="nothing to tune"),
))  # fmt: skip
TLS = Group[Handler]("TLS", (
    _key("ssl_certificate", "ssl_certificate_key", meaning='`certificates = [{ certificate = "…", key = "…" }]` of `tls`'),
    _row("several certificates by `$ssl_server_name`", "`certificates` with all files, or a folder"),
    _key("ssl", meaning='`mode = "tls"` of all binds of the block', shown="`ssl on` (before 1.25)"),
    _key("ssl_protocols", meaning="`min_version`, `max_version`; 1.2 by default, and nothing below it"),
    _key("ssl_ciphers", meaning="`ciphers`"),
    _key("ssl_ecdh_curve", meaning="`curves`"),
    _key("ssl_conf_command", meaning="`ciphersuites`, which needs Python 3.15; `min_version`", shown="`ssl_conf_command Ciphersuites`"),
    _key("ssl_session_tickets", meaning="`tickets = false`", shown="`ssl_session_tickets off`"),
    note("ssl_session_cache", "ssl_session_timeout", "ssl_session_ticket_key", meaning="not here: sessions resume by tickets, which all workers accept"),
    note("ssl_prefer_server_ciphers", "ssl_dhparam", "ssl_buffer_size", meaning="not needed: key exchange is ECDHE, or OpenSSL selects the parameters"),
    _key("ssl_verify_client", "ssl_client_certificate", "ssl_trusted_certificate", "ssl_crl", meaning="`client_verify`, `client_ca`, `client_crl`"),
    note("ssl_verify_depth", meaning="not here"),
    loss("ssl_password_file", "ssl_certificate_cache", "ssl_key_log", "ssl_ocsp", "ssl_ocsp_cache", "ssl_ocsp_responder", meaning="not here"),
    _key("ssl_alpn", meaning="`alpn`"),
    _key("ssl_reject_handshake", meaning="`strict_sni`, or a route with `reject = true`"),
    note("ssl_stapling", "ssl_stapling_verify", "ssl_stapling_file", "ssl_stapling_responder", meaning="not here"),
    _key("ssl_handshake_timeout", meaning="`timeouts.handshake` of a frontend"),
    _key("ssl_preread", meaning='`mode = "passthrough"` of a bind, and `routes` with `sni`', shown="`ssl_preread on` with `map $ssl_preread_server_name`"),
    _row("`$ssl_preread_alpn_protocols`", "`routes` with `alpn`"),
    _row("regular expressions in `map`", "names, where they can be written out; `*.` for one label"),
    _key("proxy_ssl", meaning="`tls` of a backend"),
    _key("proxy_ssl_verify", "proxy_ssl_trusted_certificate", meaning='`verify`, `ca`; without them `verify = "none"` is written'),
    _key("proxy_ssl_name", "proxy_ssl_server_name", meaning="`server_name`"),
    _key("proxy_ssl_certificate", "proxy_ssl_certificate_key", meaning="`certificate`, `key` of a backend's `tls`"),
    _key("proxy_ssl_protocols", "proxy_ssl_ciphers", meaning="`min_version`, `max_version`, `ciphers`"),
    _key("proxy_ssl_verify_depth", meaning="not here"),
    note("proxy_ssl_session_reuse", meaning="not needed"),
    loss("proxy_ssl_crl", "proxy_ssl_password_file", "proxy_ssl_conf_command", "proxy_ssl_key_log", "proxy_ssl_alpn", meaning="not here"),
))  # fmt: skip
SERVERS = Group[Handler]("Servers", (
    _key("proxy_pass", meaning="`backend` of a frontend", shown="`proxy_pass NAME`"),
    _row("`server 10.0.0.1:143 weight=2`", '`{ address = "10.0.0.1:143", weight = 2 }`'),
    _row("no method (round robin)", '`balance = "roundrobin"` is written; the default here is `leastconn`'),
    _row("`least_conn`", '`balance = "leastconn"`'),
    _row("`hash $remote_addr consistent`", '`balance = "source"`'),
    _row("`random two least_conn`", '`balance = "random"`'),
    _row("`hash` of other variables, `least_time` (commercial)", '`balance = "roundrobin"`'),
    _row("`max_conns`, `queue`", "`max_sessions` of a server; sessions wait in the queue"),
    _row("`backup`", "`backup`; several of them share the sessions with `all_backups = true` of the backend"),
    _row("`down`", '`state = "maint"` of a server'),
    _row("`slow_start` (commercial)", "`slow_start`"),
    _row("`max_fails`, `fail_timeout`", '`observe = "connect"`, `error_limit`, and a check that connects'),
    loss("health_check", "health_check_timeout", "match", meaning='on by default; your own words: `check` with `type = "script"`', shown="`health_check`, `match` (commercial)"),
    _row("`zone`", "not needed: all workers share states and counts"),
    _key("resolver", meaning="`resolve_interval` for `valid=`, by the system's resolver", shown="`resolver`, `server … resolve`"),
    note("resolver_timeout", meaning="not here: the system's resolver is used"),
    _key("proxy_next_upstream", "proxy_next_upstream_tries", meaning="`retries`; by default one for each other server"),
    loss("proxy_next_upstream_timeout", meaning="not here: `timeouts.connect` limits each attempt"),
    _key("proxy_connect_timeout", meaning="`timeouts.connect` of a backend; without it 60 seconds are written", shown="`proxy_connect_timeout` (60s)"),
    _key("proxy_timeout", meaning="`timeouts.client` of a frontend, `timeouts.server` of a backend; without it 10 minutes are written", shown="`proxy_timeout` (10m)"),
    note("proxy_half_close", meaning="always on: `timeouts.half_closed` limits it"),
    _key("proxy_protocol", meaning='`send_proxy = "v1"`, `"v2"`', shown="`proxy_protocol on`, `proxy_protocol v2` (1.31.4)"),
    _key("proxy_bind", meaning='`source` of a backend; `$remote_addr transparent`: `source = "client"`'),
    _key("proxy_socket_keepalive", meaning="`keepalive` of a backend"),
    note("proxy_buffer_size", "proxy_requests", "proxy_responses", "proxy_session_drop", meaning="nothing to tune: splice and buffers are automatic"),
    loss("proxy_upload_rate", "proxy_download_rate", meaning="not here"),
    note("tcp_nodelay", meaning="always"),
    loss("js_access", "js_preread", "js_filter", "js_set", "js_import", "js_include", "js_path", "js_var", "split_clients", "set", "return", "pass",
         "lua_package_path", "preread_by_lua_block", "content_by_lua_block", meaning="not here", shown="`js_…` (njs), `split_clients`, `set`"),
))  # fmt: skip
LOG = Group[Handler]("Log", (
    _key("access_log", meaning="`to` of `[log]`, or of several `[[log.targets]]`", shown="`access_log FILE`, `access_log syslog:server=…`"),
    note("log_format", meaning="`format`: `tcplog`, `json` or `text`"),
    note("error_log", meaning='a target with `level = "warning"`', shown="`error_log … warn`"),
    note("open_log_file_cache", meaning="not needed"),
    _row("`$remote_addr`, `$upstream_addr`", "`client`, `server_address` in `json`"),
    _row("`$session_time`, `$upstream_connect_time`", "`total_ms`, `connect_ms`, in milliseconds"),
    _row("`$bytes_received`, `$bytes_sent`", "`bytes_in`, `bytes_out`"),
    _row("`$status`", "`end` in `json`, with `detail`; in `tcplog` two letters"),
    _row("`$ssl_preread_server_name`, `$ssl_protocol`, `$ssl_cipher`", "`sni`, `tls_version`, `tls_cipher`"),
))  # fmt: skip
MAIL = Group[Handler]("The mail module", (
    _key("auth_http", meaning="not here: mailproxy reads no login, so the user cannot select the server"),
    note("auth_http_header", "auth_http_timeout", "auth_http_pass_client_cert", meaning="not here: mailproxy reads no login"),
    _key("protocol", meaning='`protocol = "imap"` of a frontend; also `pop3`, and `submission` or `smtp`', shown="`protocol imap`"),
    _row("`listen 993 ssl`", '`mode = "tls"` of a bind'),
    _key("starttls", meaning='`mode = "starttls"` of a bind; `starttls_required = false` is `on`, see [STARTTLS](starttls.md)', shown="`starttls on`, `only`"),
    note("imap_auth", "pop3_auth", "smtp_auth", meaning="not needed: the server does that"),
    _key("imap_capabilities", "pop3_capabilities", "smtp_capabilities", meaning="`capabilities` of a frontend; by default what the server lists"),
    _key("smtp_greeting_delay", "max_errors", meaning="not here yet"),
    _key("xclient", meaning='`send_proxy = "v2"` tells Postfix the client\'s address'),
    note("proxy_smtp_auth", "proxy_pass_error_message", "proxy", "proxy_buffer", "imap_client_buffer", "pop3_client_buffer", "smtp_client_buffer",
         meaning="not needed: the client speaks with the server itself"),
    _key("timeout", meaning="`timeouts.negotiation`, until STARTTLS", shown="`timeout` (60s)"),
    _row("`proxy_timeout` (24h)", "`timeouts.client`; without it a day is written"),
    _row("`server_name`", "not needed"),
    loss("zm_auth_http", "zm_auth_http_url", "mail_login_ip_max", "mail_login_ip_ttl", "mail_login_ip_rejectmsg", "mail_login_user_max", "mail_login_user_ttl",
         "mail_whitelist_ip_ttl", "imap_greeting", "pop3_greeting", "imap_id", "proxy_issue_imap_id", "proxy_issue_pop3_xoip", "sasl_app_name", "sasl_host_from_ip",
         "sasl_service_name", "default_realm", "proxy_ctimeout", "imap_literalauth", "master_auth_username", "master_auth_password", "ssl_mail_upsteam",
         meaning="not here: a directive of another program that is made of nginx", shown="directives of Zimbra's nginx"),
))  # fmt: skip
_COMMON = {**index(LISTEN, TLS, SERVERS, LOG)}
MAIN_DIRECTIVES = {**index(MAIN), **index(LOG)}
STREAM_DIRECTIVES = {
    **_COMMON,
    **{name: Directive((name,), "", _translated) for name in ("server", "upstream", "map", "geo")},
}
MAIL_DIRECTIVES = {**_COMMON, **index(MAIL), "server": Directive(("server",), "", _translated)}
PAGE_GROUPS = (MAIN, LISTEN, TLS, SERVERS, LOG, MAIL)
