"""Traefik's keys as those of mailproxy, and what is reported."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest

from mailproxy.errors import ConfigError
from mailproxy.importers.names import PatternError
from mailproxy.importers.run import Result, import_files, import_texts
from mailproxy.importers.traefik.rules import conditions_of
from tests.support.imports import report, tables

SERVICE = "loadBalancer: {servers: [{address: '192.0.2.1:993'}]}"


def traefik(text: str, name: str = "traefik.yml") -> Result:
    return import_texts("traefik", [(name, text)])


def configured(
    router: str = "rule: HostSNI(`*`)",
    *,
    service: str = SERVICE,
    point: str = 'address: ":993"',
    more: str = "",
) -> Result:
    """Import an entry point with a router and a service."""
    return traefik(
        f"entryPoints: {{imaps: {{{point}}}}}\n"
        f"tcp:\n  routers:\n    r: {{service: s, entryPoints: [imaps], {router}}}\n"
        f"  services:\n    s: {{{service}}}\n{more}"
    )


def frontend(*arguments: str, **options: str) -> dict[str, Any]:
    return tables(configured(*arguments, **options))["frontends"]["imaps"]  # type: ignore[no-any-return]


def backend(**options: str) -> dict[str, Any]:
    return tables(configured(**options))["backends"]["s"]  # type: ignore[no-any-return]


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("HostSNI(`*`)", [{}]),
            ("HostSNI(`a.example`, `b.example`)", [{"sni": ("a.example", "b.example")}]),
            ("HostSNI(`A.example`) || HostSNI(`b.example`)", [{"sni": ("a.example", "b.example")}]),
            ('HostSNI("a.example") && ALPN(`imap`)', [{"sni": ("a.example",), "alpn": ("imap",)}]),
            ("HostSNI(`*`) && (ClientIP(`10.0.0.0/8`) || ClientIP(`192.0.2.1`))", [{"client": ("10.0.0.0/8", "192.0.2.1/32")}]),
            ("ClientIP(`10.0.0.0/8`) && ClientIP(`10.1.0.0/16`)", [{"client": ("10.1.0.0/16",)}]),
            ("HostSNIRegexp(`^(imap|mail)\\.a\\.example$`)", [{"sni": ("imap.a.example", "mail.a.example")}]),
            ("HostSNI(`a.example`) && HostSNI(`b.example`)", []),
        ],
    )  # fmt: skip
    def test_conditions(self, rule: str, expected: list[dict[str, tuple[str, ...]]]) -> None:
        assert conditions_of(rule) == expected

    @pytest.mark.parametrize(
        ("rule", "fact"),
        [
            ("!HostSNI(`a`)", "the opposite of a condition is not here"),
            ("HostSNI(`a`) &&", "ends too early"),
            ("(HostSNI(`a`)", "a parenthesis is not closed"),
            ("HostSNI(`a`) HostSNI(`b`)", "HostSNI is unexpected"),
            ("Host(`a`)", "Host is not here"),
            ("ClientIP(`x`)", "x is no network"),
            ("HostSNI()", "HostSNI has no argument"),
            ("HostSNI[", "cannot be read from HostSNI"),
            ("", "ends too early"),
        ],
    )
    def test_faults(self, rule: str, fact: str) -> None:
        with pytest.raises(PatternError, match=fact.replace("(", r"\(").replace("[", r"\[")):
            conditions_of(rule)

    def test_router_that_routes_cannot_say_is_left_out(self) -> None:
        lines = report(configured("rule: '!HostSNI(`a.example`)', tls: {}"))
        assert any(
            "rule: the opposite of a condition is not here: the router is left out" in line for line in lines
        )


class TestFrontends:
    def test_silent_defaults(self) -> None:
        result = configured()
        assert tables(result)["frontends"]["imaps"] == {
            "protocol": "imap", "backend": "s", "timeouts": {"half_closed": "100ms"}, "bind": ["[::]:993"],
        }  # fmt: skip
        assert tables(result)["backends"]["s"] == {
            "balance": "roundrobin", "retries": 0, "timeouts": {"connect": "30s"}, "check": False,
            "servers": [{"name": "192.0.2.1", "address": "192.0.2.1:993"}],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("tls", "bind"),
        [
            ("tls: {passthrough: true}", [{"address": "[::]:993", "mode": "passthrough"}]),
            ("tls: {}", [{"address": "[::]:993", "mode": "tls"}]),
        ],
    )
    def test_modes(self, tls: str, bind: list[dict[str, str]]) -> None:
        assert frontend(f"rule: HostSNI(`*`), {tls}")["bind"] == bind

    def test_names(self) -> None:
        assert frontend("rule: HostSNI(`a.example`), tls: {}")["routes"] == [
            {"sni": ["a.example"], "backend": "s"}
        ]

    def test_name_without_tls_never_matches(self) -> None:
        assert any(
            "without tls there is no name" in line
            for line in report(configured("rule: HostSNI(`a.example`)"))
        )

    def test_networks_of_a_middleware(self) -> None:
        more = "  middlewares:\n    m: {ipAllowList: {sourceRange: [10.0.0.0/8]}}\n"
        found = frontend("rule: HostSNI(`*`), middlewares: [m@file]", more=more)
        assert found["routes"] == [{"client": ["10.0.0.0/8"], "backend": "s"}, {"reject": True}]

    def test_limit_of_a_middleware(self) -> None:
        more = "  middlewares:\n    m: {inFlightConn: {amount: 5}}\n"
        assert frontend("rule: HostSNI(`*`), middlewares: [m]", more=more)["max_sessions_per_client"] == 5

    def test_headers_from_clients(self) -> None:
        found = frontend(point='address: ":993", proxyProtocol: {trustedIPs: [10.0.0.0/8]}')
        assert found["bind"][0]["accept_proxy"] == ["10.0.0.0/8"]
        assert found["bind"][0]["proxy_optional"] is True

    def test_longest_rule_is_first_unless_there_are_priorities(self) -> None:
        text = "entryPoints: {imaps: {address: ':993'}}\ntcp:\n  routers:\n"
        rows = {"all": "HostSNI(`*`)", "one": "HostSNI(`a.example`)", "two": "HostSNI(`long.b.example`)"}
        for name, rule in rows.items():
            text += f"    {name}: {{rule: {rule}, service: s, tls: {{passthrough: true}}"
            text += ", priority: 99}\n" if name == "one" else "}\n"
        result = tables(traefik(f"{text}  services:\n    s: {{{SERVICE}}}\n"))["frontends"]["imaps"]
        assert [route["sni"] for route in result["routes"]] == [["a.example"], ["long.b.example"]]
        assert result["backend"] == "s"

    def test_clear_text_beside_tls_is_reported(self) -> None:
        more = "  routers2: {}\n"
        text = (
            "entryPoints: {imaps: {address: ':993'}}\ntcp:\n  routers:\n"
            "    a: {rule: HostSNI(`*`), service: s}\n    b: {rule: HostSNI(`a.example`), service: s, tls: {}}\n"
            f"  services:\n    s: {{{SERVICE}}}\n{more}"
        )
        result = traefik(text)
        assert tables(result)["frontends"]["imaps"]["bind"] == [{"address": "[::]:993", "mode": "tls"}]
        assert any("a router without tls beside others with it" in line for line in report(result))
        assert any("routers2: is not translated" in line for line in report(result))

    def test_options_of_tls(self) -> None:
        more = (
            "tls:\n  certificates: [{certFile: /c, keyFile: /k}]\n  options:\n    default:\n"
            "      {minVersion: VersionTLS13, sniStrict: true, alpnProtocols: [imap], clientAuth: {clientAuthType: RequireAndVerifyClientCert, caFiles: [/ca]}}\n"
        )
        assert frontend("rule: HostSNI(`*`), tls: {}", more=more)["tls"] == {
            "certificates": [{"certificate": "/c", "key": "/k"}], "min_version": "1.3", "strict_sni": True,
            "alpn": ["imap"], "client_verify": "required", "client_ca": "/ca",
        }  # fmt: skip


class TestServices:
    @pytest.mark.parametrize(
        ("version", "header"), [("{version: 1}", "v1"), ("{version: 2}", "v2"), ("{}", "v2")]
    )
    def test_header(self, version: str, header: str) -> None:
        service = f"loadBalancer: {{proxyProtocol: {version}, servers: [{{address: '192.0.2.1:993'}}]}}"
        assert backend(service=service)["send_proxy"] == header

    def test_transport(self) -> None:
        service = "loadBalancer: {serversTransport: t, servers: [{address: '192.0.2.1:993', tls: true}]}"
        more = "  serversTransports:\n    t: {dialTimeout: 3, tls: {insecureSkipVerify: true}}\n"
        found = backend(service=service, more=more)
        assert (found["timeouts"], found["tls"]) == ({"connect": "3s"}, {"verify": "none"})

    def test_check(self) -> None:
        health = "{interval: 3s, send: 'a NOOP', expect: '* OK'}"
        service = f"loadBalancer: {{healthCheck: {health}, servers: [{{address: '192.0.2.1:143'}}]}}"
        found = backend(service=service)["check"]
        assert found == {
            "type": "script", "interval": "3s", "rise": 1, "fall": 1, "steps": [{"send": "a NOOP"}, {"expect": "* OK"}],
        }  # fmt: skip

    def test_weights(self) -> None:
        service = "weighted: {services: [{name: a, weight: 3}, {name: b, weight: 1}]}"
        more = "    a: {loadBalancer: {servers: [{address: '192.0.2.1:993'}]}}\n"
        more += "    b: {loadBalancer: {servers: [{address: '192.0.2.2:993'}, {address: '192.0.2.3:993'}]}}\n"
        found = backend(service=service, more=more)["servers"]
        assert [server.get("weight", 1) for server in found] == [6, 1, 1]

    def test_services_that_name_each_other(self) -> None:
        result = configured(service="weighted: {services: [{name: s}, {name: nowhere}]}")
        assert "frontends" not in tables(result) or "backend" not in tables(result)["frontends"]["imaps"]
        assert any("there is no service nowhere" in line for line in report(result))


class TestFiles:
    def test_toml_is_the_same(self) -> None:
        toml = """
            entryPoints.imaps.address = ":993"
            [tcp.routers.r]
            rule = "HostSNI(`*`)"
            service = "s"
            entryPoints = ["imaps"]
            [[tcp.services.s.loadBalancer.servers]]
            address = "192.0.2.1:993"
        """
        assert tables(traefik(toml, "traefik.toml")) == tables(configured())
        assert tables(traefik(toml, "-")) == tables(configured())

    def test_static_and_dynamic_files(self, tmp_path: Path) -> None:
        (tmp_path / "b.yml").write_text("entryPoints: {imaps: {address: ':993'}}\n")
        (tmp_path / "a.toml").write_text(
            '[tcp.routers.r]\nrule = "HostSNI(`*`)"\nservice = "s"\n'
            '[[tcp.services.s.loadBalancer.servers]]\naddress = "192.0.2.1:993"\n'
        )
        result = import_files("traefik", [tmp_path])
        assert tables(result)["frontends"]["imaps"]["backend"] == "s"

    def test_keys_in_other_letters(self) -> None:
        text = "entrypoints: {imaps: {ADDRESS: ':993'}}\nTCP:\n  Routers:\n    r: {RULE: HostSNI(`*`), Service: s}\n"
        assert (
            tables(traefik(f"{text}  services:\n    s: {{{SERVICE.lower()}}}\n"))["frontends"]["imaps"][
                "backend"
            ]
            == "s"
        )

    def test_anchors(self) -> None:
        text = "x-service: &s {loadBalancer: {servers: [{address: '192.0.2.1:993'}]}}\n"
        text += "entryPoints: {imaps: {address: ':993'}}\ntcp:\n  routers:\n    r: {rule: HostSNI(`*`), service: s}\n"
        assert tables(traefik(f"{text}  services:\n    s:\n      <<: *s\n"))["backends"]["s"]["servers"]

    def test_template_is_reported_once(self) -> None:
        lines = report(configured("rule: HostSNI(`*`), x: '{{ a }}', y: '{{ b }}'"))
        assert sum("this is a template" in line for line in lines) == 1

    @pytest.mark.parametrize(
        ("name", "text", "place"),
        [
            ("a.yml", "a: [1,\n b: {", "3:1|2:"),
            ("a.yml", "- a", "1:1"),
            ("a.yml", "a: &x\n  b: *x\n", "1:|2:"),
            ("a.yml", "? [a]\n: b\n", "1:3"),
            ("a.toml", "a = \n", "1:"),
        ],
    )
    def test_faults(self, name: str, text: str, place: str) -> None:
        with pytest.raises(ConfigError, match=f"^{name}:({place})"):
            traefik(text, name)

    def test_aliases_that_mean_too_many_values(self) -> None:
        text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
        for n in range(1, 8):
            text += f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n"
        with pytest.raises(ConfigError, match="aliases mean too many values"):
            traefik(text)

    def test_without_the_package_for_yaml(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = builtins.__import__

        def without(name: str, *arguments: Any, **options: Any) -> Any:
            if name == "yaml":
                raise ImportError(name)
            return original(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ConfigError, match=r"pip install 'mailproxy\[yaml\]'"):
            traefik("a: 1\n")


def test_two_authorities_and_protocols() -> None:
    """Each authority has a folder of its own, and one service may serve two protocols."""
    text = """
entryPoints:
  imaps: {address: ":993"}
  pops: {address: ":995"}
certificatesResolvers:
  a: {acme: {tlsChallenge: {}, eab: {kid: kid-1, hmacEncoded: c2VjcmV0}}}
  b: {acme: {tlsChallenge: {}}}
tcp:
  routers:
    imaps: {entryPoints: [imaps], rule: "HostSNI(`a.example`)", service: s, tls: {certResolver: a}}
    pops: {entryPoints: [pops], rule: "HostSNI(`b.example`)", service: s, tls: {certResolver: b}}
  services:
    s: {loadBalancer: {servers: [{address: "192.0.2.1:143"}]}}
"""
    result = import_texts("traefik", [("traefik.yml", text)])
    found = tables(result)
    assert [found["frontends"][name]["tls"]["acme"] for name in ("imaps", "pops")] == ["a", "b"]
    assert [found["acme"][name]["storage"] for name in ("a", "b")] == [
        "/var/lib/mailproxy/acme",
        "/var/lib/mailproxy/acme-b",
    ]
    assert found["acme"]["a"]["eab"] == {"key_id": "kid-1", "hmac_file": "/etc/mailproxy/eab.key"}
    assert found["backends"]["s"]["protocol"] == "tcp"
    assert [entry.directive for entry in result.entries if entry.kind == "loss"] == ["hmacEncoded"]
