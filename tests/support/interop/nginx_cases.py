"""Files of nginx's stream module, each with clients that visit it."""

from __future__ import annotations

from tests.support.interop.imported import Case, Visit

OTHER = "127.0.0.2"
_HEADER = b"PROXY TCP4 192.0.2.77 127.0.0.1 1000 143\r\n"
KEPT = Visit(keep=True)
TLS = Visit(tls=True, sni="imap.example.com")
_CERTIFICATE = (
    "ssl_certificate {folder}/imap.example.com.pem; ssl_certificate_key {folder}/imap.example.com.pem;"
)


def _case(name: str, text: str, *visits: Visit, expected: tuple[str, ...] | None = None) -> Case:
    return Case(name, text.replace("NAME", name.replace("-", "_")), visits or (Visit(),) * 4, (), expected)


def _server(name: str, lines: str, *visits: Visit, expected: tuple[str, ...] | None = None) -> Case:
    return _case(name, f"server {{ listen {{bind0}}; {lines} }}\n", *visits, expected=expected)


def _upstream(name: str, lines: str, *visits: Visit, expected: tuple[str, ...] | None = None) -> Case:
    text = f"upstream NAME {{ {lines} }}\nserver {{ listen {{bind0}}; proxy_pass NAME; }}\n"
    return _case(name, text, *visits, expected=expected)


CASES = (
    _server("one-server", "proxy_pass {s1};", expected=("s1",) * 4),
    _upstream("roundrobin", "server {s1}; server {s2};", expected=("s1", "s2", "s1", "s2")),
    _upstream("least-conn", "least_conn; server {s1}; server {s2};", KEPT, KEPT),
    _upstream("down", "server {s1} down; server {s2};", expected=("s2",) * 4),
    _upstream("backup", "server {dead}; server {s2} backup;", Visit(), Visit(), expected=("s2", "s2")),
    _upstream("backups", "server {s1} down; server {s2} backup; server {s3} backup;", expected=("s2", "s3", "s2", "s3")),
    _upstream("unused-backup", "server {s1}; server {s2} backup;", expected=("s1",) * 4),
    _upstream("next-upstream", "server {dead}; server {s2};", expected=("s2",) * 4),
    _server("dead-server", "proxy_pass {dead};", Visit(), expected=("closed",)),
    _upstream("all-dead", "server {dead}; server {host}:1;", Visit(), expected=("closed",)),
    _server("send-proxy", "proxy_pass {p1}; proxy_protocol on;", Visit(), Visit(source=OTHER)),
    _case(
        "accept-proxy",
        "server { listen {bind0} proxy_protocol; set_real_ip_from 127.0.0.0/8; proxy_pass {p1}; proxy_protocol on; }\n",
        Visit(header=_HEADER),
    ),
    _case("tls", f"server {{ listen {{bind0}} ssl; {_CERTIFICATE} proxy_pass {{s1}}; }}\n", TLS, expected=("s1",)),
    _case(
        "client-certificate",
        f"server {{ listen {{bind0}} ssl; {_CERTIFICATE} ssl_verify_client on; ssl_client_certificate {{folder}}/ca.pem; proxy_pass {{s1}}; }}\n",
        TLS, expected=("closed",),
    ),
    _server("server-tls", "proxy_pass {t2}; proxy_ssl on;", Visit(), expected=("t2",)),
    _server(
        "server-tls-verified",
        "proxy_pass {t1}; proxy_ssl on; proxy_ssl_verify on; proxy_ssl_name mail.internal; proxy_ssl_trusted_certificate {folder}/ca.pem;",
        Visit(), expected=("t1",),
    ),
    _server(
        "server-tls-other-name",
        "proxy_pass {t1}; proxy_ssl on; proxy_ssl_verify on; proxy_ssl_name other.internal; proxy_ssl_trusted_certificate {folder}/ca.pem;",
        Visit(), expected=("closed",),
    ),
    _case(
        "names",
        "map $ssl_preread_server_name $NAME { hostnames; default {t2}; imap.example.com {t1}; *.example.org {t1}; ~^(a|b)\\.example\\.net$ {t1}; }\n"
        "server { listen {bind0}; ssl_preread on; proxy_pass $NAME; }\n",
        TLS, Visit(tls=True, sni="mail.example.org"), Visit(tls=True, sni="b.example.net"), Visit(tls=True, sni="other.example"),
        expected=("t1", "t1", "t1", "t2"),
    ),
    _case(
        "alpn",
        "map $ssl_preread_alpn_protocols $NAME { default {t2}; ~\\bimap\\b {t1}; }\nserver { listen {bind0}; ssl_preread on; proxy_pass $NAME; }\n",
        Visit(tls=True, sni="x.example", alpn=("imap",)), Visit(tls=True, sni="x.example", alpn=("pop3",)), expected=("t1", "t2"),
    ),
    _case(
        "clients",
        f"geo $NAME {{ default {{s1}}; {OTHER}/32 {{s2}}; }}\nserver {{ listen {{bind0}}; proxy_pass $NAME; }}\n",
        Visit(), Visit(source=OTHER), expected=("s1", "s2"),
    ),
    _server("deny", f"deny {OTHER}; proxy_pass {{s1}};", Visit(), Visit(source=OTHER), expected=("s1", "closed")),
    _server("allow", f"allow {OTHER}; deny all; proxy_pass {{s1}};", Visit(), Visit(source=OTHER), expected=("closed", "s1")),
    _case(
        "limit-conn",
        "limit_conn_zone $binary_remote_addr zone=NAME:1m;\nserver { listen {bind0}; limit_conn NAME 2; proxy_pass {s1}; }\n",
        KEPT, KEPT, Visit(), Visit(source=OTHER), expected=("s1", "s1", "closed", "s1"),
    ),
    _server("timeout", "proxy_timeout 700ms; proxy_pass {s1};", Visit(action="idle"), expected=("s1",)),
    _case(
        "one-upstream-twice",
        "upstream NAME { server {p1}; }\nserver { listen {bind0}; proxy_pass NAME; proxy_protocol on; }\n"
        "server { listen {bind1}; proxy_pass {s1}; }\n",
        Visit(), Visit(bind=1), expected=("p1", "s1"),
    ),
)  # fmt: skip
