"""Advice: each usual mistake has a line with its remedy, and a correct configuration has no advice."""

from __future__ import annotations

import grp
import os
import pwd
import resource
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import mailproxy
from mailproxy.app import advise, load_and_check
from mailproxy.cli import main
from mailproxy.testing import ThrowAwayCA
from tests.support.startup_config import CURRENT_USER, startup_config

REQUIRED = 'use "required", with ca and server_name if needed'
TLS_SERVERS: dict[str, Any] = {"backends__dovecot__servers": ["192.0.2.1:993"], "backends__dovecot__tls": {}}
IDLE = "cuts IMAP clients off that wait in IDLE: use 31m (they send something every 29 minutes, RFC 2177)"


def advice_for(config: mailproxy.Config) -> list[str]:
    return [str(line) for line in advise(config, load_and_check(config))]


# Without this, there is advice about missing PROXY headers.
NO_PROXY_HEADER: dict[str, Any] = {"backends__dovecot__send_proxy": "none"}


def test_correct_configuration_has_no_advice() -> None:
    assert (
        advice_for(startup_config(frontends__imap__protocol="imap", backends__dovecot__send_proxy="v2")) == []
    )


# Idle timeouts.


@pytest.mark.parametrize("limit", ["28m", "28.99m", 600])
def test_short_imap_client_timeout(limit: object) -> None:
    config = startup_config(
        frontends__imap__protocol="imap", frontends__imap__timeouts={"client": limit}, **NO_PROXY_HEADER
    )
    (line,) = advice_for(config)
    assert line.startswith("frontends.imap.timeouts.client: ")
    assert line.endswith(f"s {IDLE}")


def test_short_imap_server_timeout() -> None:
    config = startup_config(
        frontends__imap__protocol="imap", backends__dovecot__timeouts={"server": "10m"}, **NO_PROXY_HEADER
    )
    assert advice_for(config) == [f"backends.dovecot.timeouts.server: 600s {IDLE}"]


@pytest.mark.parametrize(
    ("protocol", "port", "limit"),
    [("imap", 143, "29m"), ("imap", 143, "2h"), ("pop3", 110, "10m"), ("tcp", 143, "1m")],
)
def test_sufficient_or_other_protocol_timeouts(protocol: str, port: int, limit: str) -> None:
    config = startup_config(
        frontends__imap__protocol=protocol,
        frontends__imap__timeouts={"client": limit},
        backends__dovecot__timeouts={"server": limit},
        backends__dovecot__servers=[f"192.0.2.1:{port}"],
        **NO_PROXY_HEADER,
    )
    assert advice_for(config) == []


# PROXY headers.


@pytest.mark.parametrize(
    "all_addresses",
    [["0.0.0.0/0"], ["::/0"], ["0.0.0.0/1", "128.0.0.0/1"]],
    ids=["IPv4", "IPv6", "two halves"],
)
def test_proxy_headers_from_every_address(all_addresses: list[str]) -> None:
    binds = [
        {"address": "127.0.0.1:0", "name": "a", "accept_proxy": ["10.0.0.0/8"]},
        {"address": "127.0.0.1:0", "name": "b", "accept_proxy": ["10.0.0.0/8", *all_addresses]},
    ]
    assert advice_for(startup_config(frontends__imap__bind=binds)) == [
        (
            "frontends.imap.bind[1].accept_proxy: allows every address, so that any client can claim any address in a "
            "PROXY header: give the networks of your proxies"
        )
    ]


def test_proxy_headers_from_few_networks() -> None:
    binds = [
        {"address": "127.0.0.1:0", "accept_proxy": ["10.0.0.0/8", "2001:db8::/32"]},
        {"address": "unix:imap.sock", "accept_proxy": ["unix"]},
    ]
    assert advice_for(startup_config(frontends__imap__bind=binds)) == []


MISSING = (
    "backends.dovecot.send_proxy: is missing: the servers will see and log the proxy's address instead of the client's; "
    'give "v2-ssl" (Dovecot: haproxy = yes and haproxy_trusted_networks) or "v2" (Postfix) where they take PROXY headers, or "none"'
)


@pytest.mark.parametrize(
    ("protocol", "port"), [("imap", 143), ("pop3", 110), ("submission", 587), ("lmtp", 24), ("sieve", 4190)]
)
def test_missing_send_proxy(protocol: str, port: int) -> None:
    servers = [f"192.0.2.1:{port}"]
    config = startup_config(frontends__imap__protocol=protocol, backends__dovecot__servers=servers)
    assert advice_for(config) == [MISSING]


def test_missing_send_proxy_with_tcp_protocol() -> None:
    assert advice_for(startup_config(frontends__imap__protocol="tcp")) == []


@pytest.mark.parametrize("kind", ["none", "v1", "v2", "v2-ssl", "v2-ssl-cn"])
def test_configured_send_proxy_has_no_advice(kind: str) -> None:
    servers = ["127.0.0.1:143"]
    config = startup_config(
        frontends__imap__protocol="imap", backends__dovecot__send_proxy=kind, backends__dovecot__servers=servers
    )  # fmt: skip
    assert advice_for(config) == []


def test_one_server_without_send_proxy() -> None:
    def config(*servers: object) -> mailproxy.Config:
        return startup_config(frontends__imap__protocol="imap", backends__dovecot__servers=servers)

    with_header, without_header = {"address": "192.0.2.1:143", "send_proxy": "v2"}, "192.0.2.2:143"
    assert advice_for(config(with_header, without_header)) == [MISSING]
    assert advice_for(config(with_header)) == []


def tls_facts_config(address: str, **changes: Any) -> mailproxy.Config:
    servers = [{"address": "127.0.0.1:143"}, {"address": address}]
    return startup_config(
        backends__dovecot__servers=servers, backends__dovecot__send_proxy="v2-ssl", **changes
    )


@pytest.mark.parametrize("address", ["192.0.2.1:143", "[2001:db8::1]:143", "imap.internal:143"])
def test_tls_facts_in_clear_text(address: str) -> None:
    assert advice_for(tls_facts_config(address)) == [
        (
            f"backends.dovecot.servers[1]: {address} receives the client's TLS facts in clear text, and takes the "
            "connection for secure: give the backend tls"
        )
    ]


@pytest.mark.parametrize("address", ["127.0.0.2:143", "[::1]:143", "localhost:143", "unix:/run/imap.sock"])
def test_tls_facts_in_local_clear_text(address: str) -> None:
    assert advice_for(tls_facts_config(address)) == []


def test_tls_facts_to_tls_server() -> None:
    servers = ["192.0.2.1:993"]
    config = startup_config(
        backends__dovecot__servers=servers, backends__dovecot__send_proxy="v2-ssl-cn", backends__dovecot__tls={}
    )  # fmt: skip
    assert advice_for(config) == []


def test_proxy_header_without_tls_facts() -> None:
    config = startup_config(backends__dovecot__servers=["192.0.2.1:143"], backends__dovecot__send_proxy="v2")
    assert advice_for(config) == []


# Clear text.


@pytest.mark.parametrize("address", ["*:0", "[::]:0", "192.0.2.1:143"])
def test_exposed_clear_text_before_tls_servers(address: str) -> None:
    config = startup_config(frontends__imap__bind=[{"address": address}], **TLS_SERVERS)
    (line,) = advice_for(config)
    assert line == (
        f"frontends.imap.bind[0].mode: clear text is exposed at {address} without STARTTLS, since the servers speak TLS: "
        'use mode = "tls", or "passthrough" without the backend\'s tls'
    )


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0", "unix:imap.sock", "fd:3"])
def test_local_clear_text_before_tls_servers(address: str) -> None:
    assert advice_for(startup_config(frontends__imap__bind=[{"address": address}], **TLS_SERVERS)) == []


def test_clear_text_before_clear_text_servers() -> None:
    assert advice_for(startup_config(frontends__imap__bind=[{"address": "*:143"}])) == []


def test_terminated_tls_without_server_port(throw_away_ca: ThrowAwayCA) -> None:
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:993"}, {"address": "127.0.0.1:994", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        backends__dovecot__servers=[{"name": "d1", "address": "192.0.2.1"}],
    )
    (line,) = advice_for(config)
    assert line == (
        "backends.dovecot.servers: d1 has no port and no tls: sessions of frontends.imap.bind[1] would speak clear text to "
        "the port that the client connected to; give port, or tls"
    )


@pytest.mark.parametrize("change", [{"backends__dovecot__port": 143}, {"backends__dovecot__tls": {}}])
def test_terminated_tls_with_port_or_tls(throw_away_ca: ThrowAwayCA, change: dict[str, Any]) -> None:
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:993", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        backends__dovecot__servers=["192.0.2.1"],
        **change,
    )
    assert advice_for(config) == []


def test_terminated_tls_to_a_tls_port(throw_away_ca: ThrowAwayCA) -> None:
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:993", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        backends__dovecot__servers=["192.0.2.1:993"],
    )
    key, bind = "backends.dovecot.tls", "frontends.imap.bind[0]"
    assert advice_for(config) == [
        f"{key}: port 993 of 192.0.2.1:993 speaks TLS, and sessions of {bind} would come in clear text: give tls"
    ]


def test_server_tls_at_a_plain_port() -> None:
    assert advice_for(startup_config(backends__dovecot__tls={})) == [
        'backends.dovecot.servers[0]: port 143 speaks clear text first, and tls is given: use tls.mode = "starttls", or the port that speaks TLS'
    ]


# Backends reached by routes.


def routed(
    throw_away_ca: ThrowAwayCA, mode: str, route: dict[str, Any], other: dict[str, Any], **changes: Any
) -> mailproxy.Config:
    """Return a bind whose sessions go to one backend, and by a route to another one."""
    changes.setdefault(
        "backends__dovecot__servers", ["192.0.2.1:993" if mode == "passthrough" else "192.0.2.1:143"]
    )
    return startup_config(
        frontends__imap__bind=[{"address": "192.0.2.9:993", "mode": mode}],
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("imap.example.com"))]},
        frontends__imap__routes=[{"sni": ["other.example"], "backend": "other", **route}],
        backends__other=other,
        **changes,
    )


def test_route_terminating_tls_to_a_tls_port(throw_away_ca: ThrowAwayCA) -> None:
    config = routed(throw_away_ca, "passthrough", {"mode": "tls"}, {"servers": ["192.0.2.7:993"]})
    assert advice_for(config) == [
        (
            "backends.other.tls: port 993 of 192.0.2.7:993 speaks TLS, and sessions of frontends.imap.bind[0] would come in "
            "clear text: give tls"
        )
    ]


def test_route_terminating_tls_without_server_port(throw_away_ca: ThrowAwayCA) -> None:
    servers = [{"name": "d9", "address": "192.0.2.7"}]
    config = routed(throw_away_ca, "passthrough", {"mode": "tls"}, {"servers": servers})
    assert advice_for(config) == [
        (
            "backends.other.servers: d9 has no port and no tls: sessions of frontends.imap.bind[0] would speak clear text to "
            "the port that the client connected to; give port, or tls"
        )
    ]


def test_route_of_tls_bind_to_a_tls_port(throw_away_ca: ThrowAwayCA) -> None:
    (line,) = advice_for(routed(throw_away_ca, "tls", {}, {"servers": ["192.0.2.7:993"]}))
    assert line.startswith("backends.other.tls: port 993 of 192.0.2.7:993 speaks TLS")


def test_passthrough_route_to_backend_with_tls(throw_away_ca: ThrowAwayCA) -> None:
    config = routed(throw_away_ca, "tls", {"mode": "passthrough"}, {"servers": ["192.0.2.7:993"], "tls": {}})
    (line,) = advice_for(config)
    assert line.startswith(
        "backends.other.tls: clients of frontends.imap.bind[0] speak TLS through to the servers"
    )


def test_route_after_unconditional_route() -> None:
    routes = [{"backend": "dovecot"}, {"client": ["192.0.2.0/24"], "reject": True}]
    (line,) = advice_for(startup_config(frontends__imap__routes=routes))
    assert line.startswith("frontends.imap.routes[0]: has no condition")


@pytest.mark.parametrize(
    "proxy_keys",
    [{"send_proxy": "v2", "send_proxy_tlvs": ["ssl-cipher"]}, {"send_proxy": "v2", "forward_tlvs": True}],
)
def test_tls_facts_in_clear_text_by_tlvs(proxy_keys: dict[str, Any]) -> None:
    (line,) = advice_for(startup_config(backends__dovecot={"servers": ["192.0.2.1:143"], **proxy_keys}))
    assert "receives the client's TLS facts in clear text" in line


@pytest.mark.parametrize(
    ("mode", "route", "other"),
    [
        # TLS passes through to the other backend.
        ("tls", {"mode": "passthrough"}, {"servers": ["192.0.2.7:993"]}),
        ("tls", {"mode": "passthrough"}, {"servers": ["192.0.2.7"]}),
        ("passthrough", {"mode": "tls"}, {"servers": ["192.0.2.7:993"], "tls": {}}),
        ("passthrough", {"mode": "tls"}, {"servers": ["192.0.2.7:143"]}),
        ("passthrough", {"mode": "tls"}, {"servers": ["unix:/run/imap.sock"]}),
    ],
)
def test_correct_routes_have_no_advice(
    throw_away_ca: ThrowAwayCA, mode: str, route: dict[str, Any], other: dict[str, Any]
) -> None:
    assert advice_for(routed(throw_away_ca, mode, route, other)) == []


def test_terminating_route_does_not_affect_default_backend(throw_away_ca: ThrowAwayCA) -> None:
    # TLS passes through to port 993. Only the route terminates it.
    config = routed(
        throw_away_ca, "passthrough", {"mode": "tls"}, {"servers": ["192.0.2.7:143"]},
        backends__dovecot__servers=["192.0.2.1:993"],
    )  # fmt: skip
    assert advice_for(config) == []


def test_route_to_tls_backend_exposes_clear_text() -> None:
    config = startup_config(
        frontends__imap__bind=[{"address": "192.0.2.9:143"}],
        frontends__imap__routes=[{"client": ["198.51.100.0/24"], "backend": "other"}],
        backends__other={"servers": ["192.0.2.7:993"], "tls": {}},
    )
    (line,) = advice_for(config)
    assert line.startswith(
        "frontends.imap.bind[0].mode: clear text is exposed at 192.0.2.9:143 without STARTTLS"
    )


# Servers.


def test_all_servers_with_weight_zero() -> None:
    servers = [{"address": "192.0.2.1:143", "weight": 0}, {"address": "192.0.2.2:143", "weight": 0}]
    assert advice_for(startup_config(backends__dovecot__servers=servers)) == [
        "backends.dovecot: every server has weight 0: none takes a session"
    ]


@pytest.mark.parametrize(
    ("verify", "fact"),
    [("none", '"none" verifies nothing'), ("chain", '"chain" verifies the chain but not the name')],
)
def test_weak_verification_is_advised_once(verify: str, fact: str) -> None:
    servers = ["192.0.2.1:993", "192.0.2.2:993", "192.0.2.3:993"]
    config = startup_config(backends__dovecot__tls={"verify": verify}, backends__dovecot__servers=servers)
    assert advice_for(config) == [f"backends.dovecot.tls.verify: {fact}: {REQUIRED}"]


def test_weak_verification_of_one_server() -> None:
    servers = ["192.0.2.1:993", {"address": "192.0.2.2:993", "tls": {"verify": "none"}}]
    config = startup_config(backends__dovecot__tls={}, backends__dovecot__servers=servers)
    assert advice_for(config) == [
        f'backends.dovecot.servers[1].tls.verify: "none" verifies nothing: {REQUIRED}'
    ]


@pytest.mark.parametrize("other", ["192.0.2.1:143", {"name": "d2", "address": "192.0.2.1:143", "weight": 5}])
def test_duplicate_server_address(other: object) -> None:
    servers = [{"name": "d1", "address": "192.0.2.1:143"}, other]
    assert advice_for(startup_config(backends__dovecot__servers=servers)) == [
        "backends.dovecot.servers[1]: has the address 192.0.2.1:143 of d1: one of them is superfluous"
    ]


def test_duplicate_server_address_in_other_notation() -> None:
    servers = [{"name": "d1", "address": "2001:DB8::0:1"}, {"name": "d2", "address": "[2001:db8::1]:143"}]
    config = startup_config(backends__dovecot__servers=servers, backends__dovecot__port=143)
    assert advice_for(config) == [
        "backends.dovecot.servers[1]: has the address [2001:db8::1]:143 of d1: one of them is superfluous"
    ]


def test_two_ports_of_one_host() -> None:
    assert advice_for(startup_config(backends__dovecot__servers=["192.0.2.1:143", "192.0.2.1:144"])) == []


# The pool.


def test_stick_table_of_size_zero() -> None:
    assert advice_for(startup_config(backends__dovecot__stick={"size": 0})) == [
        'backends.dovecot.stick.size: has room for no entry, so no client sticks: give a size such as "200k"'
    ]


@pytest.mark.parametrize("stick", [{}, {"size": 1}, False])
def test_usable_or_no_stick_table(stick: object) -> None:
    assert advice_for(startup_config(backends__dovecot__stick=stick)) == []


@pytest.mark.parametrize(
    ("limits", "is_advised"),
    [((0, 0), True), ((5, 0, 5), True), ((5, 0), False), ((5, 6, 0), False), ((5, 5), False), ((0,), False)],
)
def test_balance_first_without_max_sessions(limits: tuple[int, ...], is_advised: bool) -> None:
    """Only the last server may have no limit, because the servers after it would get no sessions."""
    servers = [
        {"address": f"192.0.2.{number}:143", "max_sessions": limit} for number, limit in enumerate(limits)
    ]
    line = (
        'backends.dovecot.balance: "first" fills a server up before it takes the next: give servers max_sessions, or '
        "the first takes all sessions"
    )
    config = startup_config(backends__dovecot__servers=servers, backends__dovecot__balance="first")
    assert advice_for(config) == ([line] if is_advised else [])


@pytest.mark.parametrize(("limits", "is_advised"), [((0, 0), True), ((0, 5), False)])
def test_max_queue_without_max_sessions(limits: tuple[int, ...], is_advised: bool) -> None:
    servers = [
        {"address": f"192.0.2.{number}:143", "max_sessions": limit} for number, limit in enumerate(limits)
    ]
    config = startup_config(backends__dovecot__servers=servers, backends__dovecot__max_queue=10)
    line = "backends.dovecot.max_queue: has no effect, since no session waits: give servers max_sessions"
    assert advice_for(config) == ([line] if is_advised else [])


def test_stick_table_with_balance_source() -> None:
    config = startup_config(backends__dovecot__balance="source", backends__dovecot__stick={})
    assert advice_for(config) == [
        (
            'backends.dovecot.balance: "source" chooses only the first server of a client, which the stick table remembers: '
            'remove stick, or use balance = "leastconn"'
        )
    ]


def test_forwarded_tls_inside_server_tls() -> None:
    config = startup_config(frontends__imap__bind=[{"address": "*:993"}], **TLS_SERVERS)
    assert advice_for(config) == [
        (
            "frontends.imap.bind[0].mode: clients of port 993 speak TLS, and the backend's tls would put it inside TLS: use "
            'mode = "tls", or remove the backend\'s tls'
        )
    ]


@pytest.mark.parametrize("balance", ["leastconn", "roundrobin", "source", "random"])
def test_other_balances_need_no_max_sessions(balance: str) -> None:
    assert advice_for(startup_config(backends__dovecot__balance=balance)) == []


@pytest.mark.parametrize("check", [False, "none", {"type": "none"}])
def test_on_marked_down_without_check(check: object) -> None:
    config = startup_config(
        backends__dovecot__on_marked_down="shutdown-sessions", backends__dovecot__check=check
    )
    assert advice_for(config) == [
        (
            "backends.dovecot.on_marked_down: 192.0.2.1:143 is not checked, so nothing but maintenance takes it down: give "
            "it a check"
        )
    ]


def test_on_marked_down_is_advised_per_server() -> None:
    unchecked = {"name": "d2", "address": "192.0.2.2:143", "check": False}
    config = startup_config(backends__dovecot__servers=["192.0.2.1:143", unchecked])
    assert advice_for(config) == []
    config = startup_config(
        backends__dovecot__servers=["192.0.2.1:143", {**unchecked, "on_marked_down": "shutdown-sessions"}]
    )
    (line,) = advice_for(config)
    assert line.startswith("backends.dovecot.servers[1].on_marked_down: d2 is not checked")


# Certificates.


@pytest.mark.parametrize(("days", "is_advised"), [(1, True), (13, True), (15, False)])
def test_expiring_certificate(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, days: int, is_advised: bool
) -> None:
    end = datetime.now(UTC) + timedelta(days=days, hours=1)
    file = throw_away_ca.issue("imap.example.com", folder=tmp_path, not_after=end)
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(tmp_path)]},
    )
    remaining = f"{days} days, on {end:%Y-%m-%d}" if days > 1 else f"24 hours, on {end:%Y-%m-%d %H:%M} UTC"
    line = f"frontends.imap.tls.certificates[0]: {file}: expires in {remaining}: renew it"
    assert advice_for(config) == ([line] if is_advised else [])


@pytest.mark.parametrize(("days", "is_advised"), [(3, False), (1, True)])
def test_short_lived_certificate_is_advised_late(
    throw_away_ca: ThrowAwayCA, tmp_path: Path, days: int, is_advised: bool
) -> None:
    now = datetime.now(UTC)
    throw_away_ca.issue(
        "imap.example.com",
        folder=tmp_path,
        not_before=now - timedelta(days=5),
        not_after=now + timedelta(days=days),
    )
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(tmp_path)]},
    )
    assert bool(advice_for(config)) is is_advised


def test_certificate_without_dns_name(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = throw_away_ca.issue("192.0.2.1", folder=tmp_path)
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file)]},
    )
    assert advice_for(config) == [
        f"frontends.imap.tls.certificates[0]: {file}: has no DNS name, so clients cannot verify it"
    ]


def test_world_readable_key_is_advised_once(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    file = throw_away_ca.issue("imap.example.com", folder=tmp_path)
    file.chmod(0o604)
    config = startup_config(
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file), str(file)]},
    )
    assert advice_for(config) == [
        f"frontends.imap.tls.certificates[0]: {file}: every user can read this private key: chmod o-r"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose files others cannot read")
def test_key_unreadable_by_process_user(throw_away_ca: ThrowAwayCA, open_folder: Path) -> None:
    def advice(file: Path) -> list[str]:
        config = startup_config(
            process__user="nobody",
            frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
            frontends__imap__tls={"certificates": [str(open_folder)]},
        )
        fact = f"{file}: nobody cannot read it, so a renewed one needs a restart: chgrp it to a group of nobody, chmod g+r"
        lines = advice_for(config)
        assert lines in ([], [f"frontends.imap.tls.certificates[0]: {fact}"])
        return lines

    file, nobody = throw_away_ca.issue("imap.example.com", folder=open_folder), pwd.getpwnam("nobody")
    assert advice(file)
    file.chmod(0o640)
    assert advice(file)  # its group is root
    os.chown(file, 0, nobody.pw_gid)
    assert not advice(file)
    file.chmod(0o600)
    assert advice(file)
    os.chown(file, nobody.pw_uid, 0)
    assert not advice(file)
    file.chmod(0o060)
    assert advice(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose files others cannot read")
def test_key_file_of_pair_unreadable_by_user(throw_away_ca: ThrowAwayCA, open_folder: Path) -> None:
    key, begin, chain = (
        throw_away_ca.issue("imap.example.com").read_bytes().partition(b"-----BEGIN CERTIFICATE")
    )
    for name, content in (("imap.key", key), ("imap.crt", begin + chain)):
        (open_folder / name).write_bytes(content)
        (open_folder / name).chmod(0o600 if name == "imap.key" else 0o644)
    config = startup_config(
        process__user="nobody",
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(open_folder)]},
    )
    (line,) = advice_for(config)
    assert line.startswith(
        f"frontends.imap.tls.certificates[0]: {open_folder}/imap.key: nobody cannot read it"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose folders others cannot enter")
def test_folder_unreadable_by_process_user(throw_away_ca: ThrowAwayCA, open_folder: Path) -> None:
    """certbot's folders are like this: only root may enter them."""
    live = open_folder / "live" / "imap.example.com"
    live.mkdir(parents=True)
    file = throw_away_ca.issue("imap.example.com", folder=live)
    file.chmod(0o644)
    config = startup_config(
        process__user="nobody",
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        frontends__imap__tls={"certificates": [str(file)]},
    )
    (open_folder / "live").chmod(0o700)
    (_, line) = advice_for(config)
    assert line == (
        f"frontends.imap.tls.certificates[0]: {file}: nobody cannot read it, so a renewed one needs a restart: "
        f"nobody may not enter {open_folder}/live; have a deploy hook copy it (docs/tls.md)"
    )


def test_expiring_client_certificate_for_servers(throw_away_ca: ThrowAwayCA, tmp_path: Path) -> None:
    end = datetime.now(UTC) + timedelta(days=5, hours=1)
    file = throw_away_ca.issue_client("proxy", folder=tmp_path, not_after=end)
    config = startup_config(
        backends__dovecot__servers=["192.0.2.1:993"], backends__dovecot__tls={"certificate": str(file)}
    )
    assert advice_for(config) == [
        f"backends.dovecot.tls.certificate: {file}: expires in 5 days, on {end:%Y-%m-%d}: renew it"
    ]


# Unused tables and missing targets.


def test_frontend_without_a_backend() -> None:
    config = mailproxy.from_mapping(
        {"process": {"user": "nobody"}, "frontends": {"closed": {"bind": ["127.0.0.1:0"]}}}
    )
    assert advice_for(config) == [
        "frontends.closed: has no backend: every session is refused; give backend unless that is meant"
    ]


def test_frontend_with_routes_needs_no_backend() -> None:
    config = mailproxy.from_mapping(
        {
            "process": {"user": CURRENT_USER},
            "frontends": {
                "f": {
                    "protocol": "tcp",
                    "bind": ["127.0.0.1:0"],
                    "routes": [{"client": ["10.0.0.0/8"], "backend": "b"}],
                }
            },
            "backends": {"b": {"servers": ["192.0.2.1:143"]}},
        }
    )
    assert advice_for(config) == []


def test_unused_backend() -> None:
    assert advice_for(startup_config(backends__spare={"servers": ["192.0.2.9:143"]})) == [
        "backends.spare: no frontend uses it"
    ]


def test_missing_syslog_socket(tmp_path: Path) -> None:
    assert advice_for(startup_config(log__to=f"syslog:{tmp_path}/log")) == [
        f"log.to: {tmp_path}/log: there is no such socket, so every line would be lost"
    ]


# The process.


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gets this advice")
def test_root_without_process_user() -> None:
    assert advice_for(startup_config(process={})) == [
        'process.user: sessions would be served as root: give a user, such as "mailproxy"'
    ]


@pytest.fixture
def descriptor_limit() -> Iterator[int]:
    """A soft limit of 1000 for this test. Configurations raise it unless they disable that."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    yield 1000
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("sessions", "is_advised"), [(400, False), (401, True), (9000, True)])
def test_more_sessions_than_descriptors(descriptor_limit: int, sessions: int, is_advised: bool) -> None:
    line = (
        f"process.max_sessions: {sessions} sessions need {2 * sessions + 200} descriptors, and the limit here is "
        f"{descriptor_limit}: raise it (ulimit -n, LimitNOFILE=, or raise_descriptor_limit = true) or lower max_sessions"
    )
    assert advice_for(
        startup_config(process__max_sessions=sessions, process__raise_descriptor_limit=False)
    ) == ([line] if is_advised else [])


@pytest.mark.parametrize(("sessions", "is_advised"), [(800, False), (801, True)])
def test_more_sessions_than_the_descriptors_of_all_workers(
    descriptor_limit: int, sessions: int, is_advised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    line = (
        f"process.max_sessions: {sessions} sessions need 1002 descriptors, in each of 2 workers, and the limit here is "
        f"{descriptor_limit}: raise it (ulimit -n, LimitNOFILE=, or raise_descriptor_limit = true) or lower max_sessions"
    )
    assert advice_for(
        startup_config(
            process__workers="auto", process__max_sessions=sessions, process__raise_descriptor_limit=False
        )
    ) == ([line] if is_advised else [])


def test_more_workers_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert advice_for(startup_config(process__workers=3)) == [
        "process.workers: 3 workers share 2 cores: more workers than cores make nothing faster"
    ]


def test_descriptors_for_few_sessions(descriptor_limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    assert advice_for(startup_config(process__raise_descriptor_limit=False)) == [
        (
            "process.max_sessions: the limit of 300 descriptors holds 50 sessions: raise it (ulimit -n, LimitNOFILE=, or "
            "raise_descriptor_limit = true)"
        )
    ]


def test_raised_descriptor_limit_counts(descriptor_limit: int) -> None:
    hard = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1 << 20)
    assert hard > descriptor_limit
    max_sessions = (hard - 200) // 2
    assert advice_for(startup_config(process__max_sessions=max_sessions)) == []
    (line,) = advice_for(startup_config(process__max_sessions=max_sessions + 1))
    assert line.endswith(
        f"the limit here is {hard}: raise it (ulimit -Hn, LimitNOFILE=) or lower max_sessions"
    )


# Limits per client.


def test_exempt_networks_without_limits() -> None:
    key, exempt = "frontends.imap.max_sessions_per_client_exempt", ["10.0.0.0/8"]
    assert advice_for(startup_config(frontends__imap__max_sessions_per_client_exempt=exempt)) == [
        f"{key}: has no effect: give max_sessions_per_client or max_session_rate_per_client"
    ]
    for limit in ({"max_sessions_per_client": 3}, {"max_session_rate_per_client": {"count": 3}}):
        changes = {f"frontends__imap__{name}": value for name, value in limit.items()}
        assert (
            advice_for(startup_config(frontends__imap__max_sessions_per_client_exempt=exempt, **changes))
            == []
        )


@pytest.mark.parametrize(("limit", "is_advised"), [(9, False), (10, True), (11, True)])
@pytest.mark.parametrize("key", ["frontends.imap.max_sessions", "process.max_sessions"])
def test_client_limit_not_below_total_limit(key: str, limit: int, is_advised: bool) -> None:
    changes = {key.replace(".", "__"): 10, "frontends__imap__max_sessions_per_client": limit}
    assert (
        advice_for(startup_config(**changes))
        == [
            f"frontends.imap.max_sessions_per_client: {limit} lets one client take all sessions, {key} is 10: give less"
        ]
        * is_advised
    )


# The command line.


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "mailproxy.toml"
    file.write_text("""
        process.user = "nobody"
        [frontends.imap]
        protocol = "imap"
        timeouts = { client = "10m" }
        bind = [{ address = "127.0.0.1:0" }]
    """)
    return file


def test_check_command_prints_advice_and_succeeds(config_file: Path) -> None:
    result = CliRunner().invoke(main, ["check", str(config_file)])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{config_file}:3:20: advice: frontends.imap: has no backend: every session is refused; give backend unless that is meant",
        f"{config_file}:5:22: advice: frontends.imap.timeouts.client: 600s {IDLE}",
        f"{config_file}: fine: 1 bind, 0 servers, 2 pieces of advice",
    ]


def test_check_command_quotes_names_like_toml(tmp_path: Path) -> None:
    file = tmp_path / "mailproxy.toml"
    file.write_text("""process.user = "nobody"
frontends."a.b".bind = [{ address = "127.0.0.1:0" }]
""")
    result = CliRunner().invoke(main, ["check", str(file)])
    assert result.output.startswith(f'{file}:2:11: advice: frontends."a.b": has no backend: ')


def test_strict_check_command_fails_with_advice(config_file: Path) -> None:
    assert CliRunner().invoke(main, ["check", "--strict", str(config_file)]).exit_code == 1


# Logins over terminated TLS.


@pytest.mark.parametrize(
    ("kind", "server", "is_advised"),
    [
        ("v2", "192.0.2.1:143", True),
        ("v1", "192.0.2.1:143", True),
        ("v2-ssl", "192.0.2.1:143", False),
        ("none", "192.0.2.1:143", False),  # `check --live` reads the server's capabilities
        ("v2", "127.0.0.1:143", False),  # Dovecot trusts its own machine
    ],
)
def test_proxy_header_without_client_tls(
    throw_away_ca: ThrowAwayCA, kind: str, server: str, is_advised: bool
) -> None:
    config = startup_config(
        frontends__imap__protocol="imap",
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("localhost"))]},
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "tls"}],
        backends__dovecot__servers=[server],
        backends__dovecot__send_proxy=kind,
    )
    lines = [line for line in advice_for(config) if "refuses their logins" in line]
    assert len(lines) == is_advised


def test_admin_socket_of_the_session_group_gets_advice(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    mapping = {
        "process": {"user": f"#{os.getuid()}", "group": group},
        "admin": {"sockets": [{"path": str(tmp_path / "a.sock"), "group": group, "mode": "0660"}]},
        "frontends": {"f": {"backend": "b", "protocol": "imap", "bind": ["127.0.0.1:1143"]}},
        "backends": {"b": {"servers": ["192.0.2.1:143"], "send_proxy": "none"}},
    }
    config = mailproxy.from_mapping(mapping)
    facts = [str(fault) for fault in advise(config, load_and_check(config))]
    assert any(fact.startswith("admin.sockets[0]: may be written by the group") for fact in facts)


# STARTTLS


def test_starttls_bind_at_a_port_of_implicit_tls(throw_away_ca: ThrowAwayCA) -> None:
    tls = {"certificates": [str(throw_away_ca.issue("localhost"))]}
    bind = {"address": "127.0.0.1:993", "mode": "starttls"}
    config = startup_config(
        frontends__imap__bind=[bind], frontends__imap__tls=tls, frontends__imap__protocol="imap"
    )
    assert (
        'frontends.imap.bind[0].mode: clients of port 993 speak TLS from the first byte: use mode = "tls"'
        in advice_for(config)
    )


@pytest.mark.parametrize(
    ("protocol", "key", "seconds", "minimum"),
    [
        ("pop3", "frontends__imap", 60, "10m that clients may be silent (RFC 1939 section 3): use 10m"),
        ("smtp", "frontends__imap", 60, "5m that clients may be silent (RFC 5321 section 4.5.3.2.7): use 5m"),
        (
            "submission",
            "backends__dovecot",
            60,
            "5m that clients may be silent (RFC 5321 section 4.5.3.2.7): use 5m",
        ),
    ],
)
def test_timeout_below_the_minimum_of_its_protocol(
    protocol: str, key: str, seconds: int, minimum: str
) -> None:
    side = "client" if key.startswith("frontends") else "server"
    config = startup_config(
        **{
            "frontends__imap__protocol": protocol,
            "backends__dovecot__protocol": protocol,
            "backends__dovecot__send_proxy": "v2",
            "backends__dovecot__servers": ["192.0.2.1:1025"],
            "backends__dovecot__check": "none",
            f"{key}__timeouts": {side: seconds},
        }
    )
    path = key.replace("__", ".")
    assert advice_for(config) == [f"{path}.timeouts.{side}: 1m is less than the {minimum} or more"]


def test_dialogue_that_is_too_short(throw_away_ca: ThrowAwayCA) -> None:
    config = startup_config(
        frontends__imap__protocol="smtp",
        frontends__imap__tls={"certificates": [str(throw_away_ca.issue("localhost"))]},
        frontends__imap__bind=[{"address": "127.0.0.1:0", "mode": "starttls"}],
        frontends__imap__timeouts={"negotiation": 20},
        frontends__imap__greeting_delay=30,
        backends__dovecot__send_proxy="v2",
        backends__dovecot__servers=["192.0.2.1:25"],
    )
    delay, negotiation = sorted(advice_for(config))
    assert delay.startswith("frontends.imap.greeting_delay: 30s lasts until the session ends")
    assert negotiation.startswith("frontends.imap.timeouts.negotiation: 20s ends clients on slow networks")


def test_host_that_takes_the_word_of_the_proxy_elsewhere() -> None:
    config = startup_config(
        frontends__imap__protocol="imap",
        backends__dovecot__send_proxy="none",
        backends__dovecot__servers=["192.0.2.1:143"],
        frontends__pop3={"protocol": "pop3", "backend": "pop3", "bind": ["127.0.0.1:0"]},
        backends__pop3={"identity": "xclient", "servers": ["192.0.2.1:110"]},
    )
    (advice,) = [line for line in advice_for(config) if "identity" in line.partition(":")[0]]
    assert advice == (
        "backends.dovecot.identity: 192.0.2.1:143 is on a host that takes the proxy's word for a client's address "
        '(backends.pop3), and learns none here: give "id", or send_proxy'
    )
