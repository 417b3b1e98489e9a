"""The local side of connections to servers: address, keep-alive, the order of a name's addresses; what servers are at the start."""

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


async def served(harness: ProxyHarness, proxy: Any) -> bytes:
    client = await harness.dial(proxy)
    with trio.fail_after(TIMEOUT_S):
        line = await client.receive_line()
    await client.close()
    return bytes(line)


async def test_sessions_come_from_the_source(harness: ProxyHarness) -> None:
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


async def test_a_source_that_is_not_here_is_the_servers_failure(harness: ProxyHarness) -> None:
    server = await harness.server()
    proxy = await harness.proxy(server.address, backends={"b": {"source": "192.0.2.9"}})
    assert await served(harness, proxy) == b""
    line = await harness.session()
    assert line["end"] == "server-refused"
    assert line["detail"] == f"{server.address} from 192.0.2.9: Cannot assign requested address"


async def test_a_client_whose_family_no_server_has_says_nothing_of_the_server(harness: ProxyHarness) -> None:
    """With ``source = "client"`` its sessions end, and neither counts nor ``observe`` blame the server."""
    server = await harness.server()
    proxy = await harness.proxy(
        server.address,
        bind={"address": "[::1]:0"},
        backends={"b": {"source": "client", "observe": "connect", "error_limit": 1, "check": {"type": "tcp", "interval": "1h"}}},
    )  # fmt: skip
    for _ in range(3):
        assert await served(harness, proxy) == b""
    lines = await harness.sessions(3)
    assert {line["end"] for line in lines} == {"server-refused"}
    backend_server = proxy.backends["b"].servers[server.address]
    assert backend_server.counts.connect_errors == 0
    assert backend_server.status == "UP"


async def test_one_source_is_good_for_the_same_port_towards_two_servers() -> None:
    """As many connections as there are ports, to each server."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        kept = []
        for listener in (one, other):
            endpoint = Endpoint(socket.AF_INET, "127.0.0.1", listener.getsockname()[1])
            sock, _ = await connect([endpoint], None, source=Source("127.0.0.9"))
            kept.append(sock)
            assert sock.getsockname()[0] == "127.0.0.9"
            assert sock.getsockopt(socket.IPPROTO_IP, 24), "IP_BIND_ADDRESS_NO_PORT"
        for sock in kept:
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
async def test_keepalive(keepalive: KeepAlive | bool, options: tuple[int | None, ...]) -> None:
    names = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as fresh:
        kernel = [fresh.getsockopt(*name) for name in names]
        endpoint = Endpoint(socket.AF_INET, *listener.getsockname())
        sock, _ = await connect([endpoint], None, keepalive_options(keepalive))
        found = [sock.getsockopt(*name) for name in names]
        sock.close()
    assert found == [own if own is not None else usual for own, usual in zip(options, kernel, strict=True)]


@pytest.mark.parametrize(("prefer", "first"), [("ipv4", "127.0.0.1"), ("ipv6", "::1"), (None, "::1")])
async def test_the_preferred_family_comes_first(
    monkeypatch: pytest.MonkeyPatch, prefer: Any, first: str
) -> None:
    async def getaddrinfo(*_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [
            (socket.AF_INET6, 0, 0, "", ("::1", 0)),
            (socket.AF_INET, 0, 0, "", ("127.0.0.1", 0)),
            (socket.AF_INET6, 0, 0, "", ("::2", 0)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    found = [endpoint.host for endpoint in await resolve("mail.internal", 143, prefer)]
    assert found[0] == first
    assert found.index("::1") < found.index("::2"), "the resolver's order otherwise"


@pytest.mark.parametrize(("state", "words"), [("maint", "maintenance"), ("drain", "drain state")])
async def test_a_server_that_starts_otherwise_than_ready(
    harness: ProxyHarness, state: str, words: str
) -> None:
    away = ScriptedServer(collect(b"* OK away\r\n"))
    await harness.nursery.start(away.serve)
    there = await harness.server(collect(b"* OK there\r\n"))
    servers = [
        {"name": "s1", "address": away.address, "state": state},
        {"name": "s2", "address": there.address},
    ]
    proxy = await harness.proxy(
        frontends={"f": {"backend": "b"}}, backends={"b": {"servers": servers, "check": "none"}}
    )
    for _ in range(4):
        assert await served(harness, proxy) == b"* OK there\r\n"
    (line,) = await harness.events("server-state")
    assert line["message"] == f"Server b/s1 starts in {words}."
    proxy.backends["b"].servers["s1"].set_state("ready")
    said = {await served(harness, proxy) for _ in range(4)}
    assert said == {b"* OK there\r\n", b"* OK away\r\n"}
