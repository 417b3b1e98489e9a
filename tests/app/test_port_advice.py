"""Advice about ports: a configuration that contradicts the protocol usual at a port."""

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


def advice_for(
    bind: str, server: str, mode: str = "forward", protocol: str = "imap", extra: str = ""
) -> list[str]:
    """Return the advice on one bind and one server."""
    tls = ', tls = { certificates = ["x.pem"] }' if mode == "tls" else ""
    return advice(f"""
        frontends.f.protocol = "{protocol}"
        frontends.f.backend = "b"
        frontends.f.bind = [{{ address = "{bind}", mode = "{mode}"{tls} }}]
        backends.b.servers = [{{ name = "d1", address = "{server}" }}]
        {extra}
    """)


MODE = "frontends.f.bind[0].mode"
SERVERS = "backends.b.servers"


@pytest.mark.parametrize(
    ("port", "protocol", "clear_port", "alternative"),
    [
        (993, "imap", 143, "port 993 of the server"),
        (995, "pop3", 110, "port 995 of the server"),
        (465, "submission", 587, "port 465 of the server"),
        (993, "imap", 4190, "a port for TLS of the server"),
    ],
)
def test_forwarded_tls_to_a_plain_port(port: int, protocol: str, clear_port: int, alternative: str) -> None:
    beginning = f'{MODE}: "forward" passes the TLS of clients of port {port} on to port {clear_port} of d1, which speaks clear text: '
    assert f'{beginning}use mode = "tls", or {alternative}' in advice_for(
        f"*:{port}", f"192.0.2.1:{clear_port}", protocol=protocol
    )


@pytest.mark.parametrize("server", ["192.0.2.1:993", "192.0.2.1", "unix:/run/imaps.sock"])
def test_forwarded_tls_to_other_addresses(server: str) -> None:
    assert advice_for("*:993", server, extra='backends.b.check = "none"') == []


def test_forwarded_clear_text_to_a_tls_port() -> None:
    assert advice_for("*:143", "192.0.2.1:993") == [
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
def test_tls_bind_at_a_plain_port(mode: str, port: int, protocol: str, remedy: str) -> None:
    lines = advice_for(f"*:{port}", "192.0.2.1:10000", mode, protocol, 'backends.b.check = "tcp"')
    assert lines == [
        (
            f'{MODE}: "{mode}" expects TLS from the first byte, and clients of port {port} begin in clear text: '
            f'{remedy} mode = "starttls"'
        )
    ]


@pytest.mark.parametrize(
    ("bind", "mode"), [("*:993", "tls"), ("*:993", "passthrough"), ("*:143", "forward"), ("*:0", "tls")]
)
def test_bind_mode_fitting_its_port(bind: str, mode: str) -> None:
    server = "192.0.2.1:993" if mode == "passthrough" else "192.0.2.1:143"
    assert advice_for(bind, server, mode) == []


def test_passthrough_to_a_plain_port() -> None:
    assert advice_for("*:993", "192.0.2.1:143", "passthrough") == [
        (
            f"{SERVERS}: port 143 of d1 speaks clear text, and clients of frontends.f.bind[0] speak TLS through to it: give "
            'port 993, or use mode = "tls"'
        )
    ]


def test_passthrough_route_to_a_plain_port() -> None:
    extra = 'frontends.f.routes = [{ sni = ["x.example"], mode = "passthrough", backend = "b" }]\nbackends.b.check = "tcp"'
    lines = advice_for("*:993", "192.0.2.1:143", "tls", extra=extra)
    assert [line.partition(":")[0] for line in lines] == [SERVERS]


# Submissions (port 465) with terminated TLS.


@pytest.mark.parametrize(
    ("extra", "is_advised"),
    [("", True), ('backends.b.send_proxy = "v2"', True), ('backends.b.send_proxy = "v2-ssl"', False)],
)
def test_terminated_submissions_to_port_587(extra: str, is_advised: bool) -> None:
    lines = advice_for("*:465", "192.0.2.1:587", "tls", "submission", extra)
    line = (
        "backends.b.tls: port 587 of d1 usually demands STARTTLS (Postfix: 530), and sessions of frontends.f.bind[0] come in "
        "clear text: give tls and its port 465 (Postfix: smtps with smtpd_tls_wrappermode = yes), or use mode = "
        '"passthrough" to that port'
    )
    assert lines == ([line] if is_advised else [])


def test_terminated_submissions_to_a_tls_port() -> None:
    assert advice_for("*:465", "192.0.2.1:465", "tls", "submission", 'backends.b.tls.ca = "ca.pem"') == []


# Protocols.


@pytest.mark.parametrize(
    ("bind", "server", "port", "protocol"),
    [("*:143", "192.0.2.1", 143, "imap"), ("*:0", "192.0.2.1:995", 995, "pop3")],
)
def test_missing_protocol_is_advised(bind: str, server: str, port: int, protocol: str) -> None:
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
def test_configured_or_inherited_protocol(line: str) -> None:
    text = f'frontends.f.bind = ["*:143"]\nfrontends.f.backend = "b"\nbackends.b.servers = ["192.0.2.1"]\n{line}\n'
    assert advice(text) == []


def test_protocol_contradicting_the_port() -> None:
    assert advice_for("*:110", "192.0.2.1:995", protocol="imap", extra='backends.b.check = "tcp"')[:2] == [
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
def test_protocol_allowed_at_the_port(protocol: str, port: int) -> None:
    assert advice_for(f"*:{port}", "192.0.2.1", protocol=protocol, extra='backends.b.check = "tcp"') == []


def test_ipv6_address_resembling_a_port() -> None:
    lines = advice_for("*:0", "2001:db8::1:993", extra="backends.b.port = 993")
    assert lines == []
    assert advice_for("*:143", "2001:db8::1:143") == [
        (
            "backends.b.servers[0].address: 2001:db8::1:143 is an address without a port: write [2001:db8::1]:143 if 143 is "
            "the port"
        )
    ]
    assert advice_for("*:143", "2001:db8::143") == []


# Checks.


def fallback_advice(kind: str, described_port: str) -> list[str]:
    return [
        (
            f"backends.b.check: d1 is only connected to, since it is not known whether {described_port} speaks {kind} in clear text or over "
            f'TLS: give check = "{kind}" for clear text, check = {{ type = "{kind}", tls = true }} for TLS, or check = "tcp"'
        )
    ]


@pytest.mark.parametrize(
    ("server", "protocol", "kind", "described_port"),
    [
        ("192.0.2.1:21325", "smtp", "smtp", "port 21325"), ("192.0.2.1:21325", "submission", "smtp", "port 21325"),
        ("192.0.2.1:1143", "imap", "imap", "port 1143"), ("unix:/run/imap.sock", "imap", "imap", "unix:/run/imap.sock"),
    ],
)  # fmt: skip
def test_check_falling_back_to_connect(server: str, protocol: str, kind: str, described_port: str) -> None:
    assert advice_for("127.0.0.1:0", server, protocol=protocol) == fallback_advice(kind, described_port)


@pytest.mark.parametrize("check", ['"imap"', '"tcp"', '{ type = "imap", tls = true }', "false", '"none"'])
def test_configured_check_gets_no_advice(check: str) -> None:
    assert advice_for("127.0.0.1:0", "192.0.2.1:1143", extra=f"backends.b.check = {check}") == []


def test_check_derived_from_the_bind() -> None:
    assert advice_for("*:993", "192.0.2.1:1143", "tls") == []


def test_fallback_is_advised_once_per_backend() -> None:
    extra = 'backends.c.servers = ["192.0.2.2:1143", "192.0.2.3:1143"]\nfrontends.f.routes = [{ client = ["10.0.0.0/8"], backend = "c" }]'
    lines = advice_for("127.0.0.1:0", "192.0.2.1:1143", extra=extra)
    assert [line.partition(":")[0] for line in lines] == ["backends.b.check", "backends.c.check"]


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.toml")), ids=lambda file: file.name)
def test_example_files_get_no_port_advice(file: Path) -> None:
    faults: list[Any] = list(advise_on_ports(load(file)))
    assert faults == []
