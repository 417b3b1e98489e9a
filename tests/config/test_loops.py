"""Servers that are the proxy itself: a certain loop is a fault, a chain that ends elsewhere is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

import mailproxy
from mailproxy.app.advice import _check_loops
from mailproxy.config.lint.loops import find_loops
from mailproxy.errors import ConfigError
from mailproxy.proxy.host_checks import check_loops, is_own_address

LOOP = "sessions of frontends.f.bind[0] come back to it, without end: give the address of another server"
REDIRECTED = f"{LOOP}, or, where NAT redirects this one, the address that it leads to"


def config_text(bind: str, server: str, extra: str = "") -> str:
    return f"""
        frontends.f.backend = "b"
        frontends.f.bind = [{bind}]
        backends.b.servers = [{server}]
        {extra}
    """


def faults(text: str) -> list[str]:
    try:
        mailproxy.from_mapping(tomli.loads(text))
    except ConfigError as error:
        return [str(fault) for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("bind", "server"),
    [
        ('"127.0.0.1:143"', '"127.0.0.1:143"'), ('"*:143"', '"127.0.0.1:143"'), ('"*:143"', '"127.9.9.9:143"'),
        ('"0.0.0.0:143"', '"localhost:143"'), ('"*:143"', '"127.0.0.1"'), ('"[::]:143"', '"[::1]:143"'),
        ('"[::]:143"', '"127.0.0.1:143"'), ('"192.0.2.1:143"', '"192.0.2.1:143"'), ('"[2001:db8::1]:143"', '"[2001:db8:0::1]:143"'),
        ('"unix:/run/x.sock"', '"unix:/run/x.sock"'), ('"*:143"', '"0.0.0.0:143"'),
        ('"*:143"', '"192.0.2.7:143", "127.0.0.1:143"'),
    ],
)  # fmt: skip
def test_server_at_the_bind_address_is_a_fault(bind: str, server: str) -> None:
    index = server.count(",")
    message = REDIRECTED if "192.0.2.1:" in server or "2001:" in server else LOOP
    assert faults(config_text(bind, server)) == [f"backends.b.servers[{index}]: {message}"]


@pytest.mark.parametrize(
    ("bind", "server"),
    [
        ('"*:143"', '"127.0.0.1:1143"'), ('"127.0.0.1:143"', '"127.0.0.2:143"'), ('"*:143"', '"[::1]:143"'),
        ('{ address = "[::]:143", v6only = true }', '"127.0.0.1:143"'), ('"127.0.0.1:0"', '"127.0.0.1:143"'),
        ('{ address = "*:143", interface = "eth0" }', '"127.0.0.1:143"'), ('"*:143"', '"imap.internal:143"'),
        ('"unix:/run/x.sock"', '"unix:/run/y.sock"'), ('"*:143"', '"192.0.2.1:143"'), ('"fd:3"', '"127.0.0.1:143"'),
    ],
)  # fmt: skip
def test_server_at_another_address_is_allowed(bind: str, server: str) -> None:
    assert faults(config_text(bind, server)) == []


RETURNING_CHAIN = """
    frontends.g.backend = "back"
    frontends.g.bind = ["127.0.0.1:1143"]
    backends.back.servers = [{ name = "me", address = "127.0.0.1" }]
    backends.back.port = 143
"""


def test_returning_chain_is_a_fault() -> None:
    assert faults(config_text('"*:143"', '"127.0.0.1:1143"', RETURNING_CHAIN)) == [
        (
            "backends.back.servers[0] (me): sessions of frontends.f.bind[0] come back to it through frontends.g.bind[0], "
            "without end: give the address of another server"
        )
    ]


def test_chain_ending_elsewhere_is_allowed() -> None:
    assert (
        faults(
            config_text(
                '"*:143"',
                '"127.0.0.1:1143"',
                RETURNING_CHAIN.replace("143\n", "144\n").replace('"127.0.0.1"', '"192.0.2.1"'),
            )
        )
        == []
    )


def test_example_chain_has_no_loop() -> None:
    config = mailproxy.load(Path(__file__).parents[2] / "config" / "caddy-imaps-chain.toml")
    assert list(find_loops(config.frontends, config.backends, lambda _: True)) == []


ROUTE = 'frontends.f.routes = [{ client = ["127.0.0.0/8"], backend = "other" }]\nbackends.other.servers = ["192.0.2.9:143"]'
EXPECTED_BY_BIND = "which frontends.f.bind[0] waits for"
TRUSTS_PROXY = "accept_proxy of frontends.f.bind[0] took connections of the proxy itself"


@pytest.mark.parametrize(
    ("bind", "server", "extra", "condition"),
    [
        ("", "", ROUTE, "unless a route takes them elsewhere"),
        ("", "backup = true", "", "while the other servers are down"),
        ("", "weight = 0", "", "once its weight is above 0"),
        ("", 'state = "maint"', "", 'once its state is no longer "maint"'),
        ("", 'state = "drain"', "", 'once its state is no longer "drain"'),
        ("", 'state = "maint", weight = 0', "", 'once its state is no longer "maint" and once its weight is above 0'),
        ('accept_proxy = ["10.0.0.0/8"]', "", "", f"if {TRUSTS_PROXY}"),
        ('accept_proxy = ["10.0.0.0/8"]', 'send_proxy = "v2"', "", f"if {TRUSTS_PROXY}"),
        ('accept_proxy = ["127.0.0.0/8"]', 'source = "10.1.1.1"', "", f"if {TRUSTS_PROXY}"),
        ('accept_proxy = ["127.0.0.1"]', "", "", "if it had send_proxy, for the PROXY header that frontends.f.bind[0] waits for"),
        ('accept_proxy = ["127.0.0.1"]', 'source = "client"', "", "if accept_proxy of frontends.f.bind[0] fits the addresses of clients"),
        ('mode = "tls"', 'send_proxy = "v2", tls = { verify = "none" }', 'frontends.f.tls.certificates = ["x.pem"]', "if accept_proxy of frontends.f.bind[0] took its PROXY header"),
        ('mode = "tls"', "", 'frontends.f.tls.certificates = ["x.pem"]', f"if it had tls, {EXPECTED_BY_BIND}"),
    ],
)  # fmt: skip
def test_possible_loop_gets_advice(bind: str, server: str, extra: str, condition: str) -> None:
    text = config_text(
        with_keys('address = "*:143"', bind), with_keys('address = "127.0.0.1:143"', server), extra
    )
    config = mailproxy.from_mapping(tomli.loads(text))
    (line,) = _check_loops(config)
    assert line.fact == LOOP.replace("end:", f"end, {condition}:")


@pytest.mark.parametrize(
    ("address", "trusted"), [("unix:/run/x.sock", "unix"), ("[::1]:143", "::1"), ("[::]:143", "::1")]
)
def test_loop_depends_on_the_expected_proxy_header(address: str, trusted: str) -> None:
    """The proxy connects from its own address, which the bind sees differently for each type of server."""
    text = config_text(f'{{ address = "{address}", accept_proxy = ["{trusted}"] }}', f'"{address}"')
    (line,) = _check_loops(mailproxy.from_mapping(tomli.loads(text)))
    condition = "if it had send_proxy, for the PROXY header that frontends.f.bind[0] waits for"
    assert line.fact == LOOP.replace("end:", f"end, {condition}:")


def test_passthrough_loop_depends_on_client_tls() -> None:
    text = """
        frontends.f = { backend = "b", bind = ["127.0.0.1:143"] }
        frontends.g = { backend = "c", bind = [{ address = "127.0.0.1:993", mode = "passthrough" }] }
        backends.b.servers = ["127.0.0.1:993"]
        backends.c.servers = ["127.0.0.1:143"]
    """
    facts = [line.fact for line in _check_loops(mailproxy.from_mapping(tomli.loads(text)))]
    assert any("if clients speak TLS, which frontends.g.bind[0] waits for" in message for message in facts)


@pytest.mark.parametrize(
    ("bind", "server", "extra"),
    [
        ('accept_proxy = ["10.0.0.0/8"], proxy_optional = true', "", ""),
        ('accept_proxy = ["127.0.0.1"]', 'send_proxy = "v2"', ""),
        ('mode = "tls"', 'tls = { verify = "none" }', 'frontends.f.tls.certificates = ["x.pem"]'),
        ('mode = "passthrough"', "", ""),
        ("", 'send_proxy = "v2"', ""),
        ("", 'tls = { verify = "none" }', ""),
    ],
)  # fmt: skip
def test_bind_accepting_the_proxy_connection_is_a_fault(bind: str, server: str, extra: str) -> None:
    text = config_text(
        with_keys('address = "*:143"', bind), with_keys('address = "127.0.0.1:143"', server), extra
    )
    assert faults(text) == [f"backends.b.servers[0]: {LOOP}"]


def with_keys(address: str, keys: str) -> str:
    return f"{{ {address}, {keys} }}" if keys else f"{{ {address} }}"


def test_server_in_maintenance_hides_no_other_loop() -> None:
    servers = '{ address = "127.0.0.1:143", state = "maint" }, { address = "127.0.0.2:143" }'
    assert faults(config_text('"*:143"', servers)) == [f"backends.b.servers[1]: {LOOP}"]


def test_server_matching_two_binds_is_reported_once() -> None:
    config = mailproxy.from_mapping(
        tomli.loads(
            config_text('"*:143", { address = "[::]:1143" }', '{ address = "127.0.0.1", state = "maint" }')
        )
    )
    assert [line.path for line in _check_loops(config)] == ["backends.b.servers[0]"]
    result = faults(config_text('"*:143", "127.0.0.1:143"', '"127.0.0.1:143"'))
    assert [line for line in result if "come back" in line] == [f"backends.b.servers[0]: {LOOP}"]


def test_unconditional_route_prevents_loop() -> None:
    extra = 'frontends.f.routes = [{ backend = "other" }]\nbackends.other.servers = ["192.0.2.9:143"]'
    assert faults(config_text('"*:143"', '"127.0.0.1:143"', extra)) == []


def test_is_own_address() -> None:
    assert is_own_address("127.0.0.1")
    assert is_own_address("127.9.9.9")
    assert not is_own_address("192.0.2.1")
    assert not is_own_address("2001:db8::1")


def test_own_address_with_wildcard_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    config = mailproxy.from_mapping(tomli.loads(config_text('"*:143"', '"192.0.2.1:143"')))
    result: list[tuple[str, str]] = []
    check_loops(config, lambda path, message: result.append((str(path), message)))
    assert result == []
    monkeypatch.setattr("mailproxy.proxy.host_checks.is_own_address", lambda host: host == "192.0.2.1")
    check_loops(config, lambda path, message: result.append((str(path), message)))
    assert result == [("backends.b.servers[0]", REDIRECTED)]
