"""Routes: which conditions match a client, and which route is selected."""

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


def client_info(
    source: tuple[str, int] | None = ("192.0.2.9", 40000), port: int | None = 993, **facts: Any
) -> ClientInfo:
    """Return a client with these addresses and facts."""
    listener = cast("Listener", SimpleNamespace(number=1, port=port, only_address=("192.0.2.1", port)))
    return ClientInfo(listener, source, cast("socket.socket", None), **facts)


def client_with_server_name(name: str | None, *alpn: str) -> ClientInfo:
    return client_info(
        hello=ClientHello(server_name=name, alpn=tuple(protocol.encode() for protocol in alpn))
    )


# Server names


@pytest.mark.parametrize(
    ("name", "is_match"),
    [
        ("imap.example.com", True),
        ("pop.example.com", False),
        ("a.imap.example.com", False),
        ("example.com", False),
        ("imap.example.co", False),
        (None, False),
    ],
)
def test_sni_exact_name(name: str | None, is_match: bool) -> None:
    assert route('sni = ["IMAP.example.com"]').matches(client_with_server_name(name)) == is_match


@pytest.mark.parametrize(
    ("name", "is_match"),
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
def test_sni_wildcard_covers_single_label(name: str | None, is_match: bool) -> None:
    assert route('sni = ["*.example.com"]').matches(client_with_server_name(name)) == is_match


def test_sni_list_matches_any_name() -> None:
    multiple = route('sni = ["*.example.com", "example.com", "localhost"]')
    for name in ("example.com", "imap.example.com", "localhost"):
        assert multiple.matches(client_with_server_name(name))
    assert not multiple.matches(client_with_server_name("a.localhost"))


def test_sni_false_matches_clients_without_name() -> None:
    without_name = route("sni = false")
    assert without_name.matches(client_with_server_name(None))
    assert not without_name.matches(client_with_server_name("imap.example.com"))


@pytest.mark.parametrize("keys", ['sni = ["imap.example.com"]', "sni = false", 'alpn = ["imap"]'])
def test_sni_and_alpn_need_client_hello(keys: str) -> None:
    assert not route(keys).matches(client_info())


# Application protocols


@pytest.mark.parametrize(
    ("offered", "is_match"),
    [
        (("imap",), True),
        (("h2", "pop3"), True),
        (("pop3", "imap"), True),
        (("h2",), False),
        (("IMAP",), False),
        ((), False),
    ],
)
def test_alpn_matches_any_offered_protocol(offered: tuple[str, ...], is_match: bool) -> None:
    assert route('alpn = ["imap", "pop3"]').matches(client_with_server_name(None, *offered)) == is_match


# Client addresses


@pytest.mark.parametrize(
    ("host", "is_match"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.1.2.3", True),
        ("::ffff:11.1.2.3", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
    ],
)
def test_client_network(host: str, is_match: bool) -> None:
    assert route('client = ["10.0.0.0/8", "2001:db8::/32"]').matches(client_info((host, 1))) == is_match


def test_unix_socket_client_matches_no_network() -> None:
    assert not route('client = ["0.0.0.0/0", "::/0"]').matches(client_info(None, None))


@pytest.mark.parametrize(("host", "is_match"), [("10.1.2.3", True), ("192.0.2.9", False)])
def test_client_address_of_proxy_header(host: str, is_match: bool) -> None:
    client = client_info(None)
    client.apply_proxy_header(HeaderV1(protocol="TCP4", source=(host, 1), destination=("192.0.2.1", 993)))
    assert route('client = ["10.0.0.0/8"]').matches(client) == is_match


def test_header_without_addresses_keeps_client_address() -> None:
    for header in (HeaderV1(protocol="UNKNOWN"), HeaderV2(command=Command.LOCAL)):
        client = client_info(("10.1.2.3", 1))
        client.apply_proxy_header(header)
        assert route('client = ["10.0.0.0/8"]').matches(client)


# Ports


@pytest.mark.parametrize(("port", "is_match"), [(993, True), (994, True), (143, False), (None, False)])
def test_port(port: int | None, is_match: bool) -> None:
    assert (
        route("port = [993, 994]").matches(client_info(None if port is None else ("192.0.2.9", 1), port))
        == is_match
    )


@pytest.mark.parametrize("port", [993, 143])
def test_port_of_proxy_header(port: int) -> None:
    client = client_info(port=10993)
    client.apply_proxy_header(
        HeaderV2(
            command=Command.PROXY, protocol=Protocol.TCP4, source=("192.0.2.9", 1), destination=("192.0.2.1", port)
        )
    )  # fmt: skip
    assert route("port = [993]").matches(client) == (port == 993)


# Combinations and order


def test_all_conditions_must_match() -> None:
    route_with_all = route(
        'sni = ["imap.example.com"], alpn = ["imap"], client = ["192.0.2.0/24"], port = [993]'
    )
    hello = ClientHello(server_name="imap.example.com", alpn=(b"imap",))
    assert route_with_all.matches(client_info(hello=hello))
    for client in (
        client_info(hello=ClientHello(server_name="imap.example.com")),
        client_info(hello=ClientHello(alpn=(b"imap",))),
        client_info(("198.51.100.1", 1), hello=hello),
        client_info(port=994, hello=hello),
        client_info(),
    ):
        assert not route_with_all.matches(client)


def test_route_without_conditions_matches_all() -> None:
    unconditional = route('mode = "passthrough"')
    for client in (client_info(), client_info(None, None), client_with_server_name(None)):
        assert unconditional.matches(client)


def select(routes: str, client: ClientInfo) -> str | None:
    selected = Routes(frontend(routes).routes, "f").select(client)
    return None if selected is None else selected.backend or "rejected"


def test_first_matching_route_is_selected() -> None:
    routes = """
        { sni = ["imap.example.com"], backend = "a" }, { sni = ["*.example.com"], backend = "b" },
        { client = ["192.0.2.0/24"], reject = true }, { backend = "a" }
    """
    assert select(routes, client_with_server_name("imap.example.com")) == "a"
    assert select(routes, client_with_server_name("pop.example.com")) == "b"
    assert select(routes, client_with_server_name(None)) == "rejected"
    assert select(routes, client_info(("198.51.100.1", 1))) == "a"


def test_no_matching_route_selects_none() -> None:
    assert (
        select('{ sni = ["imap.example.com"], backend = "a" }', client_with_server_name("pop.example.com"))
        is None
    )
    assert select("", client_with_server_name("imap.example.com")) is None


# Binds without a ClientHello


def test_sni_route_ignores_forward_bind() -> None:
    frontend_config = mailproxy.from_mapping(
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
    routes = Routes(frontend_config.routes, "f")
    assert routes.select(client_info(port=143)) is None
