"""Connections to servers: source address, keep-alive, preferred family; and the initial server state."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from mailproxy.config import KeepAlive
from mailproxy.net.dial import Endpoint, Source, connect
from mailproxy.net.keepalive import keepalive_options
from mailproxy.net.resolve import resolve
from mailproxy.testing import ScriptedServer, collect
from tests.support.proxy.proxy_harness import TIMEOUT_S, ProxyHarness


async def receive_greeting(harness: ProxyHarness, proxy: Any) -> bytes:
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        line = await client.receive_line()
    await client.close()
    return bytes(line)


async def test_sessions_use_configured_source(harness: ProxyHarness) -> None:
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        proxy = await harness.proxy(address, backends={"b": {"source": "127.0.0.9"}})
        client = await harness.dial(proxy)
        with trio.fail_after(TIMEOUT_S):
            connection, peer = await listener.accept()
        assert peer[0] == "127.0.0.9"
        connection.close()
        client.drop()


async def test_unavailable_source_is_logged_as_server_refused(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, backends={"b": {"source": "192.0.2.9"}})
    assert await receive_greeting(harness, proxy) == b""
    line = await harness.session()
    assert line["end"] == "server-refused"
    assert line["detail"] == f"{server.address} from 192.0.2.9: Cannot assign requested address"


async def test_client_family_mismatch_does_not_count_against_server(harness: ProxyHarness) -> None:
    """With ``source = "client"`` the session ends. Neither counters nor ``observe`` blame the server."""
    server = await harness.server()
    proxy = await harness.proxy(
        server.address,
        bind={"address": "[::1]:0"},
        backends={"b": {"source": "client", "observe": "connect", "error_limit": 1, "check": {"type": "tcp", "interval": "1h"}}},
    )  # fmt: skip
    for _ in range(3):
        assert await receive_greeting(harness, proxy) == b""
    lines = await harness.sessions(3)
    assert {line["end"] for line in lines} == {"server-refused"}
    backend_server = proxy.backends["b"].servers[server.address]
    assert backend_server.counts.connect_errors == 0
    assert backend_server.status == "UP"


async def test_source_without_port_serves_two_servers() -> None:
    """The kernel chooses the port at connect, so each server can have as many connections as there are ports."""
    with (
        socket.create_server(("127.0.0.1", 0)) as first_listener,
        socket.create_server(("127.0.0.1", 0)) as second_listener,
    ):
        socks = []
        for listener in (first_listener, second_listener):
            endpoint = Endpoint(socket.AF_INET, "127.0.0.1", listener.getsockname()[1])
            sock, _ = await connect([endpoint], None, source=Source("127.0.0.9"))
            socks.append(sock)
            assert sock.getsockname()[0] == "127.0.0.9"
            assert sock.getsockopt(socket.IPPROTO_IP, 24), "IP_BIND_ADDRESS_NO_PORT"
        for sock in socks:
            sock.close()


@pytest.mark.parametrize(
    ("keepalive", "options"),
    [
        (False, (0, None, None, None)),
        (True, (1, None, None, None)),
        (KeepAlive(idle=61.2, interval=10, count=3), (1, 62, 10, 3)),  # type: ignore[arg-type]  # new types
        (KeepAlive(count=7), (1, None, None, 7)),  # type: ignore[arg-type]  # new types
    ],
)
async def test_keepalive_options(keepalive: KeepAlive | bool, options: tuple[int | None, ...]) -> None:
    names = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as new_socket:
        defaults = [new_socket.getsockopt(*name) for name in names]
        endpoint = Endpoint(socket.AF_INET, *listener.getsockname())
        sock, _ = await connect([endpoint], None, keepalive_options(keepalive))
        actual = [sock.getsockopt(*name) for name in names]
        sock.close()
    assert actual == [
        expected if expected is not None else default
        for expected, default in zip(options, defaults, strict=True)
    ]


@pytest.mark.parametrize(("prefer", "first"), [("ipv4", "127.0.0.1"), ("ipv6", "::1"), (None, "::1")])
async def test_preferred_family_is_first(monkeypatch: pytest.MonkeyPatch, prefer: Any, first: str) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [
            (socket.AF_INET6, 0, 0, "", ("::1", 0)),
            (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)),
            (socket.AF_INET6, 0, 0, "", ("::2", 0)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    hosts = [endpoint.host for endpoint in await resolve("mail.internal", 143, prefer)]
    assert hosts[0] == first
    assert hosts.index("::1") < hosts.index("::2"), "within a family the resolver's order stays"


@pytest.mark.parametrize(("state", "state_in_message"), [("maint", "maintenance"), ("drain", "drain state")])
async def test_initial_server_state(harness: ProxyHarness, state: str, state_in_message: str) -> None:
    inactive = ScriptedServer(collect(b"* OK inactive\r\n"))
    await harness.nursery.start(inactive.serve)
    active = await harness.server(collect(b"* OK active\r\n"))
    servers = [
        {"name": "s1", "address": inactive.address, "state": state},
        {"name": "s2", "address": active.address},
    ]
    proxy = await harness.proxy(
        frontends={"f": {"backend": "b"}}, backends={"b": {"servers": servers, "check": "none"}}
    )
    for _ in range(4):
        assert await receive_greeting(harness, proxy) == b"* OK active\r\n"
    (line,) = await harness.events("server-state")
    assert line["message"] == f"Server b/s1 starts in {state_in_message}."
    proxy.backends["b"].servers["s1"].set_state("ready")
    greetings = {await receive_greeting(harness, proxy) for _ in range(4)}
    assert greetings == {b"* OK active\r\n", b"* OK inactive\r\n"}
