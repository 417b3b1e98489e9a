"""nginx's directives as keys, and what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailproxy.errors import ConfigError
from mailproxy.importers.run import import_files
from tests.support.imports import nginx, report, tables


def stream(server: str, around: str = "") -> dict[str, Any]:
    return tables(
        nginx(f"stream {{\n{around}\nserver {{ listen 993; proxy_pass 192.0.2.1:993; {server} }} }}")
    )


def frontend(server: str, around: str = "") -> dict[str, Any]:
    (found,) = stream(server, around)["frontends"].values()
    return found  # type: ignore[no-any-return]


def backend(server: str, around: str = "") -> dict[str, Any]:
    (found,) = stream(server, around)["backends"].values()
    return found  # type: ignore[no-any-return]


def upstream(lines: str) -> dict[str, Any]:
    text = f"stream {{ upstream u {{ {lines} }} server {{ listen 993; proxy_pass u; }} }}"
    return tables(nginx(text))["backends"]["u"]  # type: ignore[no-any-return]


def test_silent_defaults() -> None:
    assert frontend("") == {
        "protocol": "imap",
        "backend": "imaps",
        "timeouts": {"client": "10m"},
        "bind": ["*:993"],
    }
    found = backend("")
    assert found == {
        "balance": "roundrobin", "retries": 0, "timeouts": {"connect": "60s", "server": "10m"}, "check": False,
        "servers": [{"name": "192.0.2.1", "address": "192.0.2.1:993"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("directive", "key", "value"),
    [
        ("proxy_protocol on;", "send_proxy", "v1"), ("proxy_protocol v2;", "send_proxy", "v2"), ("proxy_ssl on;", "tls", {"verify": "none"}),
        ("proxy_ssl on; proxy_ssl_verify on; proxy_ssl_name m; proxy_ssl_trusted_certificate /ca;", "tls", {"ca": "/ca", "server_name": "m"}),
        ("proxy_ssl on; proxy_ssl_verify on;", "tls", {"server_name": "192.0.2.1"}),
        ("proxy_ssl on; proxy_ssl_certificate /c; proxy_ssl_certificate_key /k;", "tls", {"verify": "none", "certificate": "/c", "key": "/k"}),
        ("proxy_bind 10.0.0.9;", "source", "10.0.0.9"), ("proxy_bind $remote_addr transparent;", "source", "client"),
        ("proxy_socket_keepalive on;", "keepalive", True), ("proxy_connect_timeout 3s; proxy_timeout 1h30m;", "timeouts", {"connect": "3s", "server": "90m"}),
        ("resolver 127.0.0.1 valid=10s;", "resolve_interval", "10s"),
    ],
)  # fmt: skip
def test_proxy_directive(directive: str, key: str, value: object) -> None:
    assert backend(directive)[key] == value
    assert backend("", directive)[key] == value


class TestUpstreams:
    def test_servers(self) -> None:
        found = upstream(
            "least_conn; server 192.0.2.1:993 weight=2 max_conns=9; server 192.0.2.2:993 backup; server 192.0.2.3:993 down; server unix:/run/x;"
        )
        assert found["servers"] == [
            {"name": "192.0.2.1", "address": "192.0.2.1:993", "weight": 2, "max_sessions": 9},
            {"name": "192.0.2.2", "address": "192.0.2.2:993", "backup": True},
            {"name": "192.0.2.3", "address": "192.0.2.3:993", "state": "maint"},
            {"name": "x", "address": "unix:/run/x"},
        ]
        assert "balance" not in found

    @pytest.mark.parametrize(
        ("method", "balance"),
        [
            ("", "roundrobin"),
            ("hash $remote_addr consistent;", "source"),
            ("random two least_conn;", "random"),
            ("hash $server_port;", "roundrobin"),
        ],
    )
    def test_balance(self, method: str, balance: str) -> None:
        assert upstream(f"{method} server 192.0.2.1:993; server 192.0.2.2:993;")["balance"] == balance

    def test_passive_health(self) -> None:
        found = upstream(
            "server 192.0.2.1:993 max_fails=3 fail_timeout=30s; server 192.0.2.2:993 max_fails=3 fail_timeout=30s;"
        )
        assert found["check"] == {"type": "tcp", "interval": "30s", "rise": 1, "fall": 1}
        assert (found["observe"], found["error_limit"]) == ("connect", 3)
        assert "retries" in found

    def test_one_server_never_goes_down(self) -> None:
        assert upstream("server 192.0.2.1:993 max_fails=3;")["check"] is False

    def test_used_with_different_settings(self) -> None:
        text = "stream { upstream u { server 192.0.2.1:993; } server { listen 993; proxy_pass u; proxy_protocol on; } server { listen 994; proxy_pass u; } server { listen 995; proxy_pass u; } }"
        found = tables(nginx(text))
        assert {name: table["backend"] for name, table in found["frontends"].items()} == {
            "imaps": "u",
            "port-994": "u-2",
            "pop3s": "u-2",
        }

    def test_unused(self) -> None:
        result = nginx(
            "stream { upstream u { server 192.0.2.1:1; } server { listen 993; proxy_pass 192.0.2.2:993; } }"
        )
        assert list(tables(result)["backends"]) == ["imaps"]
        assert any("no server block uses u" in line for line in report(result))


class TestListen:
    @pytest.mark.parametrize(
        ("lines", "binds"),
        [
            ("listen 143;", ["*:143"]), ("listen 192.0.2.1:143;", ["192.0.2.1:143"]), ("listen [::]:143;", [{"address": "[::]:143", "v6only": True}]),
            ("listen [::]:143 ipv6only=off;", ["[::]:143"]), ("listen 143; listen [::]:143;", ["[::]:143"]), ("listen unix:/run/x;", ["unix:/run/x"]),
            ("listen 143-145;", ["*:143", "*:144", "*:145"]), ("listen localhost:143;", ["127.0.0.1:143"]),
            ("listen 143 ssl; listen [::]:143;", [{"address": "*:143", "mode": "tls"}, {"address": "[::]:143", "v6only": True}]),
            ("listen 143 backlog=9 fastopen=5 so_keepalive=30m::10;", [{"address": "*:143", "backlog": 9, "fast_open": True, "keepalive": {"idle": "30m", "count": 10}}]),
        ],
    )  # fmt: skip
    def test_addresses(self, lines: str, binds: list[object]) -> None:
        text = f"stream {{ ssl_certificate /c; server {{ {lines} proxy_pass 192.0.2.1:143; }} }}"
        (found,) = tables(nginx(text))["frontends"].values()
        assert found["bind"] == binds

    def test_header_from_trusted_networks(self) -> None:
        text = "stream { server { listen 143 proxy_protocol; set_real_ip_from 10.0.0.0/8; proxy_pass 192.0.2.1:143; } }"
        (bind,) = tables(nginx(text))["frontends"]["imap"]["bind"]
        assert bind == {"address": "*:143", "accept_proxy": ["10.0.0.0/8"]}

    def test_duplicate(self) -> None:
        result = nginx(
            "stream { server { listen 465; proxy_pass 192.0.2.1:465; } server { listen 465; listen 587; proxy_pass 192.0.2.1:587; } }"
        )
        assert [table["bind"] for table in tables(result)["frontends"].values()] == [["*:465"], ["*:587"]]
        assert any("which nginx refuses as a duplicate" in line for line in report(result))

    def test_servers_by_name(self) -> None:
        text = (
            "stream { server { listen 993 ssl; server_name a.example; ssl_certificate /a; ssl_certificate_key /ak; proxy_pass 192.0.2.1:143; }"
            " server { listen 993 ssl; server_name b.example; ssl_certificate /b; ssl_certificate_key /bk; proxy_pass 192.0.2.2:143; } }"
        )
        (found,) = tables(nginx(text))["frontends"].values()
        assert found["routes"] == [{"sni": ["b.example"], "backend": "imaps-2"}]
        assert found["tls"]["certificates"] == [
            {"certificate": "/a", "key": "/ak"},
            {"certificate": "/b", "key": "/bk"},
        ]

    def test_limits(self) -> None:
        assert (
            frontend("limit_conn c 20;", "limit_conn_zone $binary_remote_addr zone=c:1m;")[
                "max_sessions_per_client"
            ]
            == 20
        )


class TestTls:
    def tls(self, lines: str) -> Any:
        text = f"stream {{ server {{ listen 993 ssl; ssl_certificate /c; ssl_certificate_key /k; {lines} proxy_pass 192.0.2.1:143; }} }}"
        (found,) = tables(nginx(text))["frontends"].values()
        return {key: value for key, value in found["tls"].items() if key != "certificates"}

    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            ("ssl_protocols TLSv1.2 TLSv1.3;", {}), ("ssl_protocols TLSv1.3;", {"min_version": "1.3"}), ("ssl_protocols TLSv1.2;", {"max_version": "1.2"}),
            ("ssl_ciphers HIGH;", {"ciphers": "HIGH"}), ("ssl_session_tickets off;", {"tickets": False}), ("ssl_alpn imap;", {"alpn": ["imap"]}),
            ("ssl_verify_client on; ssl_client_certificate /ca;", {"client_verify": "required", "client_ca": "/ca"}), ("ssl_ecdh_curve X25519;", {"curves": "X25519"}),
        ],
    )  # fmt: skip
    def test_directive(self, lines: str, expected: dict[str, object]) -> None:
        assert self.tls(lines) == expected

    def test_old_versions_are_lost(self) -> None:
        assert nginx(
            "stream { server { listen 993 ssl; ssl_certificate /c; ssl_protocols TLSv1 TLSv1.2; proxy_pass 192.0.2.1:143; } }"
        ).has_losses

    def test_missing_certificate(self) -> None:
        result = nginx("stream { server { listen 993 ssl; proxy_pass 192.0.2.1:143; } }")
        assert tables(result)["frontends"]["imaps"]["tls"] == {"certificates": ["/etc/mailproxy/certs/"]}
        assert result.has_losses


class TestRoutes:
    def test_order_of_a_map(self) -> None:
        around = "map $ssl_preread_server_name $b { default 192.0.2.1:1; hostnames; *.a.example 192.0.2.2:2; ~^(x|y)\\.b\\.example$ 192.0.2.3:3; imap.a.example 192.0.2.4:4; }"
        text = f"stream {{ {around} server {{ listen 993; ssl_preread on; proxy_pass $b; }} }}"
        found = tables(nginx(text))["frontends"]["imaps"]
        assert [route["sni"] for route in found["routes"]] == [
            ["imap.a.example"],
            ["*.a.example"],
            ["x.b.example", "y.b.example"],
        ]
        assert found["backend"]

    def test_clients(self) -> None:
        text = "stream { geo $b { default 192.0.2.1:143; 10.0.0.0/8 192.0.2.2:143; } server { listen 143; proxy_pass $b; } }"
        found = tables(nginx(text))["frontends"]["imap"]
        assert found["routes"] == [{"client": ["10.0.0.0/8"], "backend": "imap"}]
        assert found["backend"] == "imap-2"

    def test_denied_and_allowed(self) -> None:
        assert frontend("deny 198.51.100.0/24; deny 203.0.113.7;")["routes"] == [
            {"client": ["198.51.100.0/24", "203.0.113.7/32"], "reject": True}
        ]
        found = frontend("allow 10.0.0.0/8; allow 192.168.0.0/16; deny all;")
        assert found["routes"] == [
            {"client": ["10.0.0.0/8", "192.168.0.0/16"], "backend": "imaps"},
            {"reject": True},
        ]
        assert "backend" not in found

    def test_unknown_variable(self) -> None:
        result = nginx("stream { server { listen 993; proxy_pass $ssl_preread_server_name:993; } }")
        assert result.has_losses


class TestMail:
    def test_server(self) -> None:
        result = nginx(
            "mail { auth_http 127.0.0.1:9000; ssl_certificate /c; ssl_certificate_key /k; server { listen 993 ssl; protocol imap; } }"
        )
        assert tables(result)["frontends"] == {
            "imaps": {"protocol": "imap", "timeouts": {"client": "1d"}, "tls": {"certificates": [{"certificate": "/c", "key": "/k"}]}, "bind": [{"address": "*:993", "mode": "tls"}]}
        }  # fmt: skip
        assert any("auth_http: the login decides the server" in line for line in report(result))

    def test_starttls(self) -> None:
        result = nginx("mail { server { listen 143; protocol imap; starttls only; ssl_certificate /c; } }")
        (bind,) = tables(result)["frontends"]["imap"]["bind"]
        assert bind["mode"] == "starttls"

    def test_submission_by_port(self) -> None:
        result = nginx("mail { server { listen 587; protocol smtp; } }")
        assert tables(result)["frontends"]["submission"]["protocol"] == "submission"


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("stream {\n server {", r":2:2: the block is not closed"), ("}", r":1:1: there is a \} without a block"), ("a 'b", r":1:3: the quote ' is not closed"),
            ("a b", r":1:1: a has no ; at its end"), (";", ":1:1: there is a ; without a directive"),
        ],
    )  # fmt: skip
    def test_faults(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=f"^nginx.conf{message}"):
            nginx(text)

    def test_includes(self, tmp_path: Path) -> None:
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d" / "a.conf").write_text(
            "server { listen 143; proxy_pass 192.0.2.1:143;\n foo bar; }"
        )
        (tmp_path / "conf.d" / "b.conf").write_text("server { listen 110; proxy_pass 192.0.2.1:110; }")
        file = tmp_path / "nginx.conf"
        file.write_text("stream { include conf.d/*.conf; include missing.conf; }")
        result = import_files("nginx", [file])
        assert list(tables(result)["frontends"]) == ["imap", "pop3"]
        assert any(line.startswith(f"{tmp_path}/conf.d/a.conf:2:2: foo: ") for line in report(result))
        assert any("missing.conf cannot be read here" in line for line in report(result))

    def test_include_loop(self, tmp_path: Path) -> None:
        file = tmp_path / "nginx.conf"
        file.write_text("include nginx.conf;")
        with pytest.raises(ConfigError, match=r"nginx\.conf:1:1: .* includes itself"):
            import_files("nginx", [file])

    def test_comments(self) -> None:
        text = "# all\nstream {\n  # IMAP\n  server {\n    listen 143; # public\n    # the server\n    proxy_pass 192.0.2.1:143;\n  }\n}\n"
        written = nginx(text).text
        assert "# IMAP\n[frontends.imap]" in written
        assert '"*:143",  # public' in written

    def test_http_is_left_out(self) -> None:
        result = nginx("http { server { listen 80; } }")
        assert "frontends" not in tables(result)
        assert not result.has_losses


def test_silent_timeout_is_reported_once() -> None:
    result = nginx("stream {\n server { listen 143; proxy_pass 192.0.2.1:143; }\n}\n")
    assert [line for line in report(result) if "RFC 2177" in line] == [
        (
            "nginx.conf:2:2: advice: server: 10m cuts off IMAP clients in IDLE, which are silent for 29 minutes (RFC 2177): "
            "remove it for mailproxy's 31m"
        )
    ]


@pytest.mark.parametrize("digits", ["9" * 5_000, "٣"])
@pytest.mark.parametrize(
    "text",
    [
        "limit_conn_zone $remote_addr zone=a:1m; server {{ listen 143; limit_conn a {0}; proxy_pass 192.0.2.1:143; }}",
        "server {{ listen 143; proxy_pass 192.0.2.1:{0}; }}", "server {{ listen {0}; proxy_pass 192.0.2.1:143; }}",
        "upstream u {{ server 192.0.2.1:{0} weight={0} max_fails={0}; }} server {{ listen 143; proxy_pass u; proxy_timeout {0}; }}",
    ],
)  # fmt: skip
def test_digits_that_are_no_number(text: str, digits: str) -> None:
    """Python refuses numbers of thousands of digits, and takes those of other scripts."""
    result = nginx(f"stream {{ {text.format(digits)} }}")
    assert result.has_losses


def test_log_targets() -> None:
    text = "stream { access_log /var/log/a.log; access_log off; server { listen 143; access_log syslog:server=192.0.2.9,facility=mail,tag=x main; proxy_pass 192.0.2.1:143; } }"
    assert tables(nginx(text))["log"]["targets"] == [
        {"to": "/var/log/a.log"},
        {"facility": "mail", "tag": "x", "to": "syslog:192.0.2.9:514"},
    ]


def test_several_backups_share_the_sessions() -> None:
    found = upstream("server 192.0.2.1:993; server 192.0.2.2:993 backup; server 192.0.2.3:993 backup;")
    assert found["all_backups"] is True
    assert "all_backups" not in upstream("server 192.0.2.1:993; server 192.0.2.2:993 backup;")


def test_pid_file_stays_with_nginx_that_stays_for_http() -> None:
    stream_block = "pid /run/nginx.pid; stream { server { listen 993; proxy_pass 192.0.2.1:993; } }"
    assert tables(nginx(stream_block))["process"]["pid_file"] == "/run/nginx.pid"
    result = nginx(f"{stream_block} http {{ server {{ listen 80; }} }}")
    assert "pid_file" not in tables(result).get("process", {})
    assert any("note: pid: nginx needs it for HTTP" in line for line in report(result))
