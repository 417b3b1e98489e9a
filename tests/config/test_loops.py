"""Servers that are the proxy itself: a loop that is certain is a fault, a chain that ends elsewhere is fine."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

import mailproxy
from mailproxy.app.advice import _about_loops
from mailproxy.app.host import check_loops, is_own_address
from mailproxy.config.loops import find_loops
from mailproxy.errors import ConfigError

LOOP = "sessions of frontends.f.bind[0] come back to it, without end: give the address of another server"


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
    assert faults(whole(bind, server)) == [f"backends.b.servers[{index}]: {LOOP}"]


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
            "backends.back.servers[0] (me): sessions of frontends.f.bind[0] come back to it by way of frontends.g.bind[0], "
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


@pytest.mark.parametrize(
    "more",
    [
        # clients of the loopback address may go elsewhere
        'frontends.f.routes = [{ client = ["127.0.0.0/8"], backend = "other" }]\nbackends.other.servers = ["192.0.2.9:143"]',
        'backends.b.servers = ["192.0.2.1:143", { address = "127.0.0.1:143", backup = true }]',
        'backends.b.servers = ["192.0.2.1:143", { address = "127.0.0.1:143", weight = 0 }]',
    ],
)
def test_a_loop_that_is_not_certain_is_advised_against(more: str) -> None:
    text = whole('"*:143"', '"127.0.0.1:143"', more)
    if "backends.b" in more:
        text = text.replace('backends.b.servers = ["127.0.0.1:143"]\n', "")
    config = mailproxy.from_mapping(tomli.loads(text))
    (line,) = _about_loops(config)
    assert line.fact == f"{LOOP}, unless a route takes them elsewhere"


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
    check_loops(config, lambda path, fact: found.append((path, fact)))
    assert found == []
    monkeypatch.setattr("mailproxy.app.host.is_own_address", lambda host: host == "192.0.2.1")
    check_loops(config, lambda path, fact: found.append((path, fact)))
    assert found == [("backends.b.servers[0]", LOOP)]
