"""Caddy's layer4 as keys, from Caddyfiles and from JSON, and what is reported."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mailproxy.errors import ConfigError
from tests.support.imports import caddy, report, tables


def server(*lines: str, address: str = ":993") -> str:
    return "{\n layer4 {\n  " + address + " {\n" + "\n".join(lines) + "\n  }\n }\n}\n"


def frontend(*lines: str, address: str = ":993") -> dict[str, Any]:
    (found,) = tables(caddy(server(*lines, address=address)))["frontends"].values()
    return found  # type: ignore[no-any-return]


def backend(*lines: str) -> dict[str, Any]:
    text = server("route {\n proxy 192.0.2.1:143 192.0.2.2:143 {\n" + "\n".join(lines) + "\n}\n}")
    (found,) = tables(caddy(text))["backends"].values()
    return found  # type: ignore[no-any-return]


PROXY = "proxy 192.0.2.1:993"


def test_silent_defaults() -> None:
    found = backend()
    assert (found["balance"], found["retries"], found["check"]) == ("random", 0, False)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (":993", ["[::]:993"]), ("0.0.0.0:993", ["*:993"]), ("tcp/:993", ["[::]:993"]), ("tcp4/:993", ["*:993"]), ("127.0.0.1:993", ["127.0.0.1:993"]),
        ("[::1]:993", ["[::1]:993"]), ("localhost:993", ["127.0.0.1:993"]), (":993 :143", ["[::]:993", "[::]:143"]), (":993,:143", ["[::]:993", "[::]:143"]),
        ("unix//run/x", ["unix:/run/x"]), ("fd/3", ["fd:3"]), (":993-994", ["[::]:993", "[::]:994"]),
    ],
)  # fmt: skip
def test_addresses(address: str, expected: list[str]) -> None:
    assert frontend(f"route {{\n{PROXY}\n}}", address=address)["bind"] == expected


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("proxy_protocol v1", "send_proxy", "v1"), ("proxy_protocol v2", "send_proxy", "v2"), ("lb_policy least_conn", "balance", None), ("lb_policy ip_hash", "balance", "source"),
        ("lb_policy round_robin", "balance", "roundrobin"), ("lb_policy first", "balance", "first"), ("lb_policy random_choose 2", "balance", "random"),
        ("lb_try_duration 5s\nlb_try_interval 1s", "retries", 5), ("local_addr 10.0.0.9", "source", "10.0.0.9"),
        ("health_interval 5s\nhealth_port 144", "check", {"type": "tcp", "interval": "5s", "rise": 1, "fall": 1, "port": 144}),
        ("fail_duration 30s\nmax_fails 3", "error_limit", 3), ("fail_duration 30s", "observe", "connect"),
    ],
)  # fmt: skip
def test_proxy_option(line: str, key: str, value: object) -> None:
    assert backend(line).get(key) == value


def test_first_policy_makes_backups() -> None:
    assert [row.get("backup") for row in backend("lb_policy first")["servers"]] == [None, True]


def test_upstream_options() -> None:
    found = tables(
        caddy(
            server(
                "route {\nproxy {\nupstream 192.0.2.1:993 {\nmax_connections 9\ntls_server_name m\n}\nupstream {\ndial 192.0.2.2:993\ntls_insecure_skip_verify\n}\n}\n}"
            )
        )
    )
    (table,) = found["backends"].values()
    assert table["servers"] == [
        {"name": "192.0.2.1", "address": "192.0.2.1:993", "max_sessions": 9, "tls": {"server_name": "m"}},
        {"name": "192.0.2.2", "address": "192.0.2.2:993", "tls": {"verify": "none"}},
    ]


class TestRoutes:
    def test_names_pass_through(self) -> None:
        found = frontend("@a tls sni a.example *.b.example", f"route @a {{\n{PROXY}\n}}")
        assert found["bind"] == [{"address": "[::]:993", "mode": "passthrough"}]
        assert found["routes"] == [{"sni": ["a.example", "*.b.example"], "backend": "imaps"}]
        assert "backend" not in found

    def test_terminated_and_passed_through(self) -> None:
        found = frontend(
            "@a tls sni a.example",
            f"route @a {{\ntls\n{PROXY}\n}}",
            "@b tls sni b.example",
            "route @b {\nproxy 192.0.2.2:993\n}",
        )
        assert found["bind"][0]["mode"] == "passthrough"
        assert [route.get("mode") for route in found["routes"]] == ["tls", None]

    def test_clients_and_alpn_in_one_set(self) -> None:
        found = frontend(
            "@a {\ntls {\nsni a.example\nalpn imap\n}\nremote_ip 10.0.0.0/8 private_ranges\n}",
            f"route @a {{\n{PROXY}\n}}",
        )
        (route,) = found["routes"]
        assert (route["sni"], route["alpn"], len(route["client"])) == (["a.example"], ["imap"], 7)

    def test_not(self) -> None:
        found = frontend("@out not remote_ip 10.0.0.0/8", "route @out {\nclose\n}", f"route {{\n{PROXY}\n}}")
        assert found["routes"] == [{"client": ["10.0.0.0/8"], "backend": "imaps"}]
        assert "backend" not in found

    def test_subroute(self) -> None:
        found = frontend(
            "@a tls sni a.example",
            f"route @a {{\nsubroute {{\n@in remote_ip 10.0.0.0/8\nroute @in {{\n{PROXY}\n}}\n}}\n}}",
        )
        assert found["routes"] == [{"sni": ["a.example"], "client": ["10.0.0.0/8"], "backend": "imaps"}]

    def test_tls_before_other_routes(self) -> None:
        """A route without proxy goes on with the next one."""
        found = frontend("route {\ntls\n}", f"route {{\n{PROXY}\n}}")
        assert found["bind"][0]["mode"] == "tls"
        assert found["backend"] == "imaps"

    @pytest.mark.parametrize("matcher", ["ssh", "http host a", "local_ip 10.0.0.1", "regexp x"])
    def test_other_matchers(self, matcher: str) -> None:
        result = caddy(server(f"@a {matcher}", f"route @a {{\n{PROXY}\n}}", f"route {{\n{PROXY}\n}}"))
        assert result.has_losses
        assert "routes" not in tables(result)["frontends"]["imaps"]


class TestHeaders:
    def test_allowed(self) -> None:
        found = frontend(f"route {{\nproxy_protocol {{\nallow 10.0.0.0/8\ntimeout 2s\n}}\n{PROXY}\n}}")
        assert found["bind"] == [
            {"address": "[::]:993", "accept_proxy": ["10.0.0.0/8"], "proxy_optional": True}
        ]
        assert found["timeouts"] == {"proxy_header": "2s"}

    def test_bare(self) -> None:
        result = caddy(server(f"route {{\nproxy_protocol\n{PROXY}\n}}"))
        (bind,) = tables(result)["frontends"]["imaps"]["bind"]
        assert bind["accept_proxy"] == ["0.0.0.0/0", "::/0"]
        assert any("advice: proxy_protocol" in line for line in report(result))


class TestCertificates:
    def test_obtained(self) -> None:
        result = caddy(
            server("@a tls sni imap.example.com", f"route @a {{\ntls\n{PROXY}\n}}")
            + "imap.example.com {\nrespond 200\n}\n"
        )
        found = tables(result)
        assert found["acme"]["caddy"]["terms_agreed"] is True
        assert found["frontends"]["imaps"]["tls"] == {"acme": "caddy", "names": ["imap.example.com"]}

    def test_authority_of_another_directory(self) -> None:
        """Its global options in a Caddyfile, and as ``caddy adapt`` writes them in JSON."""
        options = (
            "email a@example.com\nacme_ca https://ca.example/dir\nacme_ca_root /ca.pem\nhttp_port 8080\n"
        )
        caddyfile = server("@a tls sni a.example", f"route @a {{\ntls\n{PROXY}\n}}") + "a.example {\n}\n"
        issuer: dict[str, Any] = {"module": "acme", "ca": "https://ca.example/dir", "email": "a@example.com"}
        issuer["trusted_roots_pem_files"] = ["/ca.pem"]
        route = {
            "match": [{"tls": {"sni": ["a.example"]}}],
            "handle": [
                {"handler": "tls"},
                {"handler": "proxy", "upstreams": [{"dial": ["192.0.2.1:993"]}]},
            ],
        }
        servers = {"s": {"listen": [":993"], "routes": [route]}}

        def adapted(http: dict[str, Any], issuer: dict[str, Any]) -> str:
            policy = {"subjects": ["a.example"], "issuers": [issuer]}
            tls = {"automation": {"policies": [policy]}}
            return json.dumps({"apps": {"http": http, "layer4": {"servers": servers}, "tls": tls}})

        expected = {
            "directory": "https://ca.example/dir", "ca": "/ca.pem", "contact": ["mailto:a@example.com"],
            "terms_agreed": True, "challenge": "http-01", "http": "*:8080", "storage": "/var/lib/mailproxy/acme",
        }  # fmt: skip
        for text in (
            "{\n" + options + caddyfile.removeprefix("{\n"),
            adapted({"http_port": 8080}, issuer),
            adapted({}, {**issuer, "challenges": {"http": {"alternate_port": 8080}}}),
        ):
            result = caddy(text)
            assert tables(result)["acme"]["caddy"] == expected
            assert not result.has_losses
            assert any("port 8080" in line for line in report(result))

    def test_external_account(self) -> None:
        options = "acme_eab {\nkey_id kid-1\nmac_key c2VjcmV0\n}\n"
        text = server("@a tls sni a.example", f"route @a {{\ntls\n{PROXY}\n}}") + "a.example {\n}\n"
        result = caddy("{\n" + options + text.removeprefix("{\n"))
        assert tables(result)["acme"]["caddy"]["eab"] == {
            "key_id": "kid-1",
            "hmac_file": "/etc/mailproxy/eab.key",
        }
        (line,) = [line for line in report(result) if "mac_key" in line]
        assert line.endswith("put its value, in base64url, into /etc/mailproxy/eab.key")
        assert "c2VjcmV0" not in result.text + "".join(report(result))

    def test_external_account_in_json(self) -> None:
        issuer = {"module": "acme", "external_account": {"key_id": "kid-1", "mac_key": "c2VjcmV0"}}
        route = {
            "match": [{"tls": {"sni": ["a.example"]}}],
            "handle": [
                {"handler": "tls"},
                {"handler": "proxy", "upstreams": [{"dial": ["192.0.2.1:993"]}]},
            ],
        }
        policies = [{"subjects": ["a.example"], "issuers": [issuer]}]
        servers = {"s": {"listen": [":993"], "routes": [route]}}
        apps = {"layer4": {"servers": servers}, "tls": {"automation": {"policies": policies}}}
        result = caddy(json.dumps({"apps": apps}))
        assert tables(result)["acme"]["caddy"]["eab"]["key_id"] == "kid-1"
        assert any("mac_key" in line for line in report(result))

    def test_own_authority(self) -> None:
        text = (
            server("@a tls sni a.example", f"route @a {{\ntls\n{PROXY}\n}}")
            + "a.example {\ntls internal\n}\n"
        )
        result = caddy(text)
        assert "acme" not in tables(result)
        assert any("there is no CA of Caddy's own here" in line for line in report(result))

    def test_files_of_a_site(self) -> None:
        found = tables(caddy(server(f"route {{\ntls\n{PROXY}\n}}") + "a.example {\ntls /c /k\n}\n"))
        assert found["frontends"]["imaps"]["tls"] == {"certificates": [{"certificate": "/c", "key": "/k"}]}


class TestLanguage:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{\n layer4 {", r":2:9: the block is not closed"),
            ("}\n", r":1:1: there is a \} without a block"),
            ('a "b', r':1:3: the quote " is not closed'),
        ],
    )
    def test_faults(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=f"^Caddyfile{message}"):
            caddy(text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"a": }', r":1:7: is no JSON: a value is missing"),
            ('{"a": 1', r":1:8: is no JSON"),
            ('{"a":\n 1} x', r":2:5: is no JSON: something follows"),
            ('{"a" 1}', r":1:6: is no JSON: a colon"),
        ],
    )
    def test_faults_of_json(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=f"^Caddyfile{message}"):
            caddy(text)

    def test_variables(self) -> None:
        found = frontend("@a tls sni imap.{$DOMAIN}", "route @a {\nproxy {$HOST:192.0.2.1}:993\n}")
        assert found["routes"][0]["sni"] == ["imap.${DOMAIN}"]

    def test_snippets(self) -> None:
        text = "(to) {\nroute {\nproxy {args[0]}\n}\n}\n" + server("import to 192.0.2.7:993")
        assert tables(caddy(text))["backends"]["imaps"]["servers"][0]["address"] == "192.0.2.7:993"

    def test_on_one_line(self) -> None:
        """The braces are then at the ends of lines, as Caddy wants them."""
        result = caddy("{ layer4 { :587 { route { proxy relay:587 } } } }\n")
        assert tables(result)["frontends"]["submission"]["bind"] == ["[::]:587"]

    def test_json_is_the_same(self) -> None:
        text = server(
            "@a tls sni a.example",
            "route @a {\ntls\nproxy {\nproxy_protocol v1\nupstream 192.0.2.1:143\n}\n}",
        )
        value = {
            "apps": {"layer4": {"servers": {"srv0": {"listen": [":993"], "routes": [{
                "match": [{"tls": {"sni": ["a.example"]}}],
                "handle": [{"handler": "tls"}, {"handler": "proxy", "proxy_protocol": "v1", "upstreams": [{"dial": ["192.0.2.1:143"]}]}],
            }]}}}}
        }  # fmt: skip
        assert tables(caddy(json.dumps(value))) == tables(caddy(text))


def test_backend_of_two_protocols() -> None:
    servers = "".join(f"  :{port} {{\n   route {{\n    proxy 192.0.2.1\n   }}\n  }}\n" for port in (143, 110))
    result = caddy(f"{{\n layer4 {{\n{servers} }}\n}}\n")
    found = tables(result)
    assert [found["frontends"][name]["backend"] for name in ("imap", "pop3")] == ["imap", "imap"]
    assert found["backends"]["imap"]["protocol"] == "tcp"
    assert not result.has_losses
