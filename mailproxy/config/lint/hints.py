"""Words of other proxies, and what to write instead: for keys by the side on which they are tried, and for values.

An answer that begins with a key of the model is shown as it is written at the place of the word: ``tls.client_ca`` in a
frontend, ``client_ca`` in its ``tls``. Every other answer is shown as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

from mailproxy.config import model
from mailproxy.config.fields import keys_of

_CLIENT_SIDE = (model.Frontend, model.FrontendTimeouts, model.FrontendTls, model.Bind, model.Route)
_SERVER_SIDE = (
    model.Backend, model.BackendTimeouts, model.ServerTls, model.Server, model.Stick, model.Check, model.Step, model.Connect,
)  # fmt: skip
ROOTS: Mapping[str, tuple[type, str]] = {
    "process": (model.Process, "[process]"),
    "log": (model.Log, "[log]"),
    "admin": (model.Admin, "[admin]"),
    "frontend": (model.Frontend, "a frontend"),
    "bind": (model.Bind, "a bind"),
    "route": (model.Route, "a route"),
    "backend": (model.Backend, "a backend"),
    "server": (model.Server, "a server"),
    "step": (model.Step, "a step of a check"),
}
TARGET = re.compile(rf"({'|'.join(ROOTS)})\.([a-z0-9_]+(?:\.[a-z0-9_]+)*)")

_VALUE = re.compile(r"( = [^,;]+)?")


@frozen
class Hint:
    """Answers for one word: towards clients, towards servers, and anywhere else (those two where it is empty)."""

    client: str = ""
    server: str = ""
    elsewhere: str = ""

    def answer(self, table: type | None) -> str:
        """The answer in a table of the configuration; None is the top of the file."""
        if table in _CLIENT_SIDE and self.client:
            return self.client
        if table in _SERVER_SIDE and self.server:
            return self.server
        return self.elsewhere or self.client or self.server


def _everywhere(answer: str) -> Hint:
    return Hint(answer, answer, answer)


_SYSTEMD = "not here, because it is the service manager's: the program stays in the foreground"
_UNTUNED = "not here, because nothing needs it: buffers and limits follow the machine"
_AUTOMATIC = "not here, because nothing needs it: splice and buffers are automatic"
_NO_STATE = "not here, because servers count as up after a start until their first check fails"
_TUNNEL = "not here, because a session is a tunnel from its beginning: timeouts of client and server hold"
_HTTP = "not here, because HTTP is not served: mail protocols only"
_LATER = "not here yet: the running proxy has no admin socket so far"
_OPENSSL = "not here, because OpenSSL's own choice is right for mail clients of today"
_TCP = "not here, because every session is TCP: protocol says what is spoken, and a bind's mode what becomes of TLS"

# Keys, written with underscores and without HAProxy's "option".
WORDS: Mapping[str, Hint] = {
    # sections
    "global": _everywhere("[process] and [log]"),
    "listen": _everywhere("[frontends.NAME] with a backend, [backends.NAME]"),
    "upstream": _everywhere("[backends.NAME], and backend in the frontend"),
    "stream": _everywhere("[frontends.NAME] with [[frontends.NAME.bind]]"),
    "mail": _everywhere("[frontends.NAME] with [[frontends.NAME.bind]]"),
    "http": _everywhere(_HTTP),
    "userlist": _everywhere(_HTTP),
    "peers": _everywhere("not here, because stick tables are not shared between machines; the workers of one machine share theirs"),
    "mailers": _everywhere("not here, because no mail is sent: let a monitor read the log"),
    "email_alert": _everywhere("not here, because no mail is sent: let a monitor read the log"),
    "resolvers": _everywhere("not here, because the system's resolver is asked: backend.resolve_interval says how often"),
    "resolver": _everywhere("not here, because the system's resolver is asked: backend.resolve_interval says how often"),
    "nameserver": _everywhere("not here, because the system's resolver is asked: /etc/resolv.conf"),
    "cache": _everywhere(_HTTP),
    "program": _everywhere(_SYSTEMD),
    "crt_store": _everywhere("frontend.tls.certificates"),
    # the process
    "maxconn": Hint("frontend.max_sessions", "server.max_sessions", "process.max_sessions"),
    "maxconnrate": _everywhere("frontend.max_session_rate_per_client"),
    "worker_connections": _everywhere("process.max_sessions"),
    "worker_processes": _everywhere("process.workers"),
    "nbthread": _everywhere("process.workers"),
    "nbproc": _everywhere("process.workers"),
    "threads": _everywhere("process.workers"),
    "thread_groups": _everywhere("process.workers"),
    "cpu_map": _everywhere("not here, because the kernel places workers: use the service's CPUAffinity="),
    "ulimit_n": _everywhere("not here, because it is the service's: LimitNOFILE="),
    "worker_rlimit_nofile": _everywhere("not here, because it is the service's: LimitNOFILE="),
    "chroot": _everywhere("not here, because systemd confines the process: ProtectSystem=, PrivateTmp="),
    "daemon": _everywhere(_SYSTEMD),
    "master_worker": _everywhere(_SYSTEMD),
    "pidfile": _everywhere("not here, because the service manager knows the process"),
    "pid": _everywhere("not here, because the service manager knows the process"),
    "uid": _everywhere('process.user = "#80", a number behind the sign'),
    "gid": _everywhere('process.group = "#80", a number behind the sign'),
    "hard_stop_after": _everywhere("process.drain_timeout"),
    "grace": _everywhere("process.drain_timeout"),
    "grace_period": _everywhere("process.drain_timeout"),
    "shutdown_timeout": _everywhere("process.drain_timeout"),
    "worker_shutdown_timeout": _everywhere("process.drain_timeout"),
    "server_state_file": _everywhere(_NO_STATE),
    "load_server_state_from_file": _everywhere(_NO_STATE),
    "spread_checks": _everywhere("backend.check.jitter, a share from 0 to 1"),
    "max_spread_checks": _everywhere("not here, because a server counts as up until its first check fails"),
    "node": _everywhere("log.tag"),
    "description": _everywhere("not here: write a # comment"),
    "id": _everywhere("not here, because names are enough: name of a bind or server"),
    "setenv": _everywhere("not here, because ${NAME} in a string reads the environment of the service: Environment="),
    "presetenv": _everywhere("not here, because ${NAME} in a string reads the environment of the service: Environment="),
    "nosplice": _everywhere(_AUTOMATIC),
    "splice_auto": _everywhere(_AUTOMATIC),
    "nopoll": _everywhere(_UNTUNED),
    "noepoll": _everywhere(_AUTOMATIC),
    "tune": _everywhere(_UNTUNED),
    "busy_polling": _everywhere(_UNTUNED),
    "bufsize": _everywhere(_UNTUNED),
    "maxpipes": _everywhere(_UNTUNED),
    "ca_base": _everywhere("not here, because relative paths begin at the folder of this file"),
    "crt_base": _everywhere("not here, because relative paths begin at the folder of this file"),
    "ssl_default_bind_ciphers": _everywhere("frontend.tls.ciphers, in [defaults.frontend] for all"),
    "ssl_default_bind_ciphersuites": _everywhere("frontend.tls.ciphersuites, in [defaults.frontend] for all"),
    "ssl_default_bind_curves": _everywhere("frontend.tls.curves, in [defaults.frontend] for all"),
    "ssl_default_bind_options": _everywhere("frontend.tls.min_version, in [defaults.frontend] for all"),
    "ssl_default_server_ciphers": _everywhere("backend.tls.ciphers, in [defaults.backend] for all"),
    "ssl_default_server_options": _everywhere("backend.tls.min_version, in [defaults.backend] for all"),
    "ssl_server_verify": _everywhere("backend.tls.verify, in [defaults.backend] for all"),
    "ssl_dh_param_file": _everywhere(_OPENSSL),
    "ssl_dhparam": _everywhere(_OPENSSL),
    "stats": _everywhere(_LATER),
    "stats_socket": _everywhere(_LATER),
    "stats_timeout": _everywhere(_LATER),
    "runtime_api": _everywhere(_LATER),
    "prometheus": _everywhere(_LATER),
    "metrics": _everywhere(_LATER),
    "unix_bind": _everywhere("bind.unix_mode, with unix_user and unix_group"),
    # the log
    "tcplog": Hint('log.format = "tcplog"'),
    "httplog": _everywhere(_HTTP),
    "log_format": _everywhere("log.format: text, json or tcplog; fields cannot be chosen"),
    "error_log": _everywhere("log.to, with level"),
    "access_log": _everywhere("log.to"),
    "log_tag": _everywhere("log.tag"),
    "log_send_hostname": _everywhere("not here, because syslog adds the host's name"),
    "facility": _everywhere("log.facility"),
    "target": Hint(elsewhere="log.to"),
    "output": Hint(elsewhere="log.to"),
    "file": Hint(elsewhere="log.to"),
    "log": Hint("log.to, for all frontends", "log.to, for all backends"),
    "dontlognull": Hint("frontend.log_null = false, which is the default"),
    "logasap": Hint("frontend.log_start"),
    "dontlog_normal": _everywhere("not here, because every session has its line, however it ends"),
    "log_separate_errors": _everywhere("not here, because json has the end of each session as a field of its own"),
    "log_health_checks": _everywhere("not here, because changes of a server's state are always logged"),
    "unique_id_format": _everywhere("not here, because each session has an id of its own in the log"),
    "socket_stats": _everywhere("bind.name, which the log shows"),
    "contstats": _everywhere("not here, because bytes are counted when a session ends"),
    # frontends and backends
    "mode": Hint(_TCP, _TCP),
    "default_backend": Hint("frontend.backend"),
    "proxy_pass": Hint("frontend.backend"),
    "use_backend": Hint("frontend.routes"),
    "acl": Hint("frontend.routes: client, sni, alpn or port of each"),
    "map": Hint("frontend.routes: sni = […] of each"),
    "tcp_request": Hint("frontend.routes: client = […] with reject = true"),
    "allow": Hint("frontend.routes: client = […] of each"),
    "deny": Hint("frontend.routes: client = […] with reject = true"),
    "inspect_delay": Hint("frontend.timeouts.handshake; binds wait for the ClientHello by themselves"),
    "track_sc0": Hint("frontend.max_sessions_per_client, or max_session_rate_per_client"),
    "limit_conn": Hint("frontend.max_sessions_per_client"),
    "limit_conn_zone": Hint("frontend.max_sessions_per_client"),
    "rate_limit": Hint("frontend.max_session_rate_per_client"),
    "mail_max_userip_connections": Hint("frontend.max_sessions_per_client"),
    "ssl_preread": Hint('frontend.routes with sni, on a bind with mode = "passthrough"'),
    "auth_http": Hint("not here, because no login is read: routes go by name, client and port"),
    "imap_capabilities": Hint("not here, because the server's own capabilities are passed on"),
    "starttls": Hint(
        "not here yet: no bind upgrades its sessions with STARTTLS so far",
        'not here yet: sessions with servers have no STARTTLS so far; the tls of a check takes mode = "starttls"',
    ),
    "xclient": _everywhere("not here yet: give send_proxy to servers that take PROXY headers"),
    "timeout": Hint("frontend.timeouts", "backend.timeouts"),
    "timeout_client": Hint("frontend.timeouts.client"),
    "timeout_server": Hint("backend.timeouts.server", "backend.timeouts.server", "backend.timeouts.server"),
    "timeout_connect": _everywhere("backend.timeouts.connect"),
    "timeout_queue": _everywhere("backend.timeouts.queue"),
    "timeout_check": _everywhere("backend.timeouts.check"),
    "proxy_timeout": _everywhere("frontend.timeouts.client, and timeouts.server of the backend"),
    "proxy_connect_timeout": _everywhere("backend.timeouts.connect"),
    "idle_timeout": Hint("frontend.timeouts.client", "backend.timeouts.server"),
    "idle": Hint("frontend.timeouts.client", "backend.timeouts.server"),
    "tunnel": Hint(_TUNNEL, _TUNNEL),
    "timeout_tunnel": _everywhere(_TUNNEL),
    "client_fin": _everywhere("frontend.timeouts.half_closed"),
    "server_fin": _everywhere("frontend.timeouts.half_closed"),
    "client_hs": _everywhere("frontend.timeouts.handshake"),
    "timeout_client_fin": _everywhere("frontend.timeouts.half_closed"),
    "timeout_server_fin": _everywhere("frontend.timeouts.half_closed"),
    "timeout_client_hs": _everywhere("frontend.timeouts.handshake"),
    "tarpit": _everywhere(_HTTP),
    "http_request": _everywhere(_HTTP),
    "errorfile": _everywhere(_HTTP),
    "httpclose": _everywhere(_HTTP),
    "http_server_close": _everywhere(_HTTP),
    "forwardfor": _everywhere("backend.send_proxy"),
    "nolinger": _everywhere("not here, because a session ends as its peer did: FIN for FIN, RST for RST"),
    "abortonclose": _everywhere("not here, because a client that leaves the queue is always noticed"),
    "independent_streams": _everywhere("not here, because bytes in either direction keep a session alive"),
    "tcp_smart_accept": _everywhere(_UNTUNED),
    "tcp_smart_connect": _everywhere(_UNTUNED),
    "lb_policy": Hint(server="backend.balance"),
    "load_balancing": Hint(server="backend.balance"),
    "least_conn": Hint(server='backend.balance = "leastconn"'),
    "ip_hash": Hint(server='backend.balance = "source"'),
    "hash_type": Hint(server="not here, because source is always consistent"),
    "hash_balance_factor": Hint(server="not here, because source sends each client to one server; leastconn evens the load"),
    "allbackups": Hint(server="not here, because one backup serves at a time, as in HAProxy without it"),
    "fullconn": Hint(server="not here: give servers max_sessions"),
    "minconn": Hint(server="server.max_sessions, a fixed one"),
    "maxqueue": Hint(server="backend.max_queue"),
    "server": Hint(server="backend.servers"),
    "to": Hint(server="backend.servers"),
    "dial": Hint(server="server.address"),
    "default_server": _everywhere("[defaults.server], or the key itself in the backend"),
    "server_template": Hint(server="backend.servers: one with a host name tries each address of it"),
    "redispatch": Hint(server="backend.redispatch"),
    "proxy_next_upstream": Hint(server="backend.retries, with redispatch"),
    "proxy_next_upstream_tries": Hint(server="backend.retries"),
    "lb_try_duration": Hint(server="backend.retries"),
    "tcpka": Hint("bind.keepalive", "backend.keepalive"),
    "clitcpka": Hint("bind.keepalive"),
    "srvtcpka": _everywhere("backend.keepalive"),
    "so_keepalive": Hint("bind.keepalive", "backend.keepalive"),
    "proxy_socket_keepalive": Hint(server="backend.keepalive"),
    "source_address": Hint(server="backend.source"),
    "usesrc": Hint(server='backend.source = "client"'),
    "proxy_bind": Hint(server="backend.source"),
    "transparent": Hint("bind.free_bind", 'backend.source = "client"'),
    "interface_name": Hint("bind.interface"),
    # binds
    "listen_address": Hint("bind.address"),
    "port": Hint("bind.address, with its port", "server.address, with its port"),
    "ssl": Hint('bind.mode = "tls"', "backend.tls"),
    "no_ssl": Hint('bind.mode = "forward"', "backend.tls = false"),
    "tcp_ut": Hint("bind.tcp_user_timeout"),
    "tfo": Hint("bind.fast_open"),
    "fastopen": Hint("bind.fast_open"),
    "accept_proxy_protocol": Hint("bind.accept_proxy, a list of networks"),
    "proxy_protocol": Hint("bind.accept_proxy, a list of networks", "backend.send_proxy"),
    "set_real_ip_from": Hint("bind.accept_proxy, a list of networks"),
    "expect_proxy": Hint("bind.accept_proxy, a list of networks"),
    "haproxy_trusted_networks": Hint("bind.accept_proxy, a list of networks"),
    "v4v6": Hint('bind.address = "[::]:143", which takes both families'),
    "ipv6only": Hint("bind.v6only"),
    "defer_accept": Hint("not here, because in mail the server speaks first"),
    "reuseport": Hint("not here, because workers share each port by themselves"),
    "shards": Hint("not here, because workers share each port by themselves"),
    "nice": Hint(_UNTUNED),
    "mss": Hint(_UNTUNED),
    "tos": Hint(_UNTUNED),
    "namespace": _everywhere("not here, because it is the service's: NetworkNamespacePath="),
    "user": Hint("bind.unix_user", elsewhere="process.user"),
    "group": Hint("bind.unix_group", elsewhere="process.group"),
    # TLS
    "crt": Hint("frontend.tls.certificates", "backend.tls.certificate"),
    "cert": Hint("frontend.tls.certificates", "backend.tls.certificate"),
    "certificate": Hint("frontend.tls.certificates"),
    "certificates": Hint("frontend.tls.certificates", "backend.tls.certificate"),
    "ssl_certificate": Hint("frontend.tls.certificates"),
    "ssl_certificate_key": Hint("frontend.tls.key"),
    "private_key": Hint("frontend.tls.key", "backend.tls.key"),
    "crt_list": Hint("frontend.tls.certificates; names are those in the certificates"),
    "ca_file": Hint("frontend.tls.client_ca", "backend.tls.ca"),
    "ca": Hint("frontend.tls.client_ca"),
    "client_ca": Hint(server="backend.tls.ca"),
    "ssl_client_certificate": Hint("frontend.tls.client_ca"),
    "ca_verify_file": Hint("frontend.tls.client_ca"),
    "crl_file": Hint("frontend.tls.client_crl"),
    "ssl_crl": Hint("frontend.tls.client_crl"),
    "verify": Hint("frontend.tls.client_verify", "backend.tls.verify"),
    "ssl_verify_client": Hint("frontend.tls.client_verify"),
    "client_verify": Hint(server="backend.tls.verify"),
    "client_auth": Hint("frontend.tls.client_verify"),
    "proxy_ssl": Hint(server="backend.tls"),
    "proxy_ssl_verify": Hint(server="backend.tls.verify"),
    "proxy_ssl_name": Hint(server="backend.tls.server_name"),
    "proxy_ssl_trusted_certificate": Hint(server="backend.tls.ca"),
    "insecure_skip_verify": Hint(server='backend.tls.verify = "none"'),
    "tls_insecure_skip_verify": Hint(server='backend.tls.verify = "none"'),
    "verifyhost": Hint(server="backend.tls.server_name"),
    "sni": Hint("route.sni", "backend.tls.server_name"),
    "server_name": Hint("route.sni"),
    "ssl_min_ver": Hint("frontend.tls.min_version", "backend.tls.min_version"),
    "ssl_max_ver": Hint("frontend.tls.max_version"),
    "ssl_protocols": Hint("frontend.tls.min_version", "backend.tls.min_version"),
    "protocols": Hint("frontend.tls.min_version", "backend.tls.min_version"),
    "ssl_ciphers": Hint("frontend.tls.ciphers", "backend.tls.ciphers"),
    "ciphersuites": Hint("frontend.tls.ciphersuites"),
    "ssl_curves": Hint("frontend.tls.curves"),
    "ecdhe": Hint("frontend.tls.curves"),
    "ssl_ecdh_curve": Hint("frontend.tls.curves"),
    "no_tls_tickets": Hint("frontend.tls.tickets = false"),
    "ssl_session_tickets": Hint("frontend.tls.tickets"),
    "ssl_session_cache": Hint("not here, because TLS tickets resume sessions in all workers"),
    "ssl_session_timeout": Hint("not here, because OpenSSL's two hours hold"),
    "prefer_client_ciphers": Hint(_OPENSSL),
    "ssl_prefer_server_ciphers": Hint(_OPENSSL),
    "no_sslv3": Hint("frontend.tls.min_version; SSLv3 and TLS below 1.2 are always off"),
    "no_tlsv10": Hint("frontend.tls.min_version; SSLv3 and TLS below 1.2 are always off"),
    "no_tlsv11": Hint("frontend.tls.min_version; SSLv3 and TLS below 1.2 are always off"),
    "ocsp": Hint("not here, because OpenSSL's stapling cannot be reached from Python; mail clients do not ask for it"),
    "ssl_stapling": Hint("not here, because OpenSSL's stapling cannot be reached from Python; mail clients do not ask for it"),
    "ktls": Hint(_UNTUNED),
    # servers and checks
    "send_proxy": Hint(server='backend.send_proxy = "v1"'),
    "send_proxy_v2": Hint(server='backend.send_proxy = "v2"'),
    "send_proxy_v2_ssl": Hint(server='backend.send_proxy = "v2-ssl"'),
    "send_proxy_v2_ssl_cn": Hint(server='backend.send_proxy = "v2-ssl-cn"'),
    "proxy_v2_options": Hint(server="backend.send_proxy_tlvs"),
    "set_proxy_v2_tlv_fmt": Hint(server="backend.send_proxy_tlvs"),
    "slowstart": Hint(server="server.slow_start"),
    "max_conns": Hint(server="server.max_sessions"),
    "max_fails": Hint(server='backend.observe = "connect", with error_limit'),
    "fail_timeout": Hint(server="backend.check.interval: a check brings a server up again"),
    "fail_duration": Hint(server="backend.check.interval: a check brings a server up again"),
    "unhealthy_connection_count": Hint(server="server.max_sessions"),
    "disabled": Hint("not here: comment the frontend out", 'server.state = "maint"'),
    "enabled": Hint("not here: comment the frontend out", 'server.state = "ready"'),
    "down": Hint(server='server.state = "maint"'),
    "track": Hint(server="not here, because each server is checked by itself"),
    "agent_check": Hint(server="not here, because no agent is asked: a check script can read what a server says"),
    "agent_port": Hint(server="not here, because no agent is asked: a check script can read what a server says"),
    "agent_inter": Hint(server="not here, because no agent is asked: a check script can read what a server says"),
    "init_addr": Hint(server="not here, because a name without an address never stops the start; it is asked again"),
    "hold": Hint(server="backend.resolve_interval"),
    "init_state": Hint(server="not here, because servers count as up until a check fails"),
    "resolve_opts": Hint(server="backend.resolve_prefer"),
    "on_marked_up": Hint(server="not here, because sessions at backup servers go on"),
    "on_error": Hint(server="not here, because failures count towards the check: backend.error_limit"),
    "cookie": Hint(server="backend.stick"),
    "stick_table": Hint("frontend.max_sessions_per_client", "backend.stick"),
    "stick_on": Hint(server="backend.stick"),
    "sticky": Hint(server="backend.stick"),
    "persistence": Hint(server="backend.stick"),
    "store": Hint(server="frontend.max_sessions_per_client"),
    "nopurge": Hint(server=_UNTUNED),
    "inter": Hint(server="backend.check.interval"),
    "fastinter": Hint(server="backend.check.fast_interval"),
    "downinter": Hint(server="backend.check.down_interval"),
    "health_interval": Hint(server="backend.check.interval"),
    "health_timeout": Hint(server="backend.check.timeout"),
    "health_port": Hint(server="backend.check.port"),
    "health_check": Hint(server="backend.check"),
    "addr": Hint("bind.address", "backend.check.address"),
    "check_ssl": Hint(server="backend.check.tls"),
    "check_sni": Hint(server="backend.check.tls.server_name"),
    "check_alpn": Hint(server="not here, because mail servers do not choose by ALPN"),
    "check_send_proxy": Hint(server="backend.check.send_proxy"),
    "check_port": Hint(server="backend.check.port"),
    "tcp_check": Hint(server="backend.check.steps"),
    "smtpchk": Hint(server='backend.check = "smtp"'),
    "ssl_hello_chk": Hint(server='backend.check = "tls"'),
    "httpchk": Hint(server="backend.check.steps"),
    "external_check": Hint(server="not here, because checks run no programs: a script of steps can send and expect"),
    "ldap_check": Hint(server="backend.check.steps"),
    "rstring": Hint(server="step.expect_regex"),
    "string": Hint(server="step.expect"),
    "binary": Hint(server="step.expect_hex"),
    "rbinary": Hint(server="not here: expect_regex takes bytes that are written as \\x16"),
    "send_binary": Hint(server="step.send_hex"),
    "comment": Hint(server="not here: write a # comment"),
    "linger": Hint(server="not here, because checks log out and close in an orderly way"),
    "min_recv": Hint(server="not here, because an expectation waits for all that it needs"),
}  # fmt: skip

# Values, by the key that they are tried for.
VALUES: Mapping[str, Mapping[str, str]] = {
    "protocol": {
        "imaps": 'write "imap", and mode = "tls" at the bind', "pop3s": 'write "pop3", and mode = "tls" at the bind',
        "smtps": 'write "submission", and mode = "tls" at the bind',
        "submissions": 'write "submission", and mode = "tls" at the bind',
        "managesieve": 'write "sieve"', "imap4": 'write "imap"', "pop": 'write "pop3"', "esmtp": 'write "smtp"',
        "http": _HTTP,
    },
    "mode": {
        "ssl": 'write "tls"', "tcp": 'write "forward"', "terminate": 'write "tls"', "offload": 'write "tls"', "plain": 'write "forward"',
        "clear": 'write "forward"', "passthru": 'write "passthrough"', "http": _HTTP,
    },
    "level": {
        "notice": 'write "info"', "warn": 'write "warning"', "err": 'write "error"', "crit": 'write "error"', "alert": 'write "error"',
        "emerg": 'write "error"',
    },
    "format": {"plain": 'write "text"', "httplog": 'write "tcplog"', "logfmt": 'write "text"'},
    "balance": {
        "least_conn": 'write "leastconn"', "static-rr": 'write "roundrobin"', "round_robin": 'write "roundrobin"', "rr": 'write "roundrobin"',
        "ip_hash": 'write "source"', "hash": 'write "source"', "uri": _HTTP,
    },
    "send_proxy": {
        "true": 'write "v2"', "yes": 'write "v2"', "false": 'write "none"',
    },
    "min_version": {"TLSv1.2": 'write "1.2"', "TLSv1.3": 'write "1.3"', "1.0": "TLS below 1.2 is always off", "1.1": "TLS below 1.2 is always off"},
    "verify": {"optional": 'write "none", or "chain" for the chain without the name', "full": 'write "required"', "yes": 'write "required"'},
    "client_verify": {"require": 'write "required"', "on": 'write "required"', "off": 'write "none"'},
    "type": {"submission": 'write "smtp"', "imaps": 'write "imap", with tls = true', "http": 'write "script", with steps'},
    "observe": {"layer4": 'write "connect"', "layer7": "not here, because what servers answer is not read"},
}  # fmt: skip


def normalized(word: str) -> str:
    """A word as the table has it."""
    return re.sub(r"[-\s.]+", "_", word.strip().lower()).removeprefix("no_option_").removeprefix("option_")


def about_key(word: str, table: type | None) -> str:
    """What to write for a word of other proxies in this table, or why there is nothing; empty where nothing is known."""
    name = normalized(word)
    hint = WORDS.get(name) or (WORDS["tune"] if name.startswith("tune_") else None)
    answer = "" if hint is None else hint.answer(table)
    target = TARGET.match(answer)
    if target is None:
        return answer if not answer or answer.startswith("not here") else f"write {answer}"
    place = _placed(target[1], target[2], table)
    value = _VALUE.match(answer, target.end())
    if place is None or value is None:
        return ""
    key, owner = place
    return f"write {key}{value[0]}{owner}{answer[value.end() :]}"


def about_value(key: str, value: object) -> str:
    """What to write for a value of other proxies; empty where nothing is known."""
    word = str(value).lower() if isinstance(value, bool) else value
    return VALUES.get(key, {}).get(word, "") if isinstance(word, str) else ""


def _placed(root: str, path: str, here: type | None) -> tuple[str, str] | None:
    """A key of the model as it is written in the table ``here``, and whose it is where that is another table's.

    None for a key that this version does not have.
    """
    owner, title = ROOTS[root]
    names, tables = path.split("."), [owner]
    for name in names:
        key = keys_of(tables[-1]).get(name)
        if key is None:
            return None
        tables.append(key.table or type(None))
    for index in reversed(range(len(names))):
        if here is tables[index] or _has_same(here, tables[index], names[index]):
            return ".".join(names[index:]), ""
    return path, f" of {title}"


def _has_same(here: type | None, table: type, name: str) -> bool:
    """Whether a table has a key that means what it means in another one, such as those that a server shares with its backend."""
    own, other = keys_of(here).get(name) if here else None, keys_of(table)[name]
    if own is None or own.is_list != other.is_list:
        return False
    return own.table is other.table if other.table else own.annotation == other.annotation
