"""HAProxy's directives as keys, and what is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailproxy.errors import ConfigError
from mailproxy.importers.run import import_files
from tests.support.imports import DEFAULTS, LISTEN, haproxy, report, tables

IMAP = f"{DEFAULTS}frontend imap\n bind :143\n default_backend d\nbackend d\n"


def listen(*lines: str, head: str = DEFAULTS) -> Any:
    """Return the tables of a listen section on port 143 with a server, and these lines."""
    text = f"{head}listen imap\n bind :143\n server d1 192.0.2.1:143\n" + "".join(
        f" {line}\n" for line in lines
    )
    return tables(haproxy(text))


def backend(*lines: str) -> dict[str, Any]:
    """Return the backend of a section with these lines instead of the server."""
    text = (
        f"{IMAP} server d1 192.0.2.1:143\n" if not any(line.startswith("server") for line in lines) else IMAP
    )
    found: dict[str, Any] = tables(haproxy(text + "".join(f" {line}\n" for line in lines)))["backends"]["d"]
    return found


def frontend(*lines: str) -> dict[str, Any]:
    binds = "" if any(line.startswith("bind") for line in lines) else " bind :143\n"
    text = f"{DEFAULTS}frontend f\n{binds} default_backend d\n" + "".join(f" {line}\n" for line in lines)
    found: dict[str, Any] = tables(
        haproxy(f"{text}backend d\n server d1 192.0.2.1:143\nbackend e\n server e1 192.0.2.2:143\n")
    )
    return found["frontends"]["f"]  # type: ignore[no-any-return]


class TestSilentDefaults:
    """What HAProxy does without a word is written out where mailproxy does something else."""

    def test_balance_and_redispatch(self) -> None:
        assert backend()["balance"] == "roundrobin"
        assert backend()["redispatch"] is False

    def test_queue_has_the_timeout_of_connecting(self) -> None:
        assert backend()["timeouts"] == {"queue": "5s"}

    def test_no_check(self) -> None:
        assert backend()["check"] is False

    def test_check_by_connecting_every_two_seconds(self) -> None:
        checked = backend("server d1 192.0.2.1:143 check")
        assert checked["check"] == {"type": "tcp", "interval": "2s"}
        assert checked["timeouts"]["check"] == "2s"

    def test_check_has_its_interval_as_timeout(self) -> None:
        assert backend("server d1 192.0.2.1:143 check inter 7s")["timeouts"]["check"] == "7s"

    def test_timeout_of_checks(self) -> None:
        assert (
            backend("server d1 192.0.2.1:143 check inter 7s", "timeout check 3s")["timeouts"]["check"] == "3s"
        )

    def test_null_sessions_are_logged(self) -> None:
        text = DEFAULTS.replace(" option dontlognull\n", "")
        assert tables(haproxy(text + LISTEN))["frontends"]["imap"]["log_null"] is True
        assert "log_null" not in tables(haproxy(DEFAULTS + LISTEN))["frontends"]["imap"]

    def test_what_equals_mailproxys_default_is_left_out(self) -> None:
        found = listen("balance leastconn", "option redispatch", "retries 3", "timeout queue 60s")
        assert set(found["backends"]["imap"]) == {"check", "servers"}
        assert set(found["frontends"]["imap"]) == {"protocol", "backend", "bind"}

    def test_missing_timeouts_are_reported(self) -> None:
        lines = report(haproxy(f"defaults\n mode tcp\n{LISTEN}"))
        assert sum("HAProxy never ends idle sessions" in line for line in lines) == 2
        assert any("has no timeout connect" in line for line in lines)


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("balance source", "balance", "source"),
        ("balance first", "balance", "first"),
        ("balance random(3)", "balance", "random"),
        ("balance static-rr", "balance", "roundrobin"),
        ("retries 7", "retries", 7),
        ("option redispatch 2", "redispatch", 2),
        ("source 10.0.0.9", "source", "10.0.0.9"),
        ("source 0.0.0.0 usesrc clientip", "source", "client"),
        ("option srvtcpka", "keepalive", True),
        ("option tcpka", "keepalive", True),
        ("option allbackups", "all_backups", True),
    ],
)
def test_backend_directive(line: str, key: str, value: object) -> None:
    found = backend(line)
    assert found.get(key) == value


@pytest.mark.parametrize(
    ("parameter", "key", "value"),
    [
        ("weight 5", "weight", 5), ("maxconn 30", "max_sessions", 30), ("backup", "backup", True), ("disabled", "state", "maint"),
        ("slowstart 30s", "slow_start", "30s"), ("non-stick", "stick", None),
    ],
)  # fmt: skip
def test_server_parameter(parameter: str, key: str, value: object) -> None:
    assert backend(f"server d1 192.0.2.1:143 {parameter}")["servers"][0].get(
        key, None if value is None else ...
    ) in (value, False)


@pytest.mark.parametrize(
    ("parameter", "key", "value"),
    [
        ("send-proxy", "send_proxy", "v1"), ("send-proxy-v2", "send_proxy", "v2"), ("send-proxy-v2-ssl", "send_proxy", "v2-ssl"),
        ("send-proxy-v2-ssl-cn", "send_proxy", "v2-ssl-cn"), ("send-proxy-v2 proxy-v2-options crc32c,unique-id", "send_proxy_tlvs", ["crc32c", "unique-id"]),
        ("send-proxy-v2 proxy-v2-options ssl", "send_proxy", "v2-ssl"), ("on-marked-down shutdown-sessions", "on_marked_down", "shutdown-sessions"),
        ("resolve-prefer ipv4", "resolve_prefer", "ipv4"), ("source 10.0.0.7", "source", "10.0.0.7"),
        ("check observe layer4 error-limit 5", "error_limit", 5), ("check observe layer4", "observe", "connect"),
        ("ssl verify none", "tls", {"verify": "none"}), ("ssl verify required ca-file /ca.pem", "tls", {"ca": "/ca.pem", "verify": "chain"}),
        ("ssl verify required ca-file /ca.pem verifyhost mail.internal", "tls", {"ca": "/ca.pem", "server_name": "mail.internal"}),
        ("ssl ca-file /ca.pem sni str(mail.internal)", "tls", {"ca": "/ca.pem", "server_name": "mail.internal"}),
        ("ssl verify none crt /c.pem ssl-min-ver TLSv1.3", "tls", {"verify": "none", "certificate": "/c.pem", "min_version": "1.3"}),
    ],
)  # fmt: skip
def test_key_of_all_servers_is_in_the_backend(parameter: str, key: str, value: object) -> None:
    lines = [f"server d{n} 192.0.2.{n}:143 {parameter}" for n in (1, 2)]
    assert backend(*lines)[key] == value


def test_key_of_one_server_is_in_the_server() -> None:
    found = backend("server d1 192.0.2.1:143 send-proxy", "server d2 192.0.2.2:143")
    assert [server.get("send_proxy") for server in found["servers"]] == ["v1", None]


def test_default_server_is_cumulative() -> None:
    found = backend(
        "default-server inter 5s",
        "default-server rise 4 maxconn 9",
        "server a 192.0.2.1:143 check",
        "server b 192.0.2.2:143 check maxconn 3",
    )
    assert found["check"] == {"type": "tcp", "interval": "5s", "rise": 4}
    assert [server["max_sessions"] for server in found["servers"]] == [9, 3]


def test_majority_of_intervals_is_in_the_backend() -> None:
    found = backend(*(f"server d{n} 192.0.2.{n}:143 check inter {3 + (n == 3)}s" for n in (1, 2, 3)))
    assert found["check"]["interval"] == "3s"
    assert [server.get("check") for server in found["servers"]] == [
        None,
        None,
        {"interval": "4s", "timeout": "4s"},
    ]


class TestChecks:
    def check(self, *lines: str, server: str = "192.0.2.1:143 check") -> Any:
        return backend(*lines, f"server d1 {server}").get("check")

    def test_smtp(self) -> None:
        assert self.check("option smtpchk EHLO lb.example.com")["hello"] == "lb.example.com"
        assert self.check("option smtpchk")["type"] == "smtp"

    def test_tls_of_sessions(self) -> None:
        assert self.check(server="192.0.2.1:993 check ssl verify none")["type"] == "tls"

    def test_other_port_has_no_tls(self) -> None:
        assert self.check(server="192.0.2.1:993 check ssl verify none port 143") == {
            "type": "tcp",
            "interval": "2s",
            "port": 143,
        }

    def test_tls_of_checks_alone(self) -> None:
        found = self.check(server="192.0.2.1:993 check check-ssl verify none")
        assert found == {"type": "tls", "interval": "2s", "tls": {"verify": "none"}}

    def test_header_as_sessions(self) -> None:
        assert self.check(server="192.0.2.1:143 check send-proxy-v2-ssl")["send_proxy"] == "v2"
        assert "send_proxy" not in self.check(server="192.0.2.1:143 check send-proxy-v2 port 144")
        assert self.check(server="192.0.2.1:143 check check-send-proxy")["send_proxy"] == "v1"

    def test_no_header_at_another_port(self) -> None:
        found = self.check("option smtpchk", server="192.0.2.1:25 check send-proxy-v2 port 26")
        assert (found["port"], found["send_proxy"]) == (26, "none")

    def test_script(self) -> None:
        found = self.check(
            "option tcp-check", "tcp-check connect default linger", r"tcp-check expect rstring ^\*\ OK", r"tcp-check send a1\ LOGOUT\r\n",
            "tcp-check expect ! string NO", "tcp-check send-binary 0D0A", "tcp-check expect binary 4f4b",
        )  # fmt: skip
        assert found["type"] == "script"
        assert found["steps"] == [
            {"connect": {}},
            {"expect_regex": r"\A\* OK"},
            {"send": "a1 LOGOUT\r\n"},
            {"expect": "NO", "not": True},
            {"send_hex": "0D0A"},
            {"expect_hex": "4f4b"},
        ]

    def test_connection_of_a_script_without_tls_to_a_tls_port(self) -> None:
        steps = self.check(
            "option tcp-check", "tcp-check connect port 465", server="192.0.2.1:465 check send-proxy"
        )["steps"]
        assert steps == [{"connect": {"port": 465, "tls": False, "send_proxy": "none"}}]

    def test_tls_without_ca_is_refused_by_haproxy(self) -> None:
        result = haproxy(
            f"{IMAP} option tcp-check\n tcp-check connect port 993 ssl\n server a 192.0.2.1:143 check\n"
        )
        assert tables(result)["backends"]["d"]["check"]["steps"] == [
            {"connect": {"port": 993, "tls": {"verify": "none"}}}
        ]
        assert any(
            "note: tcp-check connect: HAProxy" in line or "HAProxy refuses TLS without a CA" in line
            for line in report(result)
        )
        assert not result.has_losses

    def test_blank_that_haproxy_refuses(self) -> None:
        result = haproxy(
            f"{IMAP} option tcp-check\n tcp-check expect string * OK\n server a 192.0.2.1:143 check\n"
        )
        assert tables(result)["backends"]["d"]["check"]["steps"] == [{"expect": "* OK"}]

    def test_hello_inside_tls(self) -> None:
        result = haproxy(f"{IMAP} option ssl-hello-chk\n server a 192.0.2.1:993 check ssl verify none\n")
        assert tables(result)["backends"]["d"]["check"]["type"] == "tls"
        assert any("the server stays down" in line for line in report(result))

    def test_http(self) -> None:
        steps = self.check(
            "option httpchk GET /health",
            "http-check expect status 200",
            server="192.0.2.1:143 check port 8080",
        )["steps"]
        assert steps == [{"send": "GET /health HTTP/1.0\r\n\r\n"}, {"expect_regex": r"\AHTTP/1\.[01] 200"}]


class TestTrack:
    """A server that tracks another one gets that one's check."""

    HEALTH = "backend health\n option httpchk GET /ok\n server m1 192.0.2.9:8080 check inter 3s\n"

    def check(self, server: str, more: str = HEALTH) -> Any:
        found = tables(haproxy(f"{IMAP} server d1 192.0.2.1:143 {server}\n{more}"))
        return found["backends"]["d"].get("check", found["defaults"]["backend"].get("check"))

    def test_check_of_another_backend(self) -> None:
        result = haproxy(f"{IMAP} server d1 192.0.2.1:143 send-proxy track health/m1\n{self.HEALTH}")
        check = {**tables(result)["defaults"]["backend"]["check"], **tables(result)["backends"]["d"]["check"]}
        assert (check["type"], check["interval"], check["address"]) == ("script", "3s", "192.0.2.9:8080")
        assert (check["tls"], check["send_proxy"]) == (False, "none")
        assert not result.has_losses

    def test_server_of_the_same_backend(self) -> None:
        found = backend("server a 192.0.2.1:143 check port 144", "server b 192.0.2.2:143 track a")
        assert found["check"] == {"type": "tcp", "interval": "2s", "port": 144}
        assert found["servers"][1]["check"] == {"address": "192.0.2.1:143"}

    def test_tls_of_the_tracked_server(self) -> None:
        health = (
            "backend health\n option smtpchk\n server m1 192.0.2.9:465 check ssl verify none send-proxy\n"
        )
        found = self.check("track health/m1", health)
        assert (found["tls"], found["send_proxy"]) == ({"verify": "none"}, "v1")

    def test_server_that_tracks_itself_or_nothing(self) -> None:
        for name in ("d1", "d/d1", "nowhere/m1", "health/m2"):
            result = haproxy(f"{IMAP} server d1 192.0.2.1:143 track {name}\n{self.HEALTH}")
            assert tables(result)["backends"]["d"]["check"] is False
            assert any(f"there is no checked server {name}" in line for line in report(result))


class TestBinds:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (":143", "*:143"), ("*:143", "*:143"), ("0.0.0.0:143", "*:143"), (":::143", "[::]:143"), ("[::1]:143", "[::1]:143"), ("::1:143", "[::1]:143"),
            ("ipv4@192.0.2.1:143", "192.0.2.1:143"), ("/run/x.sock", "unix:/run/x.sock"), ("unix@/run/x.sock", "unix:/run/x.sock"), ("fd@3", "fd:3"),
        ],
    )  # fmt: skip
    def test_address(self, line: str, expected: str) -> None:
        assert frontend(f"bind {line}")["bind"] == [expected]

    def test_list_and_range(self) -> None:
        assert frontend("bind 192.0.2.1:143,192.0.2.2:1000-1002")["bind"] == [
            "192.0.2.1:143",
            "192.0.2.2:1000",
            "192.0.2.2:1001",
            "192.0.2.2:1002",
        ]

    def test_parameters(self) -> None:
        (bind,) = frontend("bind 192.0.2.1:143 name x tcp-ut 30s tfo backlog 99 interface eth0")["bind"]
        assert bind == {
            "address": "192.0.2.1:143",
            "name": "x",
            "backlog": 99,
            "tcp_user_timeout": "30s",
            "interface": "eth0",
            "fast_open": True,
        }

    def test_tls(self) -> None:
        found = frontend(
            "bind :993 ssl crt /a.pem crt /b/ alpn imap,pop3 ca-file /ca.pem verify required strict-sni ssl-min-ver TLSv1.3 no-tls-tickets"
        )
        assert found["bind"] == [{"address": "*:993", "mode": "tls"}]
        assert found["tls"] == {
            "certificates": ["/a.pem", "/b/"], "client_ca": "/ca.pem", "client_verify": "required", "min_version": "1.3", "tickets": False,
            "alpn": ["imap", "pop3"], "strict_sni": True,
        }  # fmt: skip

    def test_different_tls(self) -> None:
        found = frontend("bind :993 ssl crt /a.pem", "bind :995 ssl crt /b.pem", "bind :143")
        assert [bind["tls"]["certificates"] for bind in found["bind"] if isinstance(bind, dict)] == [
            ["/a.pem"],
            ["/b.pem"],
        ]

    def test_both_families_beside_ipv4(self) -> None:
        assert frontend("bind *:143", "bind :::143")["bind"] == [
            "*:143",
            {"address": "[::]:143", "v6only": True},
        ]

    def test_certificate_list(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("# mail\nmail.pem [alpn imap] imap.example.com\n\nother.pem\n")
        file = tmp_path / "haproxy.cfg"
        file.write_text(
            f"global\n crt-base /certs\n{DEFAULTS}listen x\n bind :993 ssl crt-list list.txt\n server a 192.0.2.1:143\n"
        )
        result = import_files("haproxy", [file])
        assert tables(result)["frontends"]["x"]["tls"]["certificates"] == [
            "/certs/mail.pem",
            "/certs/other.pem",
        ]
        assert any(
            f"{tmp_path}/list.txt:2:1: crt-list: options of single certificates" in line
            for line in report(result)
        )

    def test_certificate_store(self) -> None:
        text = (
            "crt-store\n crt-base /certs\n key-base /keys\n load crt a.pem key a.key alias a\n"
            "crt-store web\n load crt /b.pem\n"
            f"{DEFAULTS}listen imap\n bind :993 ssl crt @/a crt @web//b.pem crt @web/x\n server a 192.0.2.1:143\n"
        )
        result = haproxy(text)
        assert tables(result)["frontends"]["imap"]["tls"]["certificates"] == [
            {"certificate": "/certs/a.pem", "key": "/keys/a.key"},
            "/b.pem",
        ]
        (line,) = [line for line in report(result) if "crt-store" in line]
        assert "names a crt-store that is not in these files" in line

    @pytest.mark.parametrize(
        ("head", "bind"),
        [
            (
                "crt-store\n load crt /a.pem acme LE domains a.example,b.example\n",
                " bind :993 ssl crt /a.pem\n",
            ),
            ("", " bind :993 ssl\n ssl-f-use crt /a.pem acme LE domains a.example,b.example\n"),
        ],
    )
    def test_obtained_certificate(self, head: str, bind: str) -> None:
        authority = (
            "acme LE\n directory https://ca.example/dir\n account-key /account.key\n contact a@b.example\n challenge HTTP-01\n"
            " keytype RSA\n bits 2048\n map virt@acme\n"
        )
        result = haproxy(
            f"{head}{authority}{DEFAULTS}frontend imap\n{bind} default_backend b\nbackend b\n server a 192.0.2.1:143\n"
        )
        found = tables(result)
        assert found["acme"] == {
            "LE": {
                "directory": "https://ca.example/dir", "contact": ["mailto:a@b.example"], "terms_agreed": True,
                "keys": ["rsa-2048"], "challenge": "http-01", "storage": "/var/lib/mailproxy/LE",
            }
        }  # fmt: skip
        assert found["frontends"]["imap"]["tls"] == {"acme": "LE", "names": ["a.example", "b.example"]}
        assert not result.has_losses
        assert any("must be free while a certificate is obtained" in line for line in report(result))

    def test_obtained_certificate_of_a_list(self, tmp_path: Path) -> None:
        (tmp_path / "list.txt").write_text("a.pem [acme LE domains a.example alpn imap]\nb.pem\n")
        file = tmp_path / "haproxy.cfg"
        file.write_text(
            f"acme LE\n{DEFAULTS}listen x\n bind :993 ssl crt-list list.txt\n server a 192.0.2.1:143\n"
        )
        result = import_files("haproxy", [file])
        found = tables(result)
        assert found["frontends"]["x"]["tls"] == {
            "acme": "LE",
            "names": ["a.example"],
            "certificates": ["b.pem"],
        }
        assert found["acme"]["LE"]["keys"] == ["ecdsa-p384"]
        assert any("crt-list alpn: is not here for single certificates" in line for line in report(result))

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ("acme other domains a.example", "there is no acme section other"), ("acme LE", "no domains say"),
            ("acme LE domains *.example", "wildcards need"),
        ],
    )  # fmt: skip
    def test_certificate_that_cannot_be_obtained(self, options: str, reason: str) -> None:
        text = f"acme LE\n{DEFAULTS}listen imap\n bind :993 ssl\n ssl-f-use crt /a.pem {options}\n server a 192.0.2.1:143\n"
        result = haproxy(text)
        assert tables(result)["frontends"]["imap"]["tls"] == {"certificates": ["/a.pem"]}
        assert any(reason in line and line.endswith("mailproxy reads /a.pem") for line in report(result))

    def test_authorities_of_two_certificates(self) -> None:
        use = " ssl-f-use crt /a.pem acme {0} domains {0}.example\n"
        text = f"acme a\nacme b\n{DEFAULTS}listen imap\n bind :993 ssl\n{use.format('a')}{use.format('b')} server a 192.0.2.1:143\n"
        found = tables(haproxy(text))
        assert found["frontends"]["imap"]["tls"] == {
            "acme": "a",
            "names": ["a.example"],
            "certificates": ["/a.pem"],
        }
        assert set(found["acme"]) == {"a"}

    def test_unused_authority(self) -> None:
        result = haproxy(f"acme LE\n directory https://ca.example/dir\n{DEFAULTS}{LISTEN}")
        assert "acme" not in tables(result)
        assert any("acme: no TCP section uses LE" in line for line in report(result))

    def test_expect_proxy(self) -> None:
        (bind,) = frontend("tcp-request connection expect-proxy layer4 if { src 10.0.0.0/8 }")["bind"]
        assert bind == {"address": "*:143", "accept_proxy": ["10.0.0.0/8"], "proxy_optional": True}


class TestRules:
    def routes(self, *lines: str, bind: str = "bind :993") -> Any:
        return frontend(bind, *lines).get("routes")

    def test_server_names(self) -> None:
        found = frontend("bind :993", "use_backend e if { req.ssl_sni -i a.example b.example }")
        assert found["routes"] == [{"sni": ["a.example", "b.example"], "backend": "e"}]
        assert found["bind"] == [{"address": "*:993", "mode": "passthrough"}]

    def test_names_of_terminated_tls(self) -> None:
        found = frontend("bind :993 ssl crt /a.pem", "use_backend e if { ssl_fc_sni a.example }")
        assert found["bind"] == [{"address": "*:993", "mode": "tls"}]

    def test_networks_of_a_file_stay_there(self, tmp_path: Path) -> None:
        file = tmp_path / "banned.lst"
        file.write_text("198.51.100.0/24\n203.0.113.7\n")
        lines = ["acl banned src 192.0.2.0/24", f"acl banned src -f {file}", "acl few src 203.0.113.0/24"]
        both = self.routes(*lines, "tcp-request connection reject if banned")
        assert both == [{"client": ["192.0.2.0/24", f"file:{file}"], "reject": True}]
        shared = self.routes(*lines, "tcp-request connection reject if banned few")
        assert shared == [{"client": ["203.0.113.7/32"], "reject": True}]

    def test_file_that_has_no_networks(self, tmp_path: Path) -> None:
        file = tmp_path / "banned.lst"
        file.write_text("192.0.2.1\nexample.com\n")
        rule = f"tcp-request connection reject if {{ src -f {file} }}"
        result = haproxy(f"{DEFAULTS}listen imap\n bind :143\n server d1 192.0.2.1:143\n {rule}\n")
        assert any(
            'line 2: "example.com" is no network: the rule is left out' in each for each in report(result)
        )

    def test_named_conditions(self) -> None:
        lines = [
            "acl inside src 10.0.0.0/8",
            "acl inside src 192.168.0.0/16",
            "acl imap dst_port 143:144",
            "use_backend e if inside imap",
        ]
        assert self.routes(*lines) == [
            {"client": ["10.0.0.0/8", "192.168.0.0/16"], "port": [143, 144], "backend": "e"}
        ]

    def test_or_is_two_routes(self) -> None:
        assert self.routes("use_backend e if { src 10.0.0.0/8 } or { dst_port 993 }") == [
            {"client": ["10.0.0.0/8"], "backend": "e"},
            {"port": [993], "backend": "e"},
        ]

    def test_alpn(self) -> None:
        assert self.routes("use_backend e if { req.ssl_alpn imap }") == [{"alpn": ["imap"], "backend": "e"}]

    def test_reject(self) -> None:
        assert self.routes("tcp-request connection reject if { src 198.51.100.0/24 }") == [
            {"client": ["198.51.100.0/24"], "reject": True}
        ]

    def test_everybody_but(self) -> None:
        found = frontend(
            "tcp-request connection reject unless { src 10.0.0.0/8 }", "use_backend e if { dst_port 144 }"
        )
        assert found["routes"] == [
            {"client": ["10.0.0.0/8"], "port": [144], "backend": "e"},
            {"client": ["10.0.0.0/8"], "backend": "d"},
            {"reject": True},
        ]
        assert "backend" not in found

    def test_accept_then_reject(self) -> None:
        found = frontend(
            "tcp-request connection accept if { src 10.0.0.0/8 }", "tcp-request connection reject"
        )
        assert found["routes"] == [{"client": ["10.0.0.0/8"], "backend": "d"}, {"reject": True}]
        assert "backend" not in found

    def test_unless(self) -> None:
        found = frontend("use_backend e unless { src 10.0.0.0/8 }")
        assert found["routes"] == [{"client": ["10.0.0.0/8"], "backend": "d"}]
        assert found["backend"] == "e"

    def test_hello_rules_are_not_needed(self) -> None:
        lines = ["tcp-request inspect-delay 5s", "tcp-request content accept if { req.ssl_hello_type 1 }"]
        assert self.routes(*lines, "use_backend e if { req_ssl_sni a.example }") == [
            {"sni": ["a.example"], "backend": "e"}
        ]

    def test_limits(self) -> None:
        found = frontend(
            "stick-table type ip size 1m expire 60s store conn_cur,conn_rate(10s)", "tcp-request connection track-sc0 src",
            "tcp-request connection reject if { sc0_conn_rate gt 30 } !{ src 192.168.0.0/16 }", "tcp-request connection reject if { sc_conn_cur(0) ge 10 }",
        )  # fmt: skip
        assert found["max_session_rate_per_client"] == {"count": 30, "per": "10s"}
        assert found["max_sessions_per_client"] == 9
        assert found["max_sessions_per_client_exempt"] == ["192.168.0.0/16"]

    @pytest.mark.parametrize(
        "line",
        [
            "use_backend e if { hdr(host) a }", "use_backend e if { nbsrv(d) lt 1 }", "use_backend e if { req.ssl_sni -m reg ^a[0-9]+$ }",
            "use_backend e if missing", "use_backend nowhere", "use_backend %[src]", "tcp-request connection silent-drop if TRUE", "use-server d1 if TRUE",
        ],
    )  # fmt: skip
    def test_what_routes_cannot_say(self, line: str) -> None:
        text = f"{DEFAULTS}frontend f\n bind :143\n default_backend d\n {line}\nbackend d\n server d1 192.0.2.1:143\nbackend e\n server e1 192.0.2.2:143\n"
        result = haproxy(text)
        assert result.has_losses
        assert tables(result)["frontends"]["f"]["backend"] == "d"


class TestStick:
    def test_table(self) -> None:
        assert backend("stick-table type ip size 50k expire 1h", "stick on src")["stick"] == {
            "size": "50k",
            "expire": "1h",
        }

    def test_ipv6_and_no_expiry(self) -> None:
        assert backend("stick-table type ipv6 size 200k", "stick on src")["stick"] == {
            "expire": "365d",
            "prefix_v6": 128,
        }

    def test_storing_alone_never_matches(self) -> None:
        result = haproxy(
            f"{IMAP} stick store-request src\n stick-table type ip size 200k expire 30m\n server a 192.0.2.1:143\n"
        )
        assert tables(result)["backends"]["d"]["stick"] == {"on": "source"}
        assert any("clients do not stick in HAProxy" in line for line in report(result))


class TestSections:
    def test_listen_is_split(self) -> None:
        found = listen()
        assert set(found["frontends"]) == set(found["backends"]) == {"imap"}

    def test_http_sections_are_named_once(self) -> None:
        text = f"{DEFAULTS}frontend web\n mode http\n bind :80\n http-request deny\nbackend app\n mode http\n server a 192.0.2.1:80\n{LISTEN}"
        lines = [line for line in report(haproxy(text)) if "HTTP" in line]
        assert lines == [
            "haproxy.cfg:7:1: note: HTTP sections are left out, since mailproxy carries mail only: frontend web, backend app, also line 11"
        ]

    def test_named_defaults_become_profiles(self) -> None:
        sections = "".join(
            f"listen {name}{n} from {name}\n bind :{port + n}\n server s 192.0.2.1:{port}\n"
            for name, port in (("slow", 143), ("fast", 25))
            for n in (1, 2)
        )
        text = (
            "defaults slow\n mode tcp\n timeout connect 5s\n timeout client 31m\n timeout server 31m\n balance source\n"
            "defaults fast\n mode tcp\n timeout connect 1s\n timeout client 6m\n timeout server 6m\n balance first\n"
        )
        found = tables(haproxy(text + sections))
        assert found["frontends"]["fast1"].get("profile") == "fast"
        assert found["profiles"]["fast"]["backend"]["balance"] == "first"
        assert found["profiles"]["slow"]["backend"]["balance"] == "source"

    def test_several_files_are_one_configuration(self, tmp_path: Path) -> None:
        (tmp_path / "10-defaults.cfg").write_text(DEFAULTS)
        (tmp_path / "20-mail.cfg").write_text(LISTEN + " foo\n")
        (tmp_path / "readme.txt").write_text("no configuration")
        for paths in ([tmp_path], sorted(tmp_path.glob("*.cfg"))):
            result = import_files("haproxy", paths)
            assert tables(result)["frontends"]["imap"]["bind"] == ["*:143"]
            assert any(line.startswith(f"{tmp_path}/20-mail.cfg:4:2: foo: ") for line in report(result))

    def test_http_defaults(self) -> None:
        """Options of HTTP in defaults do not keep TCP sections from being imported."""
        text = DEFAULTS.replace(
            "mode tcp", "mode http\n option httplog\n option forwardfor"
        ) + LISTEN.replace("listen imap\n", "listen imap\n mode tcp\n")
        assert tables(haproxy(text))["log"] == {"format": "tcplog"}

    def test_old_listen(self) -> None:
        result = haproxy(f"{DEFAULTS}listen smtp :25\n server a 192.0.2.1:25\n")
        assert tables(result)["frontends"]["smtp"]["bind"] == ["*:25"]

    def test_part_of_a_configuration(self) -> None:
        result = haproxy("backend dovecot\n server d1 192.0.2.1:143\n")
        assert "[backends.dovecot]" in result.text
        assert any("part of a configuration" in line for line in report(result))


class TestLanguage:
    @pytest.mark.parametrize(
        ("written", "sent"),
        [
            (r"a\ b", "a b"), ('"a b"', "a b"), ("'a b'", "a b"), (r"a\tb", "a\tb"), (r"\x41", "A"), (r"\#x", "#x"), (r'"a\"b"', 'a"b'), (r"'a\nb'", r"a\nb"),
            (r"\*", r"\*"), ('"$NAME"', "value"), ('"${NAME}x"', "valuex"), ("'$NAME'", "$NAME"), ('"${OTHER-fall}"', "${OTHER:-fall}"), ("a'b c'd", "ab cd"),
        ],
    )  # fmt: skip
    def test_words(self, written: str, sent: str) -> None:
        result = haproxy(
            f"global\n setenv NAME value\n{IMAP} option tcp-check\n tcp-check send {written} # comment\n server a 192.0.2.1:143 check\n"
        )
        expected = sent if sent.startswith("${") else sent.replace("$", "$$")
        assert tables(result)["backends"]["d"]["check"]["steps"] == [{"send": expected}]

    def test_continued_line(self) -> None:
        result = haproxy(f"{IMAP} server a 192.0.2.1:143 \\\n   check \\\n   backup\n")
        assert tables(result)["backends"]["d"]["servers"][0]["backup"] is True
        assert any(
            "a backslash at the end of the line" in line and "also line" in line for line in report(result)
        )
        assert not result.has_losses

    def test_missing_last_newline(self) -> None:
        result = haproxy((DEFAULTS + LISTEN).rstrip())
        assert not result.has_losses
        assert any("the last line has no end" in line for line in report(result))

    def test_unclosed_quote(self) -> None:
        with pytest.raises(ConfigError, match=r"^haproxy\.cfg:2:6: the quote \" is not closed$"):
            haproxy('global\n log "x\n')

    def test_branch_that_does_not_hold_is_one_line(self) -> None:
        text = f".if false\nlisten x\n bind :110\n.alert never\n.else\n{DEFAULTS}{LISTEN}.endif\n"
        result = haproxy(text)
        assert set(tables(result)["frontends"]) == {"imap"}
        assert [line for line in report(result) if ".if" in line] == [
            "haproxy.cfg:2:1: note: the line is in a branch of .if that does not hold: left out, also line 3"
        ]
        assert not any("never" in line for line in report(result))

    def test_alert_and_notice(self) -> None:
        result = haproxy(f".notice hello\n{DEFAULTS}{LISTEN}.alert no mail\n")
        assert [line for line in report(result) if "haproxy.cfg:1:" in line or "mail" in line] == [
            "haproxy.cfg:11:1: note: .alert: HAProxy stops here: no mail: read all the same"
        ]

    def test_misspelled_parameter(self) -> None:
        result = haproxy(f"{IMAP} server a 192.0.2.1:143 send_proxy\n")
        assert tables(result)["backends"]["d"]["send_proxy"] == "v1"

    def test_comments_go_with_their_keys(self) -> None:
        text = (
            "# The mail proxy.\n\nglobal\n # how many\n maxconn 100 # at most\n"
            f"{DEFAULTS}# all users\nfrontend f\n bind :143 # public\n default_backend d\n# the pool\nbackend d\n # old\n server a 192.0.2.1:143 # first\n server b 192.0.2.2:143\n"
        )
        assert haproxy(text).text.splitlines() == [
            "# The mail proxy.", "",
            "[process]", "# how many", "max_sessions = 100  # at most", "",
            "# all users", "[frontends.f]", 'protocol = "imap"', 'backend = "d"', "bind = [", '  "*:143",  # public', "]", "",
            "# the pool", "[backends.d]", 'balance = "roundrobin"', "redispatch = false", 'timeouts = { queue = "5s" }', "check = false", "servers = [",
            "  # old", '  { name = "a", address = "192.0.2.1:143" },  # first', '  { name = "b", address = "192.0.2.2:143" },', "]",
        ]  # fmt: skip


class TestGlobal:
    def process(self, *lines: str) -> dict[str, Any]:
        text = "global\n" + "".join(f" {line}\n" for line in lines)
        return tables(haproxy(text + DEFAULTS + LISTEN))

    def test_process(self) -> None:
        assert self.process("maxconn 100", "nbthread 4", "uid 80", "gid 81", "hard-stop-after 1m")["process"] == {
            "workers": 4, "max_sessions": 100, "drain_timeout": "1m", "user": "#80", "group": "#81",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("/dev/log local0", {"to": "syslog:/dev/log"}), ("/dev/log mail info", {"to": "syslog:/dev/log", "facility": "mail"}),
            ("192.0.2.9 local0", {"to": "syslog:192.0.2.9:514"}), ("192.0.2.9:1514 len 4096 local0 notice", {"to": "syslog:192.0.2.9:1514", "level": "warning"}),
            ("stdout format raw local0", {"to": "stdout"}), ("fd@2 local0", None), ("stderr local0 err", {"level": "error"}),
        ],
    )  # fmt: skip
    def test_log(self, line: str, expected: dict[str, Any] | None) -> None:
        assert self.process(f"log {line}").get("log") == expected

    def test_second_line_of_the_same_target(self) -> None:
        assert self.process("log /dev/log local0", "log /dev/log local1 notice")["log"] == {
            "to": "syslog:/dev/log"
        }

    def test_two_targets(self) -> None:
        found = self.process("log /dev/log local0", "log 192.0.2.9 local1")["log"]["targets"]
        assert [target["to"] for target in found] == ["syslog:/dev/log", "syslog:192.0.2.9:514"]

    def test_admin_socket(self) -> None:
        assert self.process("stats socket /run/x.sock mode 660 level admin expose-fd listeners")["admin"] == {
            "socket": "/run/x.sock"
        }

    def test_pid_file(self) -> None:
        assert self.process("pidfile /run/haproxy.pid")["process"] == {"pid_file": "/run/haproxy.pid"}

    def test_default_tickets(self) -> None:
        text = "global\n ssl-default-bind-options no-tls-tickets ssl-min-ver TLSv1.3\n"
        found = tables(
            haproxy(f"{text}{DEFAULTS}listen imaps\n bind :993 ssl crt /a.pem\n server d1 192.0.2.1:143\n")
        )
        assert found["frontends"]["imaps"]["tls"] == {
            "certificates": ["/a.pem"], "min_version": "1.3", "tickets": False,
        }  # fmt: skip

    def test_admin_socket_with_default_level(self) -> None:
        found = self.process("stats socket /run/x.sock user a group b")["admin"]
        assert found == {"sockets": [{"path": "/run/x.sock", "user": "a", "group": "b", "level": "operator"}]}

    def test_admin_socket_open_to_everybody(self) -> None:
        result = haproxy(f"global\n stats socket /run/x.sock mode 777 level admin\n{DEFAULTS}{LISTEN}")
        assert tables(result)["admin"] == {"socket": "/run/x.sock"}
        assert result.has_losses


class TestStatistics:
    """Statistics pages and exporters as ``[admin] http``."""

    def admin(self, *lines: str, bind: str = "bind 127.0.0.1:8404") -> tuple[dict[str, Any], list[str]]:
        text = "".join(f" {line}\n" for line in ("mode http", bind, *lines))
        result = haproxy(f"{DEFAULTS}{LISTEN}frontend stats\n{text}")
        entries = [str(entry) for entry in result.entries if entry.kind == "loss"]
        return tables(result), entries

    def test_page_on_loopback(self) -> None:
        found, losses = self.admin("stats enable", "stats uri /stats")
        assert found["admin"] == {"http": "127.0.0.1:8404"}
        assert losses == []

    def test_page_for_other_machines(self) -> None:
        found, losses = self.admin("stats enable", "stats auth admin:admin", bind="bind *:8404")
        assert found["admin"] == {"http": "127.0.0.1:8404"}
        (loss,) = losses
        assert (
            "is at 127.0.0.1:8404 here: an address that other machines reach needs tls and token_file" in loss
        )

    def test_exporter(self) -> None:
        found, losses = self.admin("http-request use-service prometheus-exporter if { path /metrics }")
        assert found["admin"] == {"http": "127.0.0.1:8404"}
        assert found["metrics"] == {"haproxy_names": True}
        assert losses == []

    def test_there_is_one_address(self) -> None:
        more = " stats enable\nlisten more\n mode http\n bind 127.0.0.1:9000\n stats enable\n"
        result = haproxy(f"{DEFAULTS}{LISTEN}listen stats\n mode http\n bind 127.0.0.1:8404\n{more}")
        assert tables(result)["admin"] == {"http": "127.0.0.1:8404"}
        assert any("is at 127.0.0.1:8404 here, with the one before it" in line for line in report(result))

    def test_statistics_in_a_tcp_section(self) -> None:
        result = haproxy(f"{DEFAULTS}{LISTEN} stats enable\n")
        assert "admin" not in tables(result)
        assert not result.has_losses


class TestTraps:
    def test_short_timeouts_are_advised_against(self) -> None:
        result = haproxy(DEFAULTS.replace("31m", "60s") + LISTEN)
        assert tables(result)["frontends"]["imap"]["timeouts"]["client"] == "1m"
        assert sum("advice: timeout" in line and "RFC 2177" in line for line in report(result)) == 2
        assert not result.has_losses

    def test_mending(self) -> None:
        text = DEFAULTS.replace("31m", "60s") + LISTEN.replace("192.0.2.1:143", "192.0.2.1:143 check")
        found = tables(haproxy(text, mend=True))
        assert "timeouts" not in found["frontends"]["imap"]
        assert "server" not in found["backends"]["imap"]["timeouts"]
        assert "type" not in found["backends"]["imap"]["check"]

    def test_timeout_on_the_wrong_side(self) -> None:
        result = haproxy(f"{IMAP} timeout client 1h\n server a 192.0.2.1:143\n")
        assert any("timeout client: HAProxy ignores it in a backend" in line for line in report(result))

    def test_one_line_for_each_cause(self) -> None:
        text = "".join(
            f"listen x{n}\n bind :{n}\n id {n}\n server s 192.0.2.1:143 minconn 3\n" for n in range(1, 5)
        )
        lines = report(haproxy(DEFAULTS + text))
        assert [line for line in lines if "minconn" in line] == [
            "haproxy.cfg:10:25: server minconn: not here: max_sessions is fixed, also lines 14, 18, 22"
        ]

    def test_refused_bind_is_reported_once(self) -> None:
        result = haproxy(f"{DEFAULTS}{LISTEN}listen x\n bind :110\n bind :143\n server a 192.0.2.1:110\n")
        assert tables(result)["frontends"]["x"]["bind"] == ["*:110"]
        assert len([line for line in report(result) if "mailproxy refuses" in line]) == 1


@pytest.mark.parametrize(
    ("bound", "protocol"),
    [
        (143, "imap"),
        (993, "imap"),
        (110, "pop3"),
        (25, "smtp"),
        (465, "submission"),
        (4190, "sieve"),
        (10143, "imap"),
        (2525, "smtp"),
    ],
)
def test_protocol_of_bound_port(bound: int, protocol: str) -> None:
    result = haproxy(f"{DEFAULTS}listen x\n bind :{bound}\n server a 192.0.2.1:1\n")
    assert tables(result)["frontends"]["x"]["protocol"] == protocol


def test_protocol_of_server_and_name() -> None:
    found = tables(
        haproxy(
            f"{DEFAULTS}listen x\n bind :9\n server a 192.0.2.1:993\nlisten old-pop\n bind :8\n server a 192.0.2.1:8\n"
        )
    )
    assert [found["frontends"][name]["protocol"] for name in ("x", "old-pop")] == ["imap", "pop3"]


def test_backend_of_two_protocols() -> None:
    text = f"{DEFAULTS}frontend a\n bind :25\n default_backend x\nfrontend b\n bind :587\n default_backend x\nbackend x\n server s 192.0.2.1:25\n"
    assert tables(haproxy(text))["backends"]["x"]["protocol"] == "smtp"


def test_port_counted_from_the_clients() -> None:
    result = haproxy(f"{DEFAULTS}listen x\n bind :143\n server a 192.0.2.1:+10000\n")
    assert tables(result)["backends"]["x"]["servers"] == [{"name": "a", "address": "192.0.2.1:10143"}]
