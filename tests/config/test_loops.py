"""Servers that are the proxy itself: a loop that is certain is a fault, a chain that ends elsewhere is fine."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

import mailproxy
from mailproxy.app.advice import _check_loops
from mailproxy.app.host_checks import check_loops, is_own_address
from mailproxy.config.lint.loops import find_loops
from mailproxy.errors import ConfigError

LOOP = "sessions of frontends.f.bind[0] come back to it, without end: give the address of another server"
REDIRECTED = f"{LOOP}, or, where NAT redirects this one, the address that it leads to"


def whole(bind: str, server: str, more: str = "") -> str:
    return f"""
        frontends.f.backend = "b"
        frontends.f.bind = [{bind}]
        backends.b.servers = [{server}]
        {more}
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
def test_a_server_that_is_the_bind_itself(bind: str, server: str) -> None:
    index = server.count(",")
    fact = REDIRECTED if "192.0.2.1:" in server or "2001:" in server else LOOP
    assert faults(whole(bind, server)) == [f"backends.b.servers[{index}]: {fact}"]


@pytest.mark.parametrize(
    ("bind", "server"),
    [
        ('"*:143"', '"127.0.0.1:1143"'), ('"127.0.0.1:143"', '"127.0.0.2:143"'), ('"*:143"', '"[::1]:143"'),
        ('{ address = "[::]:143", v6only = true }', '"127.0.0.1:143"'), ('"127.0.0.1:0"', '"127.0.0.1:143"'),
        ('{ address = "*:143", interface = "eth0" }', '"127.0.0.1:143"'), ('"*:143"', '"imap.internal:143"'),
        ('"unix:/run/x.sock"', '"unix:/run/y.sock"'), ('"*:143"', '"192.0.2.1:143"'), ('"fd:3"', '"127.0.0.1:143"'),
    ],
)  # fmt: skip
def test_a_server_that_is_another_one(bind: str, server: str) -> None:
    assert faults(whole(bind, server)) == []


RETURNING = """
    frontends.g.backend = "back"
    frontends.g.bind = ["127.0.0.1:1143"]
    backends.back.servers = [{ name = "me", address = "127.0.0.1" }]
    backends.back.port = 143
"""


def test_a_chain_that_returns() -> None:
    assert faults(whole('"*:143"', '"127.0.0.1:1143"', RETURNING)) == [
        (
            "backends.back.servers[0] (me): sessions of frontends.f.bind[0] come back to it through frontends.g.bind[0], "
            "without end: give the address of another server"
        )
    ]


def test_a_chain_that_ends_elsewhere() -> None:
    assert (
        faults(
            whole(
                '"*:143"',
                '"127.0.0.1:1143"',
                RETURNING.replace("143\n", "144\n").replace('"127.0.0.1"', '"192.0.2.1"'),
            )
        )
        == []
    )


def test_the_chain_of_the_example_is_none() -> None:
    config = mailproxy.load(Path(__file__).parents[2] / "config" / "caddy-imaps-chain.toml")
    assert list(find_loops(config.frontends, config.backends, lambda _: True)) == []


ROUTE = 'frontends.f.routes = [{ client = ["127.0.0.0/8"], backend = "other" }]\nbackends.other.servers = ["192.0.2.9:143"]'
WAITS = "which frontends.f.bind[0] waits for"
PLAIN = "accept_proxy of frontends.f.bind[0] took connections of the proxy itself"


@pytest.mark.parametrize(
    ("bind", "server", "more", "condition"),
    [
        ("", "", ROUTE, "unless a route takes them elsewhere"),
        ("", "backup = true", "", "while the other servers are down"),
        ("", "weight = 0", "", "once its weight is above 0"),
        ("", 'state = "maint"', "", 'once its state is no longer "maint"'),
        ("", 'state = "drain"', "", 'once its state is no longer "drain"'),
        ("", 'state = "maint", weight = 0', "", 'once its state is no longer "maint" and once its weight is above 0'),
        ('accept_proxy = ["10.0.0.0/8"]', "", "", f"if {PLAIN}"),
        ('accept_proxy = ["10.0.0.0/8"]', 'send_proxy = "v2"', "", f"if {PLAIN}"),
        ('accept_proxy = ["127.0.0.0/8"]', 'source = "10.1.1.1"', "", f"if {PLAIN}"),
        ('accept_proxy = ["127.0.0.1"]', "", "", "if it had send_proxy, for the PROXY header that frontends.f.bind[0] waits for"),
        ('accept_proxy = ["127.0.0.1"]', 'source = "client"', "", "if accept_proxy of frontends.f.bind[0] fits the addresses of clients"),
        ('mode = "tls"', 'send_proxy = "v2", tls = { verify = "none" }', 'frontends.f.tls.certificates = ["x.pem"]', "if accept_proxy of frontends.f.bind[0] took its PROXY header"),
        ('mode = "tls"', "", 'frontends.f.tls.certificates = ["x.pem"]', f"if it had tls, {WAITS}"),
    ],
)  # fmt: skip
def test_a_loop_that_is_not_certain_is_advised_against(
    bind: str, server: str, more: str, condition: str
) -> None:
    text = whole(with_keys('address = "*:143"', bind), with_keys('address = "127.0.0.1:143"', server), more)
    config = mailproxy.from_mapping(tomli.loads(text))
    (line,) = _check_loops(config)
    assert line.fact == LOOP.replace("end:", f"end, {condition}:")


@pytest.mark.parametrize(
    ("address", "trusted"), [("unix:/run/x.sock", "unix"), ("[::1]:143", "::1"), ("[::]:143", "::1")]
)
def test_loop_depends_on_the_header_that_the_bind_expects(address: str, trusted: str) -> None:
    """The proxy's own address towards each kind of server, as the bind sees it."""
    text = whole(f'{{ address = "{address}", accept_proxy = ["{trusted}"] }}', f'"{address}"')
    (line,) = _check_loops(mailproxy.from_mapping(tomli.loads(text)))
    condition = "if it had send_proxy, for the PROXY header that frontends.f.bind[0] waits for"
    assert line.fact == LOOP.replace("end:", f"end, {condition}:")


def test_loop_through_a_passthrough_bind_depends_on_tls_of_clients() -> None:
    text = """
        frontends.f = { backend = "b", bind = ["127.0.0.1:143"] }
        frontends.g = { backend = "c", bind = [{ address = "127.0.0.1:993", mode = "passthrough" }] }
        backends.b.servers = ["127.0.0.1:993"]
        backends.c.servers = ["127.0.0.1:143"]
    """
    facts = [line.fact for line in _check_loops(mailproxy.from_mapping(tomli.loads(text)))]
    assert any("if clients speak TLS, which frontends.g.bind[0] waits for" in fact for fact in facts)


@pytest.mark.parametrize(
    ("bind", "server", "more"),
    [
        ('accept_proxy = ["10.0.0.0/8"], proxy_optional = true', "", ""),
        ('accept_proxy = ["127.0.0.1"]', 'send_proxy = "v2"', ""),
        ('mode = "tls"', 'tls = { verify = "none" }', 'frontends.f.tls.certificates = ["x.pem"]'),
        ('mode = "passthrough"', "", ""),
        ("", 'send_proxy = "v2"', ""),
        ("", 'tls = { verify = "none" }', ""),
    ],
)  # fmt: skip
def test_a_bind_that_takes_the_connections_of_the_proxy(bind: str, server: str, more: str) -> None:
    text = whole(with_keys('address = "*:143"', bind), with_keys('address = "127.0.0.1:143"', server), more)
    assert faults(text) == [f"backends.b.servers[0]: {LOOP}"]


def with_keys(address: str, keys: str) -> str:
    return f"{{ {address}, {keys} }}" if keys else f"{{ {address} }}"


def test_a_server_in_maintenance_does_not_hide_another_one() -> None:
    servers = '{ address = "127.0.0.1:143", state = "maint" }, { address = "127.0.0.2:143" }'
    assert faults(whole('"*:143"', servers)) == [f"backends.b.servers[1]: {LOOP}"]


def test_one_server_that_is_two_binds_is_one_loop() -> None:
    config = mailproxy.from_mapping(
        tomli.loads(whole('"*:143", { address = "[::]:1143" }', '{ address = "127.0.0.1", state = "maint" }'))
    )
    assert [line.path for line in _check_loops(config)] == ["backends.b.servers[0]"]
    found = faults(whole('"*:143", "127.0.0.1:143"', '"127.0.0.1:143"'))
    assert [line for line in found if "come back" in line] == [f"backends.b.servers[0]: {LOOP}"]


def test_a_route_before_it_that_takes_every_session() -> None:
    more = 'frontends.f.routes = [{ backend = "other" }]\nbackends.other.servers = ["192.0.2.9:143"]'
    assert faults(whole('"*:143"', '"127.0.0.1:143"', more)) == []


def test_addresses_of_this_machine() -> None:
    assert is_own_address("127.0.0.1")
    assert is_own_address("127.9.9.9")
    assert not is_own_address("192.0.2.1")
    assert not is_own_address("2001:db8::1")


def test_an_address_of_this_machine_and_a_bind_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    config = mailproxy.from_mapping(tomli.loads(whole('"*:143"', '"192.0.2.1:143"')))
    found: list[tuple[str, str]] = []
    check_loops(config, lambda path, fact: found.append((str(path), fact)))
    assert found == []
    monkeypatch.setattr("mailproxy.app.host_checks.is_own_address", lambda host: host == "192.0.2.1")
    check_loops(config, lambda path, fact: found.append((str(path), fact)))
    assert found == [("backends.b.servers[0]", REDIRECTED)]
