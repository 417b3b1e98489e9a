"""Files of HAProxy, each with clients that visit it: one for each directive whose effect can be seen."""

from __future__ import annotations

from tests.support.interop.imported import Case, Visit

OTHER, THIRD = "127.0.0.2", "127.0.0.3"

_DEFAULTS = """defaults
    log global
    mode tcp
    option tcplog
    option dontlognull
    timeout connect 2s
    timeout client 10s
    timeout server 10s
"""
_HEADER = b"PROXY TCP4 192.0.2.77 192.0.2.78 1000 143\r\n"
KEPT = Visit(keep=True)
TLS = Visit(tls=True, sni="imap.example.com")


def _case(
    name: str,
    text: str,
    *visits: Visit,
    down: tuple[str, ...] = (),
    expected: tuple[str, ...] | None = None,
    defaults: str = _DEFAULTS,
) -> Case:
    text = text.replace("NAME", name)
    return Case(
        name,
        defaults + text,
        visits or (Visit(),) * 4,
        tuple(each.replace("NAME", name) for each in down),
        expected,
    )


def _listen(name: str, lines: str, *visits: Visit, **options: object) -> Case:
    return _case(name, f"listen NAME\n    bind {{bind0}}\n{lines}", *visits, **options)  # type: ignore[arg-type]


_TWO = "    server a {s1}\n    server b {s2}\n"

CASES = (
    # Balance and servers.
    _listen("roundrobin", f"    balance roundrobin\n{_TWO}", expected=("s1", "s2", "s1", "s2")),
    _listen("no-balance", _TWO, expected=("s1", "s2", "s1", "s2")),
    _listen("leastconn", f"    balance leastconn\n{_TWO}    server c {{s3}}\n", KEPT, KEPT, Visit()),
    _listen("static-rr", f"    balance static-rr\n{_TWO}"),
    _listen("first", "    balance first\n    server a {s1} maxconn 1\n    server b {s2}\n", KEPT, Visit(), Visit(), expected=("s1", "s2", "s2")),
    _listen("weights", "    server a {s1} weight 3\n    server b {s2} weight 1\n", *(Visit(),) * 8),
    _listen("weight-0", "    server a {s1} weight 0\n    server b {s2}\n", expected=("s2",) * 4),
    _listen("disabled", "    server a {s1} disabled\n    server b {s2}\n", expected=("s2",) * 4),
    _listen("default-server", "    default-server disabled\n    server a {s1}\n    default-server weight 5\n    server b {s2} enabled\n", expected=("s2",) * 4),
    _listen("backup", "    server a {dead} check inter 200ms\n    server b {s2} backup\n    server c {s3} backup\n", down=("NAME/a",), expected=("s2",) * 4),
    _listen("allbackups", "    option allbackups\n    server a {dead} check inter 200ms\n    server b {s2} backup\n    server c {s3} backup\n", down=("NAME/a",), expected=("s2", "s3", "s2", "s3")),
    _listen("unused-backup", "    server a {s1}\n    server b {s2} backup\n", expected=("s1",) * 4),
    _listen("server-maxconn", "    no option dontlognull\n    timeout queue 300ms\n    server a {s1} maxconn 1\n", KEPT, Visit(), expected=("s1", "closed")),
    _listen("silent-queue", "    no option dontlognull\n    timeout connect 300ms\n    server a {s1} maxconn 1\n", KEPT, Visit(), expected=("s1", "closed")),
    # Retries.
    _listen("retries-0", "    no option dontlognull\n    retries 0\n    server a {dead}\n", Visit(), expected=("closed",)),
    _listen("no-redispatch", "    no option dontlognull\n    retries 1\n    server a {dead}\n    server b {s2}\n", Visit(), Visit(), expected=("closed", "s2")),
    _listen("redispatch", "    option redispatch\n    retries 1\n    server a {dead}\n    server b {s2}\n", Visit(), Visit(), expected=("s2", "s2")),
    _listen("redispatch-every-retry", "    option redispatch 1\n    retries 2\n    server a {dead}\n    server b {s2}\n", Visit(), expected=("s2",)),
    _listen(
        "option-switched-off", "    no option dontlognull\n    no option redispatch\n    retries 1\n    server a {dead}\n    server b {s2}\n", Visit(), expected=("closed",),
        defaults=f"{_DEFAULTS}    option redispatch\n",
    ),
    # PROXY headers.
    _listen("send-proxy", "    server a {p1} send-proxy\n", Visit(), Visit(source=OTHER)),
    _listen("send-proxy-v2", "    server a {p1} send-proxy-v2\n", Visit(), Visit(source=OTHER)),
    _listen("some-send-proxy", "    server a {p1} send-proxy\n    server b {s2}\n", Visit(), Visit()),
    _case("accept-proxy", "listen NAME\n    bind {bind0} accept-proxy\n    server a {p1} send-proxy\n", Visit(header=_HEADER)),
    _listen("expect-proxy", f"    tcp-request connection expect-proxy layer4 if {{ src {OTHER} }}\n    server a {{p1}} send-proxy\n", Visit(source=OTHER, header=_HEADER), Visit()),
    _case("send-proxy-v2-ssl", "listen NAME\n    bind {bind0} ssl crt {folder}/imap.example.com.pem\n    server a {p1} send-proxy-v2-ssl\n", TLS),
    # TLS towards clients.
    _case("tls", "listen NAME\n    bind {bind0} ssl crt {folder}/imap.example.com.pem\n    server a {s1}\n", TLS, Visit(tls=True), expected=("s1", "s1")),
    _case("tls-two-names", "listen NAME\n    bind {bind0} ssl crt {folder}/imap.example.com.pem crt {folder}/pop.example.com.pem\n    server a {s1}\n", TLS, Visit(tls=True, sni="pop.example.com")),
    _case("strict-sni", "listen NAME\n    bind {bind0} ssl strict-sni crt {folder}/imap.example.com.pem\n    server a {s1}\n", TLS, Visit(tls=True, sni="other.example.com"), expected=("s1", "closed")),
    _case("client-certificate", "listen NAME\n    bind {bind0} ssl crt {folder}/imap.example.com.pem ca-file {folder}/ca.pem verify required\n    server a {s1}\n", TLS, expected=("closed",)),
    _case("optional-certificate", "listen NAME\n    bind {bind0} ssl crt {folder}/imap.example.com.pem ca-file {folder}/ca.pem verify optional\n    server a {s1}\n", TLS, expected=("s1",)),
    _case(
        "routes-of-terminated-tls",
        "frontend NAME\n    bind {bind0} ssl crt {folder}/imap.example.com.pem crt {folder}/pop.example.com.pem\n    use_backend NAME-pop if { ssl_fc_sni -i POP.example.com }\n"
        "    default_backend NAME-imap\nbackend NAME-imap\n    server a {s1}\nbackend NAME-pop\n    server b {s2}\n",
        TLS, Visit(tls=True, sni="pop.example.com"), expected=("s1", "s2"),
    ),
    # TLS towards servers.
    _listen("server-tls", "    server a {t1} ssl verify none\n", expected=("t1",) * 4),
    _listen("server-tls-verified", "    server a {t1} ssl verify required ca-file {folder}/ca.pem verifyhost mail.internal\n", Visit(), expected=("t1",)),
    _listen("server-tls-chain", "    server a {t1} ssl verify required ca-file {folder}/ca.pem\n", Visit(), expected=("t1",)),
    _listen("server-tls-other-name", "    no option dontlognull\n    retries 0\n    server a {t1} ssl verify required ca-file {folder}/ca.pem verifyhost other.internal\n", Visit(), expected=("closed",)),
    # Routes.
    _case(
        "names-passed-through",
        "frontend NAME\n    bind {bind0}\n    tcp-request inspect-delay 2s\n    tcp-request content accept if { req_ssl_hello_type 1 }\n"
        "    use_backend NAME-a if { req_ssl_sni -i imap.example.com }\n    use_backend NAME-b if { req.ssl_sni -m end .example.org }\n    default_backend NAME-c\n"
        "backend NAME-a\n    server a {t1}\nbackend NAME-b\n    server b {t2}\nbackend NAME-c\n    server c {t1}\n",
        TLS, Visit(tls=True, sni="mail.example.org"), Visit(tls=True, sni="other.example.com"),
    ),
    _case(
        "alpn",
        "frontend NAME\n    bind {bind0}\n    tcp-request inspect-delay 2s\n    tcp-request content accept if { req.ssl_hello_type 1 }\n    use_backend NAME-a if { req.ssl_alpn imap }\n"
        "    default_backend NAME-b\nbackend NAME-a\n    server a {t1}\nbackend NAME-b\n    server b {t2}\n",
        Visit(tls=True, sni="x.example", alpn=("imap",)), Visit(tls=True, sni="x.example", alpn=("pop3",)), expected=("t1", "t2"),
    ),
    _case(
        "clients",
        f"frontend NAME\n    bind {{bind0}}\n    acl others src {OTHER} 198.51.100.0/24\n    acl others src {THIRD}/32\n    use_backend NAME-b if others\n    default_backend NAME-a\n"
        "backend NAME-a\n    server a {s1}\nbackend NAME-b\n    server b {s2}\n",
        Visit(), Visit(source=OTHER), Visit(source=THIRD), expected=("s1", "s2", "s2"),
    ),
    _case(
        "ports",
        "frontend NAME\n    bind {bind0},{bind1}\n    use_backend NAME-b if { dst_port {bind_port1} }\n    default_backend NAME-a\nbackend NAME-a\n    server a {s1}\nbackend NAME-b\n    server b {s2}\n",
        Visit(), Visit(bind=1), expected=("s1", "s2"),
    ),
    _listen("reject", f"    tcp-request connection reject if {{ src {OTHER} }}\n    server a {{s1}}\n", Visit(), Visit(source=OTHER), expected=("s1", "closed")),
    _listen("reject-unless", f"    tcp-request connection reject unless {{ src {OTHER} }}\n    server a {{s1}}\n", Visit(), Visit(source=OTHER), expected=("closed", "s1")),
    _listen("accept-and-reject", f"    tcp-request connection accept if {{ src {OTHER} }}\n    tcp-request connection reject\n    server a {{s1}}\n", Visit(), Visit(source=OTHER), expected=("closed", "s1")),
    _case(
        "use-backend-unless",
        f"frontend NAME\n    bind {{bind0}}\n    use_backend NAME-b unless {{ src {OTHER} }}\n    default_backend NAME-a\nbackend NAME-a\n    server a {{s1}}\nbackend NAME-b\n    server b {{s2}}\n",
        Visit(), Visit(source=OTHER), expected=("s2", "s1"),
    ),
    # Limits and stick tables.
    _listen("conn-cur", "    stick-table type ip size 1k expire 30s store conn_cur\n    tcp-request connection track-sc0 src\n    tcp-request connection reject if { sc0_conn_cur gt 2 }\n    server a {s1}\n", KEPT, KEPT, Visit(), Visit(source=OTHER), expected=("s1", "s1", "closed", "s1")),
    _listen("conn-rate", f"    stick-table type ip size 1k expire 60s store conn_rate(60s)\n    tcp-request connection track-sc0 src\n    tcp-request connection accept if {{ src {OTHER} }}\n    tcp-request connection reject if {{ sc0_conn_rate gt 2 }}\n    server a {{s1}}\n", Visit(), Visit(), Visit(), Visit(source=OTHER), expected=("s1", "s1", "closed", "s1")),
    _listen("stick", f"    stick-table type ip size 1k expire 30s\n    stick on src\n{_TWO}", Visit(), Visit(source=OTHER), Visit(), Visit(), Visit(source=OTHER), expected=("s1", "s2", "s1", "s1", "s2")),
    _listen("frontend-maxconn", "    maxconn 1\n    server a {s1}\n", KEPT, Visit(wait_s=0.5), expected=("s1", "silent")),
    # Checks.
    _listen("check", "    server a {dead} check inter 200ms\n    server b {s2} check inter 5s\n", down=("NAME/a",), expected=("s2",) * 4),
    _listen("check-port", "    server a {s1} check port {port_s2} inter 5s\n    server b {s2}\n", expected=("s1", "s2", "s1", "s2")),
    _listen("tcp-check", "    option tcp-check\n    tcp-check expect rstring ^\\*\\ OK\n    server a {bye} check inter 200ms\n    server b {s2} check inter 5s\n", down=("NAME/a",), expected=("s2",) * 4),
    _listen("tcp-check-dialogue", "    option tcp-check\n    tcp-check connect default linger\n    tcp-check expect string *\\ OK\n    tcp-check send NOOP\\r\\n\n    tcp-check expect ! string fine\n    server a {s1} check inter 200ms\n    server b {s2}\n", down=("NAME/a",), expected=("s2",) * 4),
    _listen("ehlo-check", "    option smtpchk EHLO lb.example.com\n    server a {busy} check inter 200ms\n    server b {s2}\n", down=("NAME/a",), expected=("s2",) * 4),
    _listen("check-ssl", "    server a {s1} check check-ssl verify none inter 300ms\n    server b {t2} check ssl verify none inter 5s\n", down=("NAME/a",), expected=("t2",) * 4),
    _listen("ssl-hello-chk", "    option ssl-hello-chk\n    server a {s1} check inter 300ms\n    server b {s2}\n", down=("NAME/a",), expected=("s2",) * 4),
    _listen("check-header", "    server a {p1} check inter 5s send-proxy\n", Visit(), expected=("p1",)),
    # Timeouts and the log.
    _listen("client-timeout", "    no option dontlognull\n    timeout client 700ms\n    server a {s1}\n", Visit(action="idle"), expected=("s1",)),
    _listen("server-timeout", "    no option dontlognull\n    timeout server 700ms\n    server a {s1}\n", Visit(action="idle"), expected=("s1",)),
    _listen("tunnel-timeout", "    no option dontlognull\n    timeout tunnel 700ms\n    server a {s1}\n", Visit(action="idle"), expected=("s1",)),
    _listen("null-sessions", "    no option dontlognull\n    server a {s1}\n", Visit(action="leave")),
    _listen("silent-null-sessions", "    server a {s1}\n", Visit(action="leave"), Visit()),
    # The language.
    _case("variables", 'global\n    setenv IMPORTED_HOST {host}\nlisten NAME\n    bind {bind0}\n    server a "$IMPORTED_HOST:{port_s1}"\n    server b ${IMPORTED_HOST}:{port_s2}\n'),
    _case("conditions", ".if version_atleast(2.4) && !streq(a,b)\nlisten NAME\n    bind {bind0}\n    server a {s1}\n.else\nlisten NAME\n    bind {bind0}\n    server b {s2}\n.endif\n", expected=("s1",) * 4),
    _case("beside-http", "frontend NAME-web\n    mode http\n    bind {folder}/web.sock\n    http-request deny\nlisten NAME\n    bind {bind0}\n    server a {s1}\n"),
    _case("shared-backend", "frontend NAME\n    bind {bind0}\n    default_backend NAME-x\nfrontend NAME-2\n    bind {bind1}\n    default_backend NAME-x\nbackend NAME-x\n    server a {s1}\n    server b {s2}\n", Visit(), Visit(bind=1), Visit(), Visit(bind=1)),
    _case("quotes", "listen NAME\n    bind \"{bind0}\" name 'first bind'\n    server a '{s1}'\n    server \"b\" {s2}\n"),
)  # fmt: skip
