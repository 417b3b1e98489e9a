"""Configurations that the documentation of Dovecot, HAProxy and Caddy has: they import with their meaning.

Some of them are refused by HAProxy, or leave addresses out. What was done instead is in the report.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import pytest

from mailproxy.config import load_stream
from tests.support.imports import caddy, haproxy, report, tables

FRONTEND = "frontend imap_tls\nbind *:993{tls}\nmode tcp\ndefault_backend {backend}\n"
TLS = " ssl crt /etc/haproxy/certs/example.pem"
TIMEOUTS = "defaults\nmode tcp\ntimeout client 31m\ntimeout server 31m\ntimeout connect 5s\n"


def backend(text: str) -> dict[str, Any]:
    result = haproxy(TIMEOUTS + text)
    load_stream(BytesIO(result.text.encode())) if "frontends" in result.text else None
    (found,) = tables(result)["backends"].values()
    return found  # type: ignore[no-any-return]


class TestDovecot:
    @pytest.mark.parametrize(
        ("tls", "server", "expected"),
        [
            (TLS, "10.0.0.1:993 ssl verify required ca-file /etc/haproxy/ca.pem send-proxy-v2-ssl", {"send_proxy": "v2-ssl", "tls": {"verify": "chain", "ca": "/etc/haproxy/ca.pem"}}),
            (TLS, "10.0.0.1:143 send-proxy-v2", {"send_proxy": "v2"}),
            ("", "10.0.0.1:993 send-proxy-v2", {"send_proxy": "v2"}),
        ],
    )  # fmt: skip
    def test_layouts(self, tls: str, server: str, expected: dict[str, Any]) -> None:
        text = FRONTEND.format(tls=tls, backend="b") + f"backend b\nmode tcp\nserver dovecot1 {server}\n"
        found = backend(text)
        assert {key: found.get(key) for key in expected} == expected

    def test_continued_lines(self) -> None:
        """The page says that they need HAProxy 2.4, and no version of it has them."""
        text = (
            "backend dovecot_imap_tls\nmode tcp\nserver dovecot1 10.0.0.1:993 ssl verify required \\\nca-file /etc/haproxy/ca.pem \\\n"
            "crt /etc/haproxy/client.pem \\\nsend-proxy-v2-ssl\n"
        )
        found = backend(text)
        assert found["tls"] == {
            "verify": "chain",
            "ca": "/etc/haproxy/ca.pem",
            "certificate": "/etc/haproxy/client.pem",
        }
        assert found["send_proxy"] == "v2-ssl"
        (line,) = [line for line in report(haproxy(text)) if "backslash" in line]
        assert line.startswith("haproxy.cfg:3:1: note: ")
        assert line.endswith(", also lines 4, 5")

    def test_hello_inside_tls(self) -> None:
        text = (
            "backend dovecot_imap_tls\nmode tcp\noption ssl-hello-chk\nserver dovecot1 10.0.0.1:993 check ssl verify required \\\n"
            "ca-file /etc/haproxy/ca.pem send-proxy-v2-ssl\n"
        )
        assert backend(text)["check"] == {"type": "tls", "interval": "2s"}
        assert any("the server stays down" in line for line in report(haproxy(text)))

    def test_greeting(self) -> None:
        text = "backend dovecot_imap\nmode tcp\noption tcp-check\ntcp-check expect string * OK\nserver dovecot1 10.0.0.1:143 check send-proxy-v2\n"
        assert backend(text)["check"] == {"type": "script", "interval": "2s", "steps": [{"expect": "* OK"}]}

    def test_timeouts(self) -> None:
        result = haproxy("defaults\nmode tcp\ntimeout client 31m\ntimeout server 31m\ntimeout connect 5s\n")
        assert not result.has_losses

    def test_stick_table(self) -> None:
        text = (
            "frontend ft_imap\n  bind :143\n  mode tcp\n  default_backend bk_imap\nbackend bk_imap\n  mode tcp\n  balance leastconn\n"
            "  stick store-request src\n  stick-table type ip size 200k expire 30m\n  server s1 backend.example.com:10143 send-proxy-v2\n"
        )
        found = backend(text)
        assert found["stick"] == {"on": "source"}
        assert found["send_proxy"] == "v2"
        assert "balance" not in found


EXCHANGE = """defaults XCHANGE2010_TCP
    mode tcp
    log global
    option tcplog
    balance leastconn
    option dontlognull
    option redispatch
    option contstats
    option socket-stats
    timeout server 600s
    timeout client 600s
    timeout connect 5s
    timeout queue 60s
    retries 3
    default-server inter 15s rise 2 fall 2
    backlog 10000

frontend ft_xchange2010_imap
    bind {imap}name IMAP tcp-ut 30s
    bind {imaps}name IMAPs tcp-ut 30s
    default_backend bk_xchange2010_imap

backend bk_xchange2010_imap
    option tcp-check
    tcp-check connect port 143
    tcp-check expect string * OK
    tcp-check connect port 993 ssl
    tcp-check expect string * OK
    default-server on-marked-down shutdown-sessions
    server CAS1 {one}check
    server CAS2 {two}check
"""


class TestExchange:
    def test_without_addresses(self) -> None:
        """The page lost its addresses: HAProxy takes the next words for them."""
        result = haproxy(EXCHANGE.format(imap="", imaps="", one="", two=""))
        assert any("bind name: has no port" in line for line in report(result))
        assert any("server CAS1: has no address" in line for line in report(result))
        load = tables(result)
        assert "frontends" not in load

    def test_with_addresses(self) -> None:
        result = haproxy(
            EXCHANGE.format(
                imap="192.0.2.9:143 ", imaps="192.0.2.9:993 ", one="192.0.2.11 ", two="192.0.2.12 "
            )
        )
        config = load_stream(BytesIO(result.text.encode()))
        frontend, pool = config.frontends["ft_xchange2010_imap"], config.backends["bk_xchange2010_imap"]
        assert [bind.name for bind in frontend.bind] == ["IMAP", "IMAPs"]
        assert [bind.backlog for bind in frontend.bind] == [10000, 10000]
        assert [server.on_marked_down for server in pool.servers] == ["shutdown-sessions"] * 2
        assert not result.has_losses


CADDYFILE = """{
    layer4 {
        :993 {
            @imaps tls sni imap.example.com
            route @imaps {
                tls
                proxy {
                    # send proxy protocol v1
                    proxy_protocol v1
                    upstream localhost:143
                }
            }
        }
        :143 {
            route {
                # receive proxy protocol v1 or v2
                proxy_protocol
                proxy {
                    # send proxy protocol v2
                    proxy_protocol v2
                    upstream localhost:1143
                }
            }
        }
    }
}

# used for TLS termination on port 993
imap.example.com {
    respond "OK" 200
}
"""


def test_caddys_chain() -> None:
    result = caddy(CADDYFILE)
    config = load_stream(BytesIO(result.text.encode()))
    assert [frontend.routes[0].sni for frontend in config.frontends.values() if frontend.routes] == [
        ("imap.example.com",)
    ]
    (bind,) = config.frontends["imap"].bind
    assert [str(network) for network in bind.accept_proxy] == ["127.0.0.0/8", "::1/128"]
    assert {name: pool.send_proxy for name, pool in config.backends.items()} == {"imaps": "v1", "imap": "v2"}
    for comment in (
        "# send proxy protocol v1",
        "# receive proxy protocol v1 or v2",
        "# send proxy protocol v2",
    ):
        assert comment in result.text
