"""Connecting to a server: its choice, address and port, and how connecting fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from mailproxy.testing import (
    RefusingServer,
    ThrowAwayCA,
    UnansweredServer,
    collect,
    dial,
    reset,
    stay_silent,
)
from tests.support.ports import free_ports
from tests.support.proxy.proxy_harness import TIMEOUT_S, Line, ProxyHarness, ResourceSnapshot

GREETING = b"* OK ready\r\n"
SHORT_TIMEOUT: dict[str, Any] = {"timeouts": {"connect": "300ms"}}


async def log_of_failed_session(
    harness: ProxyHarness, *servers: str, client_tls: bool = False, **backend: Any
) -> Line:
    """Return the log line of a session that got no server."""
    proxy = await harness.proxy(*servers, tls=client_tls, backends={"b": backend})
    before = ResourceSnapshot.now()
    client = await harness.dial(proxy, tls=client_tls)
    with trio.fail_after(TIMEOUT_S):
        assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    await before.wait_until_restored()
    assert line["phase"] == "connect"
    assert line["connect_ms"] == -1
    return line


@pytest.mark.parametrize("tls", [False, True])
async def test_refused_connection(harness: ProxyHarness, tls: bool) -> None:
    refusing: str = await harness.nursery.start(RefusingServer().serve)
    line = await log_of_failed_session(harness, refusing, client_tls=tls)
    assert (line["end"], line["state"]) == ("server-refused", "SC")
    assert "Connection refused" in line["detail"]


@pytest.mark.parametrize("tls", [False, True])
async def test_connect_timeout(harness: ProxyHarness, tls: bool) -> None:
    unanswering: str = await harness.nursery.start(UnansweredServer().serve)
    line = await log_of_failed_session(harness, unanswering, client_tls=tls, **SHORT_TIMEOUT)
    assert (line["end"], line["state"]) == ("connect-timeout", "sC")
    assert line["total_ms"] >= 300


@pytest.mark.parametrize("ending", ["drop", "reset"])
async def test_client_closes_during_connecting(harness: ProxyHarness, ending: str) -> None:
    """The session ends at once, before the connect timeout of one hour."""
    unanswering: str = await harness.nursery.start(UnansweredServer().serve)
    proxy = await harness.proxy(unanswering, backends={"b": {"timeouts": {"connect": "1h"}}})
    client = await harness.dial(proxy)
    getattr(client, ending)()
    line = await harness.session()
    assert (line["end"], line["state"]) == ("client-left", "CC")


async def test_frontend_without_backend(harness: ProxyHarness) -> None:
    proxy = await harness.run_proxy(
        {
            "log": {"format": "json", "to": str(harness.log)},
            "frontends": {"f": {"bind": [{"address": "127.0.0.1:0"}]}},
        }
    )
    client = await dial(proxy.frontends["f"].addresses[0])
    assert await client.receive_until_end() == b""
    client.drop()
    line = await harness.session()
    assert (line["end"], line["state"], line["server"]) == ("no-server", "SC", None)


async def test_name_without_address(harness: ProxyHarness) -> None:
    line = await log_of_failed_session(harness, "no-such-host.invalid:143")
    assert (line["end"], line["state"]) == ("no-server", "SC")
    (event,) = await harness.events("name-unresolved")
    assert "no-such-host.invalid" in event["message"]


async def test_server_tls_wrong_name(harness: ProxyHarness) -> None:
    server = await harness.server(tls=harness.ca.server_context("elsewhere.example"))
    line = await log_of_failed_session(harness, server.address, tls={"ca": str(harness.ca.pem)})
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")
    assert "IP address mismatch" in line["detail"]
    (event,) = await harness.events("connect-failed")
    assert (event["reason"], event["backend"], event["failures"]) == (line["detail"], "b", 1)
    assert line["detail"] in event["message"], (
        "the event tells the reason, because a tcplog line has no field for it"
    )


async def test_connect_failure_is_logged_once_a_minute(harness: ProxyHarness) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        host, port = closed.getsockname()
    proxy = await harness.proxy(f"{host}:{port}", backends={"b": {"retries": 0, "check": "none"}})
    for _ in range(3):
        client = await harness.dial(proxy)
        assert await client.receive_until_end() == b""
        client.drop()
    await harness.sessions(3)
    (event,) = await harness.events("connect-failed")
    assert event["reason"].endswith("Connection refused")


async def test_server_tls_untrusted(harness: ProxyHarness, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    server = await harness.server(tls=ThrowAwayCA(tmp_path / "other").server_context("127.0.0.1"))
    line = await log_of_failed_session(harness, server.address, tls={"ca": str(harness.ca.pem)})
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")
    assert "certificate" in line["detail"]


@pytest.mark.parametrize("playbook", [collect(GREETING), reset()], ids=["clear text", "reset"])
async def test_server_tls_absent(harness: ProxyHarness, playbook: object) -> None:
    server = await harness.server(playbook)
    line = await log_of_failed_session(harness, server.address, tls={"ca": str(harness.ca.pem)})
    assert (line["end"], line["state"]) == ("server-handshake-failed", "SC")


async def test_server_tls_never_answered(harness: ProxyHarness) -> None:
    server = await harness.server(stay_silent())
    line = await log_of_failed_session(
        harness, server.address, tls={"ca": str(harness.ca.pem)}, **SHORT_TIMEOUT
    )
    assert (line["end"], line["state"]) == ("connect-timeout", "sC")


@pytest.mark.parametrize(
    ("verify", "name", "is_accepted"),
    [
        ("required", "localhost", True),
        ("required", "127.0.0.1", False),
        ("chain", "elsewhere.example", True),
        ("none", "elsewhere.example", True),
    ],
)
async def test_server_verification(harness: ProxyHarness, verify: str, name: str, is_accepted: bool) -> None:
    server = await harness.server(tls=harness.ca.server_context("localhost"))
    tls = {"verify": verify, "ca": str(harness.ca.pem), "server_name": name}
    proxy = await harness.proxy(server.address, backends={"b": {"tls": tls}})
    client = await harness.dial(proxy)
    assert await client.receive_line() == (GREETING if is_accepted else b"")
    if is_accepted:
        connection = await server.wait_for(1)
        assert connection.server_name == (None if name == "127.0.0.1" else name), (
            "the name is sent as SNI, an IP address is not"
        )
    client.drop()


async def test_server_verification_by_name_in_address(harness: ProxyHarness) -> None:
    server = await harness.server(tls=harness.ca.server_context("localhost"))
    port = server.address.rpartition(":")[2]
    proxy = await harness.proxy(f"localhost:{port}", backends={"b": {"tls": {"ca": str(harness.ca.pem)}}})
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()


async def test_name_with_several_addresses(harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address that accepts is used: localhost is often ::1 first, with no listener there."""
    server = await harness.server()
    port = int(server.address.rpartition(":")[2])

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    proxy = await harness.proxy(f"mail.internal:{port}")
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()
    assert (await harness.session())["server_address"] == f"127.0.0.1:{port}"


async def test_changed_address_is_used_for_new_sessions(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New sessions connect to the name's new address. The open session continues."""
    one = await harness.server((*collect(b"one\r\n"),), bind="127.0.0.1:0")
    port = one.address.rpartition(":")[2]
    two = await harness.server((*collect(b"two\r\n"),), bind=f"127.0.0.2:{port}")
    resolved_host = "127.0.0.1"

    async def resolve(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (resolved_host, 0))]

    monkeypatch.setattr(trio.socket, "getaddrinfo", resolve)
    proxy = await harness.proxy(f"mail.internal:{port}", backends={"b": {"resolve_interval": "50ms"}})
    old_session = await harness.dial(proxy)
    assert await old_session.receive_line() == b"one\r\n"
    resolved_host = "127.0.0.2"
    await harness.events("name-resolved", 2)
    new_session = await harness.dial(proxy)
    assert await new_session.receive_line() == b"two\r\n"
    await old_session.send(b"still here\r\n")
    await one.connections[0].wait_received(b"still here\r\n")
    assert two.accepted == 1
    old_session.drop()
    new_session.drop()


async def test_hanging_resolver_does_not_delay_sessions(
    harness: ProxyHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await harness.server()
    monkeypatch.setattr("mailproxy.proxy.backend.resolver._FIRST_LOOK_UP_S", 0.05)

    async def hang(*_: object, **__: object) -> list[tuple[object, ...]]:
        await trio.sleep_forever()
        raise AssertionError

    monkeypatch.setattr(trio.socket, "getaddrinfo", hang)
    proxy = await harness.proxy("mail.internal:143", server.address)
    for _ in range(4):
        client = await harness.dial(proxy)
        assert await client.receive_line() == GREETING
        client.drop()
    assert server.accepted == 4


async def test_server_without_port_gets_port_of_bind(harness: ProxyHarness) -> None:
    """Each bind of a frontend connects to the server's port with the number of the bind."""
    greetings = (b"clear\r\n", b"other\r\n")
    ports = free_ports(2, ("127.0.0.1", "127.0.0.2"))
    for port, greeting in zip(ports, greetings, strict=True):
        await harness.server(collect(greeting), bind=f"127.0.0.2:{port}")
    binds = [{"address": f"127.0.0.1:{port}"} for port in ports]
    proxy = await harness.proxy("127.0.0.2", frontends={"f": {"bind": binds}})
    for bind, greeting in enumerate(greetings):
        client = await harness.dial(proxy, bind=bind)
        assert await client.receive_line() == greeting
        client.drop()


async def test_server_without_port_gets_port_of_backend(harness: ProxyHarness) -> None:
    server = await harness.server(bind="127.0.0.2:0")
    port = int(server.address.rpartition(":")[2])
    proxy = await harness.proxy("127.0.0.2", backends={"b": {"port": port}})
    client = await harness.dial(proxy)
    assert await client.receive_line() == GREETING
    client.drop()


async def test_every_kind_of_bind_and_server(harness: ProxyHarness, tmp_path: Path) -> None:
    server = await harness.server(bind=f"unix:{tmp_path}/server.sock")
    inherited = socket.create_server(("127.0.0.1", 0))
    binds = [
        {"address": "127.0.0.1:0"},
        {"address": "[::1]:0"},
        {"address": "[::]:0"},
        {"address": f"unix:{tmp_path}/proxy.sock", "unix_mode": "0600"},
        {"address": f"fd:{inherited.fileno()}"},
    ]
    proxy = await harness.proxy(server.address, frontends={"f": {"bind": binds}})
    port = proxy.frontends["f"].addresses[2].rpartition(":")[2]
    addresses = [*proxy.frontends["f"].addresses, f"127.0.0.1:{port}", f"[::1]:{port}"]
    addresses.remove(f"[::]:{port}")
    for address in addresses:
        client = await dial(address)
        assert await client.receive_line() == GREETING, address
        client.drop()
    clients = [line["client"] for line in await harness.sessions(len(addresses))]
    assert clients.count("unix:4") == 1
    assert sum(client.startswith("[::1]:") for client in clients) == 2
    assert sum(client.startswith("127.0.0.1:") for client in clients) == 3
    inherited.close()


async def test_least_connections(harness: ProxyHarness) -> None:
    servers = [await harness.server() for _ in range(3)]
    proxy = await harness.proxy(*(server.address for server in servers))
    clients = []
    for _ in range(6):
        clients.append(await harness.dial(proxy))
        await clients[-1].receive_line()
    assert [server.accepted for server in servers] == [2, 2, 2]
    for number in (0, 3):  # both are sessions of the first server, since equal servers alternate
        await clients[number].close()
    await harness.sessions(2)
    later_clients = []
    for _ in range(2):
        later_clients.append(await harness.dial(proxy))
        await later_clients[-1].receive_line()
    assert [server.accepted for server in servers] == [4, 2, 2]
    for client in (*clients, *later_clients):
        client.drop()


async def test_drained_server_keeps_its_sessions(harness: ProxyHarness) -> None:
    servers = [await harness.server() for _ in range(2)]
    proxy = await harness.proxy(*(server.address for server in servers))
    first = await harness.dial(proxy)
    await first.receive_line()
    names = [server.address for server in servers]
    drained = proxy.backends["b"].servers[names[0]]
    drained.set_state("drain")
    for _ in range(3):
        client = await harness.dial(proxy)
        assert await client.receive_line() == GREETING
        client.drop()
    assert [server.accepted for server in servers] == [1, 3]
    await first.send(b"still\r\n")
    assert await first.receive_line() == b"still\r\n"
    first.drop()
    drained.set_state("ready")
    with pytest.raises(ValueError):
        drained.set_state("away")  # type: ignore[arg-type]
