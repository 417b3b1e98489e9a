"""Which way a client goes: the first route of which all that it asks for holds."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any, cast

import pytest
import tomli

import mailproxy
from mailproxy import config
from mailproxy.net.listener import Listener
from mailproxy.protocol.client_hello import ClientHello
from mailproxy.protocol.proxy_header import Command, HeaderV1, HeaderV2, Protocol
from mailproxy.proxy.client_info import ClientInfo
from mailproxy.proxy.session.routing import Route, Routes


def frontend(routes: str, mode: str = "passthrough") -> config.Frontend:
    return mailproxy.from_mapping(
        tomli.loads(
            f"""
            frontends.f.backend = "own"
            frontends.f.bind = [{{ address = "127.0.0.1:993", mode = "{mode}" }}]
            frontends.f.tls.certificates = {'["a.pem"]' if mode == "tls" else "[]"}
            frontends.f.routes = [{routes}]
            [backends]
            own.servers = ["192.0.2.1:143"]
            a.servers = ["192.0.2.2:143"]
            b.servers = ["192.0.2.3:143"]
        """.replace("frontends.f.tls.certificates = []", "")
        )
    ).frontends["f"]


def route(keys: str) -> Route:
    return Route(frontend(f'{{ {keys}, backend = "a" }}').routes[0])


def caller(
    source: tuple[str, int] | None = ("192.0.2.9", 40000), port: int | None = 993, **facts: Any
) -> ClientInfo:
    """A client of whom this is known."""
    listener = cast("Listener", SimpleNamespace(number=1, port=port, only_address=("192.0.2.1", port)))
    return ClientInfo(listener, source, cast("socket.socket", None), **facts)


def asking_for(name: str | None, *alpn: str) -> ClientInfo:
    return caller(hello=ClientHello(server_name=name, alpn=tuple(protocol.encode() for protocol in alpn)))


# Names.


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("imap.example.com", True),
        ("pop.example.com", False),
        ("a.imap.example.com", False),
        ("example.com", False),
        ("imap.example.co", False),
        (None, False),
    ],
)
def test_an_exact_name(name: str | None, fits: bool) -> None:
    assert route('sni = ["IMAP.example.com"]').matches(asking_for(name)) == fits


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("imap.example.com", True),
        ("xn--bcher-kva.example.com", True),
        ("example.com", False),
        ("a.b.example.com", False),
        ("imap.example.org", False),
        ("com", False),
        ("imapexample.com", False),
        (None, False),
    ],
)
def test_a_wildcard_covers_one_label(name: str | None, fits: bool) -> None:
    assert route('sni = ["*.example.com"]').matches(asking_for(name)) == fits


def test_one_of_several_names_is_enough() -> None:
    several = route('sni = ["*.example.com", "example.com", "localhost"]')
    for name in ("example.com", "imap.example.com", "localhost"):
        assert several.matches(asking_for(name))
    assert not several.matches(asking_for("a.localhost"))


def test_sni_false_is_for_clients_without_a_name() -> None:
    nameless = route("sni = false")
    assert nameless.matches(asking_for(None))
    assert not nameless.matches(asking_for("imap.example.com"))


@pytest.mark.parametrize("keys", ['sni = ["imap.example.com"]', "sni = false", 'alpn = ["imap"]'])
def test_without_a_hello_nothing_is_known_of_names(keys: str) -> None:
    assert not route(keys).matches(caller())


# Application protocols.


@pytest.mark.parametrize(
    ("offered", "fits"),
    [
        (("imap",), True),
        (("h2", "pop3"), True),
        (("pop3", "imap"), True),
        (("h2",), False),
        (("IMAP",), False),
        ((), False),
    ],
)
def test_one_of_the_protocols_that_a_client_offers_is_enough(offered: tuple[str, ...], fits: bool) -> None:
    assert route('alpn = ["imap", "pop3"]').matches(asking_for(None, *offered)) == fits


# Clients.


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
    ],
)
def test_clients_of_a_network(host: str, fits: bool) -> None:
    assert route('client = ["10.0.0.0/8", "2001:db8::/32"]').matches(caller((host, 1))) == fits


def test_clients_of_a_unix_socket_are_of_no_network() -> None:
    assert not route('client = ["0.0.0.0/0", "::/0"]').matches(caller(None, None))


@pytest.mark.parametrize(("host", "fits"), [("10.1.2.3", True), ("192.0.2.9", False)])
def test_the_client_is_the_one_that_a_header_tells_of(host: str, fits: bool) -> None:
    client = caller(None)
    client.apply_proxy_header(HeaderV1(protocol="TCP4", source=(host, 1), destination=("192.0.2.1", 993)))
    assert route('client = ["10.0.0.0/8"]').matches(client) == fits


def test_a_header_that_tells_of_nobody_leaves_the_client_who_it_is() -> None:
    for header in (HeaderV1(protocol="UNKNOWN"), HeaderV2(command=Command.LOCAL)):
        client = caller(("10.1.2.3", 1))
        client.apply_proxy_header(header)
        assert route('client = ["10.0.0.0/8"]').matches(client)


# Ports.


@pytest.mark.parametrize(("port", "fits"), [(993, True), (994, True), (143, False), (None, False)])
def test_the_port_that_a_client_connected_to(port: int | None, fits: bool) -> None:
    assert (
        route("port = [993, 994]").matches(caller(None if port is None else ("192.0.2.9", 1), port)) == fits
    )


@pytest.mark.parametrize("port", [993, 143])
def test_the_port_may_be_one_that_a_header_tells_of(port: int) -> None:
    client = caller(port=10993)
    client.apply_proxy_header(
        HeaderV2(
            command=Command.PROXY, protocol=Protocol.TCP4, source=("192.0.2.9", 1), destination=("192.0.2.1", port)
        )
    )  # fmt: skip
    assert route("port = [993]").matches(client) == (port == 993)


# All of it.


def test_all_that_is_asked_for_must_hold() -> None:
    all_of_it = route('sni = ["imap.example.com"], alpn = ["imap"], client = ["192.0.2.0/24"], port = [993]')
    hello = ClientHello(server_name="imap.example.com", alpn=(b"imap",))
    assert all_of_it.matches(caller(hello=hello))
    for client in (
        caller(hello=ClientHello(server_name="imap.example.com")),
        caller(hello=ClientHello(alpn=(b"imap",))),
        caller(("198.51.100.1", 1), hello=hello),
        caller(port=994, hello=hello),
        caller(),
    ):
        assert not all_of_it.matches(client)


def test_who_asks_for_nothing_takes_everybody() -> None:
    everybody = route('mode = "passthrough"')
    for client in (caller(), caller(None, None), asking_for(None)):
        assert everybody.matches(client)


def chosen(routes: str, client: ClientInfo) -> str | None:
    found = Routes(frontend(routes).routes, "f").select(client)
    return None if found is None else found.backend or "rejected"


def test_the_first_that_fits_wins() -> None:
    routes = """
        { sni = ["imap.example.com"], backend = "a" }, { sni = ["*.example.com"], backend = "b" },
        { client = ["192.0.2.0/24"], reject = true }, { backend = "a" }
    """
    assert chosen(routes, asking_for("imap.example.com")) == "a"
    assert chosen(routes, asking_for("pop.example.com")) == "b"
    assert chosen(routes, asking_for(None)) == "rejected"
    assert chosen(routes, caller(("198.51.100.1", 1))) == "a"


def test_none_leaves_the_frontends_own_way() -> None:
    assert chosen('{ sni = ["imap.example.com"], backend = "a" }', asking_for("pop.example.com")) is None
    assert chosen("", asking_for("imap.example.com")) is None


# Whether to wait for a hello.


def test_a_clear_port_beside_a_port_of_tls_knows_no_names() -> None:
    read = mailproxy.from_mapping(
        {
            "frontends": {
                "f": {
                    "backend": "b",
                    "bind": ["127.0.0.1:143", {"address": "127.0.0.1:993", "mode": "passthrough"}],
                    "routes": [{"sni": ["imap.example.com"], "reject": True}],
                }
            },
            "backends": {"b": {"servers": ["192.0.2.1:143"]}},
        }
    ).frontends["f"]
    routes = Routes(read.routes, "f")
    assert routes.select(caller(port=143)) is None
