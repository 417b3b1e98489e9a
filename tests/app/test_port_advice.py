"""Advice about ports: what clients and servers speak there, and what a configuration makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli

import mailproxy
from mailproxy.app.port_advice import advise_on_ports
from mailproxy.config import load

ROOT = Path(__file__).parents[2]


def advice(text: str) -> list[str]:
    return [str(fault) for fault in advise_on_ports(mailproxy.from_mapping(tomli.loads(text)))]


def one(bind: str, server: str, mode: str = "forward", protocol: str = "imap", more: str = "") -> list[str]:
    """Advice on one bind and one server."""
    tls = ', tls = { certificates = ["x.pem"] }' if mode == "tls" else ""
    return advice(f"""
        frontends.f.protocol = "{protocol}"
        frontends.f.backend = "b"
        frontends.f.bind = [{{ address = "{bind}", mode = "{mode}"{tls} }}]
        backends.b.servers = [{{ name = "d1", address = "{server}" }}]
        {more}
    """)


MODE = "frontends.f.bind[0].mode"
SERVERS = "backends.b.servers"


@pytest.mark.parametrize(
    ("port", "protocol", "clear", "other"),
    [
        (993, "imap", 143, "port 993 of the server"),
        (995, "pop3", 110, "port 995 of the server"),
        (465, "submission", 587, "port 465 of the server"),
        (993, "imap", 4190, "a port for TLS of the server"),
    ],
)
def test_tls_that_is_forwarded_to_a_clear_port(port: int, protocol: str, clear: int, other: str) -> None:
    said = f'{MODE}: "forward" passes the TLS of clients of port {port} on to port {clear} of d1, which speaks clear text: '
    assert f'{said}use mode = "tls", or {other}' in one(f"*:{port}", f"192.0.2.1:{clear}", protocol=protocol)


@pytest.mark.parametrize("server", ["192.0.2.1:993", "192.0.2.1", "unix:/run/imaps.sock"])
def test_tls_that_is_forwarded_elsewhere(server: str) -> None:
    assert one("*:993", server, more='backends.b.check = "none"') == []


def test_clear_text_that_is_forwarded_to_a_tls_port() -> None:
    assert one("*:143", "192.0.2.1:993") == [
        f"{SERVERS}: port 993 of d1 expects TLS, and clients of frontends.f.bind[0] begin in clear text: give its port 143"
    ]


@pytest.mark.parametrize("mode", ["tls", "passthrough"])
@pytest.mark.parametrize(
    ("port", "protocol", "remedy"),
    [
        (143, "imap", "use port 993, or"), (110, "pop3", "use port 995, or"), (587, "submission", "use port 465, or"),
        (25, "smtp", "use"), (4190, "sieve", "use"),
    ],
)  # fmt: skip
def test_binds_that_expect_tls_where_clients_begin_in_clear(
    mode: str, port: int, protocol: str, remedy: str
) -> None:
    lines = one(f"*:{port}", "192.0.2.1:10000", mode, protocol, 'backends.b.check = "tcp"')
    assert lines == [
        (
            f'{MODE}: "{mode}" expects TLS from the first byte, and clients of port {port} begin in clear text: '
            f'{remedy} mode = "forward"'
        )
    ]


@pytest.mark.parametrize(
    ("bind", "mode"), [("*:993", "tls"), ("*:993", "passthrough"), ("*:143", "forward"), ("*:0", "tls")]
)
def test_binds_that_expect_what_clients_speak(bind: str, mode: str) -> None:
    server = "192.0.2.1:993" if mode == "passthrough" else "192.0.2.1:143"
    assert one(bind, server, mode) == []


def test_tls_that_passes_through_to_a_clear_port() -> None:
    assert one("*:993", "192.0.2.1:143", "passthrough") == [
        (
            f"{SERVERS}: port 143 of d1 speaks clear text, and clients of frontends.f.bind[0] speak TLS through to it: give "
            'port 993, or use mode = "tls"'
        )
    ]


def test_tls_that_passes_through_by_a_route_to_a_clear_port() -> None:
    more = 'frontends.f.routes = [{ sni = ["x.example"], mode = "passthrough", backend = "b" }]\nbackends.b.check = "tcp"'
    lines = one("*:993", "192.0.2.1:143", "tls", more=more)
    assert [line.partition(":")[0] for line in lines] == [SERVERS]


# 465 that ends here.


@pytest.mark.parametrize(
    ("more", "is_said"),
    [("", True), ('backends.b.send_proxy = "v2"', True), ('backends.b.send_proxy = "v2-ssl"', False)],
)
def test_submissions_that_go_on_in_clear_to_a_port_that_demands_starttls(more: str, is_said: bool) -> None:
    lines = one("*:465", "192.0.2.1:587", "tls", "submission", more)
    line = (
        "backends.b.tls: port 587 of d1 usually demands STARTTLS (Postfix: 530), and sessions of frontends.f.bind[0] come in "
        "clear text: give tls and its port 465 (Postfix: smtps with smtpd_tls_wrappermode = yes), or use mode = "
        '"passthrough" to that port'
    )
    assert lines == ([line] if is_said else [])


def test_submissions_that_go_on_as_tls() -> None:
    assert one("*:465", "192.0.2.1:465", "tls", "submission", 'backends.b.tls.ca = "ca.pem"') == []


# Protocols.


@pytest.mark.parametrize(
    ("bind", "server", "port", "protocol"),
    [("*:143", "192.0.2.1", 143, "imap"), ("*:0", "192.0.2.1:995", 995, "pop3")],
)
def test_a_protocol_that_is_forgotten(bind: str, server: str, port: int, protocol: str) -> None:
    text = f'frontends.f.bind = ["{bind}"]\nfrontends.f.backend = "b"\nbackends.b.servers = ["{server}"]\n'
    assert advice(text) == [
        (
            f"frontends.f.protocol: is missing: port {port} is that of {protocol}, and timeouts and checks depend on the "
            f'protocol; give protocol = "{protocol}", or "tcp" if neither shall'
        )
    ]


@pytest.mark.parametrize(
    "line",
    [
        'frontends.f.protocol = "tcp"', 'defaults.frontend.protocol = "tcp"',
        'frontends.f.profile = "p"\nprofiles.p.frontend.protocol = "tcp"', 'frontends.f.protocol = "imap"',
    ],
)  # fmt: skip
def test_a_protocol_that_is_written_somewhere(line: str) -> None:
    text = f'frontends.f.bind = ["*:143"]\nfrontends.f.backend = "b"\nbackends.b.servers = ["192.0.2.1"]\n{line}\n'
    assert advice(text) == []


def test_a_protocol_of_another_port() -> None:
    assert one("*:110", "192.0.2.1:995", protocol="imap", more='backends.b.check = "tcp"')[:2] == [
        (
            'frontends.f.bind[0].address: port 110 is that of pop3, and the frontend has protocol = "imap": use another port, or '
            "a frontend of its own"
        ),
        (
            'backends.b.servers[0].address: port 995 is that of pop3, and the backend has protocol = "imap": use another port, or '
            "a backend of its own"
        ),
    ]


@pytest.mark.parametrize(
    ("protocol", "port"), [("smtp", 587), ("submission", 25), ("smtp", 465), ("lmtp", 24), ("imap", 1143)]
)
def test_a_protocol_at_a_port_that_it_may_have(protocol: str, port: int) -> None:
    assert one(f"*:{port}", "192.0.2.1", protocol=protocol, more='backends.b.check = "tcp"') == []


def test_an_ipv6_address_that_looks_as_if_it_had_a_port() -> None:
    lines = one("*:0", "2001:db8::1:993", more="backends.b.port = 993")
    assert lines == []
    assert one("*:143", "2001:db8::1:143") == [
        (
            "backends.b.servers[0].address: 2001:db8::1:143 is an address without a port: write [2001:db8::1]:143 if 143 is "
            "the port"
        )
    ]
    assert one("*:143", "2001:db8::143") == []


# Checks.


def falls_back(kind: str, what: str) -> list[str]:
    return [
        (
            f"backends.b.check: d1 is only connected to, since it is not known whether {what} speaks {kind} in clear text or over "
            f'TLS: give check = "{kind}" for clear text, check = {{ type = "{kind}", tls = true }} for TLS, or check = "tcp"'
        )
    ]


@pytest.mark.parametrize(
    ("server", "protocol", "kind", "what"),
    [
        ("192.0.2.1:21325", "smtp", "smtp", "port 21325"), ("192.0.2.1:21325", "submission", "smtp", "port 21325"),
        ("192.0.2.1:1143", "imap", "imap", "port 1143"), ("unix:/run/imap.sock", "imap", "imap", "unix:/run/imap.sock"),
    ],
)  # fmt: skip
def test_a_check_that_only_connects(server: str, protocol: str, kind: str, what: str) -> None:
    assert one("127.0.0.1:0", server, protocol=protocol) == falls_back(kind, what)


@pytest.mark.parametrize("check", ['"imap"', '"tcp"', '{ type = "imap", tls = true }', "false", '"none"'])
def test_a_check_that_is_written(check: str) -> None:
    assert one("127.0.0.1:0", "192.0.2.1:1143", more=f"backends.b.check = {check}") == []


def test_a_check_whose_protocol_follows_from_the_bind() -> None:
    assert one("*:993", "192.0.2.1:1143", "tls") == []


def test_it_is_said_once_for_a_backend() -> None:
    more = 'backends.c.servers = ["192.0.2.2:1143", "192.0.2.3:1143"]\nfrontends.f.routes = [{ client = ["10.0.0.0/8"], backend = "c" }]'
    lines = one("127.0.0.1:0", "192.0.2.1:1143", more=more)
    assert [line.partition(":")[0] for line in lines] == ["backends.b.check", "backends.c.check"]


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.toml")), ids=lambda file: file.name)
def test_examples_get_none(file: Path) -> None:
    faults: list[Any] = list(advise_on_ports(load(file)))
    assert faults == []
